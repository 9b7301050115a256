"""From positions and orientations of slices to one grid in the world, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.reasons import Reason, Refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's world (x to the left, y to the back) to that of NIfTI and MONAI."""

_ANGLE = 2e-3  # of direction cosines: rounded to three digits they pass, a tenth of a degree more does not
_SPACING = 1e-2  # part of the distance between slices, as highdicom has it
_DRIFT = 0.5  # of a pixel: how far a slice may lie beside the line through the first and the last


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in their order, as one grid.

    Attributes:
        affine: ``(4, 4)``, index (column, row, slice) to millimetres, RAS+.
        order: which of the given slices comes first, second, ...: along rows x columns (right-handed).
    """

    affine: NDArray[np.float64]
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Planes:
    """Where each slice lies, as its header says.

    Attributes:
        positions: ``(n, 3)``, ImagePositionPatient.
        orientations: ``(n, 6)``, ImageOrientationPatient.
        spacings: ``(n, 2)``, PixelSpacing: between rows, between columns.
        thickness: of a slice, mm; 0 where it is not known. Only a single slice needs it.
    """

    positions: NDArray[np.float64]
    orientations: NDArray[np.float64]
    spacings: NDArray[np.float64]
    thickness: float = 0.0

    @classmethod
    def of(cls, positions: Any, orientations: Any, spacings: Any, thickness: Any) -> Planes:
        """Take the values of headers.

        Args:
            positions: three numbers for each slice.
            orientations: six numbers for each slice.
            spacings: two numbers for each slice.
            thickness: of one slice, None where it is missing.

        Returns:
            The planes.

        Raises:
            Refusal: ``no_geometry``, where something is missing.
        """
        arrays = []
        for name, values, count in (
            ("position", positions, 3),
            ("orientation", orientations, 6),
            ("pixel spacing", spacings, 2),
        ):
            if any(value is None or np.size(value) != count for value in values):
                raise Refusal(Reason.NO_GEOMETRY, name)
            arrays.append(np.array([[float(number) for number in value] for value in values], dtype=np.float64))
        return cls(arrays[0], arrays[1], arrays[2], float(thickness) if thickness not in {None, ""} else 0.0)


def stack_of(planes: Planes) -> Stack:
    """Put slices in order and make one grid of them.

    The step from slice to slice is measured from the first to the last, so that both ends are exact.

    Args:
        planes: where each slice lies.

    Returns:
        The grid.

    Raises:
        Refusal: ``no_geometry``, ``mixed_orientations``, ``mixed_sizes``, ``duplicate_positions``, ``missing_slices``,
            ``irregular_spacing`` or ``gantry_tilt``.
    """
    _check_alike(planes)
    right, down = planes.orientations[0, :3], planes.orientations[0, 3:]
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    heights = planes.positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = planes.positions[order]
    if len(order) == 1:
        if not (np.isfinite(planes.thickness) and planes.thickness > 0):
            raise Refusal(Reason.NO_GEOMETRY, "thickness of a single slice")
        step = normal * planes.thickness
    else:
        _check_distances(np.diff(heights[order]))
        step = (ordered[-1] - ordered[0]) / (len(order) - 1)
        _check_straight(ordered, step, normal, float(planes.spacings.min()))
        _check_with_highdicom(planes, order)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = right * planes.spacings[0, 1], down * planes.spacings[0, 0]
    lps[:3, 2], lps[:3, 3] = step, ordered[0]
    return Stack(LPS_TO_RAS @ lps, tuple(int(index) for index in order))


def _check_alike(planes: Planes) -> None:
    """One orientation, made of unit vectors at right angles; one pixel spacing."""
    numbers = np.concatenate([planes.positions, planes.orientations, planes.spacings], axis=1)
    if not np.isfinite(numbers).all():
        raise Refusal(Reason.NO_GEOMETRY, "a number that is not finite")
    if (planes.spacings <= 0).any():
        raise Refusal(Reason.NO_GEOMETRY, "pixel spacing")
    right, down = planes.orientations[:, :3], planes.orientations[:, 3:]
    lengths = np.concatenate([np.linalg.norm(right, axis=1), np.linalg.norm(down, axis=1)])
    if (np.abs(lengths - 1) > _ANGLE).any() or (np.abs((right * down).sum(1)) > _ANGLE).any():
        raise Refusal(Reason.NO_GEOMETRY, "orientation")
    if (np.abs(planes.orientations - planes.orientations[0]) > _ANGLE).any():
        kinds = len(np.unique(planes.orientations.round(2), axis=0))
        raise Refusal(Reason.MIXED_ORIENTATIONS, f"{kinds} orientations")
    if (np.abs(planes.spacings / planes.spacings[0] - 1) > 1e-3).any():
        raise Refusal(Reason.MIXED_SIZES, "pixel spacing")


def _check_distances(gaps: NDArray[np.float64]) -> None:
    """Say what is wrong with distances along the normal."""
    usual = float(np.median(gaps))
    smallest = float(gaps.min())
    if smallest <= max(_SPACING * usual, 1e-4):
        raise Refusal(Reason.DUPLICATE_POSITIONS, f"{int((gaps <= max(_SPACING * usual, 1e-4)).sum())} doubled")
    if (np.abs(gaps - gaps.mean()) <= _SPACING * gaps.mean()).all():
        return
    multiples = np.rint(gaps / smallest)
    if (np.abs(gaps - multiples * smallest) <= 2 * _SPACING * gaps).all() and multiples.max() > 1:
        raise Refusal(Reason.MISSING_SLICES, f"{int(multiples.sum()) - len(gaps)} missing")
    raise Refusal(Reason.IRREGULAR_SPACING, f"{smallest:.3f} to {float(gaps.max()):.3f} mm")


def _check_straight(
    ordered: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64], pixel: float
) -> None:
    """Slices lie on a line, and the line is their normal."""
    drift = step - normal * (step @ normal)
    if np.linalg.norm(drift) * (len(ordered) - 1) > _DRIFT * pixel:
        angle = float(np.degrees(np.arctan2(np.linalg.norm(drift), abs(step @ normal))))
        raise Refusal(Reason.GANTRY_TILT, f"{angle:.2f} degrees")
    line = ordered[0] + np.arange(len(ordered))[:, None] * step
    beside = ordered - line
    beside -= np.outer(beside @ normal, normal)
    if np.linalg.norm(beside, axis=1).max() > _DRIFT * pixel:
        raise Refusal(Reason.IRREGULAR_SPACING, "slices shifted within their planes")


def _check_with_highdicom(planes: Planes, order: NDArray[np.intp]) -> None:
    """A second opinion on whether this is a volume: what passes here is refused where highdicom disagrees."""
    from highdicom.spatial import get_volume_positions

    spacing, places = get_volume_positions(
        planes.positions, planes.orientations[0], rtol=_SPACING, index_convention="RD"
    )
    if spacing is None or places is None:
        raise Refusal(Reason.IRREGULAR_SPACING)
    if list(np.argsort(places)) != list(order):
        raise Refusal(Reason.IRREGULAR_SPACING, "order of slices")
