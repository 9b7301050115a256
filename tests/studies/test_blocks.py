"""Blocks cover every weight once, in the order in which they run."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.networks import nets
from torch import nn
from torchvision import models

from medsal.errors import UsageError
from medsal.networks import EfficientNetV2
from medsal.studies.trust.blocks import find_blocks
from tests.networks_for_studies import Branched

FLAT, VOLUME = torch.zeros(1, 3, 80, 80), torch.zeros(1, 1, 44, 40, 36)


def torchvision(name):
    more = {"init_weights": False} if name in {"inception_v3", "googlenet"} else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(models, name)(num_classes=2, **more).eval(), FLAT


MAKERS = {
    "inception_v3": lambda: torchvision("inception_v3"),
    "densenet121": lambda: torchvision("densenet121"),
    "resnet18": lambda: torchvision("resnet18"),
    "mobilenet_v2": lambda: torchvision("mobilenet_v2"),
    "EfficientNetV2": lambda: (EfficientNetV2(3, 1, 2, "nano"), VOLUME),
    "MONAI DenseNet 3D": lambda: (nets.DenseNet121(3, 1, 2), VOLUME),
    "MONAI ResNet 3D": lambda: (nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=2), VOLUME),
    "MONAI ViT": lambda: (
        nets.ViT(3, (80, 80), (16, 16), hidden_size=48, mlp_dim=64, num_heads=4, num_layers=3, classification=True,
                 spatial_dims=2),
        FLAT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("blocks", [None, 1, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_every_parameter_and_buffer_is_in_one_block_once(name, blocks):
    network, image = MAKERS[name]()
    found = find_blocks(network, image, blocks)
    every = [*found.steps, *found.unused]
    assert sorted(key for b in every for key in b.parameters) == sorted(n for n, _ in network.named_parameters())
    assert sorted(key for b in every for key in b.buffers) == sorted(n for n, _ in network.named_buffers())
    assert len({block.name for block in every}) == len(every)
    counts = found.counts(network)
    assert sum(row["parameter_values"] for row in counts) == sum(p.numel() for p in network.parameters())
    assert sum(row["buffer_values"] for row in counts) == sum(b.numel() for b in network.buffers())
    if blocks:
        assert len(found.steps) == blocks


EXPECTED = {
    "inception_v3": [
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
        "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
        "fc",
    ],
    "densenet121": [
        "features.conv0+norm0", "features.denseblock1", "features.transition1", "features.denseblock2",
        "features.transition2", "features.denseblock3", "features.transition3", "features.denseblock4+norm5",
        "classifier",
    ],
    "resnet18": [
        "conv1+bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1",
        "fc",
    ],
    "EfficientNetV2": ["stem", "stages.0.0", "stages.1.0", "stages.2.0", "stages.2.1", "head", "classifier"],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_are_those_that_one_speaks_of(name):
    assert find_blocks(*MAKERS[name]()).names == EXPECTED[name]


def test_layers_that_a_forward_does_not_use_are_named_and_counted():
    network, image = MAKERS["inception_v3"]()
    found = find_blocks(network, image)
    assert [block.name for block in found.unused] == ["AuxLogits"]
    assert {row["block"] for row in found.counts(network) if not row["used"]} == {"AuxLogits"}
    vit, image = MAKERS["MONAI ViT"]()
    assert [block.name for block in find_blocks(vit, image).unused] == [f"blocks.{i} (unused part)" for i in range(3)]


def test_a_wrapper_is_looked_into():
    network = nets.TorchVisionFCModel("resnet18", num_classes=2, use_conv=False, pool=None, pretrained=False)
    names = find_blocks(network, torch.zeros(1, 3, 64, 64)).names
    assert names[0] == "features.conv1+bn1"
    assert names[1:3] == ["features.layer1.0", "features.layer1.1"]
    assert names[-1] == "fc"


def test_the_order_is_that_of_execution_not_of_writing():
    network = Branched()
    assert [name for name, _ in network.named_children()][:2] == ["head", "last"]
    assert find_blocks(network, torch.zeros(1, 1, 16, 16)).names == ["first+norm", "(own)", "last", "head"]


def test_blocks_by_name_leave_nothing_out():
    network, image = MAKERS["resnet18"]()
    found = find_blocks(network, image, ["layer1", "layer2", "layer3", "layer4"])
    assert found.names == ["conv1..bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert find_blocks(network, image, 5).names[-1] == "fc"


def test_a_network_and_its_hooks_are_left_as_found():
    network, image = MAKERS["resnet18"]()
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    find_blocks(network, image)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["layer9"], r"no module 'layer9'. Did you mean layer"),
        (["layer1", "layer1.0", "layer1.1"], "'layer1' has no parameter"),
        (99, "wanted at most"),
        (0, "wanted a number of 1 or more"),
        ("layer1", "wanted a number of 1 or more, or names"),
    ],
)
def test_wishes_that_cannot_be_met(blocks, message):
    network, image = MAKERS["resnet18"]()
    with pytest.raises(UsageError, match=message):
        find_blocks(network, image, blocks)


def test_no_weights_no_blocks():
    with pytest.raises(UsageError, match="no parameter and no buffer"):
        find_blocks(nn.Sequential(nn.Flatten()), FLAT)
