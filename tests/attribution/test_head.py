"""What lies above a layer, run alone, gives what the whole network gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.classifier import borrowed
from medsal.attribution.features import layer_names
from medsal.attribution.head import Head
from medsal.attribution.probe import Probe
from medsal.attribution.shared_pass import FEATURES
from medsal.attribution.target import Target
from tests.networks_for_tests import SHAPES, case, settled


def calibrated(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Random weights whose batch statistics fit, so that signals neither die nor explode."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(3, *shape))
    return network.double().eval()


def probe_of(network: nn.Module, image: Tensor, layer: str | None) -> tuple[Probe, str, Tensor]:
    probe = Probe(network, image, Target(None, len(image)), frozenset({FEATURES}), layer_names(network, layer))
    ((name, features),) = probe.features.items()
    return probe, name, features


def by_hook(probe: Probe, layer: str, call: int, outputs: Tensor, rows: Tensor) -> Tensor:
    """The whole network, with the output of a layer replaced: what a head must give."""
    calls = []

    def hook(*_: object) -> Tensor | None:
        calls.append(1)
        return outputs.clone() if len(calls) == call + 1 else None

    handle = dict(probe.network.named_modules())[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = probe.forward(probe.image[rows])
    handle.remove()
    return logits


def changed(features: Tensor, rows: Tensor) -> Tensor:
    """Features of some rows, each changed in another way."""
    made = features[rows].clone()
    made[:, ::2] *= torch.linspace(-1, 1, len(rows), dtype=made.dtype).view(-1, *[1] * (made.ndim - 1))
    return made


def assert_head_is_right(network: nn.Module, image: Tensor, layer: str | None, *, how: str = "replay", call: int = 0):
    with borrowed(network):
        probe, name, features = probe_of(network, image, layer)
        head = Head(probe, name)
        rows = torch.arange(len(image)).repeat(2).flip(0)
        found = head.at(rows, lambda part: changed(features, rows)[part])
        outputs = head.in_layout(changed(features, rows), rows)
        wanted = by_hook(probe, name, call, outputs, rows)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
        assert head.how == how
        assert not torch.allclose(found[: len(image)], head.logits.flip(0), rtol=1e-9, atol=0)  # something was changed
    return head


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("layer", [None, "last", "block", "stem", "act"])
def test_networks_with_traps(kind, layer):
    network, image = case(kind, batch=3)
    if kind == "slices" and layer in {"block", "stem", "act"}:
        layer = {"block": "body", "stem": "body.0", "act": "body.1"}[layer]
    assert_head_is_right(network, image, layer, call=1 if layer == "act" else 0)


def torchvision_densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2), 8, num_classes=3)


def monai_densenet() -> nn.Module:
    from monai.networks.nets import DenseNet

    return DenseNet(3, 1, 2, init_features=8, growth_rate=8, block_config=(2, 2))


def monai_resnet() -> nn.Module:
    from monai.networks.nets import ResNet

    return ResNet("basic", [1, 1, 1, 1], [8, 8, 12, 16], spatial_dims=3, n_input_channels=1, num_classes=2)


def monai_seresnet() -> nn.Module:
    from monai.networks.nets import SEResNet50

    return SEResNet50(spatial_dims=2, in_channels=3, num_classes=2)


def monai_efficientnet() -> nn.Module:
    from monai.networks.nets import EfficientNetBN

    return EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=2)


def monai_vit() -> nn.Module:
    from monai.networks.nets import ViT

    return ViT(1, (16, 16, 8), 4, 24, 48, 3, 4, classification=True, num_classes=2, spatial_dims=3)


def torchvision_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 12, [2, 2], [2, 4], [2, 2], stochastic_depth_prob=0.0, num_classes=3)


@pytest.mark.parametrize(("build", "shape", "layer", "affine"), [
    (torchvision_densenet, (3, 40, 48), None, False),  # a functional ReLU and pooling above the features
    (torchvision_densenet, (3, 40, 48), "features.denseblock2.denselayer1.conv1", False),
    (monai_densenet, (1, 24, 40, 32), None, True),
    (monai_densenet, (1, 24, 40, 32), "features.denseblock1.denselayer2", False),
    (monai_resnet, (1, 24, 40, 32), None, False),  # above a layer of one block lies nothing that is not affine
    (monai_resnet, (1, 24, 40, 32), "layer2.0.conv1", False),  # a shortcut from below comes back above
    (monai_seresnet, (3, 48, 40), "layer3.1.conv2", False),
    (monai_efficientnet, (1, 32, 40, 36), "_blocks.2.3._project_conv", False),
    (monai_vit, (1, 16, 16, 8), "blocks.1.norm2", False),  # class token in front, shortcut around
    (torchvision_swin, (3, 32, 48), "features.1.1.norm2", False),  # channels last
])  # fmt: skip
def test_networks_that_people_use(build, shape, layer, affine):
    network = calibrated(build(), shape)
    head = assert_head_is_right(network, torch.randn(2, *shape, dtype=torch.float64), layer)
    if build is not monai_resnet or layer:
        assert head.affine == affine


class Written(nn.Module):
    """Calls ``write`` between two layers."""

    def __init__(self, write: Callable[[Written, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.constant = torch.arange(4.0, dtype=torch.float64).view(1, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.second(skip.tanh())
        y = self.write(self, y, skip)
        return self.head(y.flatten(2).mean(2))


def add_onto_the_shortcut(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    skip.add_(y)  # what is returned is not looked at
    return skip.tanh()


def add_functionally(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    functional.silu(y, inplace=True)
    y += skip
    return torch.cat([y[:, :2], skip[:, 2:]], 1).sigmoid()


def branch_on_shapes(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    size, ratio = skip.shape, skip.size(-1) // skip.size(-2)
    assert ratio == 1
    return y.reshape(size[0], 2, 2, -1)[:, :, :].sum(2).repeat(1, 2, 1).view(len(skip), *size[1:])


def unpack_and_iterate(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    a, b, c, d = skip.transpose(0, 1)
    maxima, _indices = skip.max(dim=1)
    return (y * torch.stack([a, b, c, d], 1).sigmoid()).tanh() + maxima.unsqueeze(1)


def constants_of_the_batch(self: Written, y: Tensor, skip: Tensor) -> Tensor:
    canvas = torch.zeros(len(skip), 4, *skip.shape[2:], dtype=y.dtype)
    canvas[:, :2] = skip[:, :2]
    return (y + self.constant.expand(len(y), -1, -1, -1)) * canvas.exp()


def compute_beside(self: Written, y: Tensor, skip: Tensor) -> Tensor:
    beside = functional.relu(self.first(skip.mean(1, keepdim=True)))  # after the layer, but not above it
    beside.mul_(2)
    return y.relu() + beside


def overwrite_twice(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    early = y + skip  # the shortcut as it was
    skip.add_(1)
    return early.tanh() + skip


WAYS = [add_onto_the_shortcut, add_functionally, branch_on_shapes, unpack_and_iterate, constants_of_the_batch,
        compute_beside, overwrite_twice]  # fmt: skip


@pytest.mark.parametrize("write", WAYS)
def test_ways_of_writing_a_network(write):
    network = settled(Written(write))
    head = assert_head_is_right(network, torch.randn(3, 1, 6, 6, dtype=torch.float64), "second")
    assert not head.affine or write is branch_on_shapes


def read_a_value(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    return y * 2 if bool(y.mean() > 0) else y * skip


def test_a_value_read_from_the_features_is_not_affine():
    network = settled(Written(read_a_value))
    head = assert_head_is_right(network, torch.randn(1, 1, 6, 6, dtype=torch.float64), "second")
    assert not head.affine


def write_through_a_view(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    part = skip[:, :2]
    part += y[:, :2]
    return skip + y


def mix_the_images(_: Written, y: Tensor, skip: Tensor) -> Tensor:
    return y * skip.flatten().mean()


def count_calls(self: Written, y: Tensor, skip: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return y.tanh() + (skip.exp() if self.calls % 3 == 0 else skip.sin() * 1)


@pytest.mark.parametrize("write", [write_through_a_view, mix_the_images])
def test_what_cannot_be_replayed_runs_in_full(write):
    network = settled(Written(write))
    if write is mix_the_images:
        with borrowed(network):
            probe, name, _ = probe_of(network, torch.randn(2, 1, 6, 6, dtype=torch.float64), "second")
            assert Head(probe, name).how == "full"
        return
    assert_head_is_right(network, torch.randn(2, 1, 6, 6, dtype=torch.float64), "second", how="full")


def test_a_head_that_does_not_give_the_logits_back_runs_in_full(monkeypatch):
    network, image = case("2D")
    real = Head._replay
    monkeypatch.setattr(Head, "_replay", lambda *args: real(*args) * 1.001)
    assert_head_is_right(network, image, "block", how="full")


def test_a_network_that_runs_other_operations_the_next_time_runs_in_full():
    network = settled(Written(count_calls))
    image = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    with borrowed(network):
        probe, name, features = probe_of(network, image, "second")
        head = Head(probe, name)
        network.calls = 1
        head.at(probe.rows, lambda _: features.clone())
    assert head.how == "full"


def test_nothing_below_the_layer_runs():
    network, image = case("3D", batch=1)
    with borrowed(network):
        probe, name, features = probe_of(network, image, "last")
        head = Head(probe, name)
        kept = head.logits
        for module in (network.stem, network.block, network.gate, network.last):
            module.weight.fill_(float("nan"))
        found = head.at(probe.rows, lambda _: features.clone())
    assert head.how == "replay"
    torch.testing.assert_close(found, kept)
    assert not head._recording.kept


def test_memory_and_precision():
    network, image = case("2D", batch=1)
    network.float()
    with borrowed(network):
        probe, name, features = probe_of(network, image.float(), "block")
        probe.autocast = torch.bfloat16
        head = Head(probe, name)
        assert head.logits.shape == probe.logits.shape
        assert head.how == "replay"
        assert sum(t.numel() for t in head._recording.kept.values()) == features.numel()  # the shortcut
