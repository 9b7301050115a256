"""Small networks with the traps of large ones: in place, reused and functional activations, gates, ``+=``, pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(dims: int) -> type[nn.Module]:
    return nn.Conv2d if dims == 2 else nn.Conv3d


def norm(dims: int) -> type[nn.Module]:
    return nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d


class Trapped(nn.Module):
    """A classifier that captum's DeepLIFT, MONAI's CAMs and module hooks get wrong in one place or another."""

    def __init__(self, dims: int, channels: int = 1, classes: int = 3, *, inplace: bool = True) -> None:
        super().__init__()
        self.dims = dims
        self.inplace = inplace
        self.stem = conv(dims)(channels, 6, 3, padding=1)
        self.normalise = norm(dims)(6)
        self.act = nn.ReLU(inplace=inplace)
        self.block = conv(dims)(6, 6, 3, padding=1)
        self.gate = nn.Linear(6, 6)
        self.last = conv(dims)(6, 5, 3, padding=1)
        self.end = nn.Identity()  # behind the functional activation, where CAM's own layer is
        self.head = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        pool = functional.max_pool2d if self.dims == 2 else functional.max_pool3d
        x = self.act(self.normalise(self.stem(x)))
        x = pool(x, 3, 2, 1)
        y = self.block(x)
        y += x
        y = self.act(y)
        gate = torch.sigmoid(self.gate(y.flatten(2).mean(2)))
        y = y * gate.view(*gate.shape, *[1] * self.dims)
        y = self.end(functional.silu(self.last(y), inplace=self.inplace))
        return self.head(y.flatten(2).mean(2))


class SliceNetwork(nn.Module):
    """Takes the slices of a volume as channels; one logit, and a tuple as the MRI study's network gives."""

    slice_axis = 1

    def __init__(self, slices: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(slices, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        self.end = nn.Identity()
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        if x.ndim == 5:
            x = x.squeeze(1).movedim(self.slice_axis + 1, 1)
        return self.head(self.end(self.last(self.body(x)).relu()).flatten(2).mean(2)), None


class BiasFree(nn.Module):
    """Positively homogeneous: convolution, ReLU, max and mean pooling, no biases."""

    def __init__(self, dims: int, channels: int = 1) -> None:
        super().__init__()
        self.dims = dims
        self.first = conv(dims)(channels, 5, 3, padding=1, bias=False)
        self.last = conv(dims)(5, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pool = functional.max_pool2d if self.dims == 2 else functional.max_pool3d
        x = pool(functional.relu(self.first(x)), 2)
        return self.head(functional.relu(self.last(x)).flatten(2).mean(2))


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 and eval mode, its weights and its batch statistics drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    network.double().eval()
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if "num_batches" in name:
                continue
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(drawn.abs() + 0.5 if "running_var" in name or "normalise.weight" in name else drawn * 0.4)
    return network


SHAPES = {"2D": (1, 12, 16), "2D colour": (3, 12, 16), "3D": (1, 12, 8, 10), "slices": (1, 10, 7, 12)}


def case(kind: str, *, inplace: bool = True, batch: int = 2) -> tuple[nn.Module, Tensor]:
    """A network and a batch of images: 2D, 2D colour, 3D (not cubic), or slices as channels."""
    shape = SHAPES[kind]
    network = SliceNetwork(shape[2]) if kind == "slices" else Trapped(len(shape) - 1, shape[0], inplace=inplace)
    image = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return settled(network), image
