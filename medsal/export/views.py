"""How a slice of an array is laid on a picture, and which letters stand at its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medsal.errors import InputError
from medsal.export.case import Array
from medsal.geometry import full_affine

# World axes of a radiological picture: rows run from the first letter of LETTERS to the second, columns likewise.
_ROWS_AND_COLUMNS = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
_LETTERS = ("RL", "AP", "SI")  # the plus end and the minus end of x, y, z in RAS+


@dataclass(frozen=True)
class Cut:
    """One slice of a volume.

    Attributes:
        axis: array axis it is cut across; None for an image that has no slices.
        index: its number along that axis.
        name: in file names, for example ``40`` or ``coronal_-12.0mm``.
        plane: anatomical plane it is shown in; None shows it as it lies in the array.
    """

    axis: int | None
    index: int
    name: str
    plane: str | None = None

    def take(self, volume: Array) -> Array:
        """Cut it out.

        Args:
            volume: 2D or 3D.

        Returns:
            2D, a view.
        """
        return volume if self.axis is None else np.moveaxis(volume, self.axis, 0)[self.index]


@dataclass(frozen=True)
class View:
    """How a 2D cut is shown.

    Attributes:
        axes: array axes of the volume that run down and to the right.
        flips: whether each of them is turned round.
        letters: what lies at the left, right, top and bottom edge; empty where the affine does not say.
        spacing: millimetres from row to row and from column to column.
    """

    axes: tuple[int, int]
    flips: tuple[bool, bool]
    letters: tuple[str, str, str, str]
    spacing: tuple[float, float]

    def show(self, cut: Array) -> Array:
        """Lay a cut as it is seen.

        Args:
            cut: 2D, its axes in the order of the volume.

        Returns:
            2D, rows from top to bottom, a view.
        """
        seen = cut if self.axes[0] < self.axes[1] else cut.T
        return seen[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]


def axis_directions(affine: Any) -> list[tuple[int, int]]:
    """The world axis that each array axis is nearest to, and the sense.

    Args:
        affine: ``(4, 4)`` or ``(3, 3)``.

    Returns:
        For each of three array axes: world axis 0, 1 or 2, and 1 or -1.

    Raises:
        InputError: if the affine is not finite or flattens the volume.

    Example:
        >>> axis_directions(np.diag([-2.0, 1, 1, 1]))
        [(0, -1), (1, 1), (2, 1)]
    """
    from nibabel.orientations import io_orientation

    matrix = np.asarray(full_affine(affine))
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise InputError(f"affine: wanted finite and invertible, got {matrix.tolist()}")
    return [(int(axis), int(sense)) for axis, sense in io_orientation(matrix)]


def spacings(affine: Any) -> tuple[float, float, float]:
    """Millimetres from voxel to voxel.

    Args:
        affine: ``(4, 4)`` or ``(3, 3)``.

    Returns:
        One number per array axis.
    """
    x, y, z = (float(s) for s in np.linalg.norm(np.asarray(full_affine(affine))[:3, :3], axis=0))
    return x, y, z


def view_of(affine: Any, cut: Cut, *, known: bool = True) -> View:
    """Choose how a cut is shown: by its plane in radiological convention, or as it lies in the array.

    Args:
        affine: of the volume.
        cut: its axis and plane.
        known: whether the affine says where the volume lies; if not, no letters are shown.

    Returns:
        The view, with letters that are right for the affine either way.

    Example:
        >>> view_of(np.eye(4), Cut(1, 0, "0", "coronal")).letters
        ('R', 'L', 'S', 'I')
        >>> view_of(np.eye(4), Cut(1, 0, "0")).letters
        ('I', 'S', 'L', 'R')
    """
    directions, spacing = axis_directions(affine), spacings(affine)
    if cut.axis is None:
        return View((0, 1), (False, False), ("", "", "", ""), spacing[:2])
    axes = [axis for axis in range(3) if axis != cut.axis]
    flips = [False, False]
    if cut.plane is not None:
        world = [directions[axis][0] for axis in axes]
        axes = [axes[world.index(wanted)] for wanted in _ROWS_AND_COLUMNS[cut.plane]]
        flips = [directions[axis][1] > 0 for axis in axes]  # rows and columns run from plus to minus
    down, right = (_ends(*directions[axis], flip) for axis, flip in zip(axes, flips, strict=True))
    letters = (right[0], right[1], down[0], down[1]) if known else ("", "", "", "")
    return View((axes[0], axes[1]), (flips[0], flips[1]), letters, (spacing[axes[0]], spacing[axes[1]]))


def _ends(world: int, sense: int, flip: bool) -> str:
    """Letters at the first and the last place along an array axis, as shown."""
    plus_first = (sense < 0) != flip
    return _LETTERS[world] if plus_first else _LETTERS[world][::-1]
