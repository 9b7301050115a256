"""Sparseness and entropy against definitions written another way."""

from __future__ import annotations

import math

import pytest
import torch

from medsal.evaluation import METRICS
from medsal.evaluation.complexity import entropy, sparseness


def test_sparseness_is_half_the_relative_mean_difference_of_all_pairs():
    relevance = torch.randn(3, 1, 5, 6, dtype=torch.float64)
    for found, values in zip(sparseness(relevance), relevance.abs().flatten(1), strict=True):
        wanted = (values[:, None] - values).abs().mean() / (2 * values.mean())
        assert found.item() == pytest.approx(wanted.item(), abs=1e-14)


def test_entropy_is_that_of_the_shares():
    relevance = torch.tensor([[[0.5, -0.25, 0.25, 0]]])
    assert entropy(relevance).item() == pytest.approx(1.5 * math.log(2), abs=1e-15)


@pytest.mark.parametrize("space", [(5, 6), (2, 3, 5)])
def test_one_voxel_and_a_constant_map_are_the_ends(space):
    one = torch.zeros(1, 1, *space)
    one.view(-1)[7] = -3
    constant = torch.full((1, 1, *space), 0.2)
    assert sparseness(one).item() == pytest.approx(1 - 1 / 30, abs=1e-15)
    assert sparseness(constant).item() == pytest.approx(0, abs=1e-15)
    assert entropy(one).item() == 0
    assert entropy(constant).item() == pytest.approx(math.log(30), abs=1e-14)


@pytest.mark.parametrize("metric", ["sparseness", "entropy"])
def test_a_map_of_nothing_has_no_answer(metric):
    row = METRICS[metric]
    relevance = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan), torch.full((1, 2, 2), torch.inf)])
    found = row.function(relevance)
    assert found.isnan().all()
    assert row.reasons(found, relevance) == ["the map is zero everywhere", "map not finite", "map not finite"]
