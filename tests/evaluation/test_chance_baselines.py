"""Baselines, and the verdict: maps that know nothing are told apart from a planted perfect one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from medsal.errors import UsageError
from medsal.evaluation import average_precision, prevalence
from medsal.evaluation.baselines import (
    adversaries,
    centre_prior,
    checkerboard,
    constant,
    edge_filter,
    mean_training_mask,
    one_outlier,
    other_patient,
    random,
    shuffled,
)
from medsal.evaluation.chance import mass_null
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.verdict import BEST, CHANCE, NOT_TESTABLE, judge

SIZES = {2: 40, 3: 20}


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5)])
def test_every_baseline_is_one_map_on_the_images_grid_and_batches_do_not_mix(shape):
    image = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    for baseline in (constant, random, centre_prior, edge_filter, checkerboard, one_outlier):
        found = baseline(image)
        assert found.shape == (3, 1, *shape)
        assert torch.equal(found[1:2], baseline(image[1:2]))


def test_baselines_are_what_they_say():
    image = torch.zeros(1, 1, 9, 11)
    assert constant(image).unique().tolist() == [0]
    assert centre_prior(image).argmax() == 4 * 11 + 5
    assert centre_prior(image)[0, 0, 4, 5] == 1
    assert torch.equal(centre_prior(image), centre_prior(image).flip(2, 3))
    assert checkerboard(image)[0, 0, :2, :3].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert (one_outlier(image) > 100).sum() == 1
    values = torch.arange(99.0).view(1, 1, 9, 11)
    assert not torch.equal(shuffled(values), values)
    assert torch.equal(shuffled(values).flatten().sort().values, values.flatten())
    assert not torch.equal(random(image), random(image, seed=1))


def test_edges_are_found_in_any_channel_and_flat_regions_have_none():
    image = torch.zeros(1, 2, 12, 12, 12)
    image[0, 1, 6:] = 2
    found = edge_filter(image)[0, 0]
    assert found[5:7].min() > 0
    assert found[:5].max() == found[7:].max() == 0
    assert torch.equal(edge_filter(image.transpose(2, 4)), edge_filter(image).transpose(2, 4))


def test_edges_are_scikit_images_sobel_but_for_its_scale():
    from skimage.filters import sobel

    image = torch.rand(1, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    ratio = edge_filter(image)[0, 0].numpy() / sobel(image[0, 0].numpy(), mode="reflect")
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_the_mean_training_mask_is_their_mean_and_refuses_all_truth_but_the_training_sets():
    masks = {name: torch.zeros(1, 4, 4) for name in "abc"}
    masks["a"][0, 0, 0] = masks["b"][0, 0, 0] = masks["b"][0, 1, 1] = 1
    splits = {"a": "train", "b": "train", "c": "test"}
    prior = mean_training_mask(((name, masks[name]) for name in "ab"), splits)
    assert prior.relevance.shape == (1, 1, 4, 4)
    assert prior.relevance[0, 0, 0, 0] == 1
    assert prior.relevance[0, 0, 1, 1] == 0.5
    assert torch.equal(prior("c"), prior.relevance)
    with pytest.raises(UsageError, match="made from a: it cannot be scored"):
        prior("a")
    with pytest.raises(UsageError, match="'train', got c of 'test'"):
        mean_training_mask(masks.items(), splits)
    with pytest.raises(UsageError, match="'train', got d of None"):
        mean_training_mask([("d", masks["a"])], splits)
    with pytest.raises(UsageError, match="a came twice"):
        mean_training_mask([("a", masks["a"])] * 2, splits)
    with pytest.raises(UsageError, match="at least one training case"):
        mean_training_mask([], splits)
    with pytest.raises(UsageError, match=r"wanted the grid \(1, 4, 4\), got \(1, 4, 3\) for b"):
        mean_training_mask([("a", masks["a"]), ("b", masks["b"][..., :3])], splits)
    assert masks["a"].sum() == 1


def test_another_patients_map_is_never_ones_own():
    patients = ["a", "a", "b", "a", "c", "b"]
    for seed in range(20):
        assert all(patients[at] != patients[own] for own, at in enumerate(other_patient(patients, seed=seed)))
    assert other_patient(patients) == other_patient(patients)
    with pytest.raises(UsageError, match="two patients or more, got 1"):
        other_patient(["a", "a"])


def study(dims, central, cases=24, seed=3):
    """Images with a body, lesions, and whether lesions lie in the middle with bright edges, or anywhere unseen."""
    generator, size = np.random.default_rng(seed), SIZES[dims]
    spread = size * 0.06 if central else size * 0.32
    images, masks = [], []
    for _ in range(cases):
        centre = generator.uniform(-spread, spread, dims) + size / 2
        grid = np.indices((size,) * dims).reshape(dims, -1).T
        mask = (np.linalg.norm(grid - centre, axis=1) < size * 0.12).reshape((size,) * dims)
        texture = ndimage.gaussian_filter(generator.normal(size=mask.shape), 1.5)
        images.append(texture + central * 2 * mask)
        masks.append(mask)
    return (torch.tensor(np.array(stack))[:, None] for stack in (images, masks))


def inside(mask):
    """Where lesions may lie: a cube in the middle, as a brain in its image."""
    found, size = torch.zeros_like(mask), mask.shape[-1]
    middle = slice(round(size * 0.06), size - round(size * 0.06))
    found[(..., *[middle] * (mask.ndim - 2))] = True
    return found


def scored(metric, maps, mask):
    null = partial(average_precision_null, shifts=49) if metric == "average precision" else mass_null
    nulls = null(maps, mask, body=inside(mask))
    return [null.score for null in nulls], [null.mean for null in nulls]


def verdicts(metric, dims, central):
    image, mask = study(dims, central)
    _, training = study(dims, central, cases=60, seed=4)
    prior = mean_training_mask(((str(at), m) for at, m in enumerate(training)), {str(at): "train" for at in range(60)})
    other = mask[other_patient(range(len(mask)))]
    baselines = {
        "centre prior": centre_prior(image),
        "mean training mask": prior("case").expand_as(mask),
        "edges": edge_filter(image),
        "another patient's mask": other,
    }
    base = {name: scored(metric, maps.double(), mask)[0] for name, maps in baselines.items()}
    everything = adversaries(image, other) | {"planted": mask.double()}
    found = {}
    for name, maps in everything.items():
        scores, null = scored(metric, maps.double(), mask)
        if name == "constant":
            # nothing is no relevance: mass has no answer, average precision that of any constant
            assert np.isnan(scores).all() == (metric == "mass")
        found[name] = judge(scores, null, base).verdict
    return found


@pytest.mark.parametrize("metric", ["average precision", "mass"])
@pytest.mark.parametrize("dims", [2, 3])
def test_adversaries_get_no_better_verdict_than_chance_and_the_planted_map_the_best(metric, dims):
    found = verdicts(metric, dims, central=False)
    assert found.pop("planted") == BEST
    if metric == "mass":
        assert found.pop("constant") == NOT_TESTABLE
    assert set(found.values()) == {CHANCE}


@pytest.mark.parametrize("metric", ["average precision", "mass"])
@pytest.mark.parametrize("dims", [2, 3])
def test_where_lesions_are_central_and_bright_a_blob_and_edges_beat_chance_but_not_the_baselines(metric, dims):
    found = verdicts(metric, dims, central=True)
    assert found.pop("planted") == BEST
    assert BEST not in found.values()
    assert {found[name].removeprefix("no better than ") for name in ("all ones", "checkerboard")} == {"chance"}
    assert found["centre blob"] != CHANCE
    assert found["edges"] != CHANCE


def test_a_blank_map_scores_the_prevalence_in_2d_and_3d():
    for dims in SIZES:
        image, mask = study(dims, central=False)
        scores, means = scored("average precision", constant(image).double(), mask)
        assert scores == pytest.approx(prevalence(mask).tolist(), abs=1e-15)
        assert means == pytest.approx(scores, abs=1e-15)
        assert average_precision(constant(image), mask).tolist() == pytest.approx(scores, abs=1e-15)


def test_verdicts_by_hand():
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.0, 0.1, 20)
    good, fair = chance + 0.5 + 0.1 * chance, chance + 0.2
    assert judge(good, chance, {"prior": fair}).verdict == BEST
    assert judge(fair, chance, {"prior": good}).verdict == "no better than prior"
    assert judge(chance, chance, {"prior": chance - 0.1}).verdict == CHANCE
    assert judge(chance - 0.3 * generator.random(20), chance, {}).verdict == CHANCE
    assert judge(good[:1], chance[:1], {}).verdict == NOT_TESTABLE
    assert judge(good, chance, {"prior": [np.nan] * 20}).verdict == NOT_TESTABLE
    few = judge(chance[:3] + 0.5, chance[:3], {})
    assert (few.verdict, few.differences["chance"].test, few.differences["chance"].p) == (CHANCE, "sign", 0.25)
    many = [f"b{at}" for at in range(30)]
    weak = chance + generator.normal(0.025, 0.05, 20)
    alone, among = judge(weak, chance, {}), judge(weak, chance, dict.fromkeys(many, weak))
    assert alone.p_corrected["chance"] < among.p_corrected["chance"]


def test_a_baseline_that_cannot_be_tested_hides_no_other_that_was_not_beaten():
    chance = np.random.default_rng(0).uniform(0.0, 0.1, 20)
    good, better, once = chance * 1.1 + 0.5, chance * 1.3 + 0.7, np.full(20, np.nan)
    once[0] = 0.1
    assert judge(good, chance, {"once": once}).verdict == NOT_TESTABLE
    assert judge(good, chance, {"once": once, "prior": better}).verdict == "no better than prior"
    assert judge(good, np.full(20, np.nan), {"prior": better}).verdict == NOT_TESTABLE
