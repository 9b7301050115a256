"""Layers: which layer of a labelled image does relevance lie in? The skin ultrasound study's scores.

Layers are a map of codes on the grid of relevance ``(B, 1, *space)``, such as 255 for the layer that matters most, 128,
64, 32 for the next, and 0 for background. One side of relevance is read; nothing is normalised but by its peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.truth import images, side_of

GRADED: Mapping[int, float] = {255: 3, 128: 2, 64: 1, 32: 0}
"""Score of a peak in each layer; it is -1 in any other. The study's first hit rate."""

SIGNED: Mapping[int, float] = {255: 1, 128: 0, 64: 0, 32: 0}
"""The study's second hit rate, likewise."""

WEIGHTS: Mapping[int, float] = {255: 1, 128: 0.5, 64: 0.25}
"""Weight of each layer in weighted coverage."""

THRESHOLDS = tuple(t / 100 for t in range(95, 45, -5))
"""Shares of the peak at which the study cut its maps: 0.95, 0.90, ... 0.50."""


def layer_hit_rate(
    relevance: Tensor,
    layers: Tensor,
    *,
    scores: Mapping[int, float] = GRADED,
    other: float = -1,
    side: str = "positive",
) -> Tensor:
    """The score of the layer that the peak of relevance lies in; of several equal peaks the mean.

    Czajkowska et al. 2021, doi:10.3390/s21175846, define the codes; a constant map scores the mean score of all voxels
    (see ``mean_score``), which is also what chance gives.

    Args:
        relevance: ``(B, 1, *space)``.
        layers: codes of layers, of the same shape.
        scores: code -> score; ``GRADED`` or ``SIGNED`` are the study's.
        other: score of every other code.
        side: ``positive``, ``negative`` or ``absolute``.

    Returns:
        ``(B,)`` in float64, from the lowest to the highest score; NaN where there is no relevance on that side, or it
        is not finite.
    """

    def score(read: Tensor, codes: Tensor) -> Tensor:
        return scored_codes(codes[read == read.max()], scores, other).mean()

    return _score_layers(score, relevance, layers, side)


def mean_score(layers: Tensor, *, scores: Mapping[int, float] = GRADED, other: float = -1) -> Tensor:
    """The mean score of all voxels: the hit rate that chance gives.

    Args:
        layers: codes of layers ``(B, 1, *space)``.
        scores: code -> score.
        other: score of every other code.

    Returns:
        ``(B,)`` in float64.
    """
    return torch.stack([scored_codes(codes, scores, other).mean() for (codes,) in images(layers)])


def layer_coverage(
    relevance: Tensor,
    layers: Tensor,
    *,
    part: str = "mean",
    codes: int | Sequence[int] | None = None,
    threshold: float = 0.5,
    side: str = "positive",
) -> Tensor:
    r"""How much of a layer relevance covers, with :math:`h = r / \max r` of one side.

    ``mean`` is :math:`\mathrm{mean}_{v \in L} h_v` (higher is better) and ``background`` the same of code 0 (lower is
    better); ``weighted`` is :math:`\sum_v w_{l(v)} h_v / |\{v : w_{l(v)} > 0\}|`; ``iou`` the intersection over union
    of the layer and :math:`\{v : h_v \ge t\}`. Formulas of the skin ultrasound study, Czajkowska et al. 2021,
    doi:10.3390/s21175846. A constant map covers everything by 1: read it beside the mean of the map (``mean_cover``).

    Args:
        relevance: ``(B, 1, *space)``.
        layers: codes of layers, of the same shape.
        part: ``mean``, ``background``, ``weighted`` or ``iou``.
        codes: which layer or layers; None takes 255, for ``background`` 0, for ``weighted`` those of ``WEIGHTS``.
        threshold: of ``iou``, a share of the peak; the study takes ``THRESHOLDS``.
        side: ``positive``, ``negative`` or ``absolute``.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where the layer is not in the image, there is no relevance on that side,
        or it is not finite.

    Raises:
        UsageError: if there is no such part, or a weighted layer has no weight.
    """
    weights = coverage_weights(part, codes)

    def score(read: Tensor, labels: Tensor) -> Tensor:
        weight = scored_codes(labels, weights, 0.0)
        inside, share = weight > 0, read.double() / read.max()
        if not inside.any():
            return weight.new_tensor(math.nan)
        if part == "iou":
            cut = share >= threshold
            return (cut & inside).sum().double() / (cut | inside).sum()
        return (share * weight).sum() / inside.sum()

    return _score_layers(score, relevance, layers, side)


def mean_cover(relevance: Tensor, *, side: str = "positive") -> Tensor:
    """The mean of a map over its peak: the coverage of any layer that chance gives to this map.

    Args:
        relevance: ``(B, 1, *space)``.
        side: ``positive``, ``negative`` or ``absolute``.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no relevance on that side.
    """
    return _score_layers(lambda read, _: (read.double() / read.max()).mean(), relevance, relevance, side)


def coverage_weights(part: str, codes: int | Sequence[int] | None = None) -> dict[int, float]:
    """What each layer counts in coverage.

    Args:
        part: as for ``layer_coverage``.
        codes: as there.

    Returns:
        Code -> weight; other codes count nothing.

    Raises:
        UsageError: as there.
    """
    defaults = {"mean": (255,), "background": (0,), "iou": (255,), "weighted": tuple(WEIGHTS)}
    if part not in defaults:
        raise UsageError(f"part: wanted {', '.join(defaults)}, got {part!r}")
    chosen = defaults[part] if codes is None else (codes,) if isinstance(codes, int) else tuple(codes)
    if part != "weighted":
        return dict.fromkeys(chosen, 1.0)
    if not set(chosen) <= set(WEIGHTS):
        raise UsageError(f"codes: weighted coverage has weights for {', '.join(map(str, WEIGHTS))}, got {chosen}")
    return {code: WEIGHTS[code] for code in chosen}


def scored_codes(codes: Tensor, scores: Mapping[int, float], other: float) -> Tensor:
    """Score of each voxel; codes between those of layers, as interpolation makes them, are others.

    Args:
        codes: of any shape.
        scores: code -> score.
        other: score of every other code.

    Returns:
        Of the same shape, in float64.
    """
    found = torch.full(codes.shape, float(other), dtype=torch.float64, device=codes.device)
    for code, score in scores.items():
        found[codes == int(code)] = float(score)  # the keys of JSON are text
    return found


def _score_layers(score: Callable[[Tensor, Tensor], Tensor], relevance: Tensor, layers: Tensor, side: str) -> Tensor:
    found = []
    for values, codes in images(relevance, layers):
        read = side_of(values, side)
        peak = read.max()
        answers = bool(peak > 0) and bool(values.isfinite().all())
        found.append(score(read, codes) if answers else torch.full_like(peak, math.nan, dtype=torch.float64))
    return torch.stack(found)
