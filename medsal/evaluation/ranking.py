"""Counts of true and false voxels at every threshold that matters, without sorting the whole map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 2**22
"""Voxels that are sorted at once."""


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
    """Count true and false voxels: the values of true ones are looked up among the false ones, sorted chunk by chunk.

    Args:
        values: ``(N,)``, finite.
        truth: boolean ``(N,)`` with at least one true voxel.
        ties: also count false voxels tied with true ones; else ``false_tied`` is zero.

    Returns:
        The counts, in float64.
    """
    value, hits = torch.unique_consecutive(ascending(values[truth]), return_counts=True)
    above, tied = torch.zeros_like(hits), torch.zeros_like(hits)
    size = max(CHUNK, 4 * len(value))  # many look-ups cost more than one large sort
    for part, known in zip(torch.split(values, size), torch.split(truth, size), strict=True):
        false = ascending(part[~known & (part >= value[0])])
        below = torch.searchsorted(false, value)
        above += len(false) - below
        if ties:
            tied += torch.searchsorted(false, value, right=True) - below
    true_above = hits.flip(0).cumsum(0).flip(0).double()
    true = int(hits.sum())
    return Levels(hits.double(), true_above, above.double(), tied.double(), true, len(values) - true)


def ascending(values: Tensor) -> Tensor:
    """Sort values; without their places, and on a CPU by NumPy, which is several times as fast.

    Args:
        values: ``(N,)``.

    Returns:
        The same values from low to high.
    """
    if values.device.type != "cpu":
        return values.sort().values
    return torch.from_numpy(np.sort(values.numpy()))
