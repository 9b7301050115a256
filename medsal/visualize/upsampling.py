"""From the grid of a layer to that of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional


def default_upsampler(spatial_size: Sequence[int], align_corners: bool = False) -> Callable[[Tensor], Tensor]:
    """Linear enlargement in one, two or three dimensions.

    Args:
        spatial_size: of the result.
        align_corners: as ``torch.nn.functional.interpolate`` has it; False lets both grids cover one field of view.

    Returns:
        A function from ``(B, C, *layer_space)`` to ``(B, C, *spatial_size)``.
    """
    mode = ("linear", "bilinear", "trilinear")[len(spatial_size) - 1]

    def enlarge(layer_map: Tensor) -> Tensor:
        return functional.interpolate(layer_map, size=tuple(spatial_size), mode=mode, align_corners=align_corners)

    return enlarge


def unchanged(maps: Any) -> Any:
    """Leave maps as they are: the default in place of MONAI's normaliser, which turns them round.

    Args:
        maps: any.

    Returns:
        The same.
    """
    return maps
