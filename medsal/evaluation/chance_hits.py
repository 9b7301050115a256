"""What chance gives average precision and hits, where there is more to it than shifting and scoring again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation import chance
from medsal.evaluation.shifts import draw_shifts
from medsal.evaluation.ties import counts_at_least

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsal.evaluation.chance import Null


def average_precision_null(
    relevance: Tensor, mask: Tensor, *, shifts: int = 199, seed: int = 0, body: Tensor | None = None
) -> tuple[Null, ...]:
    """Null of the average precision over a seeded sample of shifts: ``sampled_null`` of it, with one sort for all.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        shifts: how many other places of the truth are drawn.
        seed: of the draw.
        body: only shifts inside it, as in ``chance.mass_null``.

    Returns:
        One null for each map. The mean of smooth maps lies above the share of true voxels.
    """
    bodies = [None] * len(mask) if body is None else [truth for _, truth in chance.pairs(relevance, body)]
    found = []
    for (values, truth), inside in zip(chance.pairs(relevance, mask), bodies, strict=True):
        reason = chance.unanswerable(values, truth)
        if reason:
            found.append(chance.no_answer(reason))
            continue
        counts = counts_at_least(values.ravel()).reshape(truth.shape)
        where = np.nonzero(truth)
        places, every = draw_shifts(truth, shifts, seed, inside)
        scores = [
            _precision(counts[tuple((at + s) % n for at, s, n in zip(where, place, truth.shape, strict=True))])
            for place in places
        ]
        found.append(chance.summarise_sample(_precision(counts[where]), np.array(scores), exact=every))
    return tuple(found)


def _precision(counts: NDArray[np.int32]) -> float:
    """Average precision from how many voxels are at least as high as each true one: equal counts are one threshold."""
    thresholds, gained = np.unique(counts, return_counts=True)
    return float((gained * gained.cumsum() / thresholds).sum() / len(counts))


def any_hit_chance(relevance: Tensor, mask: Tensor) -> Tensor:
    """Chance that any of the tied peaks lies in the truth, over all shifts: 1 for a constant map.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.

    Returns:
        ``(B,)`` in float64; NaN for an empty mask or a map with NaN.
    """
    peaks = relevance == relevance.flatten(1).amax(1).view(-1, *[1] * (relevance.ndim - 1))
    touched = chance.mass_at_shifts(peaks.double(), mask).flatten(1)
    found = (touched > 0.5 / relevance[0].numel()).double().mean(1)
    return torch.where(mask.flatten(1).any(1) & ~touched.isnan().any(1), found, torch.nan)


def layer_hit_chance(layers: Tensor, scores: Mapping[int, float], other: float = -1.0) -> Tensor:
    """Chance level of a layer hit score: the mean over all voxels of what a peak there scores.

    Args:
        layers: codes ``(B, 1, *space)``.
        scores: code -> score.
        other: score of every other code.

    Returns:
        ``(B,)`` in float64.

    Example:
        >>> layer_hit_chance(torch.tensor([[[255, 128, 0, 0]]]), {255: 3, 128: 2, 64: 1, 32: 0})
        tensor([0.7500], dtype=torch.float64)
    """
    found = torch.full(layers.shape, other, dtype=torch.float64)
    for code, score in scores.items():
        found[layers == code] = score
    return found.flatten(1).mean(1)


def hit_count_p(hits: Sequence[float], chances: Sequence[float]) -> float:
    """Chance of at least so many hits, each case with its own chance: exact, by the Poisson binomial distribution.

    Args:
        hits: 0 or 1 for each case, one case for each patient.
        chances: each case's ``localisation.pointing_chance``.

    Returns:
        p, one-sided; NaN without cases. Cases in which either is NaN do not count.

    Raises:
        UsageError: if a hit is neither 0 nor 1, or the numbers of cases differ.
    """
    if len(hits) != len(chances):
        raise UsageError(f"wanted a chance for each of {len(hits)} hits, got {len(chances)}")
    known = [(hit, p) for hit, p in zip(hits, chances, strict=True) if not np.isnan([hit, p]).any()]
    if any(hit not in {0, 1} for hit, _ in known):
        raise UsageError("wanted hits of 0 or 1; with tied peaks take the tie rule 'first' or 'any'")
    if not known:
        return chance.NAN
    counts = np.ones(1)
    for _, p in known:
        counts = np.convolve(counts, [1 - p, p])
    return float(min(1.0, counts[int(sum(hit for hit, _ in known)) :].sum()))
