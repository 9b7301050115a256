"""From stored values to what they mean: modality LUT or rescale, then window or VOI LUT where a model wants it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.reasons import Reason, Refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset


@dataclass(frozen=True)
class Values:
    """Pixel values with the range that they could have.

    Attributes:
        array: float64.
        ends: what the smallest and the largest possible stored value became.
    """

    array: NDArray[np.float64]
    ends: tuple[float, float]

    def inverted(self) -> Values:
        """Turn the greys round, as MONOCHROME1 is shown.

        Returns:
            ``ends[0] + ends[1] - array``: the film of the other polarity has exactly these values.
        """
        return Values(self.ends[0] + self.ends[1] - self.array, self.ends)

    def scaled(self) -> Values:
        """Bring the possible range to 0 and 1.

        Returns:
            The same greys.
        """
        low, high = min(self.ends), max(self.ends)
        return Values((self.array - low) / (high - low), (0.0, 1.0))


def rescale_of(header: Dataset) -> tuple[float, float]:
    """Slope and intercept of a header, or of the item of a frame.

    Args:
        header: with ``RescaleSlope`` and ``RescaleIntercept``, or neither of them.

    Returns:
        Slope and intercept; 1 and 0 where neither is there.

    Raises:
        Refusal: ``rescale``, where one is missing, not finite, or the slope is 0.
    """
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    absent = [value is None or value == "" for value in (slope, intercept)]
    if all(absent):
        return 1.0, 0.0
    if any(absent):
        raise Refusal(Reason.RESCALE, "one of slope and intercept")
    pair = float(slope), float(intercept)
    if not all(map(math.isfinite, pair)) or pair[0] == 0:
        raise Refusal(Reason.RESCALE, f"slope {pair[0]:g}, intercept {pair[1]:g}")
    return pair


def modality_values(stored: NDArray[Any], header: Dataset) -> Values:
    """Apply the modality LUT, or slope and intercept.

    Args:
        stored: as decoded.
        header: of the image.

    Returns:
        The values.

    Raises:
        Refusal: ``rescale`` or ``modality_lut``.
    """
    if header.get("ModalityLUTSequence"):
        return _by_table(stored, header, Reason.MODALITY_LUT)
    slope, intercept = rescale_of(header)
    bits = int(header.BitsStored)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(header.PixelRepresentation) else (0, 2**bits - 1)
    return Values(
        stored.astype(np.float64) * slope + intercept, (ends[0] * slope + intercept, ends[1] * slope + intercept)
    )


def windowed(values: Values, header: Dataset, index: int = 0) -> Values:
    """Apply the VOI LUT, or else the window of the image, with 0 for black and 1 for white before any inversion.

    PS3.3 C.11.2.1.2 and C.11.2.1.3: linear, linear exact and sigmoid.

    Args:
        values: of the modality.
        header: of the image.
        index: which of several windows or tables.

    Returns:
        Values from 0 to 1.

    Raises:
        Refusal: ``window``.
    """
    tables = header.get("VOILUTSequence")
    if tables:
        if index >= len(tables):
            raise Refusal(Reason.WINDOW, f"no number {index}")
        shown = _by_table(np.rint(values.array).astype(np.int64), header, Reason.WINDOW, index)
        low, high = shown.ends
        return Values((shown.array - low) / (high - low), (0.0, 1.0))
    centre, width = (_one(header.get(keyword), index) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width < 0 or (width == 0 and function != "LINEAR") or function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise Refusal(Reason.WINDOW, f"width {width:g}")
    if function == "SIGMOID":
        steepness = np.clip(-4 * (values.array - centre) / width, -700, 700)
        return Values(1 / (1 + np.exp(steepness)), (0.0, 1.0))
    if width == 0:
        return Values((values.array > centre).astype(np.float64), (0.0, 1.0))
    return Values(np.clip((values.array - centre) / width + 0.5, 0, 1), (0.0, 1.0))


def _one(value: Any, index: int) -> float:
    """One number of an attribute that may have several."""
    if value is None or value == "":
        raise Refusal(Reason.WINDOW, "the image has none")
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if index >= len(numbers) or not np.isfinite(numbers[index]):
        raise Refusal(Reason.WINDOW, f"no number {index}")
    return float(numbers[index])


def _by_table(stored: NDArray[Any], header: Dataset, reason: Reason, index: int = 0) -> Values:
    """Look values up; what lies outside takes the first or the last entry."""
    # pydicom's apply_modality_lut knows 8 and 16 bits only, and overflows where the first value is negative
    item = (header.ModalityLUTSequence if reason is Reason.MODALITY_LUT else header.VOILUTSequence)[index]
    descriptor = [int(number) for number in item.LUTDescriptor]
    if len(descriptor) != 3 or descriptor[0] < 0 or not 8 <= descriptor[2] <= 16:
        raise Refusal(reason, "descriptor")
    entries, first, top = descriptor[0] or 2**16, descriptor[1], 2 ** descriptor[2] - 1
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, ">u2" if header.original_encoding[1] is False else "<u2")
    table = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    if len(table) != entries or table.max() > top:
        raise Refusal(reason, f"{len(table)} entries, wanted {entries} of {descriptor[2]} bits")
    shown = table[np.clip(stored.astype(np.int64) - first, 0, entries - 1)]
    return Values(shown.astype(np.float64), (0.0, float(top)))
