"""Overlays as Secondary Capture: what every viewer shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.grid import NativeGrid, map_to_native
from medsal.dicom.phi import sealed
from medsal.dicom.pictures import compose
from medsal.dicom.sources import Study
from medsal.export.colours import grey_levels, largest

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from numpy.typing import NDArray
    from pydicom import Dataset

_IN_PLANE = 3  # decimals of direction letters: a component below is none


@sealed
def captures(
    study: Study, image: MetaTensor, relevance: MetaTensor, *, slices: int = 8, lines: Sequence[str] = ()
) -> list[Dataset]:
    """Draw overlays of a map: one of a film, those of the slices with the most attribution of a series.

    Args:
        study: from `medsal.dicom.open_study`.
        image: as it was read, on the native grid.
        relevance: its map, on any grid; it is brought to the native one.
        slices: how many at most.
        lines: what stands under the notice besides method and class, such as the score; nothing that names the patient.

    Returns:
        Secondary Capture objects of one series, in the order of the slices.

    Raises:
        Refusal: ``not_native``.
    """
    native = map_to_native(relevance, study.grid)
    voxels, map_ = (np.asarray(tensor.as_tensor()[0].cpu()) for tensor in (image, native))
    grey, limit = grey_levels(voxels), largest(map_)
    if len(study.grid.shape) == 2:
        places: list[int | None] = [None]
    else:
        places = list(most_attributed(map_, slices))
    return [_capture(study, (grey, map_, limit), place, index, lines) for index, place in enumerate(places, 1)]


def most_attributed(relevance: NDArray[Any], count: int) -> list[int]:
    """The slices with the largest sum of ``|relevance|``.

    Args:
        relevance: ``(columns, rows, slices)``.
        count: how many at most.

    Returns:
        Their indices, ascending; slices without any are left out, unless there is no other.

    Example:
        >>> most_attributed(np.array([[[0.0, 3, -5, 1]]]), 2), most_attributed(np.array([[[0.0, 0, -5]]]), 2)
        ([1, 2], [2])
    """
    sums = np.abs(relevance).sum((0, 1))
    most = np.argsort(-sums, kind="stable")[:count]
    return sorted(int(index) for index in most if sums[index] > 0) or [int(most[0])]


def _capture(
    study: Study, drawn: tuple[NDArray[Any], NDArray[Any], float], place: int | None, index: int, lines: Sequence[str]
) -> Dataset:
    """One object."""
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian

    grey, relevance, limit = drawn
    header = study.first if place is None or len(study.headers) == 1 else study.headers[place]
    said = [_title(study, place), *lines]
    cut = (grey, relevance) if place is None else (grey[..., place].T, relevance[..., place].T)
    picture = compose(*cut, limit, pixel_spacing(study.grid), said)
    identity = study.identity("sc", index)
    asked = ("series_instance_uid", "series_number", "sop_instance_uid", "instance_number", "manufacturer")
    result = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **{name: identity[name] for name in asked},
    )
    result.PatientOrientation = _orientation(study.grid, header)
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.BurnedInAnnotation = "NO"  # PS3.3 asks for what identifies the patient, and there is none
    result.DerivationDescription = "; ".join(said)[:1024]
    result.SourceImageSequence = [_reference(header, study.grid, place)]
    return study.dress(result, "sc")


def _title(study: Study, place: int | None) -> str:
    made = study.provenance
    parts = [made.method or "attribution", f"target {made.target}" if made.target else "", made.bundle]
    if place is not None:
        parts.append(f"slice {place + 1} of {study.grid.shape[-1]}")
    return " · ".join(part for part in [*parts, "right: |relevance| on the image"] if part)


def pixel_spacing(grid: NativeGrid) -> tuple[float, float]:
    """Distance of rows and of columns.

    Args:
        grid: of a film or a series.

    Returns:
        Millimetres.
    """
    columns, rows = (float(np.linalg.norm(np.asarray(grid.affine)[:3, axis])) for axis in (0, 1))
    return (columns, rows) if len(grid.shape) == 2 else (rows, columns)


def _reference(header: Dataset, grid: NativeGrid, place: int | None) -> Dataset:
    from pydicom.dataset import Dataset as New

    item = New()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if grid.frames and place is not None:
        item.ReferencedFrameNumber = grid.frames[place]
    return item


def _orientation(grid: NativeGrid, header: Dataset) -> list[str]:
    """Letters along rows and columns; those of the film, or from the affine of a series."""
    if len(grid.shape) == 2:
        said = header.get("PatientOrientation")
        return [str(letters) for letters in said] if said and len(said) == 2 else []
    affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(grid.affine)
    return [_letters(affine[:3, axis] / np.linalg.norm(affine[:3, axis])) for axis in (0, 1)]


def _letters(direction: NDArray[np.float64]) -> str:
    """PS3.3 C.7.6.1.1.1: the nearest directions in the patient, the strongest first."""
    names = (("R", "L"), ("A", "P"), ("F", "H"))
    order = np.argsort(-np.abs(direction), kind="stable")
    kept = [axis for axis in order if round(abs(float(direction[axis])), _IN_PLANE) > 0]
    return "".join(names[axis][int(direction[axis] > 0)] for axis in kept)
