"""Rules and shared passes on the networks that people use, at a small size, in float64."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DenseNet121, SEResNet50, resnet18
from torch import nn

from medsal.attribution.explain import explain
from medsal.networks import EfficientNetV2

NETWORKS = {
    "resnet18 3D": (lambda: resnet18(spatial_dims=3, n_input_channels=1, num_classes=2), (1, 20, 24, 16)),
    "densenet121 3D": (lambda: DenseNet121(3, 1, 2), (1, 32, 34, 33)),
    "seresnet50 2D": (lambda: SEResNet50(spatial_dims=2, in_channels=3, num_classes=2), (3, 48, 40)),
    "efficientnet_v2 3D": (lambda: EfficientNetV2(3, 1, 1, "nano"), (1, 28, 24, 20)),
}


def calibrated(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Random weights whose batch statistics fit, so that signals neither die nor explode."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, *shape))
    return network.double().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_deep_lift_keeps_the_difference_and_integrated_gradients_say_how_much_they_lost(name):
    build, shape = NETWORKS[name]
    network = calibrated(build(), shape)
    image = torch.randn(1, *shape, dtype=torch.float64)
    options = {"deep_lift": {"baseline": 0.3}, "integrated_gradients": {"steps": 4, "baseline": 0.3}}
    found = explain(network, image, ["deep_lift", "integrated_gradients"], target=lambda z: z[:, -1], options=options)
    assert found.records["deep_lift"]["claims"]["relative_gap"][0] <= 1e-6
    with torch.no_grad():
        difference = (network(image) - network(torch.full_like(image, 0.3)))[0, -1]
    for method, relevance in found.items():
        claimed = found.records[method]["claims"]["completeness_gap"][0]
        assert claimed == pytest.approx(float(relevance.sum() - difference), abs=1e-6 * float(difference.abs()))


@pytest.mark.parametrize(("name", "shape", "layer"), [
    ("resnet18 3D", (1, 48, 40, 36), "layer4"),
    ("densenet121 3D", (1, 64, 64, 48), "class_layers.relu"),
    ("seresnet50 2D", (3, 64, 48), "layer4"),
])  # fmt: skip
def test_the_last_spatial_layer_is_the_one_that_the_field_uses(name, shape, layer):
    network = NETWORKS[name][0]()
    found = explain(network, torch.randn(1, *shape), ["gradcam"])
    assert found.records["gradcam"]["layer"] == layer
