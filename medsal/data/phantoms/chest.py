"""The numbers of one planted chest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chest:
    """One person's numbers, in cm; drawn by `medsal.data.phantoms.thorax.draw_chest`.

    Attributes:
        width: from the midline to the lungs' outer edge at its widest.
        apex: height of the lungs' upper ends.
        dome: height of the diaphragm's domes, left and right.
        wall: thickness of the chest wall at the side.
        depth: of the trunk, from front to back.
        heart: half width, half height and tilt in radians.
        outline: bumps of the outer edges, one row per side.
        ribs: distance of neighbouring ribs, half width of a rib, how far they fall to the side and to the front.
        bone: how dense the bones are, 1 is usual.
        breast: of soft tissue before the lower lungs; 0 for none.
        shoulder: height of the shoulders at the neck and how much they fall per cm.
        jitter: small shifts for everything that comes in series (vertebrae, ribs).
    """

    width: float
    apex: float
    dome: tuple[float, float]
    wall: float
    depth: float
    heart: tuple[float, float, float]
    outline: np.ndarray
    ribs: tuple[float, float, float, float]
    bone: float
    breast: float
    shoulder: tuple[float, float]
    jitter: np.ndarray
