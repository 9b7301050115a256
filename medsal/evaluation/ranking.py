"""Counts of true and false voxels at every threshold that matters, without sorting the whole map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**20
"""Voxels that are counted at once."""


@dataclass(frozen=True)
class Levels:
    """The distinct values that true voxels have, from low to high, and what lies at or above each.

    Attributes:
        hits: true voxels at each value.
        true_above: true voxels at or above each.
        false_above: false voxels at or above each.
        false_tied: false voxels at exactly each value.
        true: number of true voxels.
        false: number of false voxels.
    """

    hits: Tensor
    true_above: Tensor
    false_above: Tensor
    false_tied: Tensor
    true: int
    false: int


def levels(values: Tensor, truth: Tensor, *, ties: bool = True) -> Levels:
    """Count true and false voxels: true ones are sorted, false ones are only looked up among them, chunk by chunk.

    Args:
        values: ``(N,)``, finite.
        truth: boolean ``(N,)`` with at least one true voxel.
        ties: also count false voxels tied with true ones; else ``false_tied`` is zero.

    Returns:
        The counts, in float64.
    """
    value, hits = torch.unique_consecutive(values[truth].sort().values, return_counts=True)
    above, tied = torch.zeros_like(hits), torch.zeros_like(hits)
    for part, known in zip(torch.split(values, CHUNK), torch.split(truth, CHUNK), strict=True):
        false = part[~known & (part >= value[0])]
        at = torch.searchsorted(value, false, right=True, out_int32=True) - 1
        above += at.bincount(minlength=len(value))
        if ties:
            tied += at[value[at] == false].bincount(minlength=len(value))
    true_above = hits.flip(0).cumsum(0).flip(0).double()
    false_above = above.flip(0).cumsum(0).flip(0).double()
    true = int(hits.sum())
    return Levels(hits.double(), true_above, false_above, tied.double(), true, len(values) - true)
