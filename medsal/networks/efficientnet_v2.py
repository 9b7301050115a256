"""EfficientNetV2 for images and volumes (Tan and Le 2021, https://arxiv.org/abs/2104.00298)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from medsal.errors import InputError, UsageError
from medsal.networks.blocks import Block, ConvNormAct, Stage
from medsal.networks.slices import slices_to_channels


class _Variant(NamedTuple):
    stem: int
    stages: tuple[Stage, ...]
    head: int
    dropout: float
    pool: Literal["avg", "max"] = "avg"


VARIANTS: Mapping[str, _Variant] = MappingProxyType({
    # For volumes of some 40 voxels a side: two halvings only, so that features stay finer than a hippocampus, and the
    # largest feature instead of the mean, which a small lesion hardly moves (it learns in half the epochs).
    "nano": _Variant(
        stem=12,
        stages=(Stage("fused", 1, 1, 12, 1), Stage("fused", 3, 2, 16, 1), Stage("mbconv", 4, 1, 24, 2)),
        head=96,
        dropout=0.2,
        pool="max",
    ),
    "s": _Variant(
        24,
        (
            Stage("fused", 1, 1, 24, 2),
            Stage("fused", 4, 2, 48, 4),
            Stage("fused", 4, 2, 64, 4),
            Stage("mbconv", 4, 2, 128, 6),
            Stage("mbconv", 6, 1, 160, 9),
            Stage("mbconv", 6, 2, 256, 15),
        ),
        1280,
        0.2,
    ),
    "m": _Variant(
        24,
        (
            Stage("fused", 1, 1, 24, 3),
            Stage("fused", 4, 2, 48, 5),
            Stage("fused", 4, 2, 80, 5),
            Stage("mbconv", 4, 2, 160, 7),
            Stage("mbconv", 6, 1, 176, 14),
            Stage("mbconv", 6, 2, 304, 18),
            Stage("mbconv", 6, 1, 512, 5),
        ),
        1280,
        0.3,
    ),
    "l": _Variant(
        32,
        (
            Stage("fused", 1, 1, 32, 4),
            Stage("fused", 4, 2, 64, 7),
            Stage("fused", 4, 2, 96, 7),
            Stage("mbconv", 4, 2, 192, 10),
            Stage("mbconv", 6, 1, 224, 19),
            Stage("mbconv", 6, 2, 384, 25),
            Stage("mbconv", 6, 1, 640, 7),
        ),
        1280,
        0.4,
    ),
})  # fmt: skip


class EfficientNetV2(nn.Module):
    """EfficientNetV2 classifier for images and volumes.

    The variants ``s``, ``m`` and ``l`` are those of the paper, as torchvision publishes weights for them; in 2D
    :func:`from_torchvision_state_dict` brings such weights in. ``nano`` (33 thousand weights in 3D) is for volumes of
    some 40 voxels a side: the stem and one stage halve the grid, no more, and the largest feature takes the place of
    the mean one. Every call site of an activation is a module of its own and works out of place, so that hooks and
    rules see each of them.

    With ``slice_axis`` the 2D network takes volumes whose slices along that spatial axis are its ``in_channels``, and
    the attribute of that name tells others so.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image; the number of slices where ``slice_axis`` is given.
        num_classes: number of logits.
        variant: ``"nano"``, ``"s"``, ``"m"`` or ``"l"``.
        dropout: probability before the last layer; None for the variant's own.
        drop_path: probability of stochastic depth at the last block; it grows linearly from 0.
        slice_axis: the spatial axis of a volume (0, 1 or 2) along which the channels lie, or None.

    Attributes:
        slice_axis: the declared layout, None where channels are channels.

    Raises:
        UsageError: when an argument is out of range.

    Example:
        >>> import torch
        >>> EfficientNetV2(3, in_channels=1, num_classes=1, variant="nano")(torch.zeros(2, 1, 44, 28, 24)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        variant: str = "s",
        *,
        dropout: float | None = None,
        drop_path: float = 0.2,
        slice_axis: int | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, variant, slice_axis)
        chosen = VARIANTS[variant]
        self.spatial_dims, self.in_channels, self.slice_axis = spatial_dims, in_channels, slice_axis
        self.stem = ConvNormAct(spatial_dims, in_channels, chosen.stem, kernel=3, stride=2)
        self.stages = nn.Sequential()
        channels, index, total = chosen.stem, 0, sum(stage.repeats for stage in chosen.stages)
        for stage in chosen.stages:
            blocks = nn.Sequential()
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(Block(spatial_dims, stage, channels, stride=stride, drop=drop_path * index / total))
                channels, index = stage.channels, index + 1
            self.stages.append(blocks)
        self.head = ConvNormAct(spatial_dims, channels, chosen.head, kernel=1)
        self.pool = Pool[Pool.ADAPTIVEMAX if chosen.pool == "max" else Pool.ADAPTIVEAVG, spatial_dims](1)
        self.dropout = nn.Dropout(chosen.dropout if dropout is None else dropout)
        self.classifier = nn.Linear(chosen.head, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: images (B, C, *space); where :attr:`slice_axis` is set, also volumes (B, 1, X, Y, Z).

        Returns:
            The logits (B, num_classes).

        Raises:
            InputError: when the shape does not fit the network.
        """
        if self.slice_axis is not None:
            x = slices_to_channels(x, self.slice_axis)
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            wanted = "slices" if self.slice_axis is not None else "channels"
            raise InputError(
                f"the network wants (B, {self.in_channels}, *space) with {self.in_channels} {wanted} and "
                f"{self.spatial_dims} spatial axes, got {tuple(x.shape)}; check the preprocessing"
            )
        features = self.head(self.stages(self.stem(x)))
        logits: Tensor = self.classifier(self.dropout(self.pool(features).flatten(1)))
        return logits


def _check_arguments(spatial_dims: int, variant: str, slice_axis: int | None) -> None:
    if spatial_dims not in {2, 3}:
        raise UsageError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
    if variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r} of EfficientNetV2; there are {', '.join(VARIANTS)}")
    if slice_axis is not None and (spatial_dims != 2 or slice_axis not in {0, 1, 2}):
        raise UsageError(
            "slice_axis is the axis (0, 1 or 2) of a volume read by a 2D network, "
            f"got slice_axis={slice_axis!r} with spatial_dims={spatial_dims}"
        )


def _initialise(module: nn.Module) -> None:
    """Draw initial weights as the paper's code does: He normal by fan-out, and a uniform last layer by fan-in."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
