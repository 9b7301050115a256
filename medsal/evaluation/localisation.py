"""Localisation: does relevance lie where the truth lies?

Every metric takes relevance and a boolean truth ``(B, 1, *space)``, and voxels to ignore, and gives ``(B,)`` in
float64; NaN where there is no answer, see ``medsal.evaluation.truth.no_answer`` for the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.ranking import levels
from medsal.evaluation.truth import bare, images, no_answer, prevalence, score_each, side_of

__all__ = [
    "auprc_trapezoid",
    "average_precision",
    "pointing_chance",
    "pointing_game",
    "prevalence",
    "relevance_mass",
    "relevance_rank",
    "roc_auc",
    "within",
]

TIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda hits: hits.mean(),
    "first": lambda hits: hits[0],
    "any": lambda hits: hits.amax(),
}
"""What several equal peaks count."""


def average_precision(relevance: Tensor, mask: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    r"""Area under the precision-recall curve of ranked voxels, in steps, :math:`\sum_n (R_n - R_{n-1}) P_n`.

    Ties are one threshold, so a constant map scores exactly the share of true voxels, which is also what chance gives.
    Equal to scikit-learn's ``average_precision_score``; only true voxels are sorted.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, above 0 and up to 1; NaN where there is no answer.

    Raises:
        UsageError: if the shapes differ.

    Example:
        >>> average_precision(torch.tensor([[[0.1, 0.9, 0.5]]]), torch.tensor([[[False, True, False]]]))
        tensor([1.], dtype=torch.float64)
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        at = levels(values, truth, ties=False)
        return (at.hits * at.true_above / (at.true_above + at.false_above)).sum() / at.true

    return score_each(score, relevance, mask, ignore)


def auprc_trapezoid(relevance: Tensor, mask: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    r"""Legacy: the area under the precision-recall curve by trapezoids, too high; use ``average_precision``.

    :math:`\sum_n (R_n - R_{n-1}) (P_n + P_{n-1}) / 2` over distinct thresholds with :math:`P_0 = 1`, as published in
    Arun et al. 2021, doi:10.1148/ryai.2021200267. A constant map scores :math:`(1 + p) / 2` where chance is the share p
    of true voxels, so that maps with many ties (boxes, empty maps) beat maps that know more.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        at = levels(values, truth)
        true_before, false_before = at.true_above - at.hits, at.false_above - at.false_tied
        before = true_before + false_before
        precision_before = torch.where(before > 0, true_before / before.clamp_min(1), 1.0)
        precision = at.true_above / (at.true_above + at.false_above)
        return (at.hits * (precision + precision_before)).sum() / (2 * at.true)

    return score_each(score, relevance, mask, ignore)


def roc_auc(relevance: Tensor, mask: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """How often a true voxel has more relevance than a false one; a tie counts half. Chance gives 1/2.

    The area under the receiver operating characteristic, Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    With few true voxels it is close to 1 for maps that are of little use.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        at = levels(values, truth)
        return (at.hits * (at.false - at.false_above + at.false_tied / 2)).sum() / (at.true * at.false)

    return score_each(score, relevance, mask, ignore)


def pointing_game(
    relevance: Tensor,
    mask: Tensor,
    *,
    ties: str = "mean",
    tolerance_mm: float = 0.0,
    spacing: float | Sequence[float] = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Does the peak of relevance lie in the truth? Zhang et al. 2016, arXiv:1608.00507.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        ties: what several equal peaks count: ``mean``, the share of them that hit, so that a constant map scores what
            chance gives; ``first``, the first in array order; ``any``, a hit if one of them hits.
        tolerance_mm: a peak also hits if a true voxel's centre is as near as this; the paper takes 15 pixels.
        spacing: mm per voxel, one number or one for each axis of space.
        ignore: voxels that do not count, neither as peaks nor as truth.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer. Chance gives the share of voxels that hit.

    Raises:
        UsageError: if the shapes differ or there is no such tie rule.
    """
    if ties not in TIES:
        raise UsageError(f"ties: wanted {', '.join(TIES)}, got {ties!r}")
    reasons = no_answer(relevance, mask, ignore)
    wide = within(mask.bool() if ignore is None else mask.bool() & ~ignore.bool(), tolerance_mm, spacing)
    found = torch.full((len(reasons),), math.nan, dtype=torch.float64, device=relevance.device)
    for i, (values, hit, *left_out) in enumerate(images(relevance, wide, ignore)):
        if not reasons[i]:
            seen = values.masked_fill(left_out[0].bool(), -math.inf) if left_out else values
            found[i] = TIES[ties](hit[seen == seen.max()].double())
    return found


def pointing_chance(
    mask: Tensor,
    *,
    tolerance_mm: float = 0.0,
    spacing: float | Sequence[float] = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """The pointing game of a peak placed by chance: the share of voxels that hit.

    Args:
        mask: boolean truth ``(B, 1, *space)``.
        tolerance_mm: as for ``pointing_game``.
        spacing: as there.
        ignore: as there; everything outside the body, if the peak can only lie inside it.

    Returns:
        ``(B,)`` in float64; NaN where there is no truth to hit.
    """
    truth = bare(mask).bool() if ignore is None else bare(mask).bool() & ~bare(ignore).bool()
    found = prevalence(within(truth, tolerance_mm, spacing), ignore)
    return torch.where(truth.flatten(1).any(1), found, torch.nan)


def within(mask: Tensor, tolerance_mm: float, spacing: float | Sequence[float] = 1.0) -> Tensor:
    """Widen a mask by a distance between voxel centres.

    Args:
        mask: boolean ``(B, 1, *space)``.
        tolerance_mm: the distance, 0 or more.
        spacing: mm per voxel, one number or one for each axis of space.

    Returns:
        Boolean, of the same shape.

    Raises:
        UsageError: if the distance is below 0 or the spacing does not fit the axes.
    """
    truth = bare(mask).bool()
    steps = [float(spacing)] * (truth.ndim - 2) if isinstance(spacing, int | float) else [float(s) for s in spacing]
    if len(steps) != truth.ndim - 2 or min(steps) <= 0 or tolerance_mm < 0:
        raise UsageError(
            f"wanted a tolerance of 0 mm or more and a spacing above 0 for each of {truth.ndim - 2} axes, "
            f"got {tolerance_mm} and {spacing}"
        )
    if not tolerance_mm:
        return truth
    wide = truth.clone()
    for row in wide:
        _widen(row[0], tolerance_mm, steps)
    return wide


def _widen(truth: Tensor, distance: float, spacing: list[float]) -> None:
    """Widen one mask in place; only what lies near it is looked at."""
    from scipy.ndimage import distance_transform_edt

    at = truth.nonzero()
    if not len(at):
        return
    reach = [math.ceil(distance / step) for step in spacing]
    low, high = at.amin(0).tolist(), at.amax(0).tolist()
    near = tuple(slice(max(a - n, 0), b + n + 1) for a, b, n in zip(low, high, reach, strict=True))
    to_truth = distance_transform_edt(~truth[near].cpu().numpy(), sampling=spacing)
    truth[near] = torch.from_numpy(to_truth <= distance * (1 + 1e-9)).to(truth.device)


def relevance_mass(relevance: Tensor, mask: Tensor, *, side: str = "positive", ignore: Tensor | None = None) -> Tensor:
    r"""The share of relevance that lies in the truth, :math:`\sum_{v \in T} r_v^+ / \sum_v r_v^+`.

    Also known as the energy-based pointing game (Wang et al. 2020, arXiv:1910.01279), relevance mass accuracy (Arras et
    al. 2022, arXiv:2003.07258) and inside-total ratio. Only one sign is read: with both, the sum below may be near 0.
    The mean over all shifts of a map, and so chance, is the share of true voxels.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.
        side: ``positive``, ``negative`` or ``absolute``.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer, also where there is no relevance on that side.
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        read = side_of(values, side)
        return read[truth].sum(dtype=torch.float64) / read.sum(
            dtype=torch.float64
        )  # 0 / 0 is NaN: no relevance on that side

    return score_each(score, relevance, mask, ignore)


def relevance_rank(relevance: Tensor, mask: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """The share of true voxels among as many voxels of highest relevance as there are true ones.

    Relevance rank accuracy, Arras et al. 2022, arXiv:2003.07258. Of voxels tied at the end of the ranks as many count
    as still fit, by the share of them that is true, so that a constant map scores what chance gives, the share of true
    voxels.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where there is no answer.
    """

    def score(values: Tensor, truth: Tensor) -> Tensor:
        size = int(truth.sum())
        last = values.kthvalue(len(values) - size + 1).values
        above, tied = values > last, values == last
        left = size - above.sum().double()
        return ((above & truth).sum() + left * (tied & truth).sum() / tied.sum()) / size

    return score_each(score, relevance, mask, ignore)
