"""Overlap: maps cut at a threshold against the truth.

A voxel is predicted where relevance is at or above the threshold, so that ties enter together: a constant map predicts
every voxel, and scores what a map scores that knows nothing but to say yes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.ranking import levels
from medsal.evaluation.truth import score_each

Threshold = float | str


def iou(relevance: Tensor, mask: Tensor, *, threshold: Threshold = "area", ignore: Tensor | None = None) -> Tensor:
    r"""Intersection over union of the cut map and the truth, :math:`|M \cap T| / |M \cup T|`; Jaccard 1912.

    A constant map scores the share p of true voxels; a share a of the image placed by chance about pa / (p + a - pa).

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        threshold: a number (a value of relevance), ``quantile:Q`` (a share Q of voxels is below it, ``quantile:0.95``),
            ``area`` (as many voxels as are true) or ``otsu`` (Otsu 1979, doi:10.1109/TSMC.1979.4310076).
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """
    cut = cutter(threshold)

    def score(values: Tensor, truth: Tensor) -> Tensor:
        predicted = values >= cut(values, truth)
        return (predicted & truth).sum().double() / (predicted | truth).sum()

    return score_each(score, relevance, mask, ignore)


def dice(relevance: Tensor, mask: Tensor, *, threshold: Threshold = "area", ignore: Tensor | None = None) -> Tensor:
    r"""Dice's coefficient of the cut map and the truth, :math:`2 |M \cap T| / (|M| + |T|)`; doi:10.2307/1932409.

    A constant map scores :math:`2 p / (1 + p)`. Dice is :math:`2 J / (1 + J)` of the intersection over union J.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        threshold: as for ``iou``.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """
    overlap = iou(relevance, mask, threshold=threshold, ignore=ignore)
    return 2 * overlap / (1 + overlap)


def best_iou(relevance: Tensor, mask: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """The highest intersection over union that any threshold gives; a ceiling, since it looks at the truth.

    Choe et al. 2020, arXiv:2001.07437, of each image. The least is the share p of true voxels, that of a constant map.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        at = levels(values, truth, ties=False)
        return (at.true_above / (at.true + at.false_above)).amax()

    return score_each(score, relevance, mask, ignore)


def cutter(threshold: Threshold) -> Callable[[Tensor, Tensor], Tensor]:
    """Read a threshold.

    Args:
        threshold: as for ``iou``.

    Returns:
        From values ``(N,)`` and truth to the value at and above which a voxel is predicted.
    """
    if isinstance(threshold, int | float) and not isinstance(threshold, bool):
        return lambda values, _: torch.tensor(float(threshold), dtype=torch.float64, device=values.device)
    if threshold == "area":
        return lambda values, truth: values.kthvalue(len(values) - int(truth.sum()) + 1).values
    if threshold == "otsu":
        return _otsu
    share = _share(threshold)
    return lambda values, _: values.kthvalue(min(int(share * len(values)), len(values) - 1) + 1).values


def _share(threshold: object) -> float:
    kind, _, number = str(threshold).partition(":")
    try:
        share = float(number) if kind == "quantile" else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"threshold: wanted a number, quantile:Q with Q from 0 to 1, area or otsu, got {threshold!r}")
    return share


def _otsu(values: Tensor, _: Tensor) -> Tensor:
    from skimage.filters import threshold_otsu

    low, high = values.min(), values.max()
    if low == high:
        return low
    scaled = ((values - low) / (high - low)).cpu().numpy()  # the histogram fails where values are large and close
    return values[torch.from_numpy(scaled > threshold_otsu(scaled)).to(values.device)].min()
