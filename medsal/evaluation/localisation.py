"""Localisation: does relevance lie where the truth lies?"""

from __future__ import annotations

import torch
from torch import Tensor

from medsal.errors import UsageError


def average_precision(relevance: Tensor, mask: Tensor) -> Tensor:
    r"""Area under the precision-recall curve of ranked voxels, in steps, :math:`\sum_n (R_n - R_{n-1}) P_n`.

    Ties are one threshold, so a constant map scores exactly the share of true voxels, which is also what chance gives.
    Equal to scikit-learn's ``average_precision_score``.

    Args:
        relevance: ``(B, 1, *space)``; higher means more relevant.
        mask: boolean truth of the same shape.

    Returns:
        ``(B,)`` in float64, between the share of true voxels that chance gives and 1; NaN where a mask is empty.

    Raises:
        UsageError: if the shapes differ.

    Example:
        >>> average_precision(torch.tensor([[[0.1, 0.9, 0.5]]]), torch.tensor([[[False, True, False]]]))
        tensor([1.], dtype=torch.float64)
    """
    found = []
    for ranked, truth in _pairs(relevance, mask):
        order = ranked.argsort(descending=True)
        hits = truth[order].double().cumsum(0)
        last_of_tie = torch.ones_like(order, dtype=torch.bool)
        last_of_tie[:-1] = ranked[order].diff() != 0
        hits, count = hits[last_of_tie], (last_of_tie.nonzero()[:, 0] + 1).double()
        gained = hits.diff(prepend=hits.new_zeros(1))
        found.append((gained * hits / count).sum() / hits[-1])
    return torch.stack(found)


def pointing_game(relevance: Tensor, mask: Tensor) -> Tensor:
    """Does the peak of relevance lie in the truth? Zhang et al. 2016, arXiv:1608.00507.

    Several equal peaks count by the share of them that hit, so that a constant map scores what chance gives.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: boolean truth of the same shape.

    Returns:
        ``(B,)`` in float64, from 0 to 1; NaN where a mask is empty.

    Raises:
        UsageError: if the shapes differ.
    """
    found = []
    for values, truth in _pairs(relevance, mask):
        share = truth[values == values.max()].double().mean()
        found.append(share if truth.any() else torch.full_like(share, float("nan")))
    return torch.stack(found)


def prevalence(mask: Tensor) -> Tensor:
    """Share of true voxels: the average precision and the pointing game of a map that knows nothing.

    Args:
        mask: boolean ``(B, 1, *space)``.

    Returns:
        ``(B,)`` in float64.
    """
    return mask.flatten(1).double().mean(1)


def _pairs(relevance: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    if relevance.shape != mask.shape:
        raise UsageError(f"wanted a mask on the grid of the map {tuple(relevance.shape)}, got {tuple(mask.shape)}")
    plain = relevance.detach().as_subclass(Tensor), mask.as_subclass(Tensor).bool()
    return list(zip(*(t.flatten(1) for t in plain), strict=True))
