"""Pictures of slices: image, signed map and overlay side by side, and the summary of a case.

Colours come from look-up tables and letters from Pillow; a matplotlib figure per slice costs more than many a method.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsal.export.case import Array
from medsal.export.colours import font, overlay_colours, signed_colours, table
from medsal.export.views import Cut, View

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_MARGIN, _LINE, _GAP, _BAR, _BAR_TEXT = 10, 17, 14, 12, 64
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """One slice, ready to draw.

    Attributes:
        grey: uint8, rows from top to bottom.
        relevance: the same shape.
        view: how it lies.
        name: which slice it is.
    """

    grey: Array
    relevance: Array
    view: View
    name: str

    def size(self, scale: float) -> tuple[int, int]:
        """How large it is drawn, true to its millimetres; never smaller than can be read nor larger than a screen.

        Args:
            scale: pixels per voxel along the finer of its two axes.

        Returns:
            Width and height in pixels.
        """
        unit = min(self.view.spacing)
        height, width = (n * mm / unit for n, mm in zip(self.grey.shape, self.view.spacing, strict=True))
        longest = max(height, width)
        factor = min(max(scale * longest, 240), 512) / longest
        return max(round(width * factor), 1), max(round(height * factor), 1)


def cut_tile(grey: Array, relevance: Array, view: View, cut: Cut) -> Tile:
    """Cut one slice out of an image and a map.

    Args:
        grey: uint8 volume.
        relevance: of the same shape.
        view: how the slice is shown.
        cut: which slice.

    Returns:
        The slice.
    """
    return Tile(view.show(cut.take(grey)), view.show(cut.take(relevance)), view, cut.name)


def draw_slice(tile: Tile, limit: float, title: str, scale: float = 3.0) -> Image:
    """Draw the three panels of one slice: image, relevance from -limit to +limit, |relevance| over the image.

    Args:
        tile: the slice.
        limit: ends of the colour scales.
        title: one line above.
        scale: pixels per voxel.

    Returns:
        An RGB picture.
    """
    width, height = tile.size(scale)
    top = _MARGIN + 2 * _LINE + 6
    side = width + _GAP + _BAR + _BAR_TEXT
    sheet, pen = _sheet(2 * _MARGIN + width + _GAP + 2 * side, top + height + _MARGIN, title)
    panels = (
        ("image", np.repeat(tile.grey[..., None], 3, axis=2), None),
        ("relevance: red for, blue against", signed_colours(tile.relevance, limit), ("RdBu_r", -limit)),
        ("|relevance| on the image", overlay_colours(tile.grey, tile.relevance, limit), ("hot", 0.0)),
    )
    left = _MARGIN
    for caption, colours, bar in panels:
        pen.text((left, _MARGIN + _LINE + 3), caption, _INK, font(12))
        _paste(sheet, pen, colours, tile.view, (left, top, width, height))
        left += width + _GAP
        if bar is not None:
            _colour_bar(sheet, pen, bar, limit, (left, top, height))
            left += _BAR + _BAR_TEXT
    return sheet


def draw_summary(tiles: list[Tile], limit: float, title: str, scale: float = 1.5) -> Image:
    """Draw all slices of a case in two rows: images above, maps from -limit to +limit below.

    Args:
        tiles: the slices, in order.
        limit: ends of the colour scale.
        title: one line above.
        scale: pixels per voxel.

    Returns:
        An RGB picture.
    """
    sizes = [tile.size(scale) for tile in tiles]
    tallest = max(height for _, height in sizes)
    top = _MARGIN + 2 * _LINE + 6
    wide = sum(width for width, _ in sizes) + _GAP * len(sizes) + _BAR + _BAR_TEXT + _MARGIN
    sheet, pen = _sheet(wide + _MARGIN, top + 2 * tallest + _GAP + _MARGIN, title)
    left = _MARGIN
    for tile, (width, height) in zip(tiles, sizes, strict=True):
        pen.text((left, _MARGIN + _LINE + 3), f"slice {tile.name}", _INK, font(12))
        grey = np.repeat(tile.grey[..., None], 3, axis=2)
        _paste(sheet, pen, grey, tile.view, (left, top, width, height))
        box = (left, top + tallest + _GAP, width, height)
        _paste(sheet, pen, signed_colours(tile.relevance, limit), tile.view, box)
        left += width + _GAP
    _colour_bar(sheet, pen, ("RdBu_r", -limit), limit, (left, top + tallest + _GAP, tallest))
    return sheet


def png_bytes(picture: Image) -> bytes:
    """Encode a picture.

    Args:
        picture: from `draw_slice` or `draw_summary`.

    Returns:
        The bytes of a PNG file.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _sheet(width: int, height: int, title: str) -> tuple[Image, ImageDraw]:
    """An empty sheet with its title, cut to what fits."""
    from PIL import Image as Picture
    from PIL import ImageDraw as Pen

    sheet = Picture.new("RGB", (width, height), _PAPER)
    pen = Pen.Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 2), _fit(title, width - 2 * _MARGIN), _INK, font(14))
    return sheet, pen


def _fit(text: str, width: int) -> str:
    """Shorten a line to a width in pixels; line breaks and other unprintable characters become blanks."""
    line = "".join(character if character.isprintable() else " " for character in text)[:400]
    if font(14).getlength(line) <= width:
        return line
    while line and font(14).getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def _paste(sheet: Image, pen: ImageDraw, colours: Array, view: View, box: tuple[int, int, int, int]) -> None:
    """Put one panel on the sheet, each voxel a block of one colour, letters at its edges."""
    from PIL import Image as Picture

    left, top, width, height = box
    shrink = colours.shape[0] > height or colours.shape[1] > width
    how = Picture.Resampling.BOX if shrink else Picture.Resampling.NEAREST
    sheet.paste(Picture.fromarray(np.ascontiguousarray(colours)).resize((width, height), how), (left, top))
    middle, centre = left + width / 2, top + height / 2
    places = (
        (left + 4, centre, "lm"),
        (left + width - 4, centre, "rm"),
        (middle, top + 3, "ma"),
        (middle, top + height - 3, "md"),
    )
    for letter, (x, y, anchor) in zip(view.letters, places, strict=True):
        if letter:
            pen.text((x, y), letter, _PAPER, font(14), anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _colour_bar(
    sheet: Image, pen: ImageDraw, scale: tuple[str, float], highest: float, place: tuple[int, int, int]
) -> None:
    """Draw a vertical colour bar with the numbers at its ends and its middle."""
    from PIL import Image as Picture

    (name, lowest), (left, top, height) = scale, place
    bar = Picture.fromarray(np.ascontiguousarray(table(name)[::-1, None]))
    sheet.paste(bar.resize((_BAR, height), Picture.Resampling.NEAREST), (left, top))
    pen.rectangle((left, top, left + _BAR - 1, top + height - 1), outline=_INK)
    middle = (lowest + highest) / 2
    for value, share, anchor in ((highest, 0.0, "la"), (middle, 0.5, "lm"), (lowest, 1.0, "ld")):
        pen.text((left + _BAR + 4, top + share * height), f"{value:.2g}", _INK, font(11), anchor)
