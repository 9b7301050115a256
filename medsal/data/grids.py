"""Sampling grids in world coordinates (millimetres, RAS+), and the fixed grids of the MRI bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["HEAD_GRID", "SEED_GRID", "TEMPORAL_GRID", "Grid"]


@dataclass(frozen=True)
class Grid:
    """A box of voxels along the world's axes (right, anterior, superior).

    Attributes:
        origin: world position of the centre of voxel (0, 0, 0), in mm.
        spacing: distance of neighbouring voxels per axis, in mm.
        size: number of voxels per axis.

    Example:
        >>> Grid((-3.0, 0.0, 1.0), (2.0, 2.0, 2.0), (4, 1, 1)).affine[:3, 3].tolist()
        [-3.0, 0.0, 1.0]
    """

    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]

    @property
    def affine(self) -> np.ndarray:
        """The 4x4 matrix from voxel indices to world mm."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the box, voxel edges included, in mm."""
        origin, spacing, size = (np.asarray(part, dtype=float) for part in (self.origin, self.spacing, self.size))
        return origin - spacing / 2, origin + spacing * (size - 0.5)

    def with_spacing(self, spacing: tuple[float, float, float]) -> Grid:
        """The same box (never smaller) at another spacing, about the same centre.

        Args:
            spacing: the new distance of neighbouring voxels per axis, in mm.

        Returns:
            the new grid.
        """
        low, high = self.bounds
        wanted = np.asarray(spacing, dtype=float)
        size = np.ceil((high - low) / wanted - 1e-6).astype(int)
        origin = (low + high) / 2 - wanted * (size - 1) / 2
        x, y, z = (float(value) for value in origin)
        i, j, k = (int(value) for value in size)
        return Grid((x, y, z), spacing, (i, j, k))

    def grown(self, margin: float) -> Grid:
        """The same voxels with at least ``margin`` mm more on every side.

        Args:
            margin: the distance to add, in mm.

        Returns:
            the larger grid; the voxels of this one are among its voxels.
        """
        more = [int(np.ceil(margin / step)) for step in self.spacing]
        x, y, z = (o - n * s for o, n, s in zip(self.origin, more, self.spacing, strict=True))
        i, j, k = (n + 2 * m for n, m in zip(self.size, more, strict=True))
        return Grid((x, y, z), self.spacing, (i, j, k))


TEMPORAL_GRID = Grid((-43.0, -49.0, -37.0), (2.0, 2.0, 2.0), (44, 28, 24))
"""What the embedded MRI network sees: both temporal lobes' inner part, x -44..44, y -50..6, z -38..10 mm, 2 mm voxels.

The hippocampus of the template spans |x| 10..37, y -43..-7, z -30..7 mm: 4 to 13 mm are left on each side for position
and shape of a person's head.
"""

HEAD_GRID = Grid((-90.5, -126.0, -79.5), (1.0, 1.0, 1.0), (182, 218, 182))
"""The field of view of an embedded whole head at 1 mm, before it is turned into a file's own orientation."""

SEED_GRID = Grid((-84.0, -120.0, -72.0), (1.5, 1.5, 1.5), (113, 137, 113))
"""The grid of CAT12's ``mwp1`` maps, on which the slices 10 to 124 of the coronal network are counted."""
