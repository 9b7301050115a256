"""Ranks of the voxels of a volume, with as few copies of it as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def ranks(values: NDArray[Any]) -> NDArray[np.int32]:
    """Twice the average rank of each value, from 2 for the lowest: whole numbers, so that half the memory will do.

    Args:
        values: one-dimensional, without NaN; fewer than 2**30 of them.

    Returns:
        ``2 * scipy.stats.rankdata(values)``.
    """
    order, starts = _ties(values)
    stops = np.append(starts[1:], np.int32(len(values)))
    found = np.empty(len(values), dtype=np.int32)
    found[order] = np.repeat(starts + stops + 1, stops - starts)
    return found


def counts_at_least(values: NDArray[Any]) -> NDArray[np.int32]:
    """How many values are at least as high as each.

    Args:
        values: one-dimensional, without NaN; fewer than 2**30 of them.

    Returns:
        From 1 for the highest, if it is alone, to the number of values.
    """
    order, starts = _ties(values)
    lengths = np.diff(starts, append=np.int32(len(values)))
    found = np.empty(len(values), dtype=np.int32)
    found[order] = np.repeat(np.int32(len(values)) - starts, lengths)
    return found


def _ties(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The order that sorts the values, and where in it each run of equal values starts."""
    order = np.argsort(values)
    ordered = values[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])).astype(np.int32)
