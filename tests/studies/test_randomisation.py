"""States of a randomised network: independent draws, everything covered, the trained network left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medsal.errors import UsageError
from medsal.studies.trust.blocks import find_blocks
from medsal.studies.trust.randomisation import ORDERS, WAYS, Randomiser, states
from tests.networks_for_studies import Branched, trained

IMAGE = torch.zeros(1, 1, 16, 16)


def tensors(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture
def network():
    return trained(Branched())


@pytest.fixture
def blocks(network):
    return find_blocks(network, IMAGE)


def test_states_of_each_order(blocks):
    found = list(states(blocks, draws=2))
    assert len(found) == 3 * 2 * 4
    drawn = {order: [s.randomised for s in found if (s.order, s.draw) == (order, 1)] for order in ORDERS}
    first, own, last, head = blocks.names
    assert drawn["top_down"] == [(head,), (last, head), (own, last, head), tuple(blocks.names)]
    assert drawn["bottom_up"] == [(first,), (first, own), (first, own, last), tuple(blocks.names)]
    assert drawn["independent"] == [(head,), (last,), (own,), (first,)]
    with pytest.raises(UsageError, match="orders: wanted"):
        list(states(blocks, ["sideways"]))


@pytest.mark.parametrize("way", WAYS)
def test_a_state_changes_its_blocks_and_nothing_else(network, blocks, way):
    before = tensors(network)
    randomiser = Randomiser(network, blocks, way, seed=3)
    parts = {block.name: block for block in blocks.steps}
    for state in states(blocks):
        now = tensors(randomiser.at(state))
        mine = {key for name in state.randomised for key in (*parts[name].parameters, *parts[name].buffers)}
        assert all(torch.equal(now[key], before[key]) for key in before if key not in mine)
        weights = [key for name in state.randomised for key in parts[name].parameters]
        assert all(not torch.equal(now[key], before[key]) for key in weights)
        statistics = [key for key in mine if "running" in key]
        assert all(torch.equal(now[key], before[key]) == (way == "legacy_scaled") for key in statistics)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in randomiser.trained().state_dict().items())


def test_a_draw_depends_neither_on_the_order_nor_on_what_else_is_drawn(network, blocks):
    one, other = Randomiser(network, blocks, seed=1), Randomiser(network, blocks, seed=1)
    every = list(states(blocks, draws=2))
    forwards = [tensors(one.at(state)) for state in every]
    backwards = [tensors(other.at(state)) for state in reversed(every)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    full = [f for f, state in zip(forwards, every, strict=True) if len(state.randomised) == 4 and state.draw == 0]
    assert len(full) == 2  # top down and bottom up end in one network
    assert all(torch.equal(full[0][key], full[1][key]) for key in full[0])


@pytest.mark.parametrize("way", WAYS)
def test_layers_of_one_shape_and_draws_are_given_different_numbers(way):
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(network[0].weight)
    blocks = find_blocks(network, torch.zeros(1, 4, 5, 5))
    randomiser = Randomiser(network, blocks, way)
    full = [tensors(randomiser.at(state)) for state in states(blocks, ["top_down"], 3) if state.step == 3]
    assert not torch.equal(full[0]["0.weight"], full[0]["1.weight"])
    assert not torch.equal(full[0]["0.weight"], full[1]["0.weight"])
    assert not torch.equal(full[1]["0.weight"], full[2]["0.weight"])


def test_a_published_fault_stays_out_and_is_shown_as_legacy(network, blocks):
    before = tensors(network)
    state = list(states(blocks, ["top_down"]))[-1]
    now = tensors(Randomiser(network, blocks, "legacy_scaled").at(state))
    assert all((now[key].sign() == before[key].sign()).all() for key, _ in network.named_parameters())
    proper = tensors(Randomiser(network, blocks).at(state))
    assert (proper["first.weight"].sign() != before["first.weight"].sign()).any()


def test_changes_are_counted(network, blocks):
    randomiser = Randomiser(network, blocks)
    found = [randomiser.changes(state) for state in states(blocks, ["top_down"])]
    parameters = sum(p.numel() for p in network.parameters())
    assert [f.parameters for f in found] == [parameters] * 4
    assert [f.parameters_drawn for f in found] == [10, 158, 162, parameters]
    assert [f.parameters_changed for f in found] == [10, 158, 162, parameters]
    assert [f.buffers_drawn for f in found] == [0, 0, 0, 9]
    assert [f.buffers_changed for f in found] == [0, 0, 0, 9]
    assert found[-1].other_way == (*["Branched"],)


def test_random_state_and_training_flag_are_left(network, blocks):
    network.train()
    before = torch.get_rng_state()
    randomiser = Randomiser(network, blocks)
    for state in states(blocks):
        randomiser.at(state)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training


class Greedy(nn.Module):
    """Draws the weights of its part too when it is asked for its own."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 3.0))

    def reset_parameters(self):
        nn.init.normal_(self.scale)
        self.part.reset_parameters()

    def forward(self, x):
        return self.part(x) * self.scale


def test_a_module_that_resets_its_parts_changes_its_own_weights_only():
    network = nn.Sequential(nn.Flatten(), Greedy(), nn.Linear(4, 2))
    blocks = find_blocks(network, torch.zeros(1, 1, 2, 2), 3)
    assert blocks.names == ["1.part", "1", "2"]
    before = tensors(network)
    state = next(s for s in states(blocks, ["independent"]) if s.block == "1")
    now = tensors(Randomiser(network, blocks).at(state))
    assert torch.equal(now["1.part.weight"], before["1.part.weight"])
    assert not torch.equal(now["1.scale"], before["1.scale"])


def test_constants_in_buffers_stay(network):
    network.register_buffer("grid", torch.arange(4.0))
    forward = network.forward
    network.forward = lambda x: forward(x) + network.grid.sum()
    blocks = find_blocks(network, IMAGE)
    state = list(states(blocks, ["bottom_up"]))[-1]
    copied = copy.deepcopy(network)
    assert torch.equal(tensors(Randomiser(copied, blocks).at(state))["grid"], torch.arange(4.0))


def test_an_unknown_way_is_refused(network, blocks):
    with pytest.raises(UsageError, match="reinitialise: wanted one of reset_parameters"):
        Randomiser(network, blocks, "shuffle")
