"""Heads with planted truth: each case is a function of world coordinates, drawn from one integer.

A case can be sampled on any grid, so a whole head in any orientation and a training crop are two views of one
definition. What a scanner and a person would add is drawn from the case's seed: pose and a smooth warp
(`phantoms.template` is exactly symmetric, the warp is not), contrast, a bias field, Rician noise, and distractors
(cysts and bright or dark spots off the hippocampus) that appear in both classes alike. Class 1 (TLE) has, besides, a
hippocampus on one side that is shrunken (the rim becomes fluid) and darker, over a part of its length; part and
strength are graded.

The same seed with ``label=0`` and ``label=1`` gives twins that differ by the lesion alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from medsal.data.phantoms.template import SIDES, Template, along_hippocampus, load_template, within

__all__ = ["PlantedCase", "PlantedImages", "planted_case"]

# The streams of random numbers of one seed: a change in one part of a case leaves the others as they were.
_ANATOMY, _ACQUISITION, _DISTRACTORS, _LESION, _NOISE = range(5)
_FLUID = 82.0  # T1 intensity of fluid in the template (grey matter about 165, white matter about 225)
_FIELD_LOW, _FIELD_STEP, _FIELD_SIZE = np.array([-104.0, -144.0, -96.0]), 8.0, (27, 33, 28)


@dataclass(frozen=True)
class PlantedImages:
    """One case on one grid.

    Attributes:
        image: T1-like intensities, int16, exactly 0 outside the brain.
        lesion: 1 inside the planted lesion.
        regions: values of `medsal.data.phantoms.template.REGIONS`, the hippocampus in its extent before the atrophy.
        affine: 4x4 matrix from voxel indices to world mm.
    """

    image: np.ndarray
    lesion: np.ndarray
    regions: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class PlantedCase:
    """One person's head.

    Attributes:
        seed: every random number of the case follows from it.
        label: 0 healthy (HC), 1 temporal lobe epilepsy (TLE).
        side: side of the lesion, ``"left"`` or ``"right"``; ``""`` for label 0.
        extent: part of the hippocampus' length that is ill, 0..1.
        strength: how ill that part is, 0..1: shrinks by 4 to 40 % of its radius, darkens by 2 to 25 %.
        session: another session is another scan of the same head: new pose, contrast, bias field and noise.
    """

    seed: int
    label: int
    side: str
    extent: float
    strength: float
    session: int = 1
    template: Template = field(default_factory=load_template, repr=False, compare=False)

    @property
    def label_name(self) -> str:
        """HC, left or right."""
        return self.side or "HC"

    @cached_property
    def _warp(self) -> torch.Tensor:
        """Displacement in mm, coarse and smooth, the two sides independent (3, x, y, z)."""
        return _smooth_fields(_stream(self.seed, _ANATOMY), channels=3, smoothness=18.0) * 2.2

    @cached_property
    def _bias(self) -> torch.Tensor:
        """Logarithm of the bias field (1, x, y, z)."""
        rng = _stream(self.seed, _ACQUISITION, self.session, 1)
        return _smooth_fields(rng, channels=1, smoothness=40.0) * rng.uniform(0.04, 0.12)

    @cached_property
    def _pose(self) -> np.ndarray:
        """From world to the head's own coordinates, 4x4."""
        person, scan = _stream(self.seed, _ANATOMY, 1), _stream(self.seed, _ACQUISITION, self.session)
        angles = np.deg2rad(scan.uniform(-5, 5, 3))
        pose = np.diag([*(1 / person.uniform(0.96, 1.04, 3)), 1.0])
        for axis, angle in enumerate(angles):
            turn = np.eye(4)
            first, second = (axis + 1) % 3, (axis + 2) % 3
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            pose = pose @ turn
        shift = np.eye(4)
        shift[:3, 3] = scan.uniform(-4, 4, 3)
        return np.asarray(pose @ shift)

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Where world positions lie in the template.

        Args:
            points: world positions (n, 3), in mm.

        Returns:
            positions in the template's space (n, 3), in mm, float32.
        """
        own = points @ self._pose[:3, :3].T.astype(np.float32) + self._pose[:3, 3].astype(np.float32)
        moved = own + _look_up(self._warp, own, _FIELD_LOW, _FIELD_STEP).T
        return np.asarray(moved, dtype=np.float32)

    def sample(self, affine: np.ndarray, shape: tuple[int, int, int], *, noise: bool = True) -> PlantedImages:
        """The case on a grid.

        Args:
            affine: 4x4 matrix from voxel indices to world mm.
            shape: number of voxels per axis.
            noise: with the scanner's noise, drawn for this grid from the case's seed.

        Returns:
            image, lesion and regions on the grid.
        """
        affine = np.asarray(affine, dtype=float)
        image, lesion, regions = (np.zeros(shape, dtype) for dtype in (np.int16, np.uint8, np.uint8))
        grid_id = zlib.crc32(affine.astype(np.float32).tobytes() + np.asarray(shape, np.int32).tobytes())
        rng = _stream(self.seed, _NOISE, self.session, grid_id)
        for voxels in self._near_brain(affine, shape):
            world = voxels.astype(np.float32) @ affine[:3, :3].T.astype(np.float32) + affine[:3, 3].astype(np.float32)
            place = tuple(voxels.T)
            image[place], lesion[place], regions[place] = self._at(world, rng if noise else None)
        return PlantedImages(image, lesion, regions, affine)

    def _near_brain(self, affine: np.ndarray, shape: tuple[int, int, int], block: int = 6) -> list[np.ndarray]:
        """Voxel indices of the blocks that may hold brain, in pieces of at most some 10^5."""
        corners = np.stack(np.meshgrid(*(np.arange(0, n, block) for n in shape), indexing="ij"), -1).reshape(-1, 3)
        centres = (corners + (block - 1) / 2) @ affine[:3, :3].T + affine[:3, 3]
        reach = np.linalg.norm(affine[:3, :3], axis=0).sum() * block / 2 + 1
        target = self.to_template(centres.astype(np.float32)) - self.template.origin
        near = _grown_brain(self.template, reach)
        index = np.clip(np.round(target / 4).astype(int), 0, np.array(near.shape) - 1)
        kept = corners[near[tuple(index.T)]].astype(np.int32)
        inside = np.stack(np.meshgrid(*[np.arange(block, dtype=np.int32)] * 3, indexing="ij"), -1).reshape(1, -1, 3)
        pieces = []
        for part in np.array_split(kept, max(1, len(kept) // 600)):
            voxels = (part[:, None] + inside).reshape(-1, 3)
            pieces.append(voxels[within(voxels, (-1, -1, -1), shape)])
        return pieces

    def _at(self, world: np.ndarray, noise: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, lesion and region values at world positions."""
        points = self.to_template(world)
        regions = _nearest(self.template.labels, points, self.template.origin)
        t1 = _look_up(self.template.t1[None], points, self.template.origin, 1.0)[0]
        lesion = np.zeros(len(points), dtype=np.uint8)
        for side in SIDES:
            self._hippocampus(points, side, t1, regions, lesion)
        self._add_distractors(points, t1)
        image = self._acquire(world, t1, noise)
        brain = regions > 0
        regions[regions == 5] = 0
        return np.where(brain, np.clip(np.rint(image * 4), 1, 32767), 0).astype(np.int16), lesion, regions

    def _hippocampus(
        self, points: np.ndarray, side: str, t1: np.ndarray, regions: np.ndarray, lesion: np.ndarray
    ) -> None:
        """Write one side's hippocampus (its own brightness, and the lesion on the ill side) into t1 and lesion."""
        mirrored = points * np.array([SIDES[side], 1, 1], dtype=np.float32)
        box = np.flatnonzero(within(mirrored, (12, -47, -30), (38, -1, 7)))
        if not len(box):
            return
        near = points[box]
        rho, position, axis = along_hippocampus(near, side)
        grey = _look_up(self.template.grey[None], near, self.template.origin, 1.0)[0]
        tissue = np.clip((grey - 0.4) / 0.2, 0, 1) * np.clip((1.1 - rho) / 0.2, 0, 1)
        value = t1[box] * (1 + tissue * _stream(self.seed, _ANATOMY, 2).uniform(-0.05, 0.05))
        if side == self.side:
            middle = self.extent / 2 + (1 - self.extent) * _stream(self.seed, _LESION, 1).uniform()
            ill = np.clip((self.extent / 2 - np.abs(position - middle)) / 0.12 + 0.5, 0, 1)
            kept = 1 - (0.04 + 0.36 * self.strength) * ill
            inner = axis + (near - axis) / kept[:, None]
            shrunken = _look_up(self.template.t1[None], inner, self.template.origin, 1.0)[0]
            shrunken *= 1 - (0.02 + 0.23 * self.strength) * ill
            rim = np.clip((rho - kept) / 0.15 + 0.5, 0, 1) * np.clip((1 - kept) / 0.25, 0, 1)
            value += tissue * np.clip((ill - 0.3) / 0.4, 0, 1) * (shrunken * (1 - rim) + _FLUID * rim - value)
            lesion[box] = (ill * tissue >= 0.5) & (regions[box] == (1 if side == "left" else 2))
        t1[box] = value

    def _add_distractors(self, points: np.ndarray, t1: np.ndarray) -> None:
        """Write cysts and bright or dark spots into t1: both classes, both sides, off the hippocampus."""
        rng = _stream(self.seed, _DISTRACTORS)
        for _ in range(int(rng.integers(2, 6))):
            centre = self.template.candidates[rng.integers(len(self.template.candidates))]
            radius, kind = rng.uniform(2.0, 4.5), int(rng.integers(3))
            near = np.flatnonzero(within(points, centre - radius - 1, centre + radius + 1))
            distance = np.linalg.norm(points[near] - centre, axis=1)
            weight = np.clip((radius - distance) / 1.2 + 0.5, 0, 1)
            now = t1[near]
            t1[near] = now + weight * ((_FLUID - now), (0.7 * now - now), (1.2 * now - now))[kind]

    def _acquire(self, world: np.ndarray, t1: np.ndarray, noise: np.random.Generator | None) -> np.ndarray:
        """Contrast, bias field and Rician noise of this scan."""
        rng = _stream(self.seed, _ACQUISITION, self.session, 2)
        knots = np.array([0, _FLUID, 165, 225, 300.0])
        levels = np.array([0, *(knots[1:] * rng.uniform(0.92, 1.08, 4))])
        value = np.interp(t1, knots, np.maximum.accumulate(levels)).astype(np.float32)
        value = 225 * (np.maximum(value, 0) / 225) ** rng.uniform(0.8, 1.25)
        sigma = np.float32(225 * rng.uniform(0.015, 0.05))
        value *= np.exp(_look_up(self._bias, world, _FIELD_LOW, _FIELD_STEP)[0])
        if noise is None:
            return np.asarray(value)
        first, second = noise.standard_normal((2, len(value)), dtype=np.float32) * sigma
        return np.asarray(np.hypot(value + first, second))


def planted_case(seed: int, *, label: int | None = None, side: str = "", session: int = 1) -> PlantedCase:
    """The case of an integer: even seeds are healthy, odd ones ill, left and right in turn.

    Args:
        seed: every random number of the case follows from it.
        label: 0 or 1, instead of the seed's own.
        side: ``"left"`` or ``"right"``, instead of the seed's own.
        session: number of the scan of this head.

    Returns:
        the case; nothing is computed before it is sampled.

    Example:
        >>> case = planted_case(7)
        >>> case.label, case.side, planted_case(7, label=0).side
        (1, 'right', '')
    """
    rng = _stream(seed, _LESION)
    extent, strength = rng.uniform(0.35, 1.0), rng.uniform(0.15, 1.0)
    ill = seed % 2 if label is None else label
    own_side = side or ("left", "right")[seed // 2 % 2]
    case = PlantedCase(seed, ill, own_side, float(extent), float(strength), session)
    return case if ill else replace(case, side="", extent=0.0, strength=0.0)


def _stream(seed: int, *parts: int) -> np.random.Generator:
    return np.random.default_rng([seed, *parts])


def _smooth_fields(rng: np.random.Generator, *, channels: int, smoothness: float) -> torch.Tensor:
    """Gaussian-smoothed white noise of unit deviation on the coarse grid."""
    from scipy.ndimage import gaussian_filter  # here: only the embedded set needs it

    noise = rng.standard_normal((channels, *_FIELD_SIZE))
    smooth = np.stack([gaussian_filter(part, smoothness / _FIELD_STEP) for part in noise])
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy(smooth.astype(np.float32))


def _look_up(volume: torch.Tensor, points: np.ndarray, origin: np.ndarray, step: float) -> np.ndarray:
    """Linear interpolation of (C, x, y, z) at world positions (n, 3): (C, n); the edge value outside."""
    size = torch.tensor(volume.shape[:0:-1], dtype=torch.float32)
    index = torch.from_numpy(points).flip(1) - torch.from_numpy(origin[::-1].astype(np.float32))
    grid = (index * (2 / step / (size - 1)) - 1)[None, None, None]
    found = torch.nn.functional.grid_sample(volume[None], grid, padding_mode="border", align_corners=True)
    return np.asarray(found[0, :, 0, 0].numpy())


def _nearest(volume: np.ndarray, points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Value of the nearest voxel at world positions; 0 outside."""
    index = np.rint(points - origin.astype(np.float32)).astype(np.int32)
    inside = within(index, (-1, -1, -1), volume.shape)
    index[~inside] = 0
    return np.asarray(np.where(inside, volume[tuple(index.T)], 0), dtype=volume.dtype)


@lru_cache(maxsize=16)
def _grown_brain(template: Template, reach: float) -> np.ndarray:
    """The brain grown by ``reach`` mm at every 4 mm of the template."""
    from scipy.ndimage import distance_transform_edt  # here: only the embedded set needs it

    coarse = template.labels[::4, ::4, ::4] > 0
    return np.asarray(distance_transform_edt(~coarse) * 4 <= reach + 7)
