"""The picture of a Secondary Capture: the image, and the image under its map, with the notice and a colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.sources import NOTICE
from medsal.export.colours import font, table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageDraw import ImageDraw

LONGEST = 1280
"""Most pixels along the longer side of a picture."""

_MARGIN, _GAP, _BAR, _BAR_TEXT, _LINE = 12, 12, 14, 62, 22
_OPACITY = 0.65  # of the map where it is largest
_INK, _WARNING = (235, 235, 235), (255, 190, 60)


def compose(
    grey: NDArray[Any], relevance: NDArray[Any], limit: float, spacing: Sequence[float], lines: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw an image beside itself under ``|relevance|``.

    Args:
        grey: uint8, rows from top to bottom.
        relevance: of the same shape.
        limit: end of the colour scale.
        spacing: mm from row to row and from column to column.
        lines: what was made how; nothing that names the patient.

    Returns:
        ``(height, width, 3)`` uint8 on black, at most `LONGEST` along its longer side.
    """
    from PIL import Image
    from PIL.ImageDraw import Draw

    top = _MARGIN + _LINE * (1 + len(lines)) + 6
    width, height = _panel(grey.shape, spacing, top)
    size = (2 * _MARGIN + 2 * width + 2 * _GAP + _BAR + _BAR_TEXT, top + height + _MARGIN)
    sheet = Image.new("RGB", size)
    pen = Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 4), NOTICE, _WARNING, font(17))
    for number, line in enumerate(lines, 1):
        pen.text((_MARGIN, _MARGIN + number * _LINE - 4), _fitting(pen, line, size[0] - 2 * _MARGIN), _INK, font(14))
    panels = (np.repeat(grey[..., None], 3, axis=2), _under_map(grey, relevance, limit))
    for number, colours in enumerate(panels):
        panel = Image.fromarray(np.ascontiguousarray(colours)).resize((width, height), Image.Resampling.BILINEAR)
        sheet.paste(panel, (_MARGIN + number * (width + _GAP), top))
    left = _MARGIN + 2 * (width + _GAP)
    bar = np.repeat(table("hot", 128)[::-1][:, None], _BAR, axis=1)
    sheet.paste(Image.fromarray(np.ascontiguousarray(bar)).resize((_BAR, height)), (left, top))
    for place, value in ((0.0, limit), (0.5, limit / 2), (1.0, 0.0)):
        pen.text((left + _BAR + 5, top + place * (height - 14)), f"{value:.3g}", _INK, font(12))
    return np.asarray(sheet, dtype=np.uint8)


def _fitting(pen: ImageDraw, line: str, width: int) -> str:
    """A line, cut where it would leave the picture."""
    while pen.textlength(line, font(14)) > width:
        line = line.removesuffix("...")[:-1] + "..."
    return line


def _under_map(grey: NDArray[Any], relevance: NDArray[Any], limit: float) -> NDArray[np.uint8]:
    """The image in grey, covered by colour the more the larger ``|relevance|`` is; where it is 0, not at all."""
    level = np.clip(np.abs(relevance) / limit, 0, 1) if limit else np.zeros(grey.shape)
    colours = table("hot", 128)[np.rint(level * 127).astype(np.int64)]
    opacity = (_OPACITY * level)[..., None]
    return np.asarray(np.rint(grey[..., None] * (1 - opacity) + colours * opacity), dtype=np.uint8)


def _panel(shape: tuple[int, ...], spacing: Sequence[float], top: int) -> tuple[int, int]:
    """Width and height of one panel, true to its millimetres."""
    rows, columns = (size * mm / min(spacing) for size, mm in zip(shape, spacing, strict=True))
    room_across = (LONGEST - 2 * _MARGIN - 2 * _GAP - _BAR - _BAR_TEXT) / 2
    scale = min(room_across / columns, (LONGEST - top - _MARGIN) / rows)
    return max(round(columns * scale), 1), max(round(rows * scale), 1)
