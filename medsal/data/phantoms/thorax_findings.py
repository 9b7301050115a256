"""What is wrong in a planted film: air beside the lung, or fluid in it.

A finding changes nothing but the thickness of tissue where it lies: exposure, scatter and window of the film are those
of the same film without it. So a film and its twin differ at the finding, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsal.data.phantoms.chest import Chest
from medsal.data.phantoms.thorax import FIELD, LUNGS, SIGN, Tissue, View
from medsal.data.phantoms.thorax_details import Line, draw_lines

__all__ = ["FINDINGS", "Change", "pneumonia", "pneumothorax", "smooth_field"]

FINDINGS = ("pneumothorax", "pneumonia")


@dataclass(frozen=True)
class Change:
    """A finding on a film, each (size, size).

    Attributes:
        markings: by what vessels and texture of the lung are multiplied.
        lung: by what the lung tissue is multiplied.
        soft: soft tissue that is added, in cm.
        parts: truth: 0, and 1, 2, ... inside each part of the finding.
    """

    markings: np.ndarray
    lung: np.ndarray
    soft: np.ndarray
    parts: np.ndarray


def smooth_field(view: View, rng: np.random.Generator, grain: float) -> np.ndarray:
    """Random numbers that vary smoothly over the film, the same at every size of it.

    Args:
        view: the film.
        rng: where the numbers come from.
        grain: distance in cm over which they change.

    Returns:
        values of about zero mean and unit deviation, float32 (size, size).
    """
    from PIL import Image  # here: only the embedded set needs it

    count = max(4, round(FIELD / grain))
    noise = rng.standard_normal((count, count)).astype(np.float32) * 1.35
    return np.asarray(Image.fromarray(noise).resize((view.size, view.size), Image.Resampling.BICUBIC))


def pneumothorax(chest: Chest, view: View, tissue: Tissue, rng: np.random.Generator) -> Change:
    """Air between lung and chest wall: a crescent without vessels, bounded by the fine line of the pleura.

    Widest at the apex or along the side; in one of six films on both sides.

    Args:
        chest: the person.
        view: the film.
        tissue: the film without the finding.
        rng: where the numbers come from.

    Returns:
        the change; a part of it is one side.
    """
    first = int(rng.integers(1, 3))
    sides = [1, 2] if rng.uniform() < 1 / 6 else [first]
    y = view.places()[1]
    share = np.clip((y - chest.apex) / (chest.dome[1] - chest.apex), -0.1, 1.3)
    markings, lung, soft = np.ones_like(y), np.ones_like(y), np.zeros_like(y)
    parts = np.zeros(y.shape, np.uint8)
    wave = smooth_field(view, rng, 9.0)
    for number, side in enumerate(sides, 1):
        apical = rng.uniform() < 0.6
        most, reach = rng.uniform(1.3, 3.6), rng.uniform(0.35, 0.8)
        along = np.clip(1 - share / reach, 0, 1) ** 0.6 if apical else _hump(share, rng.uniform(0.35, 0.6), reach)
        lateral = most * along
        above = most * rng.uniform(0.8, 1.1) if apical else 0.6 * most * rng.uniform(0, 0.8)
        # distance to the line that the lung has drawn back to: negative where there is air
        wide = np.maximum(lateral, above * np.clip((above - tissue.top) / 1.5 + 1, 0, 1))
        there = np.clip(wide / 0.5 - 0.3, 0, 1) * (tissue.fields == side)  # 0 where the gap is too thin to be seen
        inside = _smooth_minimum(tissue.edge - lateral, tissue.top - above) - 0.06 * wave * most * there
        air = (there > 0) & (inside < 0)
        pixel = FIELD / view.size
        shade = np.clip(0.5 - inside / max(pixel, 0.08), 0, 1) * (there > 0)
        kept = rng.uniform(0.25, 0.6)
        markings = markings * (1 - shade)
        lung = lung * (1 - (1 - kept) * shade)
        line = np.exp(-((inside / max(0.09, 0.55 * pixel)) ** 2)) * there
        rim = np.clip(1 - inside, 0, 1) ** 2 * (inside >= 0) * there  # the lung is denser where it has drawn back
        soft = soft + rng.uniform(0.5, 1.0) * line + 0.35 * rim
        parts = np.where(air, np.uint8(number), parts)
    return Change(markings, lung, soft, parts)


def pneumonia(
    chest: Chest, view: View, tissue: Tissue, tree: dict[int, list[Line]], rng: np.random.Generator
) -> Change:
    """Consolidated lung: soft-edged opacities in which the vessels drown and air-filled bronchi stay dark.

    One to three opacities, more often low in the lung; each stays within its lung's field.

    Args:
        chest: the person.
        view: the film.
        tissue: the film without the finding.
        tree: the vessels, which the bronchi run along.
        rng: where the numbers come from.

    Returns:
        the change; a part of it is one opacity.
    """
    count = int(rng.choice([1, 2, 3], p=[0.55, 0.35, 0.1]))
    ragged = 0.45 * smooth_field(view, rng, 3.2) + 0.25 * smooth_field(view, rng, 1.3)
    patchy = 1 + 0.13 * smooth_field(view, rng, 0.8) + 0.08 * smooth_field(view, rng, 0.4)
    weight, soft = np.zeros_like(ragged), np.zeros_like(ragged)
    parts = np.zeros(ragged.shape, np.uint8)
    for _ in range(count):
        fade = _opacity(chest, view, tissue, ragged, rng)
        own = (fade > 0) & (parts == 0)
        if parts.any() and own.sum() < 0.5 * (fade > 0).sum():  # it lies behind another one
            continue
        soft = np.maximum(soft, rng.uniform(2.2, 5.5) * fade * np.clip(patchy, 0.4, 1.6))
        weight = np.maximum(weight, fade)
        parts = np.where(own, np.uint8(parts.max() + 1), parts)
    bronchi = [(points, 0.6 * width) for lines in tree.values() for points, width in lines if width > 0.13]
    soft = np.clip(soft * (1 - 0.45 * np.clip(draw_lines(view, bronchi, lambda _: 1.0), 0, 1)), 0, None)
    return Change(1 - 0.9 * weight, np.ones_like(soft), soft, parts)


def _opacity(chest: Chest, view: View, tissue: Tissue, ragged: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How fully one opacity is there, 0 to 1: where most of it lies within a lung, low in it more often than high."""
    x, y = view.places()
    best = np.zeros_like(x)
    for _ in range(12):
        side = int(rng.integers(1, len(LUNGS) + 1))
        share = rng.triangular(0.15, 0.75, 0.95)
        a = chest.width * rng.uniform(0.42, 0.85) * (0.75 + 0.25 * min(1.0, 2 * share))
        dx, dy = x - SIGN[side] * a, y - chest.apex - share * (chest.dome[side - 1] - chest.apex)
        wide, tall, turn = rng.uniform(2.4, 4.8), rng.uniform(2.4, 4.8), rng.uniform(-0.6, 0.6)
        u = (np.cos(turn) * dx + np.sin(turn) * dy) / wide
        v = (np.cos(turn) * dy - np.sin(turn) * dx) / tall
        away = np.hypot(u, v)
        fade = np.clip(_ease((1.15 - away + 0.5 * ragged * (away < 2)) / 0.85) - 0.12, 0, None) / 0.88
        fade = fade * (tissue.fields == side)
        if fade.sum() > best.sum():
            best = fade
        if (best > 0).sum() * (FIELD / view.size) ** 2 > 10:  # cm^2: not hidden by the heart or the diaphragm
            break
    return best


def _hump(share: np.ndarray, middle: float, width: float) -> np.ndarray:
    return np.asarray(np.clip(1 - ((share - middle) / width) ** 2, 0, 1))


def _smooth_minimum(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(-np.logaddexp(-1.8 * first, -1.8 * second) / 1.8)


def _ease(value: np.ndarray) -> np.ndarray:
    kept = np.clip(value, 0, 1)
    return np.asarray(kept * kept * (3 - 2 * kept))
