"""Enhanced multi-frame MR and CT: geometry and rescale of every frame from its functional groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.grid import NativeGrid, dressed, facts_of
from medsal.dicom.pixels import stored_pixels
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import Limits, Opened
from medsal.dicom.stack import Planes, stack_of
from medsal.dicom.values import rescale_of

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from pydicom import Dataset

ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
}
"""SOP classes of multi-frame objects that are read as volumes: enhanced, and converted from single slices."""

_CONTRASTS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("PixelValueTransformationSequence", "RescaleType"),
)


def read_enhanced(opened: Opened, limits: Limits, notes: tuple[str, ...] = ()) -> MetaTensor:
    """Read a multi-frame object that is one stack.

    Args:
        opened: its header.
        limits: what is read.
        notes: on what was left out before.

    Returns:
        As `medsal.dicom.read_series` says.

    Raises:
        Refusal: what `medsal.dicom.read_series` says.
    """
    if opened.text("SOPClassUID") not in ENHANCED:
        raise Refusal(Reason.UNSUPPORTED_CLASS, opened.text("SOPClassUID"))
    if opened.number("SamplesPerPixel", 1) != 1:
        raise Refusal(Reason.COLOUR)
    if opened.text("PhotometricInterpretation") != "MONOCHROME2":
        raise Refusal(Reason.PHOTOMETRIC, "MONOCHROME1 in a volume")
    frames = frames_of(opened)
    stack = stack_of(planes_of_frames(frames))
    for sequence, keyword in _CONTRASTS:
        if len({str(_value(frame, sequence, keyword)) for frame in frames}) > 1:
            raise Refusal(Reason.MIXED_CONTRASTS, keyword)
    stored = stored_pixels(opened, limits)
    voxels = np.empty((stored.shape[2], stored.shape[1], stored.shape[0]), dtype=np.float32)
    for place, index in enumerate(stack.order):
        slope, intercept = _rescale(frames[index])
        voxels[:, :, place] = (stored[index].astype(np.float64) * slope + intercept).T
    facts = facts_of(opened)
    facts["units"] = str(_value(frames[0], "PixelValueTransformationSequence", "RescaleType") or "")
    grid = NativeGrid(
        affine=tuple(tuple(float(number) for number in row) for row in stack.affine),
        shape=voxels.shape,
        study_uid=opened.text("StudyInstanceUID"),
        series_uid=opened.series_uid,
        frame_of_reference_uid=opened.text("FrameOfReferenceUID"),
        instances=(opened.uid,),
        frames=tuple(index + 1 for index in stack.order),
        files=(str(opened.path),),
        notes=notes,
        facts=facts,
    )
    return dressed(voxels, grid)


Frame = tuple["Dataset | None", "Dataset | None"]
"""Functional groups of one frame and those shared by all."""


def frames_of(opened: Opened) -> list[Frame]:
    """The functional groups of all frames.

    Args:
        opened: the header of a multi-frame object.

    Returns:
        For each frame its own groups and those of all.

    Raises:
        Refusal: ``no_geometry``, where there is not one item for each frame.
    """
    own: Any = opened.header.get("PerFrameFunctionalGroupsSequence") or []
    shared: Any = opened.header.get("SharedFunctionalGroupsSequence") or []
    if len(own) != opened.frames or len(shared) > 1:
        raise Refusal(Reason.NO_GEOMETRY, f"functional groups of {len(own)} frames, wanted {opened.frames}")
    return [(item, shared[0] if shared else None) for item in own]


def planes_of_frames(frames: list[Frame]) -> Planes:
    """Where the frames of a multi-frame object lie.

    Args:
        frames: from `frames_of`.

    Returns:
        Their planes, in the order of the frames.
    """
    thickness = _value(frames[0], "PixelMeasuresSequence", "SliceThickness") if len(frames) == 1 else None
    return Planes.of(
        [_value(frame, "PlanePositionSequence", "ImagePositionPatient") for frame in frames],
        [_value(frame, "PlaneOrientationSequence", "ImageOrientationPatient") for frame in frames],
        [_value(frame, "PixelMeasuresSequence", "PixelSpacing") for frame in frames],
        thickness,
    )


def _value(frame: Frame, sequence: str, keyword: str) -> Any:
    """An attribute of a functional group, the frame's own before the shared one."""
    for groups in frame:
        items = groups.get(sequence) if groups is not None else None
        if items:
            return items[0].get(keyword)
    return None


def _rescale(frame: Frame) -> tuple[float, float]:
    """Slope and intercept of a frame, 1 and 0 where it has none."""
    for groups in frame:
        items = groups.get("PixelValueTransformationSequence") if groups is not None else None
        if items:
            return rescale_of(items[0])
    return 1.0, 0.0
