"""Ranks of the voxels of a volume, with as few copies of it as can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 2**20
"""Voxels that are looked at together."""
_LOW = np.uint64(2**32 - 1)


def ranks(values: NDArray[Any]) -> NDArray[np.int32]:
    """Twice the average rank of each value, from 2 for the lowest: whole numbers, so that half the memory will do.

    Args:
        values: one-dimensional, without NaN; fewer than 2**30 of them.

    Returns:
        ``2 * scipy.stats.rankdata(values)``.
    """
    ordered = _Sorted(values)
    found = np.empty(len(values), dtype=np.int32)
    for places, starts in ordered.run_starts():
        found[places] = starts
    for places, ends in ordered.run_ends():
        found[places] += ends + 2
    return found


def counts_at_least(values: NDArray[Any]) -> NDArray[np.int32]:
    """How many values are at least as high as each.

    Args:
        values: one-dimensional, without NaN; fewer than 2**30 of them.

    Returns:
        From 1 for the highest, if it is alone, to the number of values.
    """
    found = np.empty(len(values), dtype=np.int32)
    for places, starts in _Sorted(values).run_starts():
        found[places] = len(values) - starts
    return found


class _Sorted:
    """Values in rising order, looked at chunk by chunk: where each comes from, and where runs of equal ones lie.

    Single precision is sorted as whole numbers that hold a value in their upper half and its place in their lower.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.count = len(values)
        self.values = values
        self.single = values.dtype == np.float32
        self.order = self._packed() if self.single else np.argsort(values)

    def _packed(self) -> NDArray[np.uint64]:
        packed = np.empty(self.count, dtype=np.uint64)
        for start in range(0, self.count, CHUNK):
            part = self.values[start : start + CHUNK] + np.float32(0)  # -0 becomes 0
            bits = part.view(np.uint32)
            rising = np.where(bits >> 31, ~bits, bits | np.uint32(2**31)).astype(np.uint64)
            packed[start : start + CHUNK] = (rising << np.uint64(32)) | np.arange(
                start, start + len(part), dtype=np.uint64
            )
        packed.sort()
        return packed

    def _keys(self, start: int, stop: int) -> NDArray[Any]:
        part = self.order[start:stop]
        return part >> np.uint64(32) if self.single else self.values[part]

    def _places(self, start: int, stop: int) -> NDArray[Any]:
        part = self.order[start:stop]
        return (part & _LOW).astype(np.int64) if self.single else part

    def run_starts(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int32]]]:
        """Go up the order.

        Yields:
            Places in the volume, and for each where the run of its value begins in the order.
        """
        before = 0
        for start in range(0, self.count, CHUNK):
            stop = min(start + CHUNK, self.count)
            keys = self._keys(max(start - 1, 0), stop)
            new = np.append(start == 0, keys[1:] != keys[:-1]) if start == 0 else keys[1:] != keys[:-1]
            at = np.where(new, np.arange(start, stop, dtype=np.int32), np.int32(before))
            np.maximum.accumulate(at, out=at)
            before = int(at[-1])
            yield self._places(start, stop), at

    def run_ends(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int32]]]:
        """Go down the order.

        Yields:
            Places in the volume, and for each where the run of its value ends in the order, the last one included.
        """
        after = self.count - 1
        for start in reversed(range(0, self.count, CHUNK)):
            stop = min(start + CHUNK, self.count)
            keys = self._keys(start, min(stop + 1, self.count))
            last = keys[:-1] != keys[1:]
            last = np.append(last, True) if stop == self.count else last
            at = np.where(last, np.arange(start, stop, dtype=np.int32), np.int32(after))
            at = np.minimum.accumulate(at[::-1])[::-1]
            after = int(at[0])
            yield self._places(start, stop), at
