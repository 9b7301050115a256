"""Conditions on attributes, and requirements on what a series is, for the rules of `medsal.dicom.select_series`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsal.dicom.film import view_of
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import Opened
from medsal.dicom.scan import Series
from medsal.dicom.stack import stack_of

_PLANES = ("sagittal", "coronal", "axial")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "!=": lambda a, b: a != b,
}


def condition_met(series: Series, keyword: str, wanted: Any) -> bool:
    """Whether a condition holds for every file of a series; what it means is what MONAI Deploy's selector says.

    A text is equal without regard to case, or found by a regular expression; a number is equal, in ``[low, high]``, or
    compared (``[3, ">"]``), or a pattern of its whole text; of several values each of a list must be there, or not be
    there where it begins with ``!``; ImageOrientationPatient is ``axial``, ``coronal`` or ``sagittal``.

    Args:
        series: to look at.
        keyword: of a DICOM attribute.
        wanted: value, pattern, list or range; an empty one asks for nothing.

    Returns:
        True or False; False where an attribute is missing.
    """
    if wanted is None or wanted in ("", [], {}):
        return True
    if keyword == "ImageOrientationPatient":
        orientations = series.planes().orientations
        return all(plane_of(orientation) == str(wanted).strip().casefold() for orientation in orientations)
    return all(_value_fits(one.header.get(keyword), wanted) for one in series.files)


def plane_of(orientation: Any) -> str:
    """The anatomical plane that is nearest to a slice.

    Args:
        orientation: six direction cosines.

    Returns:
        ``axial``, ``coronal`` or ``sagittal``.

    Example:
        >>> plane_of([1, 0, 0, 0, 0, -1])
        'coronal'
    """
    cosines = np.asarray(orientation, dtype=np.float64)
    return _PLANES[int(np.abs(np.cross(cosines[:3], cosines[3:])).argmax())]


def _value_fits(value: Any, wanted: Any) -> bool:
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        return False
    if type(value).__name__ == "MultiValue" or isinstance(value, list | tuple):
        return _set_fits([str(one).casefold() for one in value], wanted)
    if isinstance(value, int | float) or type(value).__name__ in {"DSfloat", "DSdecimal", "IS"}:
        return _number_fits(float(value), str(value), wanted)
    return _text_fits(str(value), wanted)


def _text_fits(value: str, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(
        value.casefold() == str(option).casefold() or re.search(str(option), value, re.IGNORECASE) for option in options
    )


def _number_fits(value: float, text: str, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, text) is not None
    if not isinstance(wanted, list):
        return bool(value == wanted)
    if len(wanted) == 2 and wanted[1] in _COMPARE:
        return _COMPARE[wanted[1]](value, float(wanted[0]))
    return len(wanted) == 2 and float(wanted[0]) <= value <= float(wanted[1])


def _set_fits(values: list[str], wanted: Any) -> bool:
    terms = [str(term).casefold() for term in (wanted if isinstance(wanted, list) else [wanted])]
    return all(term[1:] not in values if term.startswith("!") else term in values for term in terms)


@dataclass(frozen=True)
class Requirement:
    """One thing that can be required.

    Attributes:
        kind: type of the wanted value.
        says: what it wants, for errors and documentation.
        check: raises a `Refusal` where a series does not have it.
    """

    kind: type | tuple[type, ...]
    says: str
    check: Callable[[Series, Any], None]


def _refuse_unless(good: bool, name: str, reason: Reason = Reason.RULE) -> None:
    if not good:
        raise Refusal(reason, name)


def _min_slices(series: Series, wanted: int) -> None:
    _refuse_unless(series.slices >= wanted, f"min_slices: {series.slices} of {wanted}")


def _max_slices(series: Series, wanted: int) -> None:
    _refuse_unless(series.slices <= wanted, f"max_slices: {series.slices}, at most {wanted}")


def _orientations(series: Series, wanted: int) -> None:
    kinds = len(np.unique(series.planes().orientations.round(2), axis=0))
    _refuse_unless(kinds == wanted, f"{kinds} orientations", Reason.MIXED_ORIENTATIONS)


def _regular_spacing(series: Series, wanted: bool) -> None:
    if wanted:
        stack_of(series.planes())


def _no_duplicates(series: Series, wanted: bool) -> None:
    if wanted:
        try:
            stack_of(series.planes())
        except Refusal as refusal:
            if refusal.reason is Reason.DUPLICATE_POSITIONS:
                raise


def _slice_spacing(series: Series, wanted: list[float]) -> None:
    spacing = float(np.linalg.norm(stack_of(series.planes()).affine[:3, 2]))
    _refuse_unless(len(wanted) == 2 and wanted[0] <= spacing <= wanted[1], f"slice_spacing: {spacing:.3f} mm")


def _exclude(series: Series, wanted: str) -> None:
    for keyword in ("SeriesDescription", "ProtocolName", "ImageType", "SequenceName"):
        found = any(re.search(wanted, one.text(keyword), re.IGNORECASE) for one in series.files)
        _refuse_unless(not found, f"exclude: {keyword}")


def _one_of(keyword: str) -> Callable[[Series, Any], None]:
    def check(series: Series, wanted: Any) -> None:
        options = {str(option).casefold() for option in (wanted if isinstance(wanted, list) else [wanted])}
        _refuse_unless(all(one.text(keyword).casefold() in options for one in series.files), keyword)

    return check


def _view(series: Series, wanted: Any) -> None:
    options = {str(option).upper() for option in (wanted if isinstance(wanted, list) else [wanted])}
    _refuse_unless(all(view_of(one) in options for one in series.files), "view")


def _laterality(series: Series, wanted: Any) -> None:
    options = {str(option).upper() for option in (wanted if isinstance(wanted, list) else [wanted])}
    found = [(one.text("ImageLaterality") or one.text("Laterality")).upper() for one in series.files]
    _refuse_unless(all(side in options for side in found), "laterality")


def _burned_in(series: Series, wanted: bool) -> None:
    burned = any(one.text("BurnedInAnnotation").upper() == "YES" for one in series.files)
    _refuse_unless(wanted or not burned, "", Reason.BURNED_IN)


def _colour(series: Series, wanted: bool) -> None:
    coloured = any(one.number("SamplesPerPixel", 1) != 1 or _palette(one) for one in series.files)
    _refuse_unless(wanted == coloured, "", Reason.COLOUR)


def _palette(opened: Opened) -> bool:
    return opened.text("PhotometricInterpretation").startswith("PALETTE")


def _contrast(series: Series, wanted: bool) -> None:
    given = [bool(one.text("ContrastBolusAgent")) for one in series.files]
    _refuse_unless(all(agent == wanted for agent in given), "contrast")


def _field_strength(series: Series, wanted: list[float]) -> None:
    strengths = [one.header.get("MagneticFieldStrength") for one in series.files]
    good = [strength not in {None, ""} and wanted[0] <= float(strength) <= wanted[-1] for strength in strengths]
    _refuse_unless(all(good), "field_strength")


REQUIREMENTS: dict[str, Requirement] = {
    "min_slices": Requirement(int, "a number of slices or frames", _min_slices),
    "max_slices": Requirement(int, "a number of slices or frames", _max_slices),
    "orientations": Requirement(int, "a number of slice orientations, usually 1", _orientations),
    "regular_spacing": Requirement(bool, "true: slices make one regular volume", _regular_spacing),
    "no_duplicates": Requirement(bool, "true: no two slices at one position", _no_duplicates),
    "slice_spacing": Requirement(list, "[low, high] in mm", _slice_spacing),
    "exclude": Requirement(str, "a pattern that no description, protocol or image type may contain", _exclude),
    "modality": Requirement((str, list), "a modality, or a list", _one_of("Modality")),
    "sop_class": Requirement((str, list), "a SOP class UID, or a list", _one_of("SOPClassUID")),
    "body_part": Requirement((str, list), "a body part, or a list", _one_of("BodyPartExamined")),
    "view": Requirement((str, list), "PA, AP, LATERAL or OBLIQUE, or a list", _view),
    "laterality": Requirement((str, list), "L, R or B, or a list", _laterality),
    "burned_in": Requirement(bool, "false: nothing may be burned in", _burned_in),
    "colour": Requirement(bool, "false: greys only", _colour),
    "contrast": Requirement(bool, "whether a contrast agent was given", _contrast),
    "field_strength": Requirement(list, "[low, high] in tesla", _field_strength),
}
"""What ``require`` of a selection may hold."""
