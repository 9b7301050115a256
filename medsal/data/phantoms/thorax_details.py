"""What is drawn into a film as lines and letters: vessels, cables, the marker of the side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medsal.data.phantoms.chest import Chest
from medsal.data.phantoms.thorax import FIELD, LUNGS, SIGN, View

__all__ = ["Line", "draw_lines", "foreign_bodies", "harmless", "marker", "vessels"]

Line = tuple[np.ndarray, float]
"""Points (n, 2) in the chest, in cm, and the diameter in cm."""


def vessels(chest: Chest, rng: np.random.Generator) -> dict[int, list[Line]]:
    """The branching vessels of both lungs.

    Args:
        chest: whose lungs.
        rng: where the numbers come from.

    Returns:
        lines by side (`medsal.data.phantoms.thorax.LUNGS`), thinner towards the periphery.
    """
    found: dict[int, list[Line]] = {}
    for side in LUNGS:
        root = np.array([SIGN[side] * 2.6, chest.apex + (10.0 if side == 1 else 10.8)])
        lines: list[Line] = []
        for angle in np.deg2rad([-82, -62, -38, -12, 12, 34, 52, 68, 82]):
            start = float(root[0]), float(root[1] + 2.0 * np.sin(angle))
            width = rng.uniform(0.24, 0.4) * (1.25 if angle > 0 else 0.9)
            _grow(lines, start, float(angle + rng.normal(0, 0.1)), width, SIGN[side], rng)
        found[side] = lines
    return found


def _grow(
    lines: list[Line], start: tuple[float, float], angle: float, width: float, sign: float, rng: np.random.Generator
) -> None:
    """One vessel from its start to where it is too thin to see; its branches leave it on alternating sides."""
    turn = 1.0 if rng.uniform() < 0.5 else -1.0
    while width > 0.055:
        chance = rng.random(5).tolist()
        length = 0.8 + 0.5 * chance[0]
        end = start[0] + length * sign * math.cos(angle), start[1] + length * math.sin(angle)
        lines.append((np.array([start, end]), width))
        if chance[1] < 0.62 and width > 0.08:
            turn = -turn
            _grow(lines, end, angle + turn * (0.35 + 0.45 * chance[2]), width * (0.5 + 0.22 * chance[3]), sign, rng)
        start, angle, width = end, angle + 0.13 * float(rng.standard_normal()), width * (0.86 + 0.08 * chance[4])


def draw_lines(view: View, lines: Sequence[Line], value: Callable[[float], float] = float) -> np.ndarray:
    """Draw lines with smooth edges, the strongest on top.

    Args:
        view: the film.
        lines: what to draw.
        value: from a line's diameter in cm to what is written.

    Returns:
        values, float32 (size, size); a line thinner than a pixel is as much weaker.
    """
    fine = 2 * view.size
    scale = fine / FIELD * view.zoom
    canvas = Image.new("F", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    ordered = sorted(lines, key=lambda line: line[1])
    every = (2 * view.pixels(np.concatenate([points for points, _ in ordered]))).ravel().tolist() if ordered else []
    first = 0
    for points, width in ordered:
        last = first + points.size
        strength = value(width) * min(1.0, width * scale)
        draw.line(every[first:last], fill=strength, width=max(1, round(width * scale)), joint="curve")
        first = last
    return np.asarray(canvas.resize((view.size, view.size), Image.Resampling.BOX))


def foreign_bodies(chest: Chest, rng: np.random.Generator) -> tuple[list[Line], list[tuple[np.ndarray, float]]]:
    """Cables, catheters and their ends, as on films of wards; none on most films.

    Args:
        chest: the person.
        rng: where the numbers come from.

    Returns:
        lines, and discs as place and radius in cm.
    """
    lines: list[Line] = []
    discs: list[tuple[np.ndarray, float]] = []
    if rng.uniform() < 0.25:  # cables of a monitor, each with its electrode
        for _ in range(int(rng.integers(1, 4))):
            end = np.array([rng.uniform(-10, 10), rng.uniform(8, 26)])
            start = np.array([rng.choice([-18.0, 18.0]), rng.uniform(2, 34)])
            lines.append((_curve(start, end, rng, 3.0), 0.16))
            discs.append((end, rng.uniform(0.35, 0.6)))
    if rng.uniform() < 0.15:  # a venous catheter from the neck
        sign = rng.choice([-1.0, -1.0, 1.0])
        path = np.array([[sign * 3.4, 0], [sign * 3.0, 4], [sign * 2.0, 7], [-1.9, 10], [-1.8, chest.apex + 10]])
        lines.append((_smooth(path), 0.17))
    if rng.uniform() < 0.1:  # a pacemaker with its lead
        place = np.array([rng.choice([-1.0, 1.0, 1.0]) * 9.0, chest.apex + rng.uniform(2.5, 5)])
        path = np.array([place, [0.5 * place[0], place[1] - 2], [-1.6, chest.apex + 6], [-1.2, 18], [3.0, 24]])
        lines.append((_smooth(path), 0.2))
        discs.append((place, 1.9))
    return lines, discs


def harmless(chest: Chest, view: View, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What may be taken for a finding: nipples, scars with chalk, round nodules, folds of skin, gas in the bowel.

    Args:
        chest: the person.
        view: the film.
        rng: where the numbers come from.

    Returns:
        soft tissue and air that are added, in cm, each (size, size).
    """
    x, y = view.places()
    soft, air = np.zeros_like(x), np.zeros_like(x)
    if rng.uniform() < 0.3:
        for sign in (-1, 1):
            soft += 0.9 * _blob(x, y, (sign * rng.uniform(7, 9), chest.dome[1] - rng.uniform(0, 3)), 0.45)
    for _ in range(int(rng.poisson(0.8))):
        place = rng.uniform(-0.85, 0.85) * chest.width, rng.uniform(chest.apex + 3, chest.dome[1])
        soft += rng.uniform(0.8, 2.5) * _blob(x, y, place, rng.uniform(0.12, 0.45))
    if rng.uniform() < 0.25:  # a fold of skin: an edge like the pleura's, but the vessels go on behind it
        line = x - rng.choice([-1, 1]) * chest.width * rng.uniform(0.55, 0.85) - 0.15 * (y - 15) * rng.uniform(-1, 1)
        long = np.clip((5 - np.abs(y - chest.apex - rng.uniform(5, 15))) / 2, 0, 1)
        soft += 0.9 * long * np.exp(-np.clip(line, 0, None) / 0.8) * np.clip(line / 0.1 + 0.5, 0, 1)
    for _ in range(int(rng.poisson(1.5))):
        place = rng.uniform(-2, 9), chest.dome[0] + rng.uniform(4, 9)
        air += rng.uniform(1, 2.5) * _blob(x, y, place, rng.uniform(0.6, 1.5))
    return soft, air


def _blob(x: np.ndarray, y: np.ndarray, place: tuple[float, float], radius: float) -> np.ndarray:
    return np.asarray(np.exp(-((((x - place[0]) ** 2 + (y - place[1]) ** 2) / radius**2) ** 1.5)))


def marker(view: View, rng: np.random.Generator) -> np.ndarray:
    """A lead letter that names the side it lies on, near the upper edge.

    Args:
        view: the film; the letter lies on the film, not in the chest.
        rng: where the numbers come from.

    Returns:
        0..1, float32 (size, size).
    """
    side = 1 if rng.uniform() < 0.6 else 2
    height = rng.uniform(0.035, 0.06) * view.size
    column = (0.5 + SIGN[side] * rng.uniform(0.38, 0.44)) * view.size
    canvas = Image.new("L", (view.size, view.size))
    place = (column - height / 2, rng.uniform(0.03, 0.12) * view.size)
    ImageDraw.Draw(canvas).text(place, LUNGS[side][0].upper(), fill=255, font=ImageFont.load_default(height))
    return np.asarray(canvas, dtype=np.float32) / 255


def _curve(start: np.ndarray, end: np.ndarray, rng: np.random.Generator, wander: float) -> np.ndarray:
    between = np.linspace(start, end, 5) + rng.normal(0, wander, (5, 2)) * np.array([0, 0.6, 1, 0.6, 0])[:, None]
    return _smooth(between)


def _smooth(path: np.ndarray) -> np.ndarray:
    from scipy.interpolate import PchipInterpolator  # here: only the embedded set needs it

    return np.asarray(PchipInterpolator(np.linspace(0, 1, len(path)), path)(np.linspace(0, 1, 60)))
