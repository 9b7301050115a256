"""Projection X-ray in DICOM (CR, DX) as a viewer shows it; nothing of the header but the distance of pixels is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsal.errors import InputError

__all__ = ["patient_of", "read_dicom_film"]

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", *_SPACINGS,
]  # fmt: skip
# Only these are read: nothing else of the header, a name least of all, is ever in memory.


def read_dicom_film(path: Path) -> tuple[NDArray[Any], tuple[float, float], str]:
    """Read a film.

    Args:
        path: of a DICOM file of one picture.

    Returns:
        ``(rows, columns)``, or ``(rows, columns, 3)`` for colours, from 0 (black) to 1 (white); millimetres from row to
        row and from column to column; which element says so, or ``unknown`` (1 and 1).

    Raises:
        InputError: it is no DICOM, holds no picture or several, or its pixels cannot be decoded.
    """
    dataset = _read(path, specific_tags=_TAGS)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(f"'{path}': {frames} frames; wanted a film of one")
    if "PixelData" not in dataset:
        raise InputError(f"'{path}': the DICOM object has no pixels; wanted an image")
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in {"MONOCHROME1", "MONOCHROME2"} and not kind.startswith(("RGB", "YBR")):
        raise InputError(f"'{path}': PhotometricInterpretation is '{kind}'; wanted MONOCHROME1, MONOCHROME2 or RGB")
    try:
        stored = dataset.pixel_array
        if not kind.startswith("MONOCHROME"):
            return stored / (2 ** int(dataset.BitsStored) - 1), *_spacing(dataset)
        values = _presented(stored, dataset)
        low, high = _range(dataset)
    except Exception as error:  # whatever a decoder raises, it is this file's fault or its format's
        reason = " ".join(str(error).split())
        raise InputError(f"'{path}': its pixels cannot be decoded ({type(error).__name__}: {reason})") from error
    if low == high:
        raise InputError(f"'{path}': all values are {low:g} after rescaling; wanted a slope that is not 0")
    level = np.clip((values - low) / (high - low), 0, 1)
    return 1 - level if kind == "MONOCHROME1" else level, *_spacing(dataset)


def patient_of(path: Path) -> str:
    """The PatientID of a DICOM file.

    Args:
        path: of the file.

    Returns:
        The identifier; empty where there is none.
    """
    return str(_read(path, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID") or "").strip()


def _read(path: Path, **options: Any) -> Any:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, **options)
    except InvalidDicomError as error:
        raise InputError(f"'{path}': is no DICOM file (no 'DICM' mark); wanted a film in DICOM") from error
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"'{path}': cannot be read as DICOM ({type(error).__name__}: {error})") from error


def _presented(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Stored values after rescaling and the first VOI LUT or window."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") and np.array_equal(values, np.rint(values)):
        values = values.astype(np.int64)  # rescaling by 1 and 0 leaves real numbers, which a LUT does not take
    return np.asarray(apply_voi_lut(values, dataset), np.float64)


def _range(dataset: Any) -> tuple[float, float]:
    """The presented values that are shown darkest and brightest."""
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        if dataset.get(name):
            return 0.0, 2.0 ** int(dataset[name][0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0.0, 2.0**bits - 1)
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        return ends
    first, last = (float(slope) * end + float(intercept) for end in ends)
    if dataset.get("WindowCenter") is not None:
        return first, last  # pydicom puts the start of a window on the first, also where the slope is below 0
    return min(first, last), max(first, last)


def _spacing(dataset: Any) -> tuple[tuple[float, float], str]:
    for name in _SPACINGS:
        value = dataset.get(name)
        if value is not None and len(value) == 2 and all(float(part) > 0 for part in value):
            return (float(value[0]), float(value[1])), name
    return (1.0, 1.0), "unknown"
