"""Places of the truth looked up in one sorted map give what scoring the map anew at each place gives."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from medsal.evaluation import METRICS
from medsal.evaluation.chance import mass_null, sampled_null
from medsal.evaluation.layers import GRADED, mean_score
from medsal.evaluation.places import RANKED, Places, nulls_at_places, sums_null

OPTIONS = [(name, {}) for name in RANKED] + [
    ("iou", {"threshold": cut}) for cut in ("otsu", "quantile:0.9", "quantile:1", 3, 0.7)
] + [("dice", {"threshold": "quantile:0.7"})]  # fmt: skip
SHAPES = [(9, 11), (7, 6, 5)]


def sample(shape, *, tied, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=shape).astype(np.float32)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(2, 5) for _ in shape)] = True
    mask[(0,) * len(shape)] = True
    body = np.ones(shape, dtype=bool)
    body[:, -2:] = False
    return np.round(values * 2) if tied else values, mask, body


def batch(values):
    return torch.from_numpy(values)[None, None]


def same(ours, other):
    for one in ("score", "mean", "sd", "high", "p"):
        assert getattr(ours, one) == pytest.approx(getattr(other, one), abs=1e-12), one
    assert (ours.shifts, ours.exact, ours.reason) == (other.shifts, other.exact, other.reason)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_looking_up_equals_rolling_the_truth_and_scoring_again(name, options, shape, tied, inside):
    values, mask, body = sample(shape, tied=tied)
    mask[(0,) * len(shape)] &= not inside
    limit = body if inside else None
    ours = nulls_at_places(values, Places(mask, 40, 3, limit), {"it": (name, options)})["it"]
    metric = partial(METRICS[name].function, **options)
    bodies = batch(body) if inside else None
    (other,) = sampled_null(metric, batch(values), batch(mask), shifts=40, seed=3, body=bodies)
    same(ours, other)


@pytest.mark.parametrize("name", RANKED)
def test_voxels_to_ignore_do_not_count_at_any_place(name):
    values, mask, body = sample((9, 11), tied=True)
    mask[0, 0] = False
    values[:, -2:] = np.where(np.indices((9, 2)).sum(0) % 2, 100, -100)
    ours = nulls_at_places(values, Places(mask, 30, 1, body), {"it": (name, {})}, ~body)["it"]
    metric = partial(METRICS[name].function, ignore=batch(~body))
    (other,) = sampled_null(metric, batch(values), batch(mask), shifts=30, seed=1, body=batch(body))
    same(ours, other)


def test_metrics_asked_together_are_what_they_are_alone():
    values, mask, _ = sample((9, 11), tied=True)
    asked = {f"{name} {options}": (name, options) for name, options in OPTIONS}
    together = nulls_at_places(values, Places(mask, 20), asked)
    assert list(together) == list(asked)
    for key, one in asked.items():
        assert nulls_at_places(values, Places(mask, 20), {key: one})[key] == together[key]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_mass_at_places_is_the_exact_null(shape, inside):
    values, mask, body = sample(shape, tied=False)
    mask[(0,) * len(shape)] &= not inside
    places = Places(mask, body=body if inside else None)
    for seed in range(2):
        weights = np.abs(values + seed).astype(np.float64)
        (other,) = mass_null(batch(weights), batch(mask), body=batch(body) if inside else None)
        same(places.mass_null(weights.copy()), other)
    assert places.mass_null(np.zeros(shape)).reason == "no relevance on the side that is read"


def test_a_weighted_sum_over_all_shifts_is_that_of_rolling_its_worth():
    generator = np.random.default_rng(0)
    weights = np.zeros((5, 6))
    weights[1, 2] = weights[3, 3] = 0.5
    codes = generator.choice([255, 128, 64, 32, 0], size=(5, 6))
    worth = np.vectorize(lambda code: GRADED.get(int(code), -1.0))(codes).astype(float)
    rolled = np.array([(weights * np.roll(worth, s, (0, 1))).sum() for s in np.ndindex(5, 6)])
    found = sums_null(weights, worth)
    assert found.mean == pytest.approx(float(mean_score(torch.from_numpy(codes)[None, None])[0]), abs=1e-12)
    assert (found.mean, found.sd) == pytest.approx((rolled.mean(), rolled.std()), abs=1e-12)
    assert found.p == np.mean(rolled >= (weights * worth).sum() - 1e-12)
    assert found.exact
