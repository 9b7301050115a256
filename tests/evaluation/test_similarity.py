"""Similarity against scikit-image and SciPy, identities, and what unrelated maps score once the null is taken off."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.metrics import structural_similarity

from medsal.errors import UsageError
from medsal.evaluation.similarity import (
    null_corrected,
    spearman,
    spearman_corrected,
    ssim,
    ssim_corrected,
    top_k_overlap,
    top_k_overlap_corrected,
    unit_range,
)

SHAPES = [(31, 45), (11, 12), (64, 20), (14, 23, 19), (40, 12, 13)]
METRICS = [ssim, spearman, top_k_overlap]


def pair(shape, seed=0, batch=2, correlation=0.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.rand(2, batch, 1, *shape, generator=generator, dtype=dtype)
    return first, correlation * first + (1 - correlation) * noise


def by_scikit_image(first, second, **options):
    return [structural_similarity(a[0].numpy(), b[0].numpy(), **options) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("span", [1.0, 2.5])
def test_ssim_equals_scikit_image(shape, span):
    first, second = pair(shape)
    wanted = by_scikit_image(
        first, second, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    np.testing.assert_allclose(ssim(first, second, data_range=span), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_legacy_ssim_is_the_default_of_scikit_image_with_range_2(shape):
    first, second = pair(shape)
    wanted = by_scikit_image(first, second, data_range=2, win_size=7)
    np.testing.assert_allclose(ssim(first, second, legacy="arun2021"), wanted, rtol=0, atol=1e-10)


def test_ssim_of_float32_maps_is_computed_in_float64():
    first, second = pair((20, 21, 22), dtype=torch.float32)
    torch.testing.assert_close(ssim(first, second), ssim(first.double(), second.double()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(30, 31), (14, 15, 16)])
def test_equal_maps_score_1_pairs_are_symmetric_and_batches_do_not_mix(metric, shape):
    first, second = pair(shape)
    assert metric(first, first).tolist() == pytest.approx([1, 1], abs=1e-12)
    torch.testing.assert_close(metric(first, second), metric(second, first), rtol=0, atol=1e-14)
    assert metric(first, second)[1] == metric(first[1:], second[1:])[0]


@pytest.mark.parametrize("shape", [(30, 31), (14, 15, 16)])
@pytest.mark.parametrize("metric", METRICS)
def test_flips_and_transposes_of_both_maps_change_nothing(metric, shape):
    first, second = pair(shape)
    wanted = metric(first, second)
    torch.testing.assert_close(metric(first.flip(2), second.flip(2)), wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(metric(first.transpose(2, 3), second.transpose(2, 3)), wanted, rtol=0, atol=1e-13)


def test_constant_maps_leave_the_luminance_term_and_two_blank_ones_nothing():
    a, b, c1 = 0.3, 0.8, 0.01**2
    first, second = torch.full((1, 1, 20, 20), a), torch.full((1, 1, 20, 20), b)
    wanted = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(first, second).item() == pytest.approx(wanted, abs=1e-7)
    blank = torch.zeros(1, 1, 20, 20)
    for metric in METRICS:
        assert metric(blank, blank).isnan().all()
    for metric in (spearman, top_k_overlap):
        assert metric(blank, torch.rand(1, 1, 20, 20)).isnan().all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_have_no_answer_and_leave_the_rest_of_the_batch_alone(metric, bad):
    first, second = pair((20, 20))
    wanted = metric(first, second)[1]
    first[0, 0, 3, 3] = bad
    found = metric(first, second)
    assert found[0].isnan()
    assert found[1] == wanted


def test_a_map_smaller_than_the_window_has_no_answer():
    first, second = pair((10, 30))
    assert ssim(first, second).isnan().all()
    assert not ssim(first, second, legacy="arun2021").isnan().any()


@pytest.mark.parametrize("metric", [*METRICS, ssim_corrected, spearman_corrected, top_k_overlap_corrected])
def test_a_volume_of_one_slice_is_a_picture(metric):
    first, second = pair((20, 21))
    for axis in (2, 3, 4):
        found = metric(first.unsqueeze(axis), second.unsqueeze(axis))
        torch.testing.assert_close(found, metric(first, second), rtol=0, atol=1e-14)
    assert metric(first[..., :1, :1], second[..., :1, :1]).isnan().all()


def test_maps_outside_the_data_range_are_refused():
    first, second = pair((20, 20))
    with pytest.raises(UsageError, match="data range of 1, got"):
        ssim(3 * first, second)
    with pytest.raises(UsageError, match="'arun2021' or None, got 'wang'"):
        ssim(first, second, legacy="wang")
    with pytest.raises(UsageError, match="two maps on one grid"):
        ssim(first, second[..., :-1])
    with pytest.raises(UsageError, match="between 0 and 1, got 1"):
        top_k_overlap(first, second, share=1)


def test_normalising_by_a_quantile_keeps_one_outlier_from_deciding():
    first, second = pair((40, 40), correlation=0.9)
    first[0, 0, 20, 20] = 1e4
    by_maximum = ssim(first / first.amax((2, 3), keepdim=True), second)
    by_quantile = ssim(unit_range(first), unit_range(second))
    assert by_maximum[0] < 0.1
    assert by_quantile[0] > 0.8
    assert unit_range(-first).max() == 1
    assert unit_range(torch.zeros(1, 1, 4, 4)).eq(0).all()
    for bad in (float("nan"), float("-inf")):
        first[0, 0, 3, 3] = bad
        assert unit_range(first)[0].isnan().all()
        assert unit_range(first)[1].isfinite().all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(metric, dtype):
    first, second = (maps.to(dtype) for maps in pair((20, 20)))
    torch.testing.assert_close(metric(first, second), metric(first.double(), second.double()), rtol=0, atol=1e-13)


@pytest.mark.parametrize("levels", [2, 9, 10**6])
@pytest.mark.parametrize("shape", [(13, 17), (7, 8, 9)])
def test_spearman_equals_scipy_with_and_without_ties(levels, shape):
    generator = np.random.default_rng(levels)
    first, second = generator.integers(0, levels, (2, 3, 1, *shape)) / levels
    second = np.where(generator.random(second.shape) < 0.5, first, second)
    wanted = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(torch.from_numpy(first), torch.from_numpy(second)), wanted, atol=1e-12)


@pytest.mark.parametrize("metric", [spearman, top_k_overlap])
def test_ranks_are_all_that_counts_and_ssim_differs(metric):
    first, second = pair((20, 21))
    torch.testing.assert_close(metric(first.exp(), second**3), metric(first, second), rtol=0, atol=1e-14)
    assert (ssim(first**3, second) - ssim(first, second)).abs().min() > 0.01


def test_top_voxels_in_common_are_counted_by_hand_and_ties_are_shared():
    first = torch.tensor([[[9.0, 8, 7, 1, 2, 3, 4, 5, 6, 0]]])
    second = torch.tensor([[[9.0, 0, 8, 7, 1, 2, 3, 4, 5, 6]]])
    assert top_k_overlap(first, second, share=0.3).item() == pytest.approx(2 / 3)
    tied = torch.tensor([[[9.0, 5, 5, 0, 0, 0, 0, 0, 0, 0]]])
    # two voxels are asked for: the first, and half of each of the tied ones
    assert top_k_overlap(tied, first, share=0.2).item() == pytest.approx(1.5 / 2)
    assert top_k_overlap(tied, tied, share=0.2).item() == pytest.approx(1)


def test_permuting_tied_voxels_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 3, (1, 1, 400), generator=generator).double()
    second = torch.randint(0, 3, (1, 1, 400), generator=generator).double()
    order = torch.randperm(400, generator=generator)
    for metric in (spearman, top_k_overlap):
        moved = metric(first[..., order], second[..., order])
        assert moved.item() == pytest.approx(metric(first, second).item(), abs=1e-14)


def test_independent_maps_share_the_share_of_top_voxels():
    first, second = pair((200, 200), correlation=0)
    assert top_k_overlap(first, second, share=0.1).tolist() == pytest.approx([0.1, 0.1], abs=0.015)


KINDS = {
    "dense": lambda g, n: g.laplace(size=(n, n)) ** 2,
    "smooth": lambda g, n: ndimage.gaussian_filter(g.normal(size=(n, n)), 4, mode="wrap") * 20,
    "sparse": lambda g, n: g.exponential(size=(n, n)) * (g.random((n, n)) < 0.01),
}


def maps(kind, correlation, count, seed=0, n=96):
    generator = np.random.default_rng(seed)
    shared, one, two = ([KINDS[kind](generator, n) for _ in range(count)] for _ in range(3))
    mixed = [
        [correlation**0.5 * s + (1 - correlation) ** 0.5 * own for s, own in zip(shared, side, strict=True)]
        for side in (one, two)
    ]
    return [unit_range(torch.tensor(np.array(side))[:, None]) for side in mixed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", [ssim_corrected, spearman_corrected, top_k_overlap_corrected])
def test_the_corrected_score_of_unrelated_maps_is_nothing_and_of_equal_maps_1(kind, metric):
    first, second = maps(kind, 0.0, 12)
    assert abs(metric(first, second).mean().item()) < 0.05
    assert metric(first, first).tolist() == pytest.approx([1] * 12, abs=1e-12)
    related = metric(*maps(kind, 0.9, 12)).mean().item()
    assert related > 0.4


def test_raw_ssim_of_unrelated_sparse_maps_is_high_which_is_why_it_is_corrected():
    first, second = maps("sparse", 0.0, 12)
    assert ssim(first, second).mean() > 0.3
    assert abs(ssim_corrected(first, second).mean()) < 0.05


def test_the_null_is_taken_off_and_what_it_leaves_is_the_scale():
    first, second = pair((20, 24))
    seen = []

    def metric(a, b):
        seen.append(b)
        return torch.tensor([0.8, 0.5] if torch.equal(b, second) else [0.5, 0.75], dtype=torch.float64)

    assert null_corrected(metric, first, second, shifts=7).tolist() == pytest.approx([0.6, -1.0])
    assert len(seen) == 8
    for rolled in seen[1:]:
        places = [place for place in np.ndindex(20, 24) if torch.equal(torch.roll(second, place, (2, 3)), rolled)]
        assert len(places) == 1
        assert 5 <= places[0][0] <= 15
        assert 6 <= places[0][1] <= 18


@pytest.mark.parametrize("function", [ssim, spearman, top_k_overlap, ssim_corrected, lambda a, b: unit_range(-a)])
def test_maps_are_left_as_they_were(function):
    first, second = pair((20, 20))
    before = first.clone(), second.clone()
    function(first, second)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


MEMORY = """
import resource, sys, torch
from scipy import ndimage
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.similarity import spearman, ssim, top_k_overlap, unit_range
def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def score(n):
    first, second = torch.rand(2, 1, 1, n, n, n, dtype=torch.float64)
    mask = first > 0.99
    before = highest()
    if sys.argv[1] == "average_precision_null":
        average_precision_null(first, mask, shifts=3)
    elif sys.argv[1] == "unit_range":
        unit_range(first)
    else:
        globals()[sys.argv[1]](first, second)
    return (highest() - before) / (8 * n**3)
score(32)
print(score(160))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
@pytest.mark.parametrize("name", ["ssim", "spearman", "top_k_overlap", "unit_range", "average_precision_null"])
def test_no_more_than_four_copies_of_a_volume_are_held(name):
    found = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True)
    print(name, found.stdout)
    assert float(found.stdout) <= 4


def test_a_null_that_leaves_no_room_or_has_no_answer_gives_none():
    first, second = pair((20, 20))
    assert null_corrected(lambda a, b: torch.ones(2), first, second).isnan().all()
    assert ssim_corrected(torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)).isnan().all()


@pytest.mark.parametrize("metric", [ssim_corrected, spearman_corrected, top_k_overlap_corrected])
def test_corrected_scores_of_a_batch_do_not_mix(metric):
    first, second = pair((24, 24))
    assert metric(first, second)[1] == metric(first[1:], second[1:])[0]
