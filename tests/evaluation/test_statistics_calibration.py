"""Do tests reject 5 % of true nulls, and do 95 % intervals hold the truth, with thirty alike slices of each patient?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medsal.evaluation.chance import mass_null
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    friedman,
    group_difference,
    mcnemar,
    mixed_difference,
    paired_t,
    reader_correlation,
    sign_flip,
    suemer_2023,
    wilcoxon,
)

pytestmark = pytest.mark.slow
SEED = 20261121
PATIENTS, SLICES = 40, 30
OWNERS = np.repeat(range(PATIENTS), SLICES)
GROUPS = (OWNERS % 2).tolist()


def draw(generator):
    """Scores of which half the variance is the patient's."""
    return generator.normal(size=PATIENTS)[OWNERS] + generator.normal(size=len(OWNERS))


def crossed(g):
    return mixed_difference([*draw(g), *draw(g)], [0] * len(OWNERS) + [1] * len(OWNERS), [*OWNERS, *OWNERS])


def one_hit_each(g):
    return mcnemar(*(g.random((2, 400)) < 0.5))


TESTS = {
    "paired t": (2000, lambda g: paired_t(draw(g), draw(g), OWNERS)),
    "Wilcoxon": (2000, lambda g: wilcoxon(draw(g), draw(g), OWNERS)),
    "sign-flip": (2000, lambda g: sign_flip(draw(g), draw(g), OWNERS, resamples=999)),
    "McNemar, Durkalski": (2000, lambda g: mcnemar(draw(g) > 0, draw(g) > 0, OWNERS)),
    "McNemar, exact": (2000, one_hit_each),
    "Friedman": (2000, lambda g: friedman({name: draw(g) for name in "abc"}, OWNERS)),
    "Welch over patients": (2000, lambda g: group_difference(draw(g), GROUPS, OWNERS)),
    "mixed, groups": (1000, lambda g: mixed_difference(draw(g), GROUPS, OWNERS)),
    "mixed, methods": (800, crossed),
    "Spearman with readers": (2000, lambda g: reader_correlation(draw(g), draw(g), OWNERS, resamples=10)),
    "test tree, one image each": (2000, lambda g: suemer_2023(*g.normal(size=(2, 40)))),
}


@pytest.mark.parametrize("name", TESTS)
def test_type_one_error_is_5_percent(name):
    studies, test = TESTS[name]
    generator = np.random.default_rng(SEED)
    outcomes = [test(generator) for _ in range(studies)]
    assert not any(outcome.reason for outcome in outcomes)
    rate = np.mean([outcome.p < 0.05 for outcome in outcomes])
    print(f"{name}: {rate:.4f}")
    assert 0.035 <= rate <= 0.065


def test_the_published_tree_over_slices_rejects_most_true_nulls():
    generator, first = np.random.default_rng(SEED), OWNERS % 2 == 0
    values = [draw(generator) for _ in range(500)]
    rate = np.mean([suemer_2023(v[first], v[~first]).p < 0.05 for v in values])
    print(f"test tree over slices: {rate:.4f}")
    assert rate > 0.4


TRUTH = 0.3
INTERVALS = {
    "BCa": lambda g: bootstrap_mean(draw(g) + TRUTH, OWNERS),
    "percentile": lambda g: bootstrap_mean(draw(g) + TRUTH, OWNERS, method="percentile"),
    "BCa of a difference": lambda g: bootstrap_difference(draw(g) + TRUTH, draw(g), OWNERS),
    "paired t": lambda g: paired_t(draw(g) + TRUTH, draw(g), OWNERS),
    "Welch": lambda g: group_difference(draw(g) + TRUTH * (OWNERS % 2 == 0), GROUPS, OWNERS),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(name):
    generator = np.random.default_rng(SEED)
    outcomes = [INTERVALS[name](generator) for _ in range(2000)]
    coverage = np.mean([o.low <= TRUTH <= o.high for o in outcomes])
    print(f"{name}: {coverage:.4f}")
    assert 0.93 <= coverage <= 0.97


def test_a_bootstrap_over_images_holds_the_truth_far_too_seldom():
    generator = np.random.default_rng(SEED)
    outcomes = [bootstrap_mean(draw(generator) + TRUTH, method="percentile", resamples=300) for _ in range(300)]
    coverage = np.mean([o.low <= TRUTH <= o.high for o in outcomes])
    print(f"over images: {coverage:.4f}")
    assert coverage < 0.6


def smooth(generator, studies, size=32):
    noise = generator.normal(size=(studies, 1, size, size))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 3, 3), mode="wrap"))


def lesions(generator, body, radius=3):
    places = np.argwhere(ndimage.binary_erosion(body, np.ones((2 * radius + 1,) * 2)))
    found = torch.zeros(1, 1, *body.shape, dtype=torch.bool)
    row, column = places[generator.integers(len(places))]
    found[..., row - radius : row + radius + 1, column - radius : column + radius + 1] = True
    return found


@pytest.mark.parametrize("restricted", [False, True])
def test_smooth_maps_that_know_nothing_beat_the_exact_null_in_5_percent(restricted):
    generator, studies = np.random.default_rng(SEED), 3000
    body = np.hypot(*(np.indices((32, 32)) - 15.5)) < 14
    maps = smooth(generator, studies)
    masks = torch.cat([lesions(generator, body) for _ in range(studies)])
    inside = torch.from_numpy(body).expand_as(masks) if restricted else None
    rate = np.mean([null.p <= 0.05 for null in mass_null(maps, masks, body=inside)])
    print(f"exact null, restricted {restricted}: {rate:.4f}")
    assert 0.035 <= rate <= 0.065


def test_smooth_maps_that_know_nothing_beat_the_sampled_null_of_average_precision_in_5_percent():
    generator, studies = np.random.default_rng(SEED), 2000
    masks = torch.cat([lesions(generator, np.ones((32, 32), dtype=bool)) for _ in range(studies)])
    rate = np.mean([null.p <= 0.05 for null in average_precision_null(smooth(generator, studies), masks)])
    print(f"sampled null of average precision: {rate:.4f}")
    assert 0.035 <= rate <= 0.065
