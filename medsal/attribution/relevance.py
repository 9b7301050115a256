"""From raw maps to relevance on the image's grid: channel reduction, resizing, slices-as-channels layouts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from medsal.errors import UsageError

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda t: t.sum(1, keepdim=True),
    "mean": lambda t: t.mean(1, keepdim=True),
    "max": lambda t: t.amax(1, keepdim=True),
    "max_abs": lambda t: t.abs().amax(1, keepdim=True),
    "sum_abs": lambda t: t.abs().sum(1, keepdim=True),
    "norm": lambda t: torch.linalg.vector_norm(t, dim=1, keepdim=True),
}
"""How a map ``(B, C, *space)`` becomes ``(B, 1, *space)``. ``sum`` keeps completeness."""


def reduce_channels(raw: Tensor, how: str) -> Tensor:
    """Reduce the channels of a raw map.

    Args:
        raw: ``(B, C, *space)``.
        how: a name of ``REDUCTIONS``.

    Returns:
        ``(B, 1, *space)``.

    Raises:
        UsageError: if the reduction is not known.

    Example:
        >>> reduce_channels(torch.tensor([[[1.0], [-3.0]]]), "max_abs")
        tensor([[[3.]]])
    """
    if how not in REDUCTIONS:
        raise UsageError(f"channels: wanted one of {', '.join(REDUCTIONS)}, got {how!r}")
    return REDUCTIONS[how](raw)


def resize(layer_map: Tensor, shape: torch.Size) -> Tensor:
    """Bring a map of a layer to the grid of the image, linearly, both grids covering the same field of view.

    Args:
        layer_map: ``(B, 1, *layer_space)``.
        shape: the image's ``space``.

    Returns:
        ``(B, 1, *space)``.
    """
    if layer_map.shape[2:] == shape:
        return layer_map
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return functional.interpolate(layer_map, shape, mode=mode, align_corners=False)


def repeat_slices(layer_map: Tensor, shape: torch.Size, slice_axis: int) -> Tensor:
    """Give a 2D map of a network that takes slices as channels the slices' extent: the same values in each.

    Args:
        layer_map: ``(B, 1, H, W)``, on the in-plane grid.
        shape: the volume's ``space``.
        slice_axis: the axis of ``space`` that runs over the slices.

    Returns:
        ``(B, 1, *space)``.
    """
    repeats = [1, 1, 1, 1, 1]
    repeats[slice_axis + 2] = shape[slice_axis]
    return layer_map.unsqueeze(slice_axis + 2).repeat(repeats)
