"""A series of MR or CT slices, or one enhanced multi-frame object, as a volume: right, or refused with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsal.dicom.enhanced import ENHANCED, read_enhanced
from medsal.dicom.grid import NativeGrid, dressed, facts_of
from medsal.dicom.phi import sealed
from medsal.dicom.pixels import check_description, stored_pixels
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened, files_below, open_file
from medsal.dicom.stack import Planes, stack_of
from medsal.dicom.uids import is_own
from medsal.dicom.values import modality_values

if TYPE_CHECKING:
    from monai.data import MetaTensor

CLASSIC = {"1.2.840.10008.5.1.4.1.1.2": "CT", "1.2.840.10008.5.1.4.1.1.4": "MR"}
"""SOP classes of single slices that are read as volumes."""

_ONE_STUDY = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName", "Modality")
_ONE_CONTRAST = ("EchoNumbers", "DiffusionBValue", "RescaleType", "ComplexImageComponent")


@sealed
def read_series(source: str | Path | Iterable[str | Path | Opened], *, limits: Limits = LIMITS) -> MetaTensor:
    """Read the files of one series as a volume.

    Geometry comes from position and orientation of every slice, never from names or instance numbers, and is checked by
    highdicom a second time; pixels are decoded by pydicom and rescaled slice by slice. Windows are not applied.

    Args:
        source: a folder (with everything below), a DICOMDIR, or files.
        limits: what is read.

    Returns:
        ``(1, columns, rows, slices)`` float32, slices along rows x columns, affine in millimetres RAS+; its meta holds
        a `medsal.dicom.NativeGrid`.

    Raises:
        Refusal: with one of the codes of `medsal.dicom.REASONS`; nothing is guessed.
    """
    opened, notes = open_all(source, limits)
    check_one_series(opened)
    if any(one.text("SOPClassUID") in ENHANCED or one.frames > 1 for one in opened):
        if len(opened) > 1:
            raise Refusal(Reason.SEVERAL_MULTIFRAME, f"{len(opened)} files")
        return read_enhanced(opened[0], limits, tuple(notes))
    _check_slices(opened, limits)
    stack = stack_of(planes_of(opened))
    for keyword in _ONE_CONTRAST:
        kinds = {one.text(keyword) for one in opened}
        if len(kinds) > 1:
            raise Refusal(Reason.MIXED_CONTRASTS, keyword)
    if len({tuple(one.text("ImageType").split("\\")[2:3]) for one in opened}) > 1:
        raise Refusal(Reason.MIXED_CONTRASTS, "ImageType")
    ordered = [opened[index] for index in stack.order]
    voxels = np.empty((ordered[0].number("Columns"), ordered[0].number("Rows"), len(ordered)), dtype=np.float32)
    for index, one in enumerate(ordered):
        voxels[:, :, index] = modality_values(stored_pixels(one, limits)[0], one.header).array.T
    first = ordered[0]
    grid = NativeGrid(
        affine=tuple(tuple(float(number) for number in row) for row in stack.affine),
        shape=voxels.shape,
        study_uid=first.text("StudyInstanceUID"),
        series_uid=first.series_uid,
        frame_of_reference_uid=first.text("FrameOfReferenceUID"),
        instances=tuple(one.uid for one in ordered),
        files=tuple(str(one.path) for one in ordered),
        notes=tuple(notes),
        facts=facts_of(first),
    )
    return dressed(voxels, grid)


def open_all(source: str | Path | Iterable[str | Path | Opened], limits: Limits) -> tuple[list[Opened], list[str]]:
    """Open the files of one series.

    Args:
        source: a folder, a DICOMDIR, files, or files that are open already.
        limits: what is read.

    Returns:
        The headers, each instance once, and notes on what was left out.

    Raises:
        Refusal: where one of them is refused; only files of a folder that are no DICOM at all are passed over and
            noted.
    """
    notes: list[str] = []
    from_folder = isinstance(source, str | Path)
    if isinstance(source, str | Path):
        paths, refused = files_below(source, limits)
        if refused:
            raise refused[0]
        listed: list[str | Path | Opened] = list(paths)
    else:
        listed = list(source)
    opened: list[Opened] = []
    strangers = 0
    for entry in listed:
        try:
            opened.append(entry if isinstance(entry, Opened) else open_file(entry, limits))
        except Refusal as refusal:
            if refusal.reason is not Reason.NOT_DICOM or not from_folder:
                raise
            strangers += 1
    if strangers:
        notes.append(f"{strangers} files that are no DICOM were left out")
    if not opened:
        raise Refusal(Reason.MISSING, "no DICOM file")
    return _each_once(opened, notes), notes


def _each_once(opened: Sequence[Opened], notes: list[str]) -> list[Opened]:
    """Leave out copies of a file; refuse another file under the same UID."""
    found: dict[str, Opened] = {}
    copies = 0
    for one in opened:
        other = found.setdefault(one.uid, one)
        if other is one:
            continue
        if other.digest != one.digest:
            raise Refusal(Reason.DUPLICATE_INSTANCES)
        copies += 1
    if copies:
        notes.append(f"{copies} copies of files were left out")
    return list(found.values())


def check_one_series(opened: Sequence[Opened]) -> None:
    """Refuse results of medsal, and files of several series, studies or patients.

    Args:
        opened: the headers.

    Raises:
        Refusal: ``own_result`` or ``mixed_series``.
    """
    if any(is_own(one.header) for one in opened):
        raise Refusal(Reason.OWN_RESULT)
    for keyword in _ONE_STUDY:
        if len({one.text(keyword) for one in opened}) > 1:
            raise Refusal(Reason.MIXED_SERIES, keyword)


def _check_slices(opened: Sequence[Opened], limits: Limits) -> None:
    """Everything but geometry and pixels that single slices must be."""
    for one in opened:
        if one.text("SOPClassUID") not in CLASSIC:
            raise Refusal(Reason.UNSUPPORTED_CLASS, one.text("SOPClassUID"))
        check_description(one, limits)
        if one.number("SamplesPerPixel", 1) != 1:
            raise Refusal(Reason.COLOUR)
        if one.text("PhotometricInterpretation") != "MONOCHROME2":
            raise Refusal(Reason.PHOTOMETRIC, "MONOCHROME1 in a volume")
        if "MOSAIC" in one.text("ImageType").upper().split("\\"):
            raise Refusal(Reason.UNSUPPORTED_CLASS, "mosaic: many slices in one image")
        if CLASSIC[one.text("SOPClassUID")] == "CT" and not one.text("RescaleSlope") and not _has_table(one):
            raise Refusal(Reason.RESCALE, "a CT without Hounsfield units")
    _check_together(opened, limits)


def _has_table(opened: Opened) -> bool:
    return bool(opened.header.get("ModalityLUTSequence"))


def _check_together(opened: Sequence[Opened], limits: Limits) -> None:
    """One size that is not too large, one frame of reference."""
    sizes = {(one.number("Rows"), one.number("Columns")) for one in opened}
    if len(sizes) > 1:
        raise Refusal(Reason.MIXED_SIZES, " and ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes)))
    rows, columns = sizes.pop()
    if rows * columns * len(opened) > limits.voxels:
        raise Refusal(Reason.TOO_LARGE, f"{rows * columns * len(opened)} voxels, at most {limits.voxels}")
    if len({one.text("FrameOfReferenceUID") for one in opened}) > 1:
        raise Refusal(Reason.MIXED_FRAMES_OF_REFERENCE)


def planes_of(opened: Sequence[Opened]) -> Planes:
    """Where single slices lie.

    Args:
        opened: their headers.

    Returns:
        Their planes, in this order.
    """
    return Planes.of(
        [one.header.get("ImagePositionPatient") for one in opened],
        [one.header.get("ImageOrientationPatient") for one in opened],
        [one.header.get("PixelSpacing") for one in opened],
        opened[0].header.get("SliceThickness") if len(opened) == 1 else None,
    )
