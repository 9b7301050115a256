"""A CR or DX film as a picture: what a radiologist sees as bright is large, or the film is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.grid import NativeGrid, dressed, facts_of
from medsal.dicom.phi import sealed
from medsal.dicom.pixels import stored_pixels
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened, open_file
from medsal.dicom.uids import is_own
from medsal.dicom.values import Values, modality_values, windowed
from medsal.errors import UsageError

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from numpy.typing import NDArray

FILMS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.7": "SC",
}
"""SOP classes that are read as films; Secondary Capture, because many films were stored so."""

VIEWS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LATERAL": "LATERAL",
    "LAT": "LATERAL",
    "LLO": "OBLIQUE",
    "RLO": "OBLIQUE",
}
"""View positions of films under one name each; LATERAL is no term of DICOM's, and occurs."""

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@sealed
def read_film(
    source: str | Path | Opened, *, voi: int | str | None = None, scaled: bool = False, limits: Limits = LIMITS
) -> MetaTensor:
    """Read one film as it is meant to be seen.

    Stored values are masked and signed, rescaled or looked up (modality), windowed where that is asked for, and turned
    round where the film is MONOCHROME1. Whether a window is applied must be what the model was trained on: it is a
    setting of a bundle. A capture in RGB is read where its three channels are equal.

    Args:
        source: the file.
        voi: None: no window. A number: that window or VOI LUT of the film (0 the first), values from 0 to 1. ``any``:
            the first where the film has one.
        scaled: divide by the range that values can have, so that they go from 0 (black) to 1 (white) also without a
            window, as `medsal.data.LoadFilm` gives them.
        limits: what is read.

    Returns:
        ``(1, rows, columns)`` float32; the affine holds the distance of rows and columns in mm, no place. Its meta
        holds a `medsal.dicom.NativeGrid` whose ``facts`` say ``view``, ``laterality``, ``burned_in``, ``spacing_from``,
        ``photometric``.

    Raises:
        Refusal: with one of the codes of `medsal.dicom.REASONS`.
    """
    opened = source if isinstance(source, Opened) else open_file(source, limits)
    if is_own(opened.header):
        raise Refusal(Reason.OWN_RESULT)
    if opened.text("SOPClassUID") not in FILMS:
        raise Refusal(Reason.UNSUPPORTED_CLASS, opened.text("SOPClassUID"))
    if opened.frames > 1:
        raise Refusal(Reason.NOT_ONE_FILM, f"{opened.frames} frames")
    inverse = _is_inverse(opened)
    stored = _grey(stored_pixels(opened, limits)[0])
    values = modality_values(stored, opened.header)
    values = _shown(values, opened, voi)
    if inverse:
        values = values.inverted()
    if scaled:
        values = values.scaled()
    (rows, columns), source_of_spacing = spacing_of(opened)
    grid = NativeGrid(
        affine=((rows, 0.0, 0.0, 0.0), (0.0, columns, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        shape=stored.shape,
        study_uid=opened.text("StudyInstanceUID"),
        series_uid=opened.series_uid,
        instances=(opened.uid,),
        files=(str(opened.path),),
        facts=facts_of(opened)
        | {
            "view": view_of(opened),
            "laterality": opened.text("ImageLaterality") or opened.text("Laterality"),
            "spacing_from": source_of_spacing,
            "intent": opened.text("PresentationIntentType"),
            "photometric": opened.text("PhotometricInterpretation"),
            "voi": voi,
        },
    )
    return dressed(values.array, grid)


def view_of(opened: Opened) -> str:
    """The view of a film.

    Args:
        opened: its header.

    Returns:
        ``PA``, ``AP``, ``LATERAL``, ``OBLIQUE``; empty where neither ViewPosition nor ViewCodeSequence says.
    """
    said = VIEWS.get(opened.text("ViewPosition").upper(), "")
    codes = opened.header.get("ViewCodeSequence")
    if said or not codes:
        return said
    meaning = str(codes[0].get("CodeMeaning", "")).casefold().replace("-", " ")
    meanings = {"postero anterior": "PA", "antero posterior": "AP", "lateral": "LATERAL", "oblique": "OBLIQUE"}
    return next((view for words, view in meanings.items() if words in meaning), "")


def spacing_of(opened: Opened) -> tuple[tuple[float, float], str]:
    """Distance of rows and of columns.

    Args:
        opened: the header.

    Returns:
        Millimetres, and the attribute they are from; 1, 1 and an empty text where none is there.

    Raises:
        Refusal: ``spacing``, where it is no pair of positive numbers.
    """
    for keyword in _SPACINGS:
        value = opened.header.get(keyword)
        if value is None or value == "" or np.size(value) == 0:
            continue
        numbers = [float(number) for number in np.atleast_1d(np.asarray(value, dtype=np.float64))]
        if len(numbers) != 2 or not all(np.isfinite(number) and number > 0 for number in numbers):
            raise Refusal(Reason.SPACING, keyword)
        return (numbers[0], numbers[1]), keyword
    return (1.0, 1.0), ""


def _is_inverse(opened: Opened) -> bool:
    """Whether small stored values are bright; photometric interpretation and presentation LUT must agree."""
    photometric, shape = opened.text("PhotometricInterpretation"), opened.text("PresentationLUTShape")
    if opened.header.get("PresentationLUTSequence"):
        raise Refusal(Reason.PHOTOMETRIC, "presentation LUT")
    if (photometric, shape) in {("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")}:
        raise Refusal(Reason.PHOTOMETRIC, f"{photometric} and {shape}")
    return photometric == "MONOCHROME1"


def _shown(values: Values, opened: Opened, voi: int | str | None) -> Values:
    """Apply the window that was asked for."""
    if voi is None:
        return values
    if isinstance(voi, int):
        return windowed(values, opened.header, voi)
    if voi != "any":
        raise UsageError(f"voi: wanted a number, 'any' or None, got {voi!r}")
    has_one = bool(opened.header.get("VOILUTSequence") or opened.text("WindowCenter"))
    return windowed(values, opened.header) if has_one else values


def _grey(stored: NDArray[Any]) -> NDArray[Any]:
    """One channel of a capture whose three are equal."""
    if stored.ndim == 2:
        return stored
    if (stored != stored[..., :1]).any():
        raise Refusal(Reason.COLOUR, "channels differ")
    return stored[..., 0]
