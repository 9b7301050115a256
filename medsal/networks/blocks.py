"""The building blocks of EfficientNetV2 for two and three spatial dimensions."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn


class Stage(NamedTuple):
    """One row of the paper's table 4: ``repeats`` blocks, of which the first has the stride.

    Attributes:
        block: ``"fused"`` (one full convolution expands) or ``"mbconv"`` (1x1 expands, then depthwise, squeeze-excite).
        expansion: width inside the block over its input width.
        stride: of the first block.
        channels: of the output.
        repeats: number of blocks.
    """

    block: Literal["fused", "mbconv"]
    expansion: int
    stride: int
    channels: int
    repeats: int


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation and, where asked for, an activation of its own.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input.
        out_channels: of the output.
        kernel: side of the kernel; the padding keeps the size at stride 1.
        stride: of the convolution.
        groups: of the convolution.
        activation: whether a SiLU follows.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.add_module(
            "conv",
            convolution(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        )
        self.add_module("norm", Norm[Norm.BATCH, spatial_dims](out_channels, eps=1e-3))
        if activation:
            self.add_module("act", nn.SiLU())


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means: ``x * sigmoid(W2 silu(W1 mean(x)))``.

    Args:
        spatial_dims: 2 or 3.
        channels: of the input.
        squeezed: width of the bottleneck.
    """

    def __init__(self, spatial_dims: int, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.reduce = Conv[Conv.CONV, spatial_dims](channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = Conv[Conv.CONV, spatial_dims](squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels.

        Args:
            x: features (B, C, *space).

        Returns:
            The gated features, of the same shape.
        """
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class StochasticDepth(nn.Module):
    """In training, drop the residual branch of whole images at random and scale the others (Huang et al. 2016).

    Args:
        probability: of dropping, below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Drop or scale each image's branch.

        Args:
            x: the branch (B, C, *space).

        Returns:
            The branch, unchanged outside training.
        """
        if not self.training or self.probability == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device) >= self.probability
        return x * kept / (1 - self.probability)

    def extra_repr(self) -> str:
        """Describe the module.

        Returns:
            The probability, as ``print(network)`` shows it.
        """
        return f"probability={self.probability:.4g}"


class Block(nn.Module):
    """MBConv or Fused-MBConv: expand, filter, gate, project, and add the input where the shapes agree.

    Args:
        spatial_dims: 2 or 3.
        stage: what the block is.
        in_channels: of the input.
        stride: of this block.
        drop: probability of stochastic depth.
    """

    def __init__(self, spatial_dims: int, stage: Stage, in_channels: int, *, stride: int, drop: float) -> None:
        super().__init__()
        width, out = in_channels * stage.expansion, stage.channels
        layers: dict[str, nn.Module] = {}
        if stage.block == "fused":
            first_out = out if stage.expansion == 1 else width
            layers["expand"] = ConvNormAct(spatial_dims, in_channels, first_out, kernel=3, stride=stride)
        else:
            if stage.expansion != 1:
                layers["expand"] = ConvNormAct(spatial_dims, in_channels, width, kernel=1)
            layers["depthwise"] = ConvNormAct(spatial_dims, width, width, kernel=3, stride=stride, groups=width)
            layers["excite"] = SqueezeExcite(spatial_dims, width, max(1, in_channels // 4))
        if stage.block == "mbconv" or stage.expansion != 1:
            layers["project"] = ConvNormAct(spatial_dims, width, out, kernel=1, activation=False)
        self.layers = nn.Sequential()
        for name, layer in layers.items():
            self.layers.add_module(name, layer)
        self.residual = stride == 1 and in_channels == out
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block.

        Args:
            x: features (B, C, *space).

        Returns:
            The next features.
        """
        y: Tensor = self.layers(x)
        return cast("Tensor", self.drop(y)) + x if self.residual else y
