"""XRAI: the ranking of regions against a slow one with masks, what it keeps, and the method around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor, nn

from medsal.attribution import regions as module
from medsal.attribution.explain import explain
from medsal.attribution.regions import MODES, region_ranking, regions_of
from medsal.attribution.segments import Felzenszwalb, GivenSegments, Segments
from medsal.attribution.supervoxels import Supervoxels
from medsal.errors import UsageError
from tests.networks_for_tests import SHAPES, case

every_mode = pytest.mark.parametrize("mode", ["full", "fast"])
every_shape = pytest.mark.parametrize("shape", [(23, 31), (9, 14, 11)])
RANDOM = np.random.default_rng
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def whole_masks(segments: Segments) -> list[np.ndarray]:
    found = []
    for box, mask in segments.masks():
        found.append(np.zeros(segments.labels[0].shape, dtype=bool))
        found[-1][box] = mask
    return found


def slow_ranking(attribution: np.ndarray, masks: list[np.ndarray], mode: str, min_new: int) -> np.ndarray:
    """The paper's algorithm, every mask scanned in every round."""
    result, covered = np.full(attribution.shape, np.nan), np.zeros(attribution.shape, dtype=bool)
    left = list(range(len(masks)))
    if mode == "fast":
        left.sort(key=lambda i: -attribution[masks[i]].mean())
    while True:
        left = [i for i in left if (masks[i] & ~covered).sum() >= min_new]
        if not left:
            break
        gains = [attribution[masks[i] & ~covered].mean() for i in left]
        best = left[0] if mode == "fast" else left[int(np.argmax(gains))]
        new = masks[best] & ~covered
        result[new] = attribution[new].mean()
        covered |= new
        left.remove(best)
    if not covered.all():
        result[~covered] = attribution[~covered].mean()
    return result


def some_segments(shape: tuple[int, ...], seed: int = 0, scales: tuple[int, ...] = (4, 9, 20)) -> Segments:
    """Overlapping segments at several scales, with voxels that belong to none."""
    labels = []
    for i, scale in enumerate(scales):
        smooth = ndimage.gaussian_filter(RANDOM(seed + i).standard_normal(shape), 1.5)
        labels.append(np.digitize(smooth, np.quantile(smooth, np.linspace(0.1, 1, scale + 1)[:-1])).astype(np.int32))
    return Segments(tuple(labels), (1.0, 1.5, 0.8)[: len(shape)], dilation=1.7, min_new=5)


@every_mode
@every_shape
@pytest.mark.parametrize("seed", range(3))
def test_the_ranking_equals_a_slow_one_with_masks(mode, shape, seed):
    segments = some_segments(shape, seed)
    attribution = RANDOM(10 + seed).standard_normal(shape)
    wanted = slow_ranking(attribution, whole_masks(segments), mode, 5)
    found = region_ranking(attribution, regions_of(segments), mode=mode)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
    assert len(np.unique(found)) > 5


@every_mode
@every_shape
@pytest.mark.parametrize("values", [2, 4])
def test_of_equals_the_first_is_taken(mode, shape, values):
    segments = some_segments(shape)
    twice = Segments((*segments.labels[::-1], *segments.labels), segments.spacing, segments.dilation, 3)
    attribution = RANDOM(0).integers(0, values, shape) / 4.0  # sums of quarters are exact, so ties are ties
    attribution[: shape[0] // 2] = 0
    wanted = slow_ranking(attribution, whole_masks(twice), mode, 3)
    np.testing.assert_allclose(region_ranking(attribution, regions_of(twice), mode=mode), wanted, rtol=0, atol=1e-13)


@every_mode
@every_shape
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_sum_is_kept(mode, shape, scale):
    attribution = RANDOM(0).standard_normal(shape) * scale
    for min_new in (1, 40, 10**6):
        found = region_ranking(attribution, regions_of(some_segments(shape)), mode=mode, min_new=min_new)
        assert abs(found.sum() - attribution.sum()) < 1e-12 * np.abs(attribution).sum()
    np.testing.assert_allclose(found, attribution.mean(), rtol=1e-9)  # no region is that large: one mean for all


@every_mode
@every_shape
def test_a_partition_gives_the_mean_of_each_part_in_whatever_order(mode, shape):
    parts = RANDOM(0).integers(1, 8, shape).astype(np.int32)
    attribution = RANDOM(1).standard_normal(shape)
    wanted = np.zeros(shape)
    for part in range(1, 8):
        wanted[parts == part] = attribution[parts == part].mean()
    for seed in range(3):
        order = np.concatenate([[0], RANDOM(seed).permutation(7) + 1])
        regions = regions_of(Segments((order[parts].astype(np.int32),), (1.0,) * len(shape), min_new=5))
        np.testing.assert_allclose(region_ranking(attribution, regions, mode=mode), wanted, rtol=0, atol=1e-13)


@every_mode
def test_nothing_to_rank_gives_one_mean_and_no_attribution_gives_zeros(mode):
    nothing = regions_of(Segments((np.zeros((3, 4), np.int32),), (1.0, 1.0)))
    attribution = np.arange(12.0).reshape(3, 4)
    assert region_ranking(attribution, nothing, mode=mode).tolist() == [[5.5] * 4] * 3
    assert not region_ranking(np.zeros((23, 31)), regions_of(some_segments((23, 31))), mode=mode).any()


def test_two_sets_of_regions_with_one_code_are_told_apart(monkeypatch):
    segments = some_segments((23, 31))
    attribution = RANDOM(0).standard_normal((23, 31))
    wanted = region_ranking(attribution, regions_of(segments))
    real, seeds = module._keys, []

    def keys(count: int, seed: int) -> np.ndarray:
        seeds.append(seed)
        return real(count, seed) if seed > 1 else real(count, seed) % 5

    monkeypatch.setattr(module, "_keys", keys)
    np.testing.assert_allclose(region_ranking(attribution, regions_of(segments)), wanted, rtol=0, atol=1e-13)
    assert seeds == [0, 1, 2]


def test_the_ranking_refuses_what_it_cannot_do():
    regions = regions_of(some_segments((23, 31)))
    with pytest.raises(UsageError, match="mode: wanted one of full, fast, got 'quick'"):
        region_ranking(np.zeros((23, 31)), regions, mode="quick")
    with pytest.raises(UsageError, match=r"wanted the shape \(23, 31\)"):
        region_ranking(np.zeros((31, 23)), regions)


def run(network: nn.Module, image: Tensor, target: object = 1, **options: object) -> tuple[Tensor, dict]:
    found = explain(network, image, ["xrai"], target=target, options={"xrai": {"steps": 4, **options}})
    return found["xrai"], found.records["xrai"]["claims"]


@every_mode
@pytest.mark.parametrize("kind", SHAPES)
def test_the_sum_of_the_map_is_that_of_integrated_gradients_over_the_baselines(mode, kind):
    network, image = case(kind)
    relevance, claims = run(network, image, mode=mode, quadrature="gauss_legendre")
    sums, gaps = [], []
    for baseline in ("min", "max"):
        options = {"integrated_gradients": {"steps": 4, "baseline": baseline}}
        part = explain(network, image, ["integrated_gradients"], target=1, options=options)
        sums.append(part["integrated_gradients"].flatten(1).sum(1))
        gaps.append(part.records["integrated_gradients"]["claims"]["completeness_gap"])
    torch.testing.assert_close(relevance.flatten(1).sum(1), torch.stack(sums).mean(0), **CLOSE)
    assert np.abs(claims["mass_gap"]).max() < 1e-13
    np.testing.assert_allclose(np.transpose(claims["baseline_gaps"]), gaps, rtol=1e-9)
    np.testing.assert_allclose(claims["completeness_gap"], np.mean(gaps, axis=0), rtol=1e-9, atol=1e-12)
    assert len(claims["regions"]) == len(image)


@every_mode
@pytest.mark.parametrize("channels", ["sum", "max"])
def test_the_method_ranks_the_reduced_attribution_of_its_own_segments(mode, channels):
    network, image = case("2D colour")
    segments = some_segments((12, 16))
    relevance, _ = run(
        network, image, mode=mode, channels=channels, segments=lambda *_: segments, baselines=[0.3], steps=3
    )
    options = {"integrated_gradients": {"steps": 3, "baseline": 0.3, "quadrature": "midpoint", "channels": channels}}
    base = explain(network, image, ["integrated_gradients"], target=1, options=options)["integrated_gradients"]
    for one, attribution in zip(relevance, base, strict=True):
        wanted = slow_ranking(attribution[0].numpy(), whole_masks(segments), mode, 5)
        np.testing.assert_allclose(one[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
@every_mode
def test_images_of_a_batch_do_not_mix_in_their_own_segments(kind, mode):
    network, image = case(kind, batch=3)
    if kind.startswith("2D"):  # pictures with structure, of which Felzenszwalb makes more than one segment
        image = torch.nn.functional.interpolate(image[..., :4, :6], (40, 64))
    together, _ = run(network, image, [0, 1, 0], mode=mode)
    assert all(len(one.unique()) > 1 for one in together)
    for i, target in enumerate([0, 1, 0]):
        alone, _ = run(network, image[i : i + 1], target, mode=mode)
        torch.testing.assert_close(together[i : i + 1], alone, **CLOSE)


def test_axes_of_a_volume_may_be_exchanged_with_supervoxels_too():
    network, image = case("3D")
    wanted, _ = run(network, image)
    for part in network.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.permute(0, 1, 4, 2, 3).contiguous()
    turned, _ = run(network, image.permute(0, 1, 4, 2, 3))
    torch.testing.assert_close(turned, wanted.permute(0, 1, 4, 2, 3), **CLOSE)
    assert len(wanted[0].unique()) > 3


class Weighted(nn.Module):
    """A linear score, so that the attribution is known: its weights times the distance to the mean baseline."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


@every_mode
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_volume_of_one_slice_equals_the_picture_in_its_own_segments(mode, axis):
    image = torch.nn.functional.interpolate(torch.randn(2, 1, 4, 6, dtype=torch.float64), (40, 64))
    weight = torch.randn(1, 40, 64, dtype=torch.float64)
    wanted, claims = run(Weighted(weight), image, mode=mode)
    found, same = run(Weighted(weight.unsqueeze(axis - 1)), image.unsqueeze(axis), mode=mode)
    torch.testing.assert_close(found.squeeze(axis), wanted, **CLOSE)
    assert claims["regions"] == same["regions"]
    assert len(wanted[0].unique()) > 3


def test_a_black_background_takes_no_relevance_from_the_regions_beside_it():
    shape = (26, 22, 18)
    away = sum(
        (torch.arange(n).view([-1 if a == i else 1 for a in range(3)]) - n / 2) ** 2 for i, n in enumerate(shape)
    )
    body = away <= 64
    image = torch.where(body, 2 + torch.rand(shape, dtype=torch.float64), torch.zeros(())).double()[None, None]
    network = Weighted((body & (torch.arange(26).view(-1, 1, 1) < 13)).double())
    options = {"baselines": [0.0], "steps": 1}
    relevance, _ = run(network, image, segments=Supervoxels(volumes=(150, 400), dilation=0.0), **options)
    relevance = relevance[0, 0]
    assert relevance[~body].unique().numel() == 1
    assert relevance[~body][0] == 0
    whole, _ = run(network, image, segments=Supervoxels(volumes=(150, 400), dilation=0.0, body=False), **options)
    assert whole[0, 0][body].sum() <= relevance[body].sum() + 1e-9
    assert relevance[body][: body.sum() // 4].mean() > 1.5


def test_the_spacing_of_the_probe_reaches_the_segmentation():
    network, image = case("3D")
    seen = []

    def segments(values: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
        seen.append((values.shape, spacing))
        return [np.ones(values.shape[1:], dtype=bool)]

    run(network, image, segments=segments)
    assert seen == [((1, 12, 8, 10), (1.0, 1.0, 1.0))] * 2
    affine = torch.tensor([[0, -1.0, 0, 5], [3.0, 0, 0, -3], [0, 0, 0.5, 9], [0, 0, 0, 1]], dtype=torch.float64)
    run(network, MetaTensor(image, affine=affine), segments=segments)
    assert seen[2:] == [((1, 12, 8, 10), (3.0, 1.0, 0.5))] * 2


def test_segments_may_be_given_in_every_form():
    network, image = case("2D colour")
    atlas = RANDOM(0).integers(0, 4, (12, 16))
    masks = [atlas == label for label in (1, 2, 3)]
    wanted, claims = run(network, image, segments=atlas)
    assert claims["regions"] == [3, 3]
    assert len(wanted[0].unique()) == 4
    forms = [
        torch.from_numpy(atlas),
        masks,
        np.stack(masks),
        [torch.from_numpy(mask) for mask in masks],
        torch.from_numpy(atlas).expand(2, 1, 12, 16),
        GivenSegments(masks),
        lambda *_: masks,
    ]
    for form in forms:
        torch.testing.assert_close(run(network, image, segments=form)[0], wanted, **CLOSE)
    each = np.stack([atlas[None], atlas[None, ::-1]])
    other, _ = run(network, image, segments=each)
    torch.testing.assert_close(other[0], wanted[0], **CLOSE)
    flipped, _ = run(network, image[1:], segments=atlas[::-1].copy())
    torch.testing.assert_close(other[1], flipped[0], **CLOSE)
    wide, _ = run(network, image, segments=GivenSegments(atlas, dilation=1.0, min_new=30))
    assert not torch.allclose(wide, wanted)


def test_an_image_is_segmented_once_for_all_classes_and_modes():
    network, image = case("3D")
    calls = []

    def segments(values: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        calls.append(1)
        return (values[0] > 0) + 1

    alone = [run(network, image, target, mode=mode, segments=segments)[0] for target in range(3) for mode in MODES]
    calls.clear()
    methods = {mode: {"method": "xrai", "mode": mode, "steps": 4, "segments": segments} for mode in MODES}
    together = explain(network, image, methods, target="all")
    assert len(calls) == len(image)
    for start, mode in enumerate(MODES):
        torch.testing.assert_close(together[mode], torch.cat(alone[start::2], 1), **CLOSE)
    assert np.shape(together.records["full"]["claims"]["mass_gap"]) == (3, 2)
    assert not torch.allclose(alone[0], alone[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "best"}, "mode: wanted one of full, fast"),
        ({"segments": "watershed"}, "segments: wanted auto, felzenszwalb, supervoxels, or segments, got 'watershed'"),
        ({"segments": np.ones((3, 3), dtype=int)}, r"shape \(12, 16\), got \(3, 3\)"),
        ({"baselines": []}, "baselines: wanted a list of at least one"),
        ({"baselines": "min"}, "baselines: wanted a list of at least one baseline, got 'min'"),
        ({"baselines": ["middle"]}, "baseline: wanted"),
        ({"quadrature": "simpson"}, "quadrature: wanted"),
        ({"steps": 0}, "steps: wanted at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    network, image = case("2D")
    with pytest.raises(UsageError, match=message):
        run(network, image, **options)


def test_a_segmentation_by_name_is_the_one_with_default_parameters():
    network, image = case("2D")
    image = torch.nn.functional.interpolate(image[..., :4, :6], (40, 64))
    wanted, _ = run(network, image)
    torch.testing.assert_close(run(network, image, segments=Felzenszwalb())[0], wanted)
    assert not torch.allclose(run(network, image, segments="supervoxels")[0], wanted)
    assert not torch.allclose(run(network, image, segments=Felzenszwalb(dilation=0))[0], wanted)
