"""The region of highest attribution as a binary DICOM Segmentation."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.capture import pixel_spacing
from medsal.dicom.grid import NativeGrid, map_to_native
from medsal.dicom.phi import sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.sources import Study
from medsal.dicom.uids import derived_uid

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from numpy.typing import NDArray
    from pydicom import Dataset

SCHEME = "99MEDSAL"
"""Coding scheme of what no standard scheme has a code for."""


def top_share(relevance: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Where ``|relevance|`` is largest.

    Args:
        relevance: any shape.
        share: part of all voxels; equal values are in or out together, and 0 is never in.

    Returns:
        Mask of the same shape.

    Raises:
        Refusal: ``blank_map``.

    Example:
        >>> top_share(np.array([0.0, -3, 1, 2]), 0.5).tolist()
        [False, True, False, True]
    """
    size = np.abs(relevance)
    count = max(math.ceil(share * size.size), 1)
    threshold = np.partition(size, size.size - count, axis=None)[size.size - count]
    mask: NDArray[np.bool_] = (size >= threshold) & (size > 0)
    if not mask.any():
        raise Refusal(Reason.BLANK_MAP)
    return mask


@sealed
def segmentation(study: Study, relevance: MetaTensor, *, share: float = 0.05) -> Dataset:
    """Write the region of highest attribution.

    A film has no place in the world; viewers and servers want one, so that the object gets a plane of its own
    (position 0, own frame of reference).

    Args:
        study: from `medsal.dicom.open_study`.
        relevance: the map, on any grid; it is brought to the native one.
        share: part of the voxels that the region has.

    Returns:
        A Segmentation object.

    Raises:
        Refusal: ``not_native`` or ``blank_map``.
    """
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.uid import ExplicitVRLittleEndian

    native = map_to_native(relevance, study.grid)
    mask = top_share(np.asarray(native.as_tensor()[0].cpu()), share)
    region = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=f"highest {share:.0%} of attribution",
        segmented_property_category=CodedConcept("309825002", "SCT", "Spatial and Relational Concept"),
        segmented_property_type=CodedConcept("TOP-ATTRIBUTION", SCHEME, "Region of highest attribution"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=study.algorithm(),
        tracking_uid=derived_uid(study.uid("seg"), "segment", 1),
        tracking_id=f"{study.provenance.method or 'attribution'} 1",
    )
    headers, frames = placed_headers(study), in_frames(mask, study.grid).astype(np.uint8)
    if len(headers) == len(frames):
        chosen = frames_to_write(frames)
        headers, frames = [headers[index] for index in chosen], frames[chosen]
    result = highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=frames,
        omit_empty_frames=False,
        segmentation_type="BINARY",
        segment_descriptions=[region],
        content_label="ATTRIBUTION",
        content_description="Region of highest attribution, research only",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **study.identity("seg"),
    )
    return study.dress(result, "seg")


def frames_to_write(frames: NDArray[Any]) -> list[int]:
    """Choose the frames with the region, and so many empty ones beside them that all fill an even number of bytes.

    DICOM packs the bits of all frames without a gap and adds a byte where their number is odd. OHIF's adapter (5.14.0)
    does not expect that byte: it refuses the object, or, with few frames, takes each frame to begin at a whole byte
    and draws the region some pixels away.

    Args:
        frames: ``(frames, rows, columns)``, in which some have the region.

    Returns:
        Indices, ascending; all of them where there are not enough.

    Example:
        >>> region = np.zeros((6, 4, 2))
        >>> region[1] = 1
        >>> frames_to_write(region)
        [1, 2]
    """
    full = np.flatnonzero(frames.any(axis=(1, 2)))
    empty = np.setdiff1d(np.arange(len(frames)), full)
    step = 16 // math.gcd(frames[0].size, 16)
    nearest = empty[np.argsort(np.abs(empty - full.mean() - 0.25), kind="stable")]
    return sorted(int(index) for index in [*full, *nearest[: -len(full) % step]])


def in_frames(voxels: NDArray[Any], grid: NativeGrid) -> NDArray[Any]:
    """Lay voxels out as the frames of the source objects.

    Args:
        voxels: ``grid.shape``.
        grid: of the images.

    Returns:
        ``(frames, rows, columns)``, in the order of the source's instances or of its frame numbers.
    """
    if len(grid.shape) == 2:
        return voxels[None]
    frames = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    if not grid.frames:
        return frames
    ordered = np.empty_like(frames)
    ordered[np.array(grid.frames) - 1] = frames
    return ordered


def placed_headers(study: Study) -> list[Dataset]:
    """The source headers; that of a film with a plane of its own.

    Args:
        study: from `medsal.dicom.open_study`.

    Returns:
        Headers with position, orientation and frame of reference.
    """
    if len(study.grid.shape) != 2:
        return list(study.headers)
    header = copy.deepcopy(study.first)
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [0, 0, 0]
    header.PixelSpacing = list(pixel_spacing(study.grid))
    header.SliceThickness = 1
    header.FrameOfReferenceUID = derived_uid(study.grid.instances[0], "plane of its own")
    header.PositionReferenceIndicator = ""
    return [header]
