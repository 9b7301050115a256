"""Drop and increase in confidence on networks whose answer is known."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from medsal.errors import UsageError
from medsal.evaluation.confidence import THRESHOLDS, confidences, drop_in_confidence, increase_in_confidence
from medsal.evaluation.forwards import shifted_control
from tests.networks_for_tests import case


class Linear(nn.Module):
    """Two classes; the logit of the second is ``offset + w . x``, that of the first 0."""

    def __init__(self, weight: Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).flatten(1).sum(1) + self.offset
        return torch.stack([torch.zeros_like(score), score], 1)


SPACES = [(6, 8), (4, 6, 5)]
every_space = pytest.mark.parametrize("space", SPACES, ids=["2D", "3D"])


def linear(space, offset=0.0):
    return Linear(torch.randn(2, *space, dtype=torch.float64), offset), torch.rand(3, 2, *space, dtype=torch.float64)


@every_space
@pytest.mark.parametrize("score", ["probability", "sigmoid", "logit"])
@pytest.mark.parametrize("direction", ["keep", "remove"])
@pytest.mark.parametrize("threshold", [None, *THRESHOLDS])
def test_confidence_of_a_linear_network_is_its_formula(space, score, direction, threshold):
    network, image = linear(space, 3.0)
    relevance = torch.randn(3, 1, *space)
    fill = 0.25
    before, after = confidences(
        network, image, relevance, target=1, score=score, direction=direction, threshold=threshold, fill=fill
    )
    share = relevance.double().clamp_min(0)
    share /= share.flatten(1).amax(1).view(-1, *[1] * (1 + len(space)))
    if threshold is not None:
        share = (share >= threshold).double()
    shown = image * share + fill * (1 - share) if direction == "keep" else image * (1 - share) + fill * share
    read = (lambda logits: logits) if score == "logit" else torch.sigmoid  # two classes, of which one logit is 0
    wanted = [read((x * network.weight).flatten(1).sum(1) + 3) for x in (image, shown)]
    torch.testing.assert_close([before, after], wanted)
    options = {"target": 1, "score": score, "direction": direction, "threshold": threshold, "fill": fill}
    lost = (wanted[0] - wanted[1]).clamp_min(0)
    drop = drop_in_confidence(network, image, relevance, **options)
    torch.testing.assert_close(drop, lost if score == "logit" else lost / wanted[0])
    rise = increase_in_confidence(network, image, relevance, **options)
    assert rise.tolist() == (wanted[1] > wanted[0]).double().tolist()


@every_space
def test_a_classifier_that_does_not_look_loses_and_gains_nothing(space):
    network, image = linear(space, 0.3)
    with torch.no_grad():
        network.weight.zero_()
    relevance = torch.rand(3, 1, *space)
    for direction in ("keep", "remove"):
        assert drop_in_confidence(network, image, relevance, direction=direction).tolist() == [0, 0, 0]
        assert increase_in_confidence(network, image, relevance, direction=direction).tolist() == [0, 0, 0]


@every_space
def test_maps_of_ones_and_zeros_show_all_and_nothing(space):
    network, image = linear(space)
    ones, zeros = torch.ones(3, 1, *space), torch.zeros(3, 1, *space)
    assert drop_in_confidence(network, image, ones, threshold=0.5).tolist() == [0, 0, 0]
    before, after = confidences(network, image, zeros, target=1, score="logit", fill=0.7)
    wanted = (0.7 * network.weight).sum().expand(3)
    torch.testing.assert_close(after, wanted)
    before, after = confidences(network, image, zeros, target=1, score="logit", direction="remove")
    torch.testing.assert_close(after, before)


def test_a_transposed_map_hides_another_part():
    network, image = linear((7, 7))
    relevance = torch.rand(3, 1, 7, 7)
    straight, turned = (confidences(network, image, r, target=1, score="logit")[1] for r in (relevance, relevance.mT))
    assert ((straight - turned).abs() > 1e-3).all()
    with pytest.raises(UsageError, match=r"grid of the images, \(3, 1, 6, 8\), got \(3, 1, 8, 6\)"):
        drop_in_confidence(*linear((6, 8)), torch.rand(3, 1, 8, 6))


def test_one_logit_is_read_by_its_sigmoid_from_either_side():
    network, volume = case("slices")
    relevance = torch.rand(2, 1, *volume.shape[2:])
    ones, _ = confidences(network, volume, relevance, target=1)
    zeros, _ = confidences(network, volume, relevance, target=0)
    torch.testing.assert_close(ones + zeros, torch.ones(2, dtype=torch.float64))
    slices = volume.squeeze(1).movedim(network.slice_axis + 1, 1)
    torch.testing.assert_close(confidences(network, slices, relevance, target=1)[0], ones)


def test_a_callable_target_is_its_own_score():
    network, image = case("2D")
    before, _ = confidences(network, image, torch.rand(2, 1, 12, 16), target=lambda logits: 7 * logits[:, 0])
    torch.testing.assert_close(before, 7 * network(image)[:, 0].detach())


def test_a_map_that_is_not_finite_has_no_answer():
    network, image = linear((6, 8))
    relevance = torch.rand(3, 1, 6, 8)
    relevance[0, 0, 1, 1], relevance[1, 0, 1, 1] = torch.nan, torch.inf
    for metric in (drop_in_confidence, increase_in_confidence):
        assert metric(network, image, relevance).isnan().tolist() == [True, True, False]


def test_the_control_is_the_mean_over_shifted_maps():
    network, image = linear((3, 4))
    with torch.no_grad():
        network.weight.abs_()
    relevance = torch.rand(3, 1, 3, 4)
    measure = functools.partial(drop_in_confidence, network, image, target=1)
    every = torch.stack([measure(relevance.roll((i, j), (2, 3))) for i in range(3) for j in range(4)])
    found = shifted_control(drop_in_confidence, network, image, relevance, target=1, draws=400)
    torch.testing.assert_close(found, every.mean(0), rtol=0, atol=0.1 * every.std(0).max().item() + 0.02)
    assert (found != measure(relevance)).all()
    again = shifted_control(drop_in_confidence, network, image, relevance, target=1, draws=400)
    assert torch.equal(found, again)
    other = shifted_control(drop_in_confidence, network, image, relevance, target=1, draws=5, seed=1)
    assert not torch.equal(found, other)


def test_a_map_of_what_the_network_reads_beats_the_same_map_elsewhere():
    weight = torch.zeros(2, 8, 8, dtype=torch.float64)
    weight[:, 2:4, 3:6] = 1
    network, image = Linear(weight, -6.0), 1 + 0.1 * torch.rand(2, 2, 8, 8, dtype=torch.float64)
    relevance = weight[:1].expand(2, 1, 8, 8)
    for direction, better in (("keep", torch.less), ("remove", torch.greater)):
        options = {"direction": direction, "target": 1}
        found = drop_in_confidence(network, image, relevance, **options)
        assert better(found, shifted_control(drop_in_confidence, network, image, relevance, **options)).all()


def test_the_network_is_left_as_it_was_found():
    network, image = case("2D")
    network.train()
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    drop_in_confidence(network, image, torch.rand(2, 1, 12, 16, generator=torch.Generator()))
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "both"}, "direction: wanted keep or remove, got 'both'"),
        ({"threshold": 50}, "threshold: wanted a share of the peak above 0 and up to 1, or None, got 50"),
        ({"score": "softmax"}, "score: wanted probability, sigmoid, logit, got 'softmax'"),
        ({"fill": "grey"}, "baseline: wanted a number"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        drop_in_confidence(*linear((6, 8)), torch.rand(3, 1, 6, 8), **wrong)
