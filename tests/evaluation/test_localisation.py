"""Localisation scores against scikit-learn and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from medsal.errors import UsageError
from medsal.evaluation import average_precision, pointing_game, prevalence


@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_average_precision_equals_scikit_learn_with_and_without_ties(shape, levels):
    generator = np.random.default_rng(levels)
    relevance = generator.integers(0, levels, (6, 1, *shape)) / levels - 0.3
    mask = generator.random((6, 1, *shape)) < 0.2
    wanted = [average_precision_score(m.ravel(), r.ravel()) for r, m in zip(relevance, mask, strict=True)]
    found = average_precision(torch.from_numpy(relevance), torch.from_numpy(mask))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_a_blank_map_scores_what_chance_gives():
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    mask[..., :3, 0] = True
    blank = torch.zeros(1, 1, 4, 5)
    assert average_precision(blank, mask).item() == pytest.approx(3 / 20, abs=1e-15)
    assert pointing_game(blank, mask).item() == pytest.approx(3 / 20, abs=1e-15)
    assert prevalence(mask).item() == pytest.approx(3 / 20, abs=1e-15)


def test_the_truth_itself_is_the_best_map_and_its_complement_the_worst():
    mask = torch.rand(3, 1, 6, 7) < 0.3
    assert average_precision(mask.float(), mask).tolist() == [1, 1, 1]
    assert pointing_game(mask.float(), mask).tolist() == [1, 1, 1]
    assert pointing_game(-mask.float(), mask).tolist() == [0, 0, 0]
    assert (average_precision(-mask.float(), mask) <= prevalence(mask) + 1e-12).all()


def test_an_empty_mask_has_no_answer():
    mask = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    mask[1, 0, 1, 1] = True
    relevance = torch.rand(2, 1, 3, 3)
    for metric in (average_precision, pointing_game):
        assert metric(relevance, mask).isnan().tolist() == [True, False]


def test_a_mask_on_another_grid_is_refused():
    with pytest.raises(UsageError, match=r"grid of the map \(1, 1, 3, 3\), got \(1, 1, 3, 4\)"):
        average_precision(torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 4, dtype=torch.bool))
