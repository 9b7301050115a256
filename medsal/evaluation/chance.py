"""What chance gives a localisation score: the truth shifted over the map, all shifts at once where that can be done.

Neighbouring voxels of a map are alike, so that voxels are no samples and a smooth map that knows nothing often looks
good. Shifting the truth around the torus keeps map and truth as they are and breaks only what ties them together. A
shift is a number of voxels for each axis; the truth as it stands is the shift 0 and one of the shifts counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.shifts import allowed_shifts, draw_shifts, spectrum_of, sums_at_shifts

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = float("nan")
SAME = 1e-12
"""Scores closer than this are equal: more than the rounding of a transform of 256 x 256 x 256 voxels."""
SIDES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "positive": lambda weights: np.maximum(weights, 0, out=weights),
    "negative": lambda weights: np.maximum(np.negative(weights, out=weights), 0, out=weights),
    "absolute": lambda weights: np.abs(weights, out=weights),
}
"""Name -> what is read of signed relevance, in place."""


@dataclass(frozen=True)
class Null:
    """A score and what chance gives it.

    Attributes:
        score: of the map against the truth as it stands.
        mean: of the scores at the shifts.
        sd: their standard deviation.
        high: their 95 % quantile.
        p: share of the shifts that score at least as well, the truth as it stands among them.
        shifts: how many were looked at.
        exact: whether those are all there are.
        reason: why there is no answer; empty where there is one.
    """

    score: float
    mean: float
    sd: float
    high: float
    p: float
    shifts: int
    exact: bool
    reason: str = ""

    @property
    def corrected(self) -> float:
        """The share of what chance leaves open that the map takes: (score - mean) / (1 - mean)."""
        return (self.score - self.mean) / (1 - self.mean) if self.mean < 1 else NAN


def no_answer(reason: str) -> Null:
    """The null of a case without an answer.

    Args:
        reason: in words.

    Returns:
        NaN everywhere, and the reason.
    """
    return Null(NAN, NAN, NAN, NAN, NAN, 0, exact=False, reason=reason)


def mass_at_shifts(relevance: Tensor, mask: Tensor, *, side: str = "positive") -> Tensor:
    r"""Share of relevance inside the truth at every shift: :math:`c_s = \sum_x R_x M_{x-s} / \sum_x R_x`.

    One correlation by fast Fourier transform; its mean over all shifts is the share of true voxels.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        side: of signed relevance that is read: ``positive``, ``negative`` or ``absolute``.

    Returns:
        ``(B, 1, *space)`` in float64: entry ``s`` is the mass inside the truth rolled by ``s``; NaN for a map without
        relevance.
    """
    found = torch.empty(relevance.shape, dtype=torch.float64)
    for row, (values, truth) in zip(found, pairs(relevance, mask), strict=True):
        weights, total = _weights(values, side)
        row[0] = torch.from_numpy(sums_at_shifts(spectrum_of(weights), truth)).div_(total) if total > 0 else NAN
    return found


def mass_null(
    relevance: Tensor, mask: Tensor, *, side: str = "positive", body: Tensor | None = None
) -> tuple[Null, ...]:
    """Exact null of the relevance mass inside the truth, over all shifts or over those that stay inside the body.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        side: of signed relevance that is read: ``positive``, ``negative`` or ``absolute``.
        body: boolean, of the same shape: only shifts are counted that wrap nothing around the border and leave at least
            as much of the truth inside the body as there is.

    Returns:
        One null for each map. Without ``body`` its mean is the share of true voxels; a constant map has p = 1.

    Example:
        >>> truth = torch.tensor([[[False, True, True, False, False]]])
        >>> null, = mass_null(torch.tensor([[[0.0, 3.0, 1.0, 0.0, 0.0]]]), truth)
        >>> null.score, null.mean, null.p
        (1.0, 0.4, 0.2)
    """
    bodies = [None] * len(mask) if body is None else [truth for _, truth in pairs(relevance, body)]
    return tuple(
        _mass_null(values, truth, inside, side)
        for (values, truth), inside in zip(pairs(relevance, mask), bodies, strict=True)
    )


def _mass_null(values: NDArray[Any], truth: NDArray[np.bool_], body: NDArray[np.bool_] | None, side: str) -> Null:
    reason = unanswerable(values, truth)
    weights, total = (values, 0.0) if reason else _weights(values, side)
    if reason or not total > 0:
        return no_answer(reason or "no relevance on the side that is read")
    score = float(weights[truth].sum() / total)
    spectrum = spectrum_of(weights)
    del weights
    scores = sums_at_shifts(spectrum, truth)
    del spectrum
    allowed = None if body is None else allowed_shifts(truth, body)
    scores /= total
    mean = float(truth.mean()) if allowed is None else float(scores[allowed].mean())
    return summarise_all(score, scores.ravel() if allowed is None else scores[allowed], mean)


def summarise_all(score: float, scores: NDArray[np.float64], mean: float) -> Null:
    """The null of a score from the scores at all shifts.

    Args:
        score: at the truth's place.
        scores: at every shift, the truth's place among them; reordered.
        mean: of these.

    Returns:
        The null.
    """
    if len(scores) < 2:
        return no_answer("no other place in the body holds the truth")
    p = np.count_nonzero(scores >= score - SAME) / len(scores)
    sd = float(scores.std())
    at = int(np.ceil(0.95 * len(scores))) - 1
    scores.partition(at)
    return Null(score, mean, sd, float(scores[at]), float(p), len(scores), exact=True)


def sampled_null(
    metric: Callable[[Tensor, Tensor], Tensor],
    relevance: Tensor,
    mask: Tensor,
    *,
    shifts: int = 199,
    seed: int = 0,
    body: Tensor | None = None,
) -> tuple[Null, ...]:
    """Null of any localisation metric of which more is better, over a seeded sample of shifts.

    Args:
        metric: ``metric(relevance, mask) -> (B,)``, the higher the better.
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        shifts: how many other places of the truth are drawn, without replacement; all where there are fewer.
        seed: of the draw; each map of a batch is given the draw that it has alone.
        body: only shifts inside it, as in ``mass_null``.

    Returns:
        One null for each map, with p = (1 + places that score at least as well) / (1 + places).
    """
    found = []
    for row, (values, truth) in enumerate(pairs(relevance, mask)):
        reason = unanswerable(values, truth)
        if reason:
            found.append(no_answer(reason))
            continue
        one, ours = relevance[row : row + 1], mask[row : row + 1]
        places, every = draw_shifts(truth, shifts, seed, None if body is None else _plain(body[row, 0]).astype(bool))
        dims = tuple(range(2, mask.ndim))
        scores = [float(metric(one, torch.roll(ours, place, dims))[0]) for place in places]
        found.append(summarise_sample(float(metric(one, ours)[0]), np.array(scores), exact=every))
    return tuple(found)


def summarise_sample(score: float, others: NDArray[np.float64], *, exact: bool) -> Null:
    """The null of a score from the scores at other places.

    Args:
        score: at the truth's place.
        others: at the places drawn.
        exact: whether those are all there are.

    Returns:
        The null; a score without an answer, here or at a place drawn, leaves it without one.
    """
    if not len(others):
        return no_answer("no other place in the body holds the truth")
    if not np.isfinite(score) or not np.isfinite(others).all():
        return no_answer("the metric has no answer for this map")
    p = (1 + np.count_nonzero(others >= score - SAME)) / (1 + len(others))
    at = int(np.ceil(0.95 * len(others))) - 1
    high = float(np.partition(others, at)[at])
    return Null(score, float(others.mean()), float(others.std()), high, float(p), len(others) + 1, exact=exact)


def unanswerable(values: NDArray[Any], truth: NDArray[np.bool_]) -> str:
    """Why a map and its truth cannot be scored.

    Args:
        values: one image's map.
        truth: boolean, of the same shape.

    Returns:
        The reason; empty where nothing is in the way.
    """
    if not truth.any():
        return "truth empty"
    if truth.all():
        return "truth everywhere"
    return "" if np.isfinite(values).all() else "map not finite"


def _weights(values: NDArray[Any], side: str) -> tuple[NDArray[np.float64], float]:
    if side not in SIDES:
        raise UsageError(f"side: wanted {', '.join(SIDES)}, got {side!r}")
    weights = SIDES[side](values.astype(np.float64))
    return weights, float(weights.sum())


def _plain(values: Tensor) -> NDArray[Any]:
    bare = values.detach().as_subclass(Tensor).cpu()
    found: NDArray[Any] = (bare.float() if bare.dtype == torch.bfloat16 else bare).numpy()
    return found


def pairs(relevance: Tensor, mask: Tensor) -> list[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Maps and truths one by one, as arrays.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: of the same shape.

    Returns:
        ``(values, truth)`` of each image, without the channel.

    Raises:
        UsageError: if the shapes differ.
    """
    if relevance.shape != mask.shape:
        raise UsageError(f"wanted a mask on the grid of the map {tuple(relevance.shape)}, got {tuple(mask.shape)}")
    return [(_plain(r[0]), _plain(m[0]).astype(bool)) for r, m in zip(relevance, mask, strict=True)]
