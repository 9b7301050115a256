"""Confidence: what the network's confidence does when all but the relevant part of the image is hidden, or that part.

The image shown is :math:`x h + b (1 - h)` (direction ``keep``) or :math:`x (1 - h) + b h` (``remove``), where b is the
fill and h relevance over its peak (darkening) or whether it is at or above a share of its peak (zeroing). Hidden is
what lies in the space that the network sees, after preprocessing: a fill of 0 is the mean where images were normalised.
Chance: the same map in other places, ``medsal.evaluation.forwards.shifted_control``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medsal.attribution.baseline import Baseline
from medsal.attribution.target import TargetLike
from medsal.errors import UsageError
from medsal.evaluation.forwards import finite, forwards, on_grid

THRESHOLDS = tuple(t / 100 for t in range(50, 100, 5))
"""Shares of the peak at which maps are cut by the skin ultrasound study: 0.50, 0.55, ... 0.95."""


def drop_in_confidence(  # noqa: PLR0913  each is a choice that changes the number
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    score: str = "probability",
    direction: str = "keep",
    threshold: float | None = None,
    fill: Baseline = 0.0,
) -> Tensor:
    r"""How much confidence is lost, :math:`\max(0, Y - O) / Y`; of logits, which have no zero, :math:`\max(0, Y - O)`.

    Chattopadhay et al. 2018, arXiv:1710.11063. Y is the score of the image and O that of the image shown. By ``keep``
    lower is better, by ``remove`` higher. A map of ones loses nothing, however little it knows.

    Args:
        network: a classifier, given back as it was.
        image: ``(B, C, *space)`` as the network wants it.
        relevance: ``(B, 1, *space)``; its positive part is read.
        target: which score, see ``medsal.explain``; None is each image's own predicted class.
        score: ``probability``, ``sigmoid`` or ``logit``, see ``medsal.evaluation.forwards.Forwards``.
        direction: ``keep`` (the relevant part is shown) or ``remove`` (it is hidden).
        threshold: share of the peak at which the map is cut, see ``THRESHOLDS``; None darkens by the map itself.
        fill: what is seen where the image is hidden, see ``medsal.attribution.baseline.baseline_images``.

    Returns:
        ``(B,)`` in float64, from 0, up to 1 for probabilities; NaN where relevance is not finite or Y is 0.
    """
    before, after = confidences(
        network, image, relevance, target=target, score=score, direction=direction, threshold=threshold, fill=fill
    )
    lost = (before - after).clamp_min(0)
    return lost if score == "logit" else lost / before


def increase_in_confidence(  # noqa: PLR0913  each is a choice that changes the number
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    score: str = "probability",
    direction: str = "keep",
    threshold: float | None = None,
    fill: Baseline = 0.0,
) -> Tensor:
    """Whether confidence is higher with the image partly hidden, 1 if O > Y and else 0; the mean is the published rate.

    Chattopadhay et al. 2018, arXiv:1710.11063. By ``keep`` higher is better, by ``remove`` lower.

    Args:
        network: as for ``drop_in_confidence``.
        image: as there.
        relevance: as there.
        target: as there.
        score: as there.
        direction: as there.
        threshold: as there.
        fill: as there.

    Returns:
        ``(B,)`` in float64, 0 or 1; NaN where relevance is not finite.
    """
    before, after = confidences(
        network, image, relevance, target=target, score=score, direction=direction, threshold=threshold, fill=fill
    )
    return torch.where(after.isnan(), math.nan, (after > before).double())


def confidences(  # noqa: PLR0913  as above
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    score: str = "probability",
    direction: str = "keep",
    threshold: float | None = None,
    fill: Baseline = 0.0,
) -> tuple[Tensor, Tensor]:
    """The scores that drop and increase are made of.

    Args:
        network: as for ``drop_in_confidence``.
        image: as there.
        relevance: as there.
        target: as there.
        score: as there.
        direction: as there.
        threshold: as there.
        fill: as there.

    Returns:
        Y and O, ``(B,)`` each in float64; O is NaN where relevance is not finite.

    Raises:
        UsageError: if there is no such direction, or the threshold is not a share.
    """
    if direction not in {"keep", "remove"}:
        raise UsageError(f"direction: wanted keep or remove, got {direction!r}")
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"threshold: wanted a share of the peak above 0 and up to 1, or None, got {threshold!r}")
    with forwards(network, image, target, score) as asked:
        maps = on_grid(relevance, asked.images)
        shown = _share_of_peak(maps, threshold).to(asked.images)
        if direction == "remove":
            shown = 1 - shown
        hidden = asked.filled(fill)
        after = asked.at(1, lambda rows, _: torch.lerp(hidden[rows], asked.images[rows], shown[rows]))[:, 0]
        return asked.confidence, torch.where(finite(maps), after, math.nan)


def _share_of_peak(maps: Tensor, threshold: float | None) -> Tensor:
    """What is relevant, from 0 to 1; nothing of a map without positive values, or of one that is not finite."""
    positive = maps.nan_to_num(0, 0, 0).clamp_min(0)
    peak = positive.flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))
    share = torch.where(peak > 0, positive / peak, 0.0)
    return share if threshold is None else (share >= threshold).to(share.dtype)
