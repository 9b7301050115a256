"""Numbers to colours by look-up table, and the one font of the pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsal.export.case import Array, finite

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

STEPS = 255  # odd, so that 0 has a colour of its own: the middle one


@cache
def table(name: str, steps: int = STEPS) -> Array:
    """Colours of one of matplotlib's maps.

    Args:
        name: for example ``RdBu_r`` or ``hot``.
        steps: how many.

    Returns:
        ``(steps, 3)`` uint8, from the lowest value to the highest.
    """
    import matplotlib as mpl

    colours = mpl.colormaps[name](np.linspace(0, 1, steps))[:, :3]
    return np.asarray(np.rint(colours * 255), dtype=np.uint8)


@cache
def font(size: int) -> FreeTypeFont:
    """The sans-serif font that comes with matplotlib.

    Args:
        size: in pixels.

    Returns:
        A Pillow font.
    """
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def largest(relevance: Array) -> float:
    """The limit of a symmetric scale.

    Args:
        relevance: any shape.

    Returns:
        The largest finite ``|relevance|``, 0 for an empty or blank map.

    Example:
        >>> largest(np.array([-3.0, 2.0, np.inf]))
        3.0
    """
    good = finite(relevance)
    return float(max(good.max(), -good.min())) if good.size else 0.0


def signed_levels(relevance: Array, limit: float) -> Array:
    """Place relevance on a symmetric scale.

    Args:
        relevance: any shape; NaN counts as 0.
        limit: what the ends of the scale mean; 0 puts everything in the middle.

    Returns:
        uint8 in 0..254, where 127 means 0.

    Example:
        >>> signed_levels(np.array([-2.0, 0.0, 1.0, 5.0]), 2.0).tolist()
        [0, 127, 191, 254]
    """
    scaled = np.clip(finite(relevance) * (127 / limit if limit else 0.0), -127, 127)
    return np.asarray(np.rint(scaled) + 127, dtype=np.uint8)


def signed_colours(relevance: Array, limit: float) -> Array:
    """Red where relevance speaks for the target, blue where it speaks against it, white at 0.

    Args:
        relevance: any shape.
        limit: ends of the scale.

    Returns:
        ``(*shape, 3)`` uint8.
    """
    return np.asarray(table("RdBu_r")[signed_levels(relevance, limit)])


@cache
def _overlay_parts() -> tuple[Array, Array]:
    """Grey at opacity 0.7 on white, then half of it; half of the colours of |relevance|. Their sum is the overlay."""
    grey = (np.arange(256) * 0.7 + 255 * 0.3) * 0.5
    return np.rint(grey).astype(np.uint8), np.asarray(table("hot", 128) // 2)


def overlay_colours(grey: Array, relevance: Array, limit: float) -> Array:
    """The image in grey at opacity 0.7 under ``|relevance|`` in ``hot`` at opacity 0.5.

    Args:
        grey: uint8.
        relevance: the same shape.
        limit: end of the scale.

    Returns:
        ``(*shape, 3)`` uint8.
    """
    half_grey, half_hot = _overlay_parts()
    levels = signed_levels(relevance, limit).astype(np.int16) - 127
    return np.asarray(half_grey[grey][..., None] + half_hot[np.abs(levels)])


def grey_levels(image: Array) -> Array:
    """Window an image for the eye: from its 0.5th to its 99.5th percentile.

    Args:
        image: any shape; NaN counts as 0.

    Returns:
        uint8 of the same shape.

    Example:
        >>> grey_levels(np.array([0.0, 1.0, 4.0])).tolist()
        [0, 64, 255]
    """
    good = finite(image)
    sample = good.ravel()[:: max(1, good.size // 200_000)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    if high <= low:
        low, high = float(good.min()), float(good.max())
    scaled = (good.astype(np.float32) - low) * (255 / (high - low) if high > low else 0.0)
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), dtype=np.uint8)
