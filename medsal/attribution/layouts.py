"""Where the axes of space are in the output of a layer: channels first or last, or tokens of patches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

MOST_EXTRA_TOKENS = 5
"""Class, distillation and register tokens that may stand in front of those of the image."""


def layout(network: nn.Module, output: Tensor, image: Tensor) -> tuple[int, ...] | None:
    """Find the space that the output of a layer covers.

    Args:
        network: the network.
        output: of a layer.
        image: ``(N, C, *space)``.

    Returns:
        ``layer_space``; None where the output has no spatial extent.
    """
    if output.ndim == 3:
        return token_grid(network, output.shape[1], image.shape[2:])
    if output.ndim < 4:
        return None
    space = output.shape[1:-1] if _widths_last(network, output, image) else output.shape[2:]
    return tuple(space) if math.prod(space) > 1 else None


def spatial(network: nn.Module, output: Tensor, image: Tensor) -> Tensor:
    """Lay the output of a layer out in space.

    Args:
        network: the network.
        output: ``(N, C, *layer_space)``, channels-last ``(N, *layer_space, C)`` or tokens ``(N, L, C)``.
        image: ``(N, C, *space)``.

    Returns:
        ``(N, C, *layer_space)``, in single precision at least.
    """
    if output.dtype in {torch.float16, torch.bfloat16}:
        output = output.float()
    grid = layout(network, output, image)
    assert grid is not None
    if output.ndim == 3:
        tokens = output[:, output.shape[1] - math.prod(grid) :]
        return tokens.transpose(1, 2).reshape(len(output), output.shape[2], *grid)
    return output.movedim(-1, 1) if _widths_last(network, output, image) else output


def _widths_last(network: nn.Module, output: Tensor, image: Tensor) -> bool:
    """Channels-last by shape, in a network that normalises this many channels where they are last."""
    if not channels_last(output, image):
        return False
    widths = {norm.normalized_shape[-1] for norm in network.modules() if isinstance(norm, nn.LayerNorm)}
    return output.shape[-1] in widths | {2 * n for n in widths}


def channels_last(output: Tensor, image: Tensor) -> bool:
    """Tell ``(N, *layer_space, C)`` from ``(N, C, *layer_space)`` by which of them shrinks every axis alike.

    Args:
        output: of a layer, of 4 or 5 dimensions.
        image: ``(N, C, *space)``.

    Returns:
        True for channels-last.
    """
    if output.ndim != image.ndim:
        return False
    last = uneven(image, output.shape[1:-1])
    return last < 1.25 and uneven(image, output.shape[2:]) > 1.2 * last


def uneven(image: Tensor, space: tuple[int, ...]) -> float:
    """Say how differently the axes of the image shrink to a space.

    Args:
        image: ``(N, C, *space)``.
        space: of a layer.

    Returns:
        The largest ratio of sizes over the smallest, 1 where all axes shrink alike.
    """
    ratios = [n / m for n, m in zip(image.shape[2:], space, strict=True)]
    return max(ratios) / min(ratios)


def token_grid(network: nn.Module, tokens: int, space: torch.Size) -> tuple[int, ...] | None:
    """Find the grid of patches that tokens stand for.

    Args:
        network: the network; the strides of its convolutions and its ``patch_size`` attributes are tried first.
        tokens: how many there are, with class tokens.
        space: the image's.

    Returns:
        Patches along each axis; None where no grid fits.
    """
    for patch in _patches(network, space):
        grid = tuple(n // p for n, p in zip(space, patch, strict=True))
        if math.prod(grid) > 1 and 0 <= tokens - math.prod(grid) <= MOST_EXTRA_TOKENS:
            return grid
    return None


def _patches(network: nn.Module, space: torch.Size) -> Iterator[tuple[int, ...]]:
    """Sizes that a patch may have, the likeliest first."""
    for module in network.modules():
        size = module.stride if isinstance(module, nn.Conv2d | nn.Conv3d) else getattr(module, "patch_size", None)
        size = (size,) * len(space) if isinstance(size, int) else size
        if isinstance(size, tuple | list) and len(size) == len(space) and math.prod(size) > 1:
            yield tuple(int(n) for n in size)
    for edge in range(2, min(space) + 1):
        if all(n % edge == 0 for n in space):
            yield (edge,) * len(space)
