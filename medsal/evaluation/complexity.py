"""Complexity: is relevance in few voxels or spread over many? No truth is asked, so neither end proves a map right."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medsal.evaluation.ranking import CHUNK, ascending
from medsal.evaluation.truth import images


def sparseness(relevance: Tensor) -> Tensor:
    r"""Gini's index of the magnitudes of relevance, Chalasani et al. 2020, arXiv:1810.06583.

    :math:`\sum_i (2 i - N - 1) |r|_{(i)} / (N \sum_i |r|_i)` over magnitudes in rising order. A map of one voxel scores
    :math:`1 - 1 / N`, a constant map 0, which is also the least.

    Args:
        relevance: ``(B, 1, *space)``.

    Returns:
        ``(B,)`` in float64, from 0 to below 1; NaN where a map is zero everywhere or not finite.
    """

    def gini(sizes: Tensor, total: Tensor) -> Tensor:
        count, found = len(sizes), torch.zeros_like(total)
        for i, part in enumerate(torch.split(ascending(sizes), CHUNK)):
            first = 1 - count + 2 * i * CHUNK
            rank = torch.arange(first, first + 2 * len(part), 2, dtype=torch.float64, device=part.device)
            found += rank @ (part.double() / total)
        return found / count

    return _of_sizes(relevance, gini)


def entropy(relevance: Tensor) -> Tensor:
    r"""Shannon's entropy of the shares of relevance, :math:`-\sum_v s_v \log s_v`, Bhatt et al. 2020, arXiv:2005.00631.

    :math:`s_v = |r_v| / \sum |r|`. A map of one voxel scores 0, a constant map :math:`\log N`, which is the most.

    Args:
        relevance: ``(B, 1, *space)``.

    Returns:
        ``(B,)`` in float64, in nats, from 0; NaN where a map is zero everywhere or not finite.
    """

    def surprise(sizes: Tensor, total: Tensor) -> Tensor:
        parts = torch.split(sizes, CHUNK)
        return torch.stack([torch.special.entr(part.double() / total).sum() for part in parts]).sum()

    return _of_sizes(relevance, surprise)


def _of_sizes(relevance: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Score the magnitudes of each map, given their sum; chunk by chunk, so that no double copy is held."""
    found = []
    for (values,) in images(relevance):
        sizes = values.flatten().abs()
        total = sizes.sum(dtype=torch.float64)
        answers = bool(total > 0) and bool(total.isfinite())
        found.append(score(sizes, total) if answers else torch.full_like(total, math.nan))
    return torch.stack(found)
