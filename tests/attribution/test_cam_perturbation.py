"""Ablation-CAM against ablation in the whole network, Score-CAM against a slow re-implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from medsal.attribution.head import Head
from medsal.attribution.probe import Probe
from medsal.errors import UsageError
from tests.networks_for_tests import SHAPES, case, settled

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def output_of(network: nn.Module, layer: str, image: Tensor, replaced: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output of a layer and logits, with that output replaced or not."""
    seen = []

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output.clone() if replaced is None else replaced.clone()

    handle = dict(network.named_modules())[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = network(image)
    handle.remove()
    return seen[0], logits[0] if isinstance(logits, tuple) else logits


def ablated_one_by_one(network: nn.Module, layer: str, image: Tensor, target: int, *, relative: bool) -> Tensor:
    """The layer's map, by one run of the whole network for each channel."""
    features, logits = output_of(network, layer, image)
    sign = -1 if logits.shape[1] == 1 and target == 0 else 1
    column = 0 if logits.shape[1] == 1 else target
    score = sign * logits[0, column]
    found = torch.zeros_like(features[:, :1])
    for k in range(features.shape[1]):
        without = features.clone()
        without[:, k] = 0
        loss = score - sign * output_of(network, layer, image, without)[1][0, column]
        found += (loss / score if relative else loss) * features[:, k : k + 1]
    return found


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("layer", "how"), [("last", "replay"), ("end", "closed form")])
@pytest.mark.parametrize("relative", [False, True])
def test_ablationcam_equals_ablation_in_the_whole_network(kind, layer, how, relative):
    network, image = case(kind)
    options = {"ablationcam": {"relu": False, "relative": relative}}
    found = explain(network, image, ["ablationcam"], target=[1, 0], target_layer=layer, options=options)
    assert found.records["ablationcam"]["claims"] == {"head": how}
    probe = Probe(network, image, None)
    for i, target in enumerate([1, 0]):
        wanted = ablated_one_by_one(network, layer, image[i : i + 1], target, relative=relative)
        torch.testing.assert_close(found["ablationcam"][i : i + 1], probe.on_image(wanted), **CLOSE)


def test_ablationcam_runs_in_full_where_the_network_cannot_be_replayed(monkeypatch):
    network, image = case("2D")
    wanted = explain(network, image, ["ablationcam"], target_layer="block")

    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Head, "_replay", fail)
    found = explain(network, image, ["ablationcam"], target_layer="block")
    assert wanted.records["ablationcam"]["claims"] == {"head": "replay"}
    assert found.records["ablationcam"]["claims"] == {"head": "full"}
    torch.testing.assert_close(found["ablationcam"], wanted["ablationcam"], **CLOSE)


def test_ablationcam_says_for_each_layer_how_it_ran():
    network, image = case("2D")
    found = explain(network, image, ["ablationcam"], target_layer=["last", "end"])
    assert found.records["ablationcam@last"]["claims"] == {"head": {"last": "replay", "end": "closed form"}}


@pytest.fixture
def images_run(monkeypatch) -> list[int]:
    """How many images each forward ran."""
    counts: list[int] = []
    real = Probe.forward

    def forward(self: Probe, image: Tensor) -> Tensor:
        counts.append(len(image))
        return real(self, image)

    monkeypatch.setattr(Probe, "forward", forward)
    return counts


def test_ablationcam_skips_dead_channels_and_runs_nothing_for_a_pooled_linear_head(images_run):
    network, image = case("2D", batch=1)
    explain(network, image, ["ablationcam"], target_layer="end")
    assert sum(images_run) == 2  # the shared pass, and the one that is recorded
    images_run.clear()
    explain(network, image, ["ablationcam"], target_layer="last")
    assert sum(images_run) == 2 + 2 + 5  # and the check, and one for each channel
    images_run.clear()
    with torch.no_grad():
        network.last.weight[1:3], network.last.bias[1:3] = 0, 0
    found = explain(network, image, ["ablationcam"], target=0, target_layer="last", options={"ablationcam": {}})
    assert sum(images_run) == 2 + 2 + 3
    wanted = ablated_one_by_one(network, "last", image, 0, relative=False).clamp_min(0)
    torch.testing.assert_close(found["ablationcam"], Probe(network, image, None).on_image(wanted), **CLOSE)


@pytest.mark.parametrize("method", ["ablationcam", "scorecam"])
def test_all_classes_are_scored_by_one_sweep(method, images_run):
    network, image = case("3D")
    alone = [explain(network, image, [method], target=k, target_layer="last")[method] for k in range(3)]
    once = sum(images_run) // 3
    images_run.clear()
    together = explain(network, image, [method], target="all", target_layer="last")[method]
    assert sum(images_run) == once
    torch.testing.assert_close(together, torch.cat(alone, 1), **CLOSE)


def scored_one_by_one(network: nn.Module, layer: str, image: Tensor, target: int, weighting: str) -> Tensor:
    features, _ = output_of(network, layer, image)
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    weights = []
    with torch.no_grad():
        black = network(torch.zeros_like(image))[0, target]
        for k in range(features.shape[1]):
            mask = functional.interpolate(features[:, k : k + 1], image.shape[2:], mode=mode, align_corners=False)
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            weights.append(network(image * mask)[0, target] - black)
    weights = torch.stack(weights)
    if weighting == "softmax":
        weights = weights.softmax(0)
    return (weights.view(-1, *[1] * (image.ndim - 2)) * features[0]).sum(0)[None, None]


@pytest.mark.parametrize("kind", ["2D", "2D colour", "3D"])
@pytest.mark.parametrize("weighting", ["softmax", "increase"])
def test_scorecam_by_the_definition(kind, weighting):
    network, image = case(kind)
    options = {"scorecam": {"relu": False, "weighting": weighting}}
    found = explain(network, image, ["scorecam"], target=[1, 0], target_layer="last", options=options)["scorecam"]
    for i, target in enumerate([1, 0]):
        wanted = scored_one_by_one(network, "last", image[i : i + 1], target, weighting)
        torch.testing.assert_close(found[i : i + 1], Probe(network, image, None).on_image(wanted), **CLOSE)


class OneConstantChannel(nn.Module):
    """Channel 1 is the same everywhere, channel 2 wherever the image is not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1, bias=False)
        self.end = nn.Identity()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = torch.cat([y[:, :1], y[:, 1:2] * 0 + 4, y[:, 2:].clamp_max(0)], 1)
        return self.head(self.end(y).flatten(2).mean(2))


def test_scorecam_gives_channels_that_are_the_same_everywhere_no_weight(images_run):
    network = settled(OneConstantChannel())
    network.conv.weight.data.fill_(1.0)
    image = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    image[1] = image[1].abs()
    options = {"scorecam": {"relu": False}}
    found = explain(network, image, ["scorecam"], target=0, target_layer="end", options=options)["scorecam"]
    assert sum(images_run) == 2 + 2 * 2
    torch.testing.assert_close(found[1], image[1])  # one channel is left, which has all the weight
    assert not torch.allclose(found[0], image[0])
    assert found[0].max() < 4
    flat = explain(network, torch.ones_like(image), ["scorecam"], target=0, target_layer="end")["scorecam"]
    assert torch.equal(flat, torch.zeros_like(flat))


def test_scorecam_refuses():
    network, image = case("2D")
    with pytest.raises(UsageError, match="weighting: wanted one of softmax, increase, got 'mean'"):
        explain(network, image, ["scorecam"], options={"scorecam": {"weighting": "mean"}})
