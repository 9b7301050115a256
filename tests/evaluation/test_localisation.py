"""Localisation scores against scikit-learn, identities and cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from medsal.errors import UsageError
from medsal.evaluation import METRICS, average_precision, pointing_game, prevalence, ranking
from medsal.evaluation.localisation import (
    auprc_trapezoid,
    pointing_chance,
    relevance_mass,
    relevance_rank,
    roc_auc,
    within,
)
from medsal.evaluation.truth import no_answer

LOCALISATION = [row for row in METRICS.values() if row.family == "localisation"]
every_row = pytest.mark.parametrize("row", LOCALISATION, ids=lambda row: row.name)


def trapezoid(truth, values):
    precision, recall, _ = precision_recall_curve(truth, values)
    return auc(recall, precision)


PEERS = {average_precision: average_precision_score, roc_auc: roc_auc_score, auprc_trapezoid: trapezoid}


@pytest.mark.parametrize("metric", PEERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)])
@pytest.mark.parametrize("levels", [2, 5, 40, 10**6])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.9])
def test_ranked_scores_equal_scikit_learn_with_and_without_ties(metric, shape, levels, share, monkeypatch):
    monkeypatch.setattr(ranking, "CHUNK", 17)
    generator = np.random.default_rng(levels)
    relevance = generator.integers(0, levels, (6, 1, *shape)) / levels - 0.3
    mask = generator.random((6, 1, *shape)) < share
    mask[:, 0].reshape(6, -1)[:, :2] = [True, False]
    wanted = [PEERS[metric](m.ravel(), r.ravel()) for r, m in zip(relevance, mask, strict=True)]
    found = metric(torch.from_numpy(relevance), torch.from_numpy(mask))
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.bool])
def test_maps_of_any_type_are_ranked_as_they_are(dtype):
    relevance = (torch.rand(1, 1, 30, 30) * 3).to(dtype)
    mask = torch.rand(1, 1, 30, 30) < 0.1
    wanted = average_precision_score(mask.numpy().ravel(), relevance.double().numpy().ravel())
    assert average_precision(relevance, mask).item() == pytest.approx(wanted, abs=1e-12)


@every_row
def test_a_blank_map_scores_what_chance_gives(row):
    mask = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    mask[0, ..., :3, 0] = True
    mask[1, ..., :2, :] = True
    chance = row.chance_value(mask)
    for blank in (torch.full((2, 1, 4, 5), 0.7), torch.ones(2, 1, 4, 5)):
        torch.testing.assert_close(row.function(blank, mask), chance, rtol=0, atol=1e-15)
    assert prevalence(mask).tolist() == [3 / 20, 10 / 20]


def test_average_precision_of_a_blank_map_is_not_the_trapezoids():
    mask = torch.zeros(1, 1, 40, 50, dtype=torch.bool)
    mask[..., :2, :5] = True
    blank = torch.zeros(1, 1, 40, 50)
    assert average_precision(blank, mask).item() == 0.005
    assert auprc_trapezoid(blank, mask).item() == 0.5025
    assert METRICS["auprc_trapezoid"].legacy


@every_row
def test_the_truth_itself_is_the_best_map(row):
    mask = torch.rand(3, 1, 6, 7) < 0.3
    assert row.function(mask.float(), mask).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("share", "published"), [(0.148, 0.574), (0.012, 0.506)], ids=["RSNA boxes", "SIIM masks"])
def test_the_trapezoid_gives_a_blank_map_more_than_published_methods_reached(share, published):
    mask = (torch.arange(1000) < 1000 * share).view(1, 1, 25, 40)
    blank = torch.zeros(1, 1, 25, 40)
    assert auprc_trapezoid(blank, mask).item() == pytest.approx(published, abs=1e-12)
    assert average_precision(blank, mask).item() == pytest.approx(share, abs=1e-12)


def test_a_binarised_map_is_rewarded_by_the_trapezoid_and_not_by_average_precision():
    mask, box = torch.zeros(2, 1, 1, 40, 50, dtype=torch.bool)
    mask[..., :40] = box[..., ::10] = True  # a tenth of the image, and a tenth of the truth
    p, a = 0.8, 0.1
    assert prevalence(mask).item() == p
    assert average_precision(box.float(), mask).item() == pytest.approx(p, abs=1e-15)
    wanted = a * (1 + p) / 2 + (1 - a) * p
    assert auprc_trapezoid(box.float(), mask).item() == pytest.approx(wanted, abs=1e-15)


def test_the_complement_of_the_truth_is_the_worst_map():
    mask = torch.rand(3, 1, 6, 7) < 0.3
    complement = (~mask).float()
    for metric in (pointing_game, relevance_mass, relevance_rank, roc_auc):
        assert metric(complement, mask).tolist() == [0, 0, 0]
    torch.testing.assert_close(average_precision(complement, mask), prevalence(mask), rtol=0, atol=1e-15)


def test_true_voxels_ranked_last_one_by_one_have_a_closed_form():
    mask = torch.zeros(1, 1, 5, 6, dtype=torch.bool)
    mask[..., 1:3, 2:5] = True
    relevance = torch.rand(1, 1, 5, 6) - mask * 2.0
    true, false = 6, 24
    wanted = sum(k / (false + k) for k in range(1, true + 1)) / true
    assert average_precision(relevance, mask).item() == pytest.approx(wanted, abs=1e-15)


def test_mass_over_all_shifts_is_the_share_of_true_voxels():
    mask = torch.rand(1, 1, 5, 4, 3) < 0.2
    relevance = torch.randn(1, 1, 5, 4, 3, dtype=torch.float64)
    shifts = itertools.product(range(5), range(4), range(3))
    mean = torch.stack([relevance_mass(relevance.roll(s, (2, 3, 4)), mask) for s in shifts]).mean()
    assert mean.item() == pytest.approx(prevalence(mask).item(), abs=1e-15)


def test_mass_of_each_side():
    relevance = torch.tensor([[[3.0, -1, 1, -3]]])
    mask = torch.tensor([[[True, True, False, False]]])
    assert relevance_mass(relevance, mask).item() == 0.75
    assert relevance_mass(relevance, mask, side="negative").item() == 0.25
    assert relevance_mass(relevance, mask, side="absolute").item() == 0.5
    with pytest.raises(UsageError, match="side: wanted positive, negative, absolute, got 'both'"):
        relevance_mass(relevance, mask, side="both")


def test_no_relevance_has_no_mass_and_says_so():
    mask = torch.tensor([[[True, False]]])
    row = METRICS["relevance_mass"]
    relevance = torch.tensor([[[-1.0, 0]]])
    found = row.function(relevance, mask)
    assert found.isnan().all()
    assert row.reasons(found, relevance, mask) == [row.no_answer]


def test_rank_counts_tied_voxels_by_the_room_that_is_left():
    relevance = torch.tensor([[[9.0, 5, 5, 5, 5, 1]]])
    mask = torch.tensor([[[True, True, False, False, True, False]]])
    assert relevance_rank(relevance, mask).item() == pytest.approx((1 + 2 * (2 / 4)) / 3)


@pytest.mark.parametrize(("ties", "wanted"), [("mean", [0.5, 0.25]), ("first", [1, 0]), ("any", [1, 1])])
def test_the_rules_for_equal_peaks(ties, wanted):
    relevance = torch.tensor([[[[7.0, 7, 1, 0]]], [[[2.0, 2, 2, 2]]]])
    mask = torch.tensor([[[[True, False, False, False]]], [[[False, False, True, False]]]])
    assert pointing_game(relevance, mask, ties=ties).tolist() == wanted


def test_an_unknown_tie_rule_is_refused():
    with pytest.raises(UsageError, match="ties: wanted mean, first, any, got 'last'"):
        pointing_game(torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 3, dtype=torch.bool), ties="last")


def test_the_tolerance_is_in_mm_along_each_axis():
    mask = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    mask[0, 0, 4, 4, 4] = True
    spacing = (3.0, 1.0, 0.5)
    for offset, distance in {
        (1, 0, 0): 3.0,
        (0, 2, 0): 2.0,
        (0, 0, 4): 2.0,
        (1, 4, 0): 5.0,
        (-1, 0, -2): 10**0.5,
    }.items():
        peak = torch.zeros(1, 1, 9, 9, 9)
        peak[(0, 0, *(4 + o for o in offset))] = 1
        assert pointing_game(peak, mask, tolerance_mm=distance, spacing=spacing).item() == 1
        assert pointing_game(peak, mask, tolerance_mm=distance - 0.01, spacing=spacing).item() == 0
    blank = torch.zeros(1, 1, 9, 9, 9)
    chance = pointing_chance(mask, tolerance_mm=3, spacing=spacing)
    assert pointing_game(blank, mask, tolerance_mm=3, spacing=spacing).item() == chance.item()
    assert METRICS["pointing_game"].chance_value(mask, tolerance_mm=3, spacing=spacing, ties="mean") == chance
    assert chance.item() > 1 / 729


def test_a_tolerance_equals_all_distances_measured_one_by_one():
    mask = torch.rand(2, 1, 6, 5, 4) < 0.04
    mask[:, 0, 0, 0, 0] = True
    spacing = torch.tensor([1.5, 0.7, 2.0], dtype=torch.float64)
    wide = within(mask, 2.1, spacing.tolist())
    places = torch.cartesian_prod(*(torch.arange(n) for n in (6, 5, 4))) * spacing
    for found, truth in zip(wide, mask, strict=True):
        near = torch.cdist(places, places[truth.flatten()]).amin(1) <= 2.1 + 1e-9
        assert torch.equal(found.flatten(), near)


@pytest.mark.parametrize("wrong", [{"tolerance_mm": -1}, {"spacing": (1.0,)}, {"spacing": (1.0, 0.0)}])
def test_a_tolerance_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match="wanted a tolerance of 0 mm or more and a spacing above 0 for each of 2 axes"):
        pointing_game(torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 3, dtype=torch.bool), **wrong)


@every_row
def test_ignored_voxels_do_not_count(row):
    relevance, mask = torch.rand(2, 1, 6, 8), torch.rand(2, 1, 6, 8) < 0.4
    ignore = torch.zeros_like(mask)
    ignore[..., 5:] = True
    kept = row.function(relevance[..., :5], mask[..., :5])
    relevance[..., 5:] = torch.rand(2, 1, 6, 3) * 100 - 50
    torch.testing.assert_close(row.function(relevance, mask, ignore=ignore), kept, rtol=0, atol=1e-14)
    relevance[..., 5:] = torch.nan
    torch.testing.assert_close(row.function(relevance, mask, ignore=ignore), kept, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        row.chance_value(mask, ignore=ignore), row.chance_value(mask[..., :5]), rtol=0, atol=1e-15
    )


@every_row
def test_what_cannot_be_answered_is_nan_and_has_a_reason(row):
    relevance, mask = torch.rand(6, 1, 3, 4), torch.rand(6, 1, 3, 4) < 0.5
    mask[:, 0, 0, :2] = torch.tensor([True, False])
    ignore = torch.zeros_like(mask)
    mask[0], mask[1], ignore[4] = False, True, True
    relevance[2, 0, 1, 1], relevance[3, 0, 2, 2] = torch.nan, torch.inf
    found = row.function(relevance, mask, ignore=ignore)
    assert found.isnan().tolist() == [True] * 5 + [False]
    wanted = ["truth empty", "truth everywhere", "map not finite", "map not finite", "everything ignored", ""]
    assert no_answer(relevance, mask, ignore) == wanted
    assert row.reasons(found, relevance, mask, ignore) == wanted


@every_row
@pytest.mark.parametrize("value", [False, True])
def test_an_image_of_one_voxel_has_no_answer(row, value):
    assert row.function(torch.rand(1, 1, 1, 1), torch.tensor([[[[value]]]])).isnan().all()


def test_a_truth_that_is_not_finite_has_no_answer():
    assert no_answer(torch.rand(1, 1, 2), torch.tensor([[[1.0, torch.nan]]])) == ["truth not finite"]


@every_row
def test_a_mask_that_was_interpolated_is_refused(row):
    with pytest.raises(UsageError, match="mask: wanted 0 and 1, got values between them; resample masks by nearest"):
        row.function(torch.rand(1, 1, 2, 2), torch.tensor([[[[0, 0.3], [1, 1]]]]))


@every_row
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_masks_of_any_type_are_read_as_yes_and_no(row, dtype):
    relevance, mask = torch.rand(2, 1, 5, 6), torch.rand(2, 1, 5, 6) < 0.3
    found = row.function(relevance, mask.to(dtype) * 255, ignore=torch.zeros(2, 1, 5, 6, dtype=torch.uint8))
    torch.testing.assert_close(found, row.function(relevance, mask), rtol=0, atol=0)


@every_row
def test_a_mask_on_another_grid_is_refused(row):
    with pytest.raises(UsageError, match=r"grid of the map \(1, 1, 3, 3\), got \(1, 1, 3, 4\)"):
        row.function(torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"maps of shape \(B, 1, \*space\), got \(1, 2, 3, 3\)"):
        row.function(torch.rand(1, 2, 3, 3), torch.ones(1, 2, 3, 3, dtype=torch.bool))
