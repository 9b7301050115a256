"""The best that a perfect map can score: boxes are larger than what is in them, and CAMs coarser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.truth import bare, prevalence

Metric = Callable[[Tensor, Tensor], Tensor]
Box = Sequence[tuple[int, int]]


def bounding_boxes(mask: Tensor) -> Tensor:
    """Fill the bounding box of each connected finding: what is left of a mask where only boxes were drawn.

    Args:
        mask: boolean ``(B, 1, *space)``; findings connected by a corner are one.

    Returns:
        Boolean, of the same shape.
    """
    from scipy import ndimage

    found = torch.zeros_like(bare(mask), dtype=torch.bool)
    for row, truth in zip(found, mask.bool().cpu().numpy(), strict=True):
        labels, _ = ndimage.label(truth[0], np.ones([3] * truth[0].ndim))
        for box in ndimage.find_objects(labels):
            row[0][box] = True
    return found


def box_ceiling(boxes: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""The average precision of a perfect map against boxes instead of outlines, :math:`f + (1 - f) p`.

    :math:`p` is the share of the image in boxes and :math:`f` the share of the boxes that is truly the finding: what of
    a box the map rightly leaves out comes last, at precision p.

    Args:
        boxes: boxes as a boolean mask ``(B, 1, *space)``.
        mask: the true outline, inside the boxes; None assumes an ellipse (:math:`f = \pi/4`) or, in 3D, an ellipsoid
            (:math:`f = \pi/6`) that fills its box.

    Returns:
        ``(B,)`` in float64, from p to 1; NaN where there is no box.

    Raises:
        UsageError: if the outline is not inside the boxes.
    """
    p = prevalence(boxes)
    if mask is None:
        fill = torch.full_like(p, math.pi / (4 if boxes.ndim == 4 else 6))
    else:
        if (bare(mask).bool() & ~bare(boxes).bool()).any():
            raise UsageError("box_ceiling: wanted an outline inside its boxes, got voxels outside of them")
        fill = prevalence(mask) / p
    return torch.where(p > 0, fill + (1 - fill) * p, math.nan)


def ellipsoid(boxes: Sequence[Box], shape: Sequence[int]) -> Tensor:
    """The ellipse or ellipsoid inscribed in each box: a stand-in for the finding where only its box is known.

    Args:
        boxes: for each finding, ``(start, stop)`` of each axis, half-open.
        shape: of the image.

    Returns:
        Boolean ``(1, 1, *space)``; a voxel belongs to it if its centre does.

    Raises:
        UsageError: if a box is empty, leaves the image, or has another number of axes.
    """
    found = torch.zeros(tuple(shape), dtype=torch.bool)
    for box in boxes:
        if len(box) != len(shape) or any(not 0 <= a < b <= n for (a, b), n in zip(box, shape, strict=False)):
            raise UsageError(f"wanted half-open boxes inside an image of {tuple(shape)}, got {list(box)}")
        axes = [(torch.arange(a, b) + 0.5 - (a + b) / 2) / ((b - a) / 2) for a, b in box]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
        found[tuple(slice(a, b) for a, b in box)] |= radius <= 1
    return found[None, None]


def box_geometry_ceiling(metric: Metric, mask: Tensor) -> Tensor:
    """Score of a perfect map where the truth is known as boxes only.

    Args:
        metric: ``metric(relevance, mask) -> (B,)``.
        mask: the findings' true outline, boolean ``(B, 1, *space)``, or ``ellipsoid`` of the boxes.

    Returns:
        ``(B,)``: the mask as the map, its bounding boxes as the truth.
    """
    return metric(mask.double(), bounding_boxes(mask))


def resolution_ceiling(metric: Metric, mask: Tensor, grid: Sequence[int], *, mode: str = "linear") -> Tensor:
    """Score of the best map of a coarse grid: the truth averaged to the grid and brought back.

    Args:
        metric: ``metric(relevance, mask) -> (B,)``.
        mask: boolean ``(B, 1, *space)``.
        grid: shape of the layer that the CAM is taken from.
        mode: how it is brought back: ``"nearest"``, or ``"linear"`` in every dimension, corners not aligned.

    Returns:
        ``(B,)``.

    Raises:
        UsageError: if the mode is another, or the grid has another number of axes or is finer than the image.
    """
    space = tuple(mask.shape[2:])
    if len(grid) != len(space) or any(not 1 <= g <= n for g, n in zip(grid, space, strict=False)):
        raise UsageError(f"wanted a grid of {len(space)} axes no finer than the image {space}, got {tuple(grid)}")
    if mode not in {"nearest", "linear"}:
        raise UsageError(f"mode: wanted 'nearest' or 'linear', got {mode!r}")
    coarse = torch.nn.functional.interpolate(mask.float(), size=tuple(grid), mode="area")
    return metric(brought_back(coarse, space, mode), mask)


def brought_back(coarse: Tensor, space: Sequence[int], mode: str) -> Tensor:
    """A coarse map on the image's grid.

    Args:
        coarse: ``(B, 1, *grid)``.
        space: shape of the image.
        mode: ``"nearest"`` or ``"linear"``.

    Returns:
        ``(B, 1, *space)``.
    """
    names = {1: "linear", 2: "bilinear", 3: "trilinear"}
    if mode == "nearest":
        return torch.nn.functional.interpolate(coarse, size=tuple(space), mode="nearest-exact")
    return torch.nn.functional.interpolate(coarse, size=tuple(space), mode=names[len(space)], align_corners=False)


def reader_ceiling(metric: Metric, mask: Tensor, readers: Sequence[Tensor]) -> Tensor:
    """Score of other readers, or of a segmentation network, by the rule that maps are scored by.

    Args:
        metric: ``metric(relevance, mask) -> (B,)``.
        mask: boolean truth ``(B, 1, *space)``.
        readers: each a mask or probabilities of the same shape; NaN throughout where that reader did not read.

    Returns:
        ``(B,)`` in float64: mean over the readers with an answer, NaN where none has one.

    Raises:
        UsageError: if there is no reader.
    """
    if not readers:
        raise UsageError("reader ceiling: wanted the mask of at least one other reader, got none")
    return torch.stack([_by_reader(metric, mask, reader.double()) for reader in readers]).nanmean(0)


def _by_reader(metric: Metric, mask: Tensor, reader: Tensor) -> Tensor:
    read = ~reader.flatten(1).isnan().any(1)
    found = torch.full((len(mask),), math.nan, dtype=torch.float64)
    if read.any():
        found[read] = metric(reader[read], mask[read]).double()
    return found


def gap_closed(score: Tensor, prior: Tensor, ceiling: Tensor) -> Tensor:
    """Share of the way from what a prior scores to the ceiling, (score - prior) / (ceiling - prior).

    Args:
        score: ``(B,)``.
        prior: what chance or a baseline scores.
        ceiling: what a perfect map scores.

    Returns:
        ``(B,)`` in float64, 1 at the ceiling; NaN where the ceiling is no higher than the prior.
    """
    room = ceiling.double() - prior.double()
    return torch.where(room > 0, (score.double() - prior.double()) / room, torch.nan)
