"""Methods that hide parts of the image and watch the score: windows that slide, and random masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.probe import Probe
from medsal.errors import UsageError

MASK_STREAM = 3
"""Stream of random numbers that RISE's masks are drawn from."""

PARTIAL = 2**24
"""Elements of masks that are summed at once."""

PerAxis = float | Sequence[float]


@dataclass(frozen=True)
class Blur:
    """A baseline: the image without its details, smoothed by a Gaussian.

    Args:
        sigma: standard deviation in voxels, one for all axes of space or one for each.

    Example:
        >>> image = torch.zeros(1, 1, 5, 5)
        >>> image[0, 0, 2, 2] = 1
        >>> bool(Blur(1.0)(image).max() < 0.2)
        True
    """

    sigma: float | tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Smooth images.

        Args:
            image: ``(B, C, *space)``.

        Returns:
            The same shape.
        """
        from monai.networks.layers import GaussianFilter

        smooth = GaussianFilter(image.ndim - 2, self.sigma).to(image)
        smoothed: Tensor = smooth(image)
        return smoothed


def occlusion(
    probe: Probe,
    *,
    window: PerAxis = 16,
    stride: PerAxis | None = None,
    unit: str = "voxel",
    baseline: Baseline = 0.0,
) -> Tensor:
    r"""What the score loses when a window of the image is replaced, averaged over the windows that cover a voxel.

    :math:`m(v) = \mathrm{mean}_{W \ni v} \left( s(x) - s(x_{W \leftarrow b}) \right)`, Zeiler and Fergus 2013,
    arXiv:1311.2901. Windows start at every multiple of the stride until the far edge is reached, where the last one is
    cut; they cover all channels.

    Args:
        probe: the images under study.
        window: edge of the window, one for all axes of space or one for each; at most the image's.
        stride: distance between windows, likewise; at most the window. None takes half of the window.
        unit: of window and stride: ``voxel``, or ``mm`` by the image's spacing, rounded to at least 1 voxel.
        baseline: what is seen in the window, see ``baseline_images``; ``Blur(sigma)`` hides details only.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if a window or stride does not fit.
    """
    space = probe.image.shape[2:]
    edges = _in_voxels(probe, "window", window, unit)
    steps = [max(1, edge // 2) for edge in edges] if stride is None else _in_voxels(probe, "stride", stride, unit)
    if any(step > edge for step, edge in zip(steps, edges, strict=True)):
        raise UsageError(f"stride: wanted at most the window, {tuple(edges)} voxels, got {tuple(steps)}")
    edges = [min(edge, n) for edge, n in zip(edges, space, strict=True)]
    covers = [_covers(*sizes, probe.image) for sizes in zip(space, edges, steps, strict=True)]
    counts = [cover.shape[1] for cover in covers]
    shown = baseline_images(probe, baseline)

    def occluded(rows: Tensor, index: Tensor) -> Tensor:
        hidden = torch.ones((), dtype=torch.bool, device=rows.device)
        for axis, (cover, at) in enumerate(zip(covers, torch.unravel_index(index, counts), strict=True)):
            line = cover[:, at].T.bool()
            hidden = hidden & line.view(len(rows), 1, *[n if i == axis else 1 for i, n in enumerate(space)])
        return torch.where(hidden, shown[rows], probe.image[rows])

    key = ("occlusion", *edges, *steps, _key(baseline))
    losses = probe.score[:, None] - probe.scores_at(key, math.prod(counts), occluded)
    found = losses.view(-1, *counts)
    for axis, cover in enumerate(covers, 1):
        mean = cover / cover.sum(1, keepdim=True)
        found = torch.tensordot(found, mean.to(found.dtype), ([axis], [1])).movedim(-1, axis)
    return found.unsqueeze(1)


def _covers(size: int, window: int, stride: int, like: Tensor) -> Tensor:
    """Which window covers which voxel along one axis, ``(size, windows)`` of 0 and 1."""
    starts = torch.arange(math.ceil((size - window) / stride) + 1, device=like.device) * stride
    voxels = torch.arange(size, device=like.device)[:, None]
    return ((voxels >= starts) & (voxels < starts + window)).to(like.dtype)


def _in_voxels(probe: Probe, name: str, wanted: PerAxis, unit: str) -> list[int]:
    """Lengths along the axes of space."""
    lengths = _per_axis(name, wanted, probe)
    if unit == "mm":
        return [max(1, round(n / spacing)) for n, spacing in zip(lengths, probe.spacing, strict=True)]
    if unit != "voxel":
        raise UsageError(f"unit: wanted voxel or mm, got {unit!r}")
    if any(n != int(n) for n in lengths):
        raise UsageError(f"{name}: wanted whole voxels, got {wanted!r}; give unit='mm' for millimetres")
    return [int(n) for n in lengths]


def _per_axis(name: str, wanted: PerAxis, probe: Probe) -> list[float]:
    dims = probe.image.ndim - 2
    lengths = list(wanted) if isinstance(wanted, Sequence) else [wanted] * dims
    if len(lengths) != dims or not all(isinstance(n, int | float) and n > 0 for n in lengths):
        raise UsageError(f"{name}: wanted a number above 0, or one for each of {dims} axes, got {wanted!r}")
    return lengths


def _key(baseline: Baseline) -> Any:
    """What tells one baseline from another under which forwards are remembered."""
    return ("tensor", id(baseline)) if isinstance(baseline, Tensor) else baseline


def rise(
    probe: Probe,
    *,
    masks: int = 4000,
    cells: int | Sequence[int] = 7,
    probability: float = 0.5,
    baseline: Baseline = 0.0,
) -> Tensor:
    r"""Random masks, each weighted by the score of the image seen through it.

    :math:`m = \frac{1}{N p} \sum_i s(x \odot M_i + b \odot (1 - M_i)) M_i`, where :math:`M_i` is a coarse grid,
    each cell of it open with probability p, enlarged linearly and shifted at random by less than a cell; Petsiuk et
    al. 2018, arXiv:1806.07421. The masks depend on the seed and their number alone; every image of a batch is seen
    through the same.

    Args:
        probe: the images under study.
        masks: how many, N; the paper takes 4000 for a VGG16 and 8000 for a ResNet50.
        cells: cells along each axis of space, one number for all or one for each.
        probability: of a cell to be open, p.
        baseline: what is seen where a mask is closed, see ``baseline_images``.

    Returns:
        Relevance ``(B, 1, *space)``, the mean score of masks that show a voxel; signed like the score.

    Raises:
        UsageError: if there is no mask or no cell, or the probability is not between 0 and 1.
    """
    if masks < 1 or masks != int(masks):
        raise UsageError(f"masks: wanted at least 1, got {masks!r}")
    if not 0 < probability < 1:
        raise UsageError(f"probability: wanted one between 0 and 1, got {probability!r}")
    grid = [int(n) for n in _in_voxels(probe, "cells", cells, "voxel")]
    grid = [min(n, size) for n, size in zip(grid, probe.image.shape[2:], strict=True)]
    draw = _MaskMaker(probe, grid, probability)
    shown = baseline_images(probe, baseline)

    def seen(rows: Tensor, index: Tensor) -> Tensor:
        return torch.lerp(shown[rows], probe.image[rows], draw.masks(index))

    scores = probe.scores_at(("rise", masks, *grid, probability, _key(baseline)), masks, seen)
    found = torch.zeros_like(probe.image[:, 0])
    size = max(1, PARTIAL // probe.image[0, 0].numel())
    for start in range(0, masks, size):
        index = torch.arange(start, min(start + size, masks), device=found.device)
        draw.add(found, scores[:, index].to(found.dtype), index)
    return found.unsqueeze(1) / (masks * probability)


class _MaskMaker:
    """Makes the i-th mask whenever it is asked for; a mask is a grid times one matrix of linear weights per axis."""

    def __init__(self, probe: Probe, grid: Sequence[int], probability: float) -> None:
        self.seed = probe.seed
        self.like = probe.image
        self.space = probe.image.shape[2:]
        self.grid = grid
        self.probability = probability

    def _drawn(self, index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Grids ``(N, *grid)``, and along each axis weights ``(N, size, cells)``."""
        grids, shifts = [], []
        for i in index.tolist():
            generator = torch.Generator().manual_seed(hash((self.seed, MASK_STREAM, i)))
            grids.append(torch.rand(*self.grid, generator=generator) < self.probability)
            shifts.append(torch.rand(sum(n > 1 for n in self.space), generator=generator, dtype=torch.float64))
        drawn = torch.stack(shifts).unbind(1)
        moved = iter(drawn)
        weights = [
            self._weights(size, cells, next(moved) if size > 1 else torch.zeros(len(index), dtype=torch.float64))
            for size, cells in zip(self.space, self.grid, strict=True)
        ]
        return torch.stack(grids).to(self.like), [w.to(self.like) for w in weights]

    @staticmethod
    def _weights(size: int, cells: int, shift: Tensor) -> Tensor:
        """Linear interpolation from a grid stretched over one cell more than the image, cut at a random place."""
        cell = math.ceil(size / cells)
        at = torch.arange(size) + (shift * cell).floor()[:, None] + 0.5
        at = (at * cells / ((cells + 1) * cell) - 0.5).clamp(0, cells - 1)
        return (1 - (at[..., None] - torch.arange(cells)).abs()).clamp_min(0)

    def _stretched(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Masks that are still to be stretched along the last axis, ``(N, *space[:-1], cells)``, and its weights."""
        partial, weights = self._drawn(index)
        for axis, weight in enumerate(weights[:-1], 1):
            moved = partial.movedim(axis, 1)
            partial = (weight @ moved.flatten(2)).reshape(*weight.shape[:2], *moved.shape[2:]).movedim(1, axis)
        return partial, weights[-1]

    def masks(self, index: Tensor) -> Tensor:
        """Masks ``(N, 1, *space)``."""
        partial, last = self._stretched(index)
        return (partial.flatten(1, -2) @ last.mT).view(len(index), 1, *self.space)

    def add(self, total: Tensor, scores: Tensor, index: Tensor) -> None:
        """Add masks times scores ``(B, N)`` to ``(B, *space)``."""
        partial, last = self._stretched(index)
        lines, flat = partial.flatten(1, -2).transpose(0, 1), total.view(len(total), -1, total.shape[-1])
        for image, score in zip(flat, scores, strict=True):
            image.add_((lines * score[:, None]).flatten(1) @ last.mT.flatten(0, 1))
