"""Overlapping regions of an image, ranked by the attribution that each adds: the second half of XRAI."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from medsal.attribution.segments import Array, Segments
from medsal.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MODES = ("full", "fast")
UNITS = 2.0**62
"""Attributions are added and taken away as whole numbers that together are at most this, so that nothing is lost."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Which regions cover which voxels, for overlapping regions of one image.

    Voxels that the same regions cover are one atom: whatever is known about the voxels of a region is a sum over its
    few atoms.

    Attributes:
        atoms: atom of each voxel, ``(*space)``.
        voxels: voxels of each atom, ``(A,)``.
        members: region x atom, 1 where the region covers the atom; regions in the order of their segments.
        covers: the transpose.
        min_new: the fewest voxels by which a region must enlarge the area ranked so far to be taken.
    """

    atoms: Array
    voxels: Array
    members: csr_array
    covers: csr_array
    min_new: int

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        tables = (self.members, self.covers)
        arrays = [self.atoms, self.voxels, *(part for t in tables for part in (t.data, t.indices, t.indptr))]
        return sum(array.nbytes for array in arrays)


def regions_of(segments: Segments) -> Regions:
    """Find the atoms that segments divide an image into.

    Args:
        segments: label images with their dilation.

    Returns:
        The regions, one for each segment that has voxels.
    """
    from scipy.sparse import csr_array

    space = segments.labels[0].shape
    found = [(box, mask.shape, np.packbits(mask)) for box, mask in segments.masks()]
    for seed in count():
        codes = np.zeros(space, dtype=np.uint64)
        for key, (box, shape, bits) in zip(_keys(len(found), seed), found, strict=True):
            np.bitwise_xor(codes[box], key, out=codes[box], where=_unpacked(bits, shape))
        _, inverse = np.unique(codes, return_inverse=True)
        atoms = inverse.astype(np.int32).reshape(space)
        voxels = np.bincount(atoms.ravel())
        rows, exact = [], True
        for box, shape, bits in found:
            covered = atoms[box][_unpacked(bits, shape)]
            seen = np.zeros(len(voxels), dtype=bool)
            seen[covered] = True
            rows.append(np.flatnonzero(seen).astype(np.int32))
            exact &= int(voxels[rows[-1]].sum()) == len(covered)
        if exact:  # else two sets of regions met in one code, and some region covers a part of an atom
            break
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate([np.empty(0, np.int32), *rows])
    members = csr_array((np.ones(len(columns), np.int8), columns, ends), shape=(len(rows), len(voxels)))
    return Regions(atoms, voxels, members, members.T.tocsr(), segments.min_new)


def _keys(count: int, seed: int) -> Array:
    """One code for each region; a set of regions is known by the exclusive or of theirs."""
    return np.random.default_rng(seed).integers(2**64, size=count, dtype=np.uint64)


def _unpacked(bits: Array, shape: tuple[int, ...]) -> Array:
    return np.unpackbits(bits, count=int(np.prod(shape))).view(bool).reshape(shape)


def region_ranking(attribution: Array, regions: Regions, *, mode: str = "full", min_new: int | None = None) -> Array:
    """Write into each voxel the mean attribution that its region had when it was taken.

    ``full`` takes, again and again, the region with the largest mean over the voxels that it would add, and drops those
    that would add fewer than ``min_new``. ``fast`` takes the regions in the order of their means over all their voxels.
    Of equals the first is taken. What no region adds gets its own mean, so that the sum is kept. The result is that of
    Kapishnikov et al. 2019, by counts and sums that are kept up to date instead of masks scanned anew.

    Args:
        attribution: ``(*space)``.
        regions: of the same image.
        mode: ``full`` or ``fast``.
        min_new: fewest new voxels; None takes the regions' own.

    Returns:
        ``(*space)`` in float64.

    Raises:
        UsageError: if the mode is not known or the shapes differ.

    Example:
        >>> regions = regions_of(Segments((np.array([[1, 1, 2, 2, 0]]),), (1.0, 1.0)))
        >>> region_ranking(np.array([[1.0, 3.0, 5.0, 0.0, 7.0]]), regions).tolist()
        [[2.0, 2.0, 2.5, 2.5, 7.0]]
    """
    if mode not in MODES:
        raise UsageError(f"mode: wanted one of {', '.join(MODES)}, got {mode!r}")
    if attribution.shape != regions.atoms.shape:
        raise UsageError(f"attribution: wanted the shape {regions.atoms.shape} of its regions, got {attribution.shape}")
    weights = np.asarray(attribution, dtype=np.float64).ravel()
    sums = np.bincount(regions.atoms.ravel(), weights, minlength=len(regions.voxels))
    fewest = max(1, regions.min_new if min_new is None else min_new)
    taken = _taken_full(sums, regions, fewest) if mode == "full" else _taken_fast(sums, regions, fewest)
    values, left = np.zeros_like(sums), np.ones(len(sums), dtype=bool)
    for atoms in taken:
        values[atoms] = sums[atoms].sum() / regions.voxels[atoms].sum()
        left[atoms] = False
    if left.any():
        values[left] = sums[left].sum() / regions.voxels[left].sum()
    return values[regions.atoms]


def _amounts(sums: Array, regions: Regions) -> Array:
    """Voxels of each atom and its attribution in whole numbers, ``(A, 2)``."""
    scale = np.abs(sums).sum()
    units = np.rint(sums / scale * UNITS) if scale > 0 else np.zeros_like(sums)
    return np.stack([regions.voxels, units.astype(np.int64)], axis=1)


def _means(totals: Array) -> Array:
    """Mean attribution of regions, ``(M,)``, in whole numbers."""
    means: Array = totals[:, 1] / np.maximum(totals[:, 0], 1)
    return means


def _taken_full(sums: Array, regions: Regions, fewest: int) -> list[Array]:
    """New atoms of each region taken, in turn."""
    amounts = _amounts(sums, regions)
    totals = regions.members @ amounts
    covered, taken = np.zeros(len(sums), dtype=bool), []
    alive = np.ones(len(totals), dtype=bool)
    while (alive := alive & (totals[:, 0] >= fewest)).any():
        best = int(np.where(alive, _means(totals), -np.inf).argmax())
        new = _atoms(regions, best)
        new = new[~covered[new]]
        covered[new] = True
        alive[best] = False
        totals -= regions.covers[new].T @ amounts[new]
        taken.append(new)
    return taken


def _taken_fast(sums: Array, regions: Regions, fewest: int) -> list[Array]:
    """New atoms of each region taken, in turn."""
    means = _means(regions.members @ _amounts(sums, regions))
    covered, taken = np.zeros(len(sums), dtype=bool), []
    for region in np.argsort(-means, kind="stable"):
        new = _atoms(regions, region)
        new = new[~covered[new]]
        if regions.voxels[new].sum() >= fewest:
            covered[new] = True
            taken.append(new)
    return taken


def _atoms(regions: Regions, region: int) -> Array:
    start, stop = regions.members.indptr[region : region + 2]
    found: Array = regions.members.indices[start:stop]
    return found
