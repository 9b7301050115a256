"""The bones of a chest: how much cortical bone each ray crosses, in cm, and the shapes that bodies are made of.

Positions are those of `medsal.data.phantoms.thorax`: ``a`` counts from the midline to either side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medsal.data.phantoms.chest import Chest

__all__ = ["ellipsoid", "ribs", "rounded", "shoulder_bones", "spine"]


def rounded(distance: np.ndarray, radius: float) -> np.ndarray:
    """How a rounded body thickens behind its edge: 0 outside, 1 from ``radius`` inwards, a circle between."""
    return np.sqrt(1 - (1 - np.clip(distance / radius, 0, 1)) ** 2)


def ellipsoid(x: np.ndarray, y: np.ndarray, place: tuple[float, float], size: tuple[float, float, float]) -> np.ndarray:
    """Thickness of an ellipsoid; ``size`` is half width, half height and full depth."""
    q = ((x - place[0]) / size[0]) ** 2 + ((y - place[1]) / size[1]) ** 2
    return np.asarray(size[2] * np.sqrt(np.clip(1 - q, 0, None)))


def spine(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Vertebrae with their rims, arches, spinous and transverse processes, parted by discs."""
    number = (y + 0.4 * chest.jitter[3]) / (1.75 + 0.022 * y)
    part = number - np.floor(number) - 0.5
    bow = 0.25 * chest.jitter[4] * np.sin((y - 5) / 12)
    away = np.abs(x - bow)
    half = 1.45 + 0.012 * y - 0.14 * np.cos(2 * np.pi * part)
    bodies = np.clip((half - away) / 0.12, 0, 1) * (1.15 - 0.55 * np.clip((np.abs(part) - 0.38) / 0.06, 0, 1))
    rims = np.exp(-(((np.abs(part) - 0.37) / 0.04) ** 2)) * (away < half)
    arches = np.exp(-((np.hypot((away - 0.95) / 0.32, (part + 0.1) / 0.2) - 1) ** 2) / 0.12)
    thorn = np.exp(-((away / 0.28) ** 4) - ((part - 0.2) / 0.2) ** 4)
    cross = np.exp(-(((part + 0.12) / 0.14) ** 2)) * np.clip((3.1 - away) / 0.3, 0, 1) * (away > half)
    return np.asarray(0.6 * bodies + 0.15 * rims + 0.22 * arches + 0.25 * thorn + 0.12 * cross)


def ribs(chest: Chest, a: np.ndarray, y: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Both halves of every rib: from the spine to the side behind, and steeply back to the middle in front.

    Seen from the front a rib is an ellipse, so the n-th rib's line is an explicit function of the way to the side;
    solved for n, one evaluation draws all of them.

    Args:
        chest: the person.
        a: distance from the midline.
        y: height.
        outer: distance of the lung's outer edge at that height.

    Returns:
        thickness in cm.
    """
    gap, half, fall, front = chest.ribs
    u = np.clip(a / (outer + 0.45), 0, 1)
    bend = np.sqrt(1 - u**2)
    turn = np.clip((1 - u) / 0.04, 0, 1) * (a < outer + 0.45)
    total = np.zeros_like(a)
    first = chest.apex + 0.2
    behind = (y - first - fall * (0.75 * u - bend + 1 - 0.75 * u**0.5)) / gap
    before = (y - first - 0.75 * fall - front * bend * (1 - 0.25 * u)) / gap
    for number, stronger, fade in ((behind, 1.0, a > 1.6), (before, 0.8, np.clip((u - 0.38) / 0.2, 0, 1))):
        nearest = np.clip(np.rint(number), 0, 9)
        shift = 0.06 * chest.jitter[10 + nearest.astype(int)]
        lean = 1 + 0.9 * u**3 if stronger == 1.0 else 1.25 + 0.5 * u**2
        v = np.abs(number - nearest - shift) * gap / (half * lean * (0.8 + 0.02 * nearest))
        shell = rounded(1 - v, 1.0) - 0.72 * np.sqrt(np.clip(1 - (v / 0.78) ** 2, 0, 1))
        total += stronger * fade * turn * (0.55 * shell + 0.08 * (v < 1))
    return total


def shoulder_bones(chest: Chest, a: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """One side's collarbone, shoulder blade and head of the humerus."""
    own = chest.jitter[5 + side]
    line = chest.apex + 2.6 + 0.3 * own - 0.26 * (a - 2) - 0.5 * np.sin((a - 2) / 3.4)
    v = np.abs(y - line) / (0.62 + 0.05 * np.clip(5 - a, 0, 3))
    along = np.clip((a - 1.5) / 0.4, 0, 1) * np.clip((chest.width + 2.2 - a) / 0.6, 0, 1)
    clavicle = (0.9 * rounded(1 - v, 1.0) - 0.5 * rounded(0.75 - v, 0.75)) * along
    rim = chest.width * 0.93 + 0.2 * own + 0.1 * (y - chest.apex - 8) ** 2 * (y < chest.apex + 8)
    tip = chest.apex + 14.5 + own
    inner = a - rim - 0.045 * np.clip(y - chest.apex - 8, 0, None) ** 2
    blade = np.clip(inner / 0.15, 0, 1) * np.clip((tip - y) / 0.3, 0, 1) * np.clip((y - chest.apex - 1.5) / 1, 0, 1)
    blade = blade * np.clip((chest.width + 5 - 0.25 * (y - chest.apex) - a) / 0.2, 0, 1)
    scapula = blade * (0.22 + 0.25 * np.exp(-((inner / 0.3) ** 2)))
    head = ellipsoid(a, y, (chest.width + 4.6, chest.apex + 1.8), (2.3, 2.4, 0.7))
    return np.asarray(clavicle + scapula + head)
