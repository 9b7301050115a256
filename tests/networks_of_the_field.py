"""The networks that people use, small images for each, random weights with batch statistics that fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from monai.networks import nets
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medsal.networks import EfficientNetV2

IMAGE = {2: (1, 96, 80), 3: (1, 48, 40, 32)}


class Swin(nn.Module):
    """A classifier on the encoder of a SwinUNETR."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.body = SwinTransformer(1, 12, (3,) * dims, (2,) * dims, (2, 2, 2, 2), (2, 2, 2, 2), spatial_dims=dims)
        self.head = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[-1].flatten(2).mean(2))


def vit(dims: int, shape: tuple[int, ...], patch: tuple[int, ...], proj: str = "conv") -> nn.Module:
    return nets.ViT(1, shape[:dims], patch[:dims], hidden_size=48, mlp_dim=64, num_heads=4, num_layers=3,
                    proj_type=proj, classification=True, spatial_dims=dims, num_classes=2)  # fmt: skip


def efficientnet(dims: int) -> nn.Module:
    return nets.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=1, num_classes=2)


MONAI: dict[str, Callable[[int], nn.Module]] = {
    "DenseNet121": lambda dims: nets.DenseNet121(dims, 1, 2),
    "DenseNet201": lambda dims: nets.DenseNet201(dims, 1, 2),
    "ResNet18": lambda dims: nets.resnet18(spatial_dims=dims, n_input_channels=1, num_classes=2),
    "ResNet50": lambda dims: nets.resnet50(spatial_dims=dims, n_input_channels=1, num_classes=2),
    "ResNet101": lambda dims: nets.resnet101(spatial_dims=dims, n_input_channels=1, num_classes=2),
    "SEResNet50": lambda dims: nets.SEResNet50(spatial_dims=dims, in_channels=1, num_classes=2),
    "EfficientNetBN-b0": efficientnet,
    "EfficientNetV2 (medsal)": lambda dims: EfficientNetV2(dims, 1, 2, "nano"),
    "ViT": lambda dims: vit(dims, IMAGE[dims][1:], (16, 16) if dims == 2 else (8,) * 3),
    "Swin encoder": Swin,
}
TORCHVISION = ("inception_v3", "googlenet", "mobilenet_v2", "densenet201", "resnet101", "efficientnet_v2_s")
NETWORKS = [*[f"{name} {dims}D" for name in MONAI for dims in (2, 3)], *[f"torchvision {name}" for name in TORCHVISION]]
TRANSFORMERS = ("ViT", "Swin")


def convolutional(name: str) -> bool:
    return not name.startswith(TRANSFORMERS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network by its name in ``NETWORKS`` and one image for it, in float32."""
    torch.manual_seed(0)
    if name.startswith("torchvision"):
        network, shape = _torchvision(name.split()[1]), (3, 107, 112)
    else:
        family, dims = name.rsplit(" ", 1)
        network, shape = MONAI[family](int(dims[0])), IMAGE[int(dims[0])]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain mean: the small momentum of some networks leaves signals to die
    network.train()
    with torch.no_grad():
        for _ in range(2 if norms else 0):  # statistics that fit, so that signals neither die nor explode
            network(torch.randn(4, *shape))
    return network.eval(), torch.randn(1, *shape)


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    more = {"init_weights": False, "aux_logits": False} if name in {"inception_v3", "googlenet"} else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network: nn.Module = getattr(models, name)(num_classes=2, **more)
    return network
