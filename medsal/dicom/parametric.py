"""A whole map of a series as a Parametric Map in float32, for OHIF and 3D Slicer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medsal.dicom.grid import map_to_native
from medsal.dicom.phi import sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.segmentation import SCHEME, in_frames
from medsal.dicom.sources import Study
from medsal.export.colours import largest

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from pydicom import Dataset


@sealed
def parametric_map(study: Study, relevance: MetaTensor) -> Dataset:
    """Write a map with all its values.

    Frames ascend along rows x columns: OHIF's loader and dcmqi stack them in the order of the file, whatever their
    positions say, and highdicom writes them descending.

    Args:
        study: from `medsal.dicom.open_study`.
        relevance: the map, on any grid; it is brought to the native one.

    Returns:
        A Parametric Map object.

    Raises:
        Refusal: ``not_native``; also for films, whose maps no viewer shows.
    """
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    if len(study.grid.shape) != 3:
        raise Refusal(Reason.NOT_NATIVE, "a film has no Parametric Map: write an overlay")
    native = map_to_native(relevance, study.grid)
    values = in_frames(np.asarray(native.as_tensor()[0].cpu(), dtype=np.float32), study.grid)
    limit = largest(values) or 1.0
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="ATTRIBUTION",
        lut_explanation="Relevance for the model's class",
        unit=codes.UCUM.NoUnits,
        value_range=(-limit, limit),
        slope=1.0,
        intercept=0.0,
        quantity_definition=CodedConcept("ATTRIBUTION", SCHEME, "Attribution of a network's score"),
    )
    exact = highdicom.VOILUTFunctionValues.LINEAR_EXACT  # LINEAR wants a window of 1 or more; maps are often smaller
    result = highdicom.pm.ParametricMap(
        source_images=list(study.headers),
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[highdicom.VOILUTTransformation(0.0, 2 * limit, voi_lut_function=exact)],
        content_label="ATTRIBUTION",
        content_description="Attribution map, research only",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **study.identity("pm"),
    )
    _name_anatomy(result, study.first)
    _ascend(result)
    return study.dress(result, "pm")


def _ascend(result: Dataset) -> None:
    """Put the frames into ascending order along rows x columns, pixels, positions and dimension indices alike."""
    shared = result.SharedFunctionalGroupsSequence[0]
    cosines = [float(number) for number in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    normal = np.cross(cosines[:3], cosines[3:])
    frames = list(result.PerFrameFunctionalGroupsSequence)
    heights = [
        float(np.dot([float(n) for n in frame.PlanePositionSequence[0].ImagePositionPatient], normal))
        for frame in frames
    ]
    order = np.argsort(heights, kind="stable")
    pixels = np.frombuffer(result.FloatPixelData, dtype="<f4").reshape(len(frames), result.Rows, result.Columns)
    result.FloatPixelData = np.ascontiguousarray(pixels[order]).tobytes()
    result.PerFrameFunctionalGroupsSequence = [frames[index] for index in order]
    pointers = [item.DimensionIndexPointer for item in result.DimensionIndexSequence]
    place = pointers.index(0x00200032)  # ImagePositionPatient
    for number, frame in enumerate(result.PerFrameFunctionalGroupsSequence, 1):
        content = frame.FrameContentSequence[0]
        indices = np.atleast_1d(content.DimensionIndexValues).tolist()
        indices[place] = number
        content.DimensionIndexValues = indices


def _name_anatomy(result: Dataset, header: Dataset) -> None:
    """The functional group that dcmqi ends without."""
    from pydicom import Dataset as New
    from pydicom.sequence import Sequence

    part = str(header.get("BodyPartExamined") or "").upper()
    code, meaning = {"BRAIN": ("12738006", "Brain"), "HEAD": ("69536005", "Head"), "CHEST": ("51185008", "Chest")}.get(
        part, ("38266002", "Entire body")
    )
    region, anatomy = New(), New()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = code, "SCT", meaning
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", Sequence([region])
    result.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = Sequence([anatomy])
