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
    order, groups, starts = _ties(values)
    starts += np.append(starts[1:], np.int32(len(values)))
    starts += 1
    return _spread(order, groups, starts)


def counts_at_least(values: NDArray[Any]) -> NDArray[np.int32]:
    """How many values are at least as high as each.

    Args:
        values: one-dimensional, without NaN; fewer than 2**30 of them.

    Returns:
        From 1 for the highest, if it is alone, to the number of values.
    """
    order, groups, starts = _ties(values)
    np.subtract(np.int32(len(values)), starts, out=starts)
    return _spread(order, groups, starts)


def _spread(order: NDArray[np.int64], groups: NDArray[np.int32], of_group: NDArray[np.int32]) -> NDArray[np.int32]:
    found = np.empty(len(order), dtype=np.int32)
    found[order] = of_group[groups]
    return found


def _ties(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The order that sorts the values, the run of equal values that each then belongs to, and where runs start."""
    order = np.argsort(values)
    ordered = values[order]
    new = np.ones(len(values), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    del ordered
    starts = np.flatnonzero(new).astype(np.int32)
    groups = np.cumsum(new, dtype=np.int32)
    groups -= 1
    return order, groups, starts
