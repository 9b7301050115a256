"""Stored pixel values, decoded by pydicom after the header was checked for what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.codestream import check_frame
from medsal.dicom.phi import sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened
from medsal.dicom.uids import valid_uid

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

_NEEDED = (
    "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PhotometricInterpretation "
    "PlanarConfiguration NumberOfFrames PixelData ExtendedOffsetTable ExtendedOffsetTableLengths"
).split()


@sealed
def stored_pixels(opened: Opened, limits: Limits = LIMITS) -> NDArray[Any]:
    """Decode all frames of a file.

    Unused high bits are masked and signs extended; nothing is scaled or inverted.

    Args:
        opened: its header.
        limits: what is decoded.

    Returns:
        ``(frames, rows, columns)``, or ``(frames, rows, columns, 3)`` as RGB for images in colour.

    Raises:
        Refusal: ``no_pixels``, ``bits``, ``colour`` (palette), ``photometric``, ``pixel_length``, ``syntax``,
            ``too_large`` or ``broken``.
    """
    import pydicom
    from pydicom.pixels.utils import pixel_array

    check_description(opened, limits)
    dataset = pydicom.dcmread(opened.path, specific_tags=list(_NEEDED))
    dataset.NumberOfFrames = opened.frames
    if opened.structure.fragments:
        _check_compressed(opened, dataset)
    values = np.asarray(pixel_array(dataset))
    shape = (opened.frames, opened.number("Rows"), opened.number("Columns"))
    samples = opened.number("SamplesPerPixel", 1)
    wanted = shape if samples == 1 else (*shape, samples)
    if values.size != np.prod(wanted):
        raise Refusal(Reason.PIXEL_LENGTH)
    return values.reshape(wanted)


def check_description(opened: Opened, limits: Limits = LIMITS) -> None:
    """Refuse a description of pixels that contradicts itself, the file or the limits.

    Args:
        opened: the header.
        limits: what is decoded.

    Raises:
        Refusal: as `stored_pixels` says.
    """
    rows, columns, frames = opened.number("Rows"), opened.number("Columns"), opened.frames
    if opened.structure.pixels < 0 or rows < 1 or columns < 1 or frames < 1:
        raise Refusal(Reason.NO_PIXELS)
    samples = opened.number("SamplesPerPixel", 1)
    _check_photometric(opened.text("PhotometricInterpretation"), samples)
    allocated = _check_bits(opened)
    pixels = rows * columns * frames * samples
    if pixels > limits.voxels:
        raise Refusal(Reason.TOO_LARGE, f"{pixels} pixels, at most {limits.voxels}")
    if opened.structure.fragments:
        if opened.structure.fragments < frames:
            raise Refusal(Reason.PIXEL_LENGTH, "fewer fragments than frames")
        return
    subsampled = opened.text("PhotometricInterpretation") == "YBR_FULL_422"
    wanted = pixels * (allocated // 8) * 2 // 3 if subsampled else pixels * (allocated // 8)
    if opened.structure.pixel_bytes not in {wanted, wanted + wanted % 2}:
        raise Refusal(Reason.PIXEL_LENGTH, f"{opened.structure.pixel_bytes} bytes, wanted {wanted}")


def _check_photometric(photometric: str, samples: int) -> None:
    if photometric.startswith("PALETTE"):
        raise Refusal(Reason.COLOUR, "palette")
    if photometric not in {*GREY, *COLOURS} or samples != (1 if photometric in GREY else 3):
        raise Refusal(Reason.PHOTOMETRIC, f"{samples} samples")


def _check_bits(opened: Opened) -> int:
    allocated, stored = opened.number("BitsAllocated"), opened.number("BitsStored")
    sound = allocated in {8, 16, 32} and 1 <= stored <= allocated and opened.number("HighBit", -1) == stored - 1
    if not sound or opened.number("PixelRepresentation", -1) not in {0, 1}:
        raise Refusal(Reason.BITS, f"allocated {allocated}, stored {stored}, high bit {opened.number('HighBit', -1)}")
    return allocated


def _check_compressed(opened: Opened, dataset: Dataset) -> None:
    from pydicom.encaps import generate_frames
    from pydicom.pixels.decoders.base import get_decoder

    syntax = opened.structure.syntax
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError:
        ready = False
    if not ready:
        raise Refusal(Reason.SYNTAX, syntax if valid_uid(syntax) else "")
    sample_bytes = opened.number("BitsAllocated") // 8 * opened.number("SamplesPerPixel", 1)
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    frames = generate_frames(
        dataset.PixelData,
        number_of_frames=opened.frames,
        extended_offsets=offsets if all(offsets) else None,
    )
    count = 0
    for frame in frames:
        check_frame(frame, syntax, opened.number("Rows"), opened.number("Columns"), sample_bytes)
        count += 1
    if count != opened.frames:
        raise Refusal(Reason.PIXEL_LENGTH, f"{count} compressed frames, wanted {opened.frames}")
