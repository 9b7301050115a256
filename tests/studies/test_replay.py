"""Remembered features give the same maps bit by bit, and save forwards."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.networks import nets
from torch import nn
from torchvision import models

from medsal import METHODS, explain
from medsal.studies.trust.blocks import find_blocks
from medsal.studies.trust.passes import PassCounter
from medsal.studies.trust.randomisation import Randomiser, states
from medsal.studies.trust.replay import Replay
from tests.networks_for_studies import Branched, trained

FAST = {
    "integrated_gradients": {"steps": 3}, "smoothgrad": {"samples": 2}, "smoothgrad_squared": {"samples": 2},
    "vargrad": {"samples": 2}, "smooth_integrated_gradients": {"samples": 2, "steps": 2},
    "gradient_shap": {"samples": 2}, "rise": {"masks": 8}, "occlusion": {"window": 8}, "xrai": {"steps": 2},
}  # fmt: skip


def randomised(network, image, layers=()):
    blocks = find_blocks(network, image)
    randomiser = Randomiser(network, blocks)
    modules = {block.name: block.modules for block in blocks.steps}
    replay = Replay(randomiser.trained(), image, list(modules.values()), layers)
    for state in states(blocks):
        changed = [module for name in state.randomised for module in modules[name]]
        yield state, randomiser.at(state), replay, changed


def test_maps_of_every_method_are_the_same_bit_by_bit():
    image = torch.rand(2, 1, 16, 16)
    network = trained(Branched())
    names = [name for name in METHODS if name != "cam"]
    options = {name: FAST[name] for name in names if name in FAST}
    skipped = 0
    for state, drawn, replay, changed in randomised(network, image, ["act"]):
        if state.order != "top_down":
            continue
        wanted = explain(drawn, image, names, options=options, target_layer="last", target=1)
        for _ in range(2):
            with replay.below(changed):
                found = explain(drawn, image, names, options=options, target_layer="last", target=1)
            assert all(torch.equal(found[name], wanted[name]) for name in names)
        skipped = max(skipped, replay.skipped)
    assert replay.reason == ""
    assert skipped > 5


NETWORKS = {
    "resnet18": lambda: (models.resnet18(num_classes=2), torch.rand(2, 3, 48, 48)),
    "densenet121": lambda: (models.densenet121(num_classes=2), torch.rand(1, 3, 48, 48)),
    "MONAI 3D": lambda: (
        nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=2), torch.rand(1, 1, 24, 24, 24)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_large_networks_are_the_same_bit_by_bit(name):
    network, image = NETWORKS[name]()
    network.eval()
    for state, drawn, replay, changed in randomised(network, image):
        if state.order != "top_down" or state.step % 3 != 1:
            continue
        with torch.no_grad():
            wanted = drawn(image)
            with replay.below(changed):
                assert torch.equal(drawn(image), wanted)
                assert torch.equal(drawn(image), wanted)
                assert not torch.equal(drawn(image + 1), wanted) or not wanted.isfinite().all()
    assert replay.reason == ""


def test_a_share_of_the_layers_counts_as_a_share_of_a_forward():
    network = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)], nn.Flatten(), nn.Linear(64, 2)).eval()
    image = torch.rand(3, 1, 8, 8)
    replay = Replay(network, image)
    counter = PassCounter(network, image, lambda: replay.skipped)
    with torch.no_grad(), counter.counting(), replay.below(["5"]):
        network(image)
        assert counter.take().forwards == pytest.approx(3)
        network(image)
        assert counter.take().forwards == pytest.approx(3 / 5)
        network(image * 2)
        assert counter.take().forwards == pytest.approx(3)
        replay.forget()
        network(image)
        assert counter.take().forwards == pytest.approx(3)


def test_passes_of_an_explanation():
    network, image = trained(Branched()), torch.rand(2, 1, 16, 16)
    counter = PassCounter(network, image)
    with counter.counting():
        explain(network, image, ["saliency", "gradcam", "input_x_gradient"], target_layer="last")
    assert (counter.passes.forwards, counter.passes.backwards) == (2, 2)
    counter.take()
    with counter.counting():
        explain(network, image, ["saliency", "guided_backprop"])
    assert (counter.passes.forwards, counter.passes.backwards) == (2, 4)
    counter.take()
    with counter.counting():
        explain(network, image, "occlusion", options={"occlusion": {"window": 8, "stride": 8}})
    assert counter.passes.forwards >= 8
    assert counter.passes.backwards == 0


def test_what_cannot_be_remembered_exactly_is_not_and_says_why():
    class Fickle(nn.Module):
        """Gives something else at every call."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.last(self.first(x.flatten(1))) + self.calls

    replay = Replay(Fickle(), torch.rand(1, 1, 2, 2))
    assert "gave other logits" in replay.reason
    assert replay.units(["last"]) == ()


def test_features_take_no_more_than_their_budget():
    network, image = models.resnet18(num_classes=2).eval(), torch.rand(1, 3, 32, 32)
    replay = Replay(network, image, budget=0)
    with torch.no_grad(), replay.below(["fc"]):
        assert torch.equal(network(image), network(image))
    assert replay.skipped == 0


def test_an_activation_in_place_on_what_a_skip_carries_still_runs():
    network = trained(Branched())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay = Replay(network, torch.rand(1, 1, 16, 16))
    assert replay.reason == ""
    assert "act" not in replay.units(["head"])
    assert {"first", "norm", "last"} == set(replay.units(["head"]))
