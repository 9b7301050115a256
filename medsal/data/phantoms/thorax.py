"""A chest in front of an X-ray detector: how much of which tissue each ray crosses.

All lengths are centimetres in the plane of the film, 36 cm wide and high. ``x`` counts from the midline towards the
patient's left, which is the image's right (the patient faces the reader); ``y`` counts from the film's upper edge.
Within a side, ``a`` is the distance from the midline. Shapes are functions of the position, so that a film can have any
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medsal.data.phantoms.chest import Chest
from medsal.data.phantoms.thorax_bones import ellipsoid, ribs, rounded, shoulder_bones, spine

__all__ = ["FIELD", "LUNGS", "Tissue", "View", "draw_chest", "draw_view", "project"]

FIELD = 36.0
"""Width and height of the film in cm."""

LUNGS: Mapping[int, str] = {1: "left lung", 2: "right lung"}
"""What the values of a film's lung fields mean: sides of the patient."""

SIGN = {1: 1.0, 2: -1.0}
"""Direction of each lung along x: the left one lies on the image's right."""

# Outer edge of a lung by the way from its apex (0) to its base (1), in parts of its greatest width.
_WAY = np.array([-0.3, 0.0, 0.05, 0.12, 0.22, 0.36, 0.55, 0.8, 1.1, 1.5, 2.5])
_OUTER = np.array([0.2, 0.42, 0.54, 0.64, 0.745, 0.845, 0.935, 0.99, 1.015, 1.0, 0.97])


@dataclass(frozen=True)
class View:
    """How the person stands before the detector, and on which grid it is read.

    Attributes:
        size: pixels along each side of the film.
        turn: rotation in the plane of the film, radians.
        zoom: magnification.
        shift: of the person on the film, cm.
        twist: how far the structures in front move against the spine, cm.
    """

    size: int
    turn: float
    zoom: float
    shift: tuple[float, float]
    twist: float

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions x and y in the chest of every pixel, float32 (size, size) each."""
        at = ((np.arange(self.size) + 0.5) / self.size * FIELD).astype(np.float32)
        x, y = at[None] - FIELD / 2 - self.shift[0], at[:, None] - FIELD / 2 - self.shift[1]
        cos, sin = np.float32(np.cos(self.turn) / self.zoom), np.float32(np.sin(self.turn) / self.zoom)
        return cos * x + sin * y, cos * y - sin * x + np.float32(FIELD / 2)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Where positions in the chest (n, 2) lie on the film, in pixels (column, row)."""
        x, y = points[:, 0], points[:, 1] - FIELD / 2
        cos, sin = np.cos(self.turn) * self.zoom, np.sin(self.turn) * self.zoom
        film = np.stack([cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1]], 1) + FIELD / 2
        return np.asarray(film * (self.size / FIELD))


@dataclass(frozen=True)
class Tissue:
    """What the rays cross, each (size, size).

    Attributes:
        body: soft tissue, lungs included, in cm.
        lung: lung tissue in cm.
        bone: cortical bone in cm.
        air: free air (windpipe, stomach) in cm.
        fields: values of `LUNGS` where a reader would outline the lungs.
        edge: distance of each pixel to the outer wall of its lung, in cm; negative outside of it.
        top: distance of each pixel below the upper end of its lung, in cm.
    """

    body: np.ndarray
    lung: np.ndarray
    bone: np.ndarray
    air: np.ndarray
    fields: np.ndarray
    edge: np.ndarray
    top: np.ndarray


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw one person.

    Args:
        rng: where the numbers come from.

    Returns:
        a chest of ordinary size; about four in ten have breasts.
    """
    width, apex = rng.uniform(11.6, 14.2), rng.uniform(4.0, 6.0)
    right = apex + rng.uniform(18.5, 23.0)
    half = width * rng.uniform(0.42, 0.52)
    return Chest(
        width=width,
        apex=apex,
        dome=(right + rng.uniform(0.2, 1.4), right),
        wall=rng.uniform(1.8, 4.4),
        depth=rng.uniform(17.5, 23.5),
        heart=(half, half * rng.uniform(0.74, 0.9), rng.uniform(0.4, 0.75)),
        outline=rng.normal(0, 0.012, (2, len(_WAY))),
        ribs=(rng.uniform(2.1, 2.5), rng.uniform(0.48, 0.6), rng.uniform(3.2, 5.2), rng.uniform(5.0, 7.5)),
        bone=rng.uniform(1.3, 2.1),
        breast=rng.uniform(1.0, 3.5) * (rng.uniform() < 0.4),
        shoulder=(rng.uniform(1.2, 3.2), rng.uniform(0.12, 0.3)),
        jitter=rng.normal(0, 1, 32),
    )


def draw_view(rng: np.random.Generator, size: int) -> View:
    """Draw how a person stands on one day.

    Args:
        rng: where the numbers come from.
        size: pixels along each side.

    Returns:
        a view turned by up to about 3 degrees and moved by up to about 1.5 cm.
    """
    turn, twist = np.deg2rad(np.clip(rng.normal(0, 1.3), -3, 3)), np.clip(rng.normal(0, 0.35), -0.8, 0.8)
    return View(
        size, float(turn), rng.uniform(0.98, 1.16), (rng.uniform(-1.2, 1.2), rng.uniform(-1.5, 1.5)), float(twist)
    )


def project(chest: Chest, view: View) -> Tissue:
    """The thickness of each tissue along the rays, which are taken as parallel.

    Args:
        chest: the person.
        view: the grid.

    Returns:
        thickness maps, lung fields and the distances that findings are placed by.
    """
    x, y = view.places()
    body = _trunk(chest, x, y)
    lung, edge, top, fields = (np.zeros_like(x) for _ in range(4))
    bone = spine(chest, x, y)
    middle = _middle(chest, x - view.twist, y)
    for side, sign in SIGN.items():
        a = sign * x
        mine = a > 0
        outer, below = _outer_edge(chest, side, y), _below_dome(chest, side, a, y)
        away = a - 0.36 * chest.width
        high = y - chest.apex - np.where(away < 0, 2.0, 0.9) * np.abs(away) ** 1.7 / chest.width
        depth = (
            0.66
            * chest.depth
            * rounded(outer - a, 4.5)
            * rounded(high, 4.0)
            * rounded(a - 1.4, 3.2)
            * (1 - 0.95 * rounded(below, 3.5))
        )
        lung = np.where(mine, np.clip(depth - middle, 0, None), lung)
        edge, top = np.where(mine, outer - a, edge), np.where(mine, high, top)
        inside = mine & (outer - a > 0.15) & (high > 0.1) & (below < 0) & (middle < 2.2)
        fields = np.where(inside, np.float32(side), fields)
        bone = bone + np.where(mine, ribs(chest, a, y, outer) + shoulder_bones(chest, a, y, side), 0)
    air = _air(chest, x - view.twist, y)
    return Tissue(body, lung, bone * chest.bone, air, fields.astype(np.uint8), edge, top)


def _trunk(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a = np.abs(x)
    start, fall = chest.shoulder
    armpit = chest.apex + 11.0
    ways = np.array([armpit - 5, armpit - 1, armpit + 2, armpit + 12, 45])
    trunk = np.interp(y, ways, np.array([9, 3.0, 1.0, 0, 0.3]) + chest.width + chest.wall).astype(np.float32)
    line = start + fall * (a - 5) + 0.016 * np.clip(a - 9, 0, None) ** 2
    inside = np.minimum(0.9 * np.logaddexp((y - line) / 0.9, (5.0 - a) / 0.9), trunk - a)
    depth = np.interp(y, [0, 5, 12, 24, 40], np.array([0.55, 0.72, 0.96, 1.0, 1.04]) * chest.depth).astype(np.float32)
    depth = depth * (1 - np.clip((a - 9) / 9, 0, 1) * np.interp(y, [armpit, armpit + 5], [0.5, 0.1]).astype(np.float32))
    soft = depth * rounded(inside, 6.5)
    if chest.breast:
        low = chest.apex + 19.5 + 0.4 * chest.breast
        shape = ellipsoid(a, y, (0.64 * chest.width, low - 4.5), (6.4, 6.2, 1.0))
        soft = soft + chest.breast * shape * np.clip((y - low + 8) / 8, 0, 1) ** 1.5
    return np.asarray(soft)


def _outer_edge(chest: Chest, side: int, y: np.ndarray) -> np.ndarray:
    from scipy.interpolate import PchipInterpolator  # here: only the embedded set needs it

    curve = PchipInterpolator(_WAY, _OUTER + chest.outline[side - 1])
    ways = np.linspace(_WAY[0], _WAY[-1], 400)
    way = (y - chest.apex) / (chest.dome[1] + 4 - chest.apex)
    return np.asarray(chest.width * np.interp(way, ways, curve(ways)), dtype=np.float32)


def _below_dome(chest: Chest, side: int, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far below the diaphragm a pixel lies; steep towards the side, so that it ends in a sharp angle."""
    u = (a - 0.45 * chest.width) / (0.55 * chest.width)
    fall = np.where(u > 0, 4.6 * np.clip(u, 0, 1.2) ** 2.6, 1.3 * u**2)
    return np.asarray(y - chest.dome[side - 1] - fall)


def _middle(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of what lies between the lungs: heart, great vessels, and the roots of the lungs."""
    half, tall, tilt = chest.heart
    base = chest.dome[1] + 0.4
    along, across = np.cos(tilt), np.sin(tilt)
    dx, dy = x - 0.4 * half, y - base + 0.5 * tall
    heart = ellipsoid(
        along * dx + across * dy, along * dy - across * dx, (0, 0), (1.08 * half, tall, 0.5 * chest.depth)
    )
    atrium = ellipsoid(x, y, (-0.26 * half, base - 3.6), (0.47 * half, 4.4, 0.42 * chest.depth))
    knob = chest.apex + 6.6 + 0.3 * chest.jitter[0]
    upper = np.interp(y, [0, knob - 4, knob + 3, base], [1.9, 2.6, 3.1, 3.1]).astype(np.float32)
    column = 0.3 * chest.depth * np.sqrt(np.clip(1 - ((x + 0.1) / upper) ** 4, 0, 1)) * np.clip((y - 2) / 4, 0, 1)
    arch = ellipsoid(x, y, (2.1, knob), (1.9 + 0.15 * chest.jitter[1], 1.7, 0.3 * chest.depth))
    trunk = ellipsoid(x, y, (2.3, knob + 3.4), (2.0 + 0.15 * chest.jitter[2], 3.4, 0.3 * chest.depth))
    down = 2.4 * np.sqrt(np.clip(1 - ((x - 1.7) / 1.25) ** 2, 0, 1)) * np.clip((y - knob) / 2, 0, 1)
    roots = ellipsoid(x, y, (3.3, knob + 3.6), (1.5, 2.0, 1.7)) + ellipsoid(x, y, (-3.1, knob + 4.4), (1.4, 2.6, 1.7))
    whole = (heart**3 + atrium**3 + column**3 + arch**3 + trunk**3) ** (1 / 3)  # merged, not stacked
    return np.asarray(whole + np.where(whole > 0, 0.3, 1) * roots + 0.4 * down)


def _air(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    knob = chest.apex + 6.6
    pipe = 1.7 * np.sqrt(np.clip(1 - ((x + 0.25) / 0.85) ** 2, 0, 1)) * np.clip((knob + 2.5 - y) / 0.8, 0, 1)
    away = np.abs(x + 0.2)
    branch = (y - knob - 2.2 - 0.75 * away) / 0.55
    pipe = pipe + 1.0 * np.sqrt(np.clip(1 - branch**2, 0, 1)) * (away < 3.2) * (away > 0.2)
    bubble = ellipsoid(x, y, (5.0 + chest.jitter[8], chest.dome[0] + 2.4), (2.0, 1.5, 2.0 + 2 * chest.jitter[9]))
    return np.asarray(pipe + np.where(y > chest.dome[0] + 0.9, np.clip(bubble, 0, None), 0))
