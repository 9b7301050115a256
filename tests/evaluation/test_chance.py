"""Nulls against brute force, their mean against the prevalence, and what they do where there is no answer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from medsal.errors import UsageError
from medsal.evaluation import average_precision, prevalence
from medsal.evaluation.chance import mass_at_shifts, mass_null, sampled_null
from medsal.evaluation.chance_hits import (
    any_hit_chance,
    average_precision_null,
    hit_count_p,
    layer_hit_chance,
)
from medsal.evaluation.localisation import pointing_chance
from medsal.evaluation.shifts import allowed_shifts, draw_shifts
from medsal.evaluation.ties import counts_at_least, ranks

SHAPES = [(7, 9), (5, 4, 6)]


def pair(shape, seed=0, batch=2, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, 1, *shape, generator=generator) < share
    return torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64), mask


def by_brute_force(relevance, mask, part):
    dims = tuple(range(2, mask.ndim))
    weights = part(relevance)
    found = torch.empty_like(relevance)
    for place in np.ndindex(*mask.shape[2:]):
        inside = (weights * torch.roll(mask, place, dims)).sum(dims)
        found[(slice(None), slice(None), *place)] = inside / weights.sum(dims)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("side", "part"),
    [("positive", lambda r: r.clamp(min=0)), ("negative", lambda r: -r.clamp(max=0)), ("absolute", torch.abs)],
)
def test_mass_at_every_shift_equals_brute_force_and_averages_to_the_prevalence(shape, side, part):
    relevance, mask = pair(shape)
    found = mass_at_shifts(relevance, mask, side=side)
    torch.testing.assert_close(found, by_brute_force(relevance, mask, part), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.flatten(1).mean(1), prevalence(mask), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_null_is_that_of_all_shifts_and_batches_do_not_mix(shape):
    relevance, mask = pair(shape)
    scores = by_brute_force(relevance, mask, lambda r: r.clamp(min=0)).flatten(1)
    for row, null in enumerate(mass_null(relevance, mask)):
        assert null == mass_null(relevance[row : row + 1], mask[row : row + 1])[0]
        assert null.exact
        assert null.shifts == scores.shape[1]
        assert null.score == pytest.approx(scores[row, 0].item(), abs=1e-12)
        assert null.mean == pytest.approx(prevalence(mask)[row].item(), abs=1e-15)
        assert null.sd == pytest.approx(scores[row].std(correction=0).item(), abs=1e-12)
        assert null.p == (scores[row] >= scores[row, 0] - 1e-12).double().mean().item()
        assert null.high == pytest.approx(np.quantile(scores[row], 0.95, method="inverted_cdf"), abs=1e-12)


def test_flips_and_exchanged_axes_of_map_and_truth_change_nothing():
    relevance, mask = pair((5, 4, 6))
    for change in (lambda t: t.flip(2), lambda t: t.flip(3, 4), lambda t: t.permute(0, 1, 4, 2, 3)):
        for a, b in zip(mass_null(change(relevance), change(mask)), mass_null(relevance, mask), strict=True):
            assert a.p == b.p
            np.testing.assert_allclose([a.score, a.mean, a.sd, a.high], [b.score, b.mean, b.sd, b.high], atol=1e-13)


def test_a_map_that_is_the_truth_is_the_best_of_all_shifts_and_its_complement_the_worst():
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[..., 3:6, 4:6] = True
    best, worst = mass_null(mask.double(), mask)[0], mass_null(1 - mask.double(), mask)[0]
    assert (best.score, best.p, best.corrected) == (1.0, 1 / 144, 1.0)
    assert (worst.score, worst.p) == (0.0, 1.0)


@pytest.mark.parametrize("level", [1.0, 1e-9, 3e7])
def test_a_constant_map_has_a_null_of_one_value_and_p_1(level):
    mask = torch.zeros(1, 1, 11, 13, dtype=torch.bool)
    mask[..., 2:5, 7] = True
    null = mass_null(torch.full((1, 1, 11, 13), level, dtype=torch.float64), mask)[0]
    assert null.p == 1
    assert null.score == pytest.approx(3 / 143, abs=1e-15)
    assert null.sd < 1e-15


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r, m: (r, m & False), "truth empty"),
        (lambda r, m: (r, m | True), "truth everywhere"),
        (lambda r, m: (r.index_fill(2, torch.tensor([1]), float("nan")), m), "map not finite"),
        (lambda r, m: (r.index_fill(2, torch.tensor([1]), float("inf")), m), "map not finite"),
        (lambda r, m: (-r.abs(), m), "no relevance on the side that is read"),
    ],
)
def test_a_null_without_an_answer_says_why(change, reason):
    relevance, mask = change(*pair((7, 9), batch=1))
    null = mass_null(relevance, mask)[0]
    assert null.reason == reason
    assert np.isnan([null.score, null.mean, null.sd, null.high, null.p]).all()
    if not reason.startswith("no relevance"):
        for sampled in (sampled_null(average_precision, relevance, mask), average_precision_null(relevance, mask)):
            assert sampled[0].reason == reason
            assert np.isnan(sampled[0].p)


def test_a_metric_without_an_answer_leaves_the_null_without_one():
    relevance, mask = pair((7, 9), batch=1)
    null = sampled_null(lambda r, m: torch.full((1,), torch.nan), relevance, mask)[0]
    assert np.isnan(null.p)
    assert null.reason == "the metric has no answer for this map"


@pytest.mark.parametrize("shape", SHAPES)
def test_shifts_inside_a_body_are_those_that_a_walk_over_all_places_finds(shape):
    truth = np.zeros(shape, dtype=bool)
    truth[(slice(1, 3),) * len(shape)] = True
    body = np.zeros(shape, dtype=bool)
    body[(slice(1, 4), *[slice(0, None)] * (len(shape) - 1))] = True
    wanted = np.zeros(shape, dtype=bool)
    for start in np.ndindex(*(size - 1 for size in shape)):
        place = tuple(slice(at, at + 2) for at in start)
        wanted[tuple((at - 1) % size for at, size in zip(start, shape, strict=True))] = body[place].all()
    assert 1 < wanted.sum() < truth.size
    np.testing.assert_array_equal(allowed_shifts(truth, body), wanted)


def test_a_truth_partly_outside_the_body_may_move_where_no_more_of_it_is_outside():
    truth, body = np.zeros(10, dtype=bool), np.zeros(10, dtype=bool)
    truth[3:6], body[4:9] = True, True
    np.testing.assert_array_equal(np.flatnonzero(allowed_shifts(truth, body)), [0, 1, 2, 3, 4])


def test_the_restricted_null_counts_only_allowed_shifts():
    relevance, mask = pair((12, 10), batch=1, share=0)
    mask[..., 4:6, 4:6] = True
    body = torch.zeros_like(mask)
    body[..., 2:10, 2:9] = True
    allowed = torch.from_numpy(allowed_shifts(mask[0, 0].numpy(), body[0, 0].numpy()))
    scores = mass_at_shifts(relevance, mask)[0, 0][allowed]
    null = mass_null(relevance, mask, body=body)[0]
    assert null.shifts == len(scores) == 7 * 6
    assert null.mean == pytest.approx(scores.mean().item(), abs=1e-14)
    assert null.p == (scores >= null.score - 1e-12).double().mean().item()
    assert mass_null(relevance, mask, body=mask)[0].reason == "no other place in the body holds the truth"
    drawn, every = draw_shifts(mask[0, 0].numpy(), 30, 0, body[0, 0].numpy())
    assert len(set(drawn)) == 30
    assert not every
    assert average_precision_null(relevance, mask, shifts=41, body=body)[0].exact
    assert not average_precision_null(relevance, mask, shifts=40, body=body)[0].exact
    assert all(allowed[place] for place in drawn)
    assert (0, 0) not in drawn


def test_a_body_everywhere_still_wraps_nothing_around_the_border():
    truth = np.zeros((6, 8), dtype=bool)
    truth[1:3, 2:5] = True
    assert allowed_shifts(truth, np.ones_like(truth)).sum() == 5 * 6


def test_sampled_nulls_approach_the_exact_one_and_are_it_when_all_shifts_are_drawn():
    relevance, mask = pair((6, 7), batch=2)
    weights = relevance.clamp(min=0)

    def mass(r, m):
        return (r.clamp(min=0) * m).flatten(1).sum(1) / r.clamp(min=0).flatten(1).sum(1)

    for sampled, exact in zip(sampled_null(mass, weights, mask, shifts=41), mass_null(relevance, mask), strict=True):
        assert sampled.exact
        assert sampled.shifts == exact.shifts == 42
        assert sampled.p == pytest.approx(exact.p, abs=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_null_of_average_precision_with_one_sort_equals_the_general_one(shape, levels):
    relevance, mask = pair(shape)
    relevance = (relevance * levels).round() / levels if levels < 10 else relevance
    body = torch.ones_like(mask)
    for kept in (None, body):
        fast = average_precision_null(relevance, mask, shifts=25, seed=3, body=kept)
        slow = sampled_null(average_precision, relevance, mask, shifts=25, seed=3, body=kept)
        for a, b in zip(fast, slow, strict=True):
            assert (a.p, a.shifts, a.exact, a.reason) == (b.p, b.shifts, b.exact, b.reason)
            if not a.reason:
                np.testing.assert_allclose([a.score, a.mean, a.sd, a.high], [b.score, b.mean, b.sd, b.high], atol=1e-14)


def test_seeds_decide_the_sample_and_each_image_is_given_the_draw_that_it_has_alone():
    relevance, mask = pair((9, 9))
    found = average_precision_null(relevance, mask, shifts=20)
    assert found[1] == average_precision_null(relevance[1:], mask[1:], shifts=20)[0]
    assert found != average_precision_null(relevance, mask, shifts=20, seed=1)


def test_ranks_equal_scipys():
    for levels in (2, 7, 10**6):
        values = np.random.default_rng(levels).integers(0, levels, 500) / 3
        np.testing.assert_array_equal(ranks(values), 2 * stats.rankdata(values))
        np.testing.assert_array_equal(counts_at_least(values), (values[None] >= values[:, None]).sum(1))


def test_chance_levels_of_hits_in_closed_form():
    relevance, mask = pair((7, 9))
    torch.testing.assert_close(pointing_chance(mask), prevalence(mask))
    body = torch.zeros_like(mask)
    body[..., :4, :] = True
    torch.testing.assert_close(pointing_chance(mask, ignore=~body), mask[..., :4, :].flatten(1).double().mean(1))
    torch.testing.assert_close(any_hit_chance(relevance, mask), prevalence(mask))
    torch.testing.assert_close(any_hit_chance(torch.zeros_like(relevance), mask), torch.ones(2, dtype=torch.float64))
    assert pointing_chance(mask & False).isnan().all()
    assert any_hit_chance(relevance, mask & False).isnan().all()


def test_any_of_two_peaks_hits_where_either_does():
    relevance, mask = torch.zeros(1, 1, 10), torch.zeros(1, 1, 10, dtype=torch.bool)
    relevance[..., [2, 3]], mask[..., 5:7] = 1, True
    assert any_hit_chance(relevance, mask).item() == pytest.approx(3 / 10)


def test_layer_hits_by_chance_are_the_mean_score_over_the_image():
    layers = torch.tensor([[[[255, 128], [64, 32]]], [[[0, 7], [255, 255]]]])
    found = layer_hit_chance(layers, {255: 3, 128: 2, 64: 1, 32: 0})
    assert found.tolist() == [1.5, 1.0]


def test_hit_counts_follow_the_poisson_binomial_distribution():
    assert hit_count_p([1, 1, 0, 0], [0.3] * 4) == pytest.approx(stats.binom.sf(1, 4, 0.3), abs=1e-15)
    chances = [0.1, 0.5, 0.9]
    wanted = sum(np.prod([p if h else 1 - p for h, p in zip(hits, chances, strict=True)])
                 for hits in [(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])  # fmt: skip
    assert hit_count_p([1, 0, 1], chances) == pytest.approx(wanted, abs=1e-15)
    assert hit_count_p([1, np.nan], [0.25, 0.5]) == pytest.approx(0.25)
    assert np.isnan(hit_count_p([], []))
    with pytest.raises(UsageError, match="0 or 1"):
        hit_count_p([0.5], [0.1])
    with pytest.raises(UsageError, match="a chance for each of 2 hits, got 1"):
        hit_count_p([1, 0], [0.1])


def test_half_precision_is_read_as_it_is():
    relevance, mask = pair((7, 9))
    for dtype in (torch.float16, torch.bfloat16):
        half = relevance.to(dtype)
        assert mass_null(half, mask) == mass_null(half.double(), mask)
        assert average_precision_null(half, mask) == average_precision_null(half.double(), mask)


def test_what_does_not_fit_is_refused():
    relevance, mask = pair((4, 4))
    with pytest.raises(UsageError, match=r"grid of the map \(2, 1, 4, 4\), got \(2, 1, 4, 3\)"):
        mass_null(relevance, mask[..., :3])
    with pytest.raises(UsageError, match="side: wanted positive, negative, absolute, got 'abs'"):
        mass_null(relevance, mask, side="abs")


def test_maps_and_truths_are_left_as_they_were():
    relevance, mask = pair((7, 9))
    before = relevance.clone(), mask.clone()
    for null in (mass_null, average_precision_null):
        null(relevance, mask, body=mask)
    mass_null(relevance, mask, side="absolute")
    any_hit_chance(relevance, mask)
    assert torch.equal(relevance, before[0])
    assert torch.equal(mask, before[1])


MEMORY = """
import resource, torch
from scipy import fft
from medsal.evaluation.chance import mass_null
def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def score(n):
    relevance, mask = torch.rand(1, 1, n, n, n), torch.zeros(1, 1, n, n, n, dtype=torch.bool)
    mask[..., : n // 4, : n // 4, : n // 4] = True
    before = highest()
    mass_null(relevance, mask, body=torch.ones_like(mask))
    return (highest() - before) / (8 * n**3)
score(32)
print(score(128))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
def test_the_exact_null_holds_at_most_four_copies_of_the_volume():
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(found.stdout) <= 4
