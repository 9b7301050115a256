"""Relevance kept and differences kept on the networks that people use, at a small size."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, SEResNet50, SwinUNETR, ViT, resnet50, resnet101
from torch import Tensor, nn

from medsal.attribution.explain import explain
from medsal.networks import EfficientNetV2


def torchvision(name: str, **options: object) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    network = getattr(models, name)(**options)
    if hasattr(network, "heads"):  # it starts at zero, where there is nothing to explain
        nn.init.normal_(network.heads[-1].weight)
    return network


class Swin(nn.Module):
    """A classifier on the encoder of MONAI's SwinUNETR."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.body = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=dims).swinViT
        self.head = nn.Linear(12 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[-1].flatten(2).mean(2))


def vit(dims: int) -> nn.Module:
    return ViT(
        1, (16,) * dims, (8,) * dims, 48, 96, 4, 4, classification=True, spatial_dims=dims, post_activation="none"
    )


CONVOLUTIONAL = {
    "densenet121 2D": (lambda: DenseNet121(2, 1, 2), (1, 64, 48)),
    "densenet121 3D": (lambda: DenseNet121(3, 1, 2), (1, 32, 34, 33)),
    "resnet50 2D": (lambda: resnet50(spatial_dims=2, n_input_channels=1, num_classes=2), (1, 40, 32)),
    "resnet50 3D": (lambda: resnet50(spatial_dims=3, n_input_channels=1, num_classes=2), (1, 16, 12, 14)),
    "resnet101 2D": (lambda: resnet101(spatial_dims=2, n_input_channels=1, num_classes=2), (1, 40, 32)),
    "resnet101 3D": (lambda: resnet101(spatial_dims=3, n_input_channels=1, num_classes=2), (1, 16, 12, 14)),
    "seresnet50 2D": (lambda: SEResNet50(spatial_dims=2, in_channels=3, num_classes=2), (3, 48, 40)),
    "efficientnet-b0 2D": (lambda: EfficientNetBN("efficientnet-b0", False, spatial_dims=2, in_channels=1,
                                                  num_classes=2), (1, 64, 48)),
    "efficientnet-b0 3D": (lambda: EfficientNetBN("efficientnet-b0", False, spatial_dims=3, in_channels=1,
                                                  num_classes=2), (1, 32, 34, 33)),
    "efficientnet_v2 2D": (lambda: EfficientNetV2(2, 1, 1, "nano"), (1, 64, 48)),
    "efficientnet_v2 3D": (lambda: EfficientNetV2(3, 1, 1, "nano"), (1, 28, 24, 20)),
    "torchvision densenet121": (lambda: torchvision("densenet121"), (3, 64, 48)),
    "torchvision resnet50": (lambda: torchvision("resnet50"), (3, 64, 48)),
    "torchvision inception_v3": (lambda: torchvision("inception_v3", init_weights=False, aux_logits=False),
                                 (3, 96, 80)),
    "torchvision googlenet": (lambda: torchvision("googlenet", init_weights=False, aux_logits=False), (3, 64, 48)),
    "torchvision mobilenet_v2": (lambda: torchvision("mobilenet_v2"), (3, 64, 48)),
    "torchvision efficientnet_v2_s": (lambda: torchvision("efficientnet_v2_s"), (3, 64, 48)),
}  # fmt: skip
TRANSFORMERS = {
    "vit 2D": (lambda: vit(2), (1, 16, 16)),
    "vit 3D": (lambda: vit(3), (1, 16, 16, 16)),
    "swin 2D": (lambda: Swin(2), (1, 64, 64)),
    "torchvision swin_t": (lambda: torchvision("swin_t"), (3, 64, 64)),
    "torchvision vit": (lambda: torchvision("VisionTransformer", image_size=32, patch_size=8, num_layers=3,
                                            num_heads=4, hidden_dim=48, mlp_dim=96), (3, 32, 32)),
}  # fmt: skip
NETWORKS = CONVOLUTIONAL | TRANSFORMERS


def calibrated(name: str) -> tuple[nn.Module, Tensor]:
    """Random weights whose batch statistics are those of the images, so that signals neither die nor explode."""
    build, shape = NETWORKS[name]
    network = build().train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, *shape))
    return network.eval(), torch.randn(1, *shape)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_networks_keep_relevance_and_differences_in_single_precision(name):
    network, image = calibrated(name)
    methods = ["lrp_epsilon_plus", "lrp_epsilon_plus_flat", "excitation_backprop", "deep_lift"]
    found = explain(network, image, methods, target=0, options={"deep_lift": {"baseline": 0.3}})
    for method in methods[:3]:
        assert found.records[method]["claims"]["relevance_kept"] == pytest.approx([1], abs=1e-4)
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-4


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_keep_differences_in_double_and_most_relevance(name):
    network, image = calibrated(name)
    options = {"deep_lift": {"baseline": 0.3}}
    single = explain(network, image, ["deep_lift", "lrp_epsilon_plus"], target=0, options=options)
    assert max(single.records["deep_lift"]["claims"]["relative_gap"]) < 1e-4
    assert single.records["lrp_epsilon_plus"]["claims"]["relevance_kept"] == pytest.approx([1], abs=0.2)
    double = explain(network.double(), image.double(), ["deep_lift"], target=0, options=options)
    assert max(double.records["deep_lift"]["claims"]["relative_gap"]) < 1e-9
