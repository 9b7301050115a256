"""Why a file, a series or a film is not read: a closed list of codes, and the error that carries one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from medsal.errors import InputError


class Reason(StrEnum):
    """A code for every refusal; `REASONS` says what each means."""

    NOT_DICOM = "not_dicom"
    BROKEN = "broken"
    OUTSIDE = "outside"
    MISSING = "missing"
    INVALID_UID = "invalid_uid"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    TOO_MANY_ELEMENTS = "too_many_elements"
    TOO_MANY_FILES = "too_many_files"
    SYNTAX = "syntax"
    NO_PIXELS = "no_pixels"
    PIXEL_LENGTH = "pixel_length"
    BITS = "bits"
    COLOUR = "colour"
    PHOTOMETRIC = "photometric"
    RESCALE = "rescale"
    MODALITY_LUT = "modality_lut"
    WINDOW = "window"
    SPACING = "spacing"
    UNSUPPORTED_CLASS = "unsupported_class"
    OWN_RESULT = "own_result"
    NOT_ONE_FILM = "not_one_film"
    MIXED_SERIES = "mixed_series"
    DUPLICATE_INSTANCES = "duplicate_instances"
    NO_GEOMETRY = "no_geometry"
    MIXED_FRAMES_OF_REFERENCE = "mixed_frames_of_reference"
    MIXED_ORIENTATIONS = "mixed_orientations"
    MIXED_SIZES = "mixed_sizes"
    MIXED_CONTRASTS = "mixed_contrasts"
    DUPLICATE_POSITIONS = "duplicate_positions"
    MISSING_SLICES = "missing_slices"
    IRREGULAR_SPACING = "irregular_spacing"
    GANTRY_TILT = "gantry_tilt"
    SEVERAL_MULTIFRAME = "several_multiframe"
    RULE = "rule"
    NO_MATCH = "no_match"
    AMBIGUOUS = "ambiguous"
    NOT_NATIVE = "not_native"
    BURNED_IN = "burned_in"
    BLANK_MAP = "blank_map"


REASONS: dict[Reason, str] = {
    Reason.NOT_DICOM: "no DICOM file: the 128 bytes and 'DICM' at its start are missing",
    Reason.BROKEN: "the file is cut off or damaged, or a value in it cannot be understood",
    Reason.OUTSIDE: "a link or a DICOMDIR entry leads out of the folder that was given",
    Reason.MISSING: "a file that was named is not there, or cannot be opened",
    Reason.INVALID_UID: "a study, series or instance UID is missing or is no UID",
    Reason.TOO_LARGE: "the file, its pixels, or the pixels of the series together are more than the limits allow",
    Reason.TOO_DEEP: "sequences are nested deeper than the limits allow",
    Reason.TOO_MANY_ELEMENTS: "the header has more elements than the limits allow",
    Reason.TOO_MANY_FILES: "the folder holds more files than the limits allow",
    Reason.SYNTAX: "the transfer syntax is refused (deflated), or no decoder for it is installed: try medsal[codecs]",
    Reason.NO_PIXELS: "there are no pixels, or rows, columns or bits are missing",
    Reason.PIXEL_LENGTH: "there are more or fewer pixels than rows, columns and frames say",
    Reason.BITS: "bits allocated, bits stored, high bit or pixel representation contradict each other",
    Reason.COLOUR: "the image is in colour, or its greys are indices of a palette",
    Reason.PHOTOMETRIC: "photometric interpretation and presentation LUT contradict each other, or are not known here",
    Reason.RESCALE: "rescale slope or intercept is 0, missing or not finite",
    Reason.MODALITY_LUT: "the modality LUT is not valid",
    Reason.WINDOW: "a window or VOI LUT was asked for, and the image has none that is valid",
    Reason.SPACING: "the distance between pixels is given and is not a positive number",
    Reason.UNSUPPORTED_CLASS: "objects of this SOP class are not read here",
    Reason.OWN_RESULT: "the series is a result of medsal",
    Reason.NOT_ONE_FILM: "a film of several frames, or several films where one was wanted",
    Reason.MIXED_SERIES: "files of several series, studies or patients where one series was wanted",
    Reason.DUPLICATE_INSTANCES: "two different files carry the same SOP instance UID",
    Reason.NO_GEOMETRY: "position, orientation, pixel spacing or slice thickness is missing or impossible",
    Reason.MIXED_FRAMES_OF_REFERENCE: "slices of one series in several frames of reference",
    Reason.MIXED_ORIENTATIONS: "slices of several orientations in one series, for example a localizer",
    Reason.MIXED_SIZES: "slices of different rows, columns or pixel spacing in one series",
    Reason.MIXED_CONTRASTS: "slices of one stack differ in echo, b-value, image type or units",
    Reason.DUPLICATE_POSITIONS: "several slices at one position: echoes, phases, b-values, or a doubled slice",
    Reason.MISSING_SLICES: "gaps of whole slices between otherwise regular slices",
    Reason.IRREGULAR_SPACING: "slices at irregular distances",
    Reason.GANTRY_TILT: "slices are not stacked along their normal: gantry tilt",
    Reason.SEVERAL_MULTIFRAME: "several multi-frame objects, or multi-frame and single slices, in one series",
    Reason.RULE: "a condition of the selection rules is not met",
    Reason.NO_MATCH: "no series meets the selection rules",
    Reason.AMBIGUOUS: "several series meet the selection rules where one was wanted",
    Reason.NOT_NATIVE: "a map cannot be brought to the grid of its series, or does not cover it",
    Reason.BURNED_IN: "burned-in annotation: the pixels may show who the patient is",
    Reason.BLANK_MAP: "a map that is 0 everywhere: there is no region of highest attribution",
}
"""What each code means; the table of `docs/dicom.md`."""


class Refusal(InputError):  # noqa: N818  (it is kept and listed as a result more often than it is raised)
    """A file, series or film that is not read, with its reason; its text holds nothing from the patient's data.

    Attributes:
        reason: the code.
        detail: numbers or names of attributes that say more, never their values where those are free text.
        path: which file, for programs; a path may name a patient and is not part of the text.
    """

    def __init__(self, reason: Reason, detail: str = "", path: Path | None = None) -> None:
        self.reason = reason
        self.detail = detail
        self.path = path
        super().__init__(f"{reason.value}: {REASONS[reason]}{f' ({detail})' if detail else ''}")

    def __reduce__(self) -> tuple[type[Refusal], tuple[Reason, str, Path | None]]:
        return type(self), (self.reason, self.detail, self.path)
