"""What a planted case must be: reproducible, asymmetric, ill where it says and nowhere else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from medsal.data.grids import HEAD_GRID, TEMPORAL_GRID
from medsal.data.phantoms.heads import PlantedCase, PlantedImages, planted_case
from medsal.data.phantoms.template import SIDES, load_template

COARSE = HEAD_GRID.with_spacing((3.0, 3.0, 3.0))
FINE = TEMPORAL_GRID.grown(8.0).with_spacing((1.0, 1.0, 1.0))


def head(case: PlantedCase, *, noise: bool = True) -> PlantedImages:
    return case.sample(COARSE.affine, COARSE.size, noise=noise)


def crop(case: PlantedCase, *, noise: bool = True) -> PlantedImages:
    return case.sample(FINE.affine, FINE.size, noise=noise)


def world_x(images: PlantedImages, mask: np.ndarray) -> np.ndarray:
    places = np.argwhere(mask)
    return places @ images.affine[0, :3] + images.affine[0, 3]


def test_the_template_alone_could_not_see_a_flip() -> None:
    t1 = load_template().t1
    assert torch.equal(t1, t1.flip(0))


@pytest.mark.parametrize("seed", range(8))
def test_every_case_is_asymmetric(seed: int) -> None:
    image = head(planted_case(seed)).image.astype(float)
    noise_free = head(planted_case(seed), noise=False).image.astype(float)
    brain = image[image > 0].mean()
    assert np.abs(image - image[::-1]).mean() > 0.02 * brain
    assert np.abs(noise_free - noise_free[::-1]).mean() > 0.02 * brain  # noise alone would not do


@pytest.mark.parametrize("seed", range(4))
def test_warp_and_bias_differ_between_the_sides(seed: int) -> None:
    """Beyond the pose: the shape and the brightness of a head are not their own mirror images."""
    case = planted_case(seed)
    for field, sign in ((case._warp[0], -1), (case._warp[1], 1), (case._warp[2], 1), (case._bias[0], 1)):
        mirrored = sign * field.flip(0)
        assert float((field - mirrored).std()) > 0.7 * float(field.std())


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    digests = []
    for seed, threads in ((3, 1), (3, 2), (4, 1)):
        torch.set_num_threads(threads)
        images = crop(planted_case(seed))
        digests.append(hashlib.sha256(images.image.tobytes() + images.regions.tobytes()).hexdigest())
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_noise_is_drawn_per_grid_and_the_head_is_the_same_on_each() -> None:
    case = planted_case(5)
    small = TEMPORAL_GRID.with_spacing((1.0, 1.0, 1.0))
    part = case.sample(small.affine, small.size, noise=False)
    offset = np.rint(np.asarray(small.origin) - np.asarray(FINE.origin)).astype(int)
    place = tuple(slice(o, o + n) for o, n in zip(offset, small.size, strict=True))
    whole = crop(case, noise=False)
    assert np.array_equal(whole.lesion[place], part.lesion)
    assert np.abs(whole.image[place].astype(int) - part.image).max() <= 1  # float32 rounding only
    noisy = case.sample(small.affine, small.size)
    assert np.abs(crop(case).image[place].astype(int) - noisy.image).max() > 50


@pytest.mark.parametrize("seed", [1, 3, 5, 7, 9, 11])
def test_the_lesion_lies_in_the_hippocampus_of_its_side(seed: int) -> None:
    case = planted_case(seed)
    images = crop(case)
    assert case.label == 1
    assert images.lesion.sum() > 300
    assert set(np.unique(images.regions[images.lesion > 0])) == {1 if case.side == "left" else 2}
    assert (np.sign(world_x(images, images.lesion > 0)) == SIDES[case.side]).all()


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_a_healthy_case_has_no_lesion(seed: int) -> None:
    case = planted_case(seed)
    images = crop(case)
    assert (case.label, case.label_name, case.side) == (0, "HC", "")
    assert not images.lesion.any()
    assert {1, 2, 3, 4} <= set(np.unique(images.regions))


def test_twins_differ_in_and_next_to_the_lesion_alone() -> None:
    ill, well = planted_case(7), planted_case(7, label=0)
    images = crop(ill, noise=False)
    change = images.image.astype(float) - crop(well, noise=False).image
    distance = distance_transform_edt(images.lesion == 0)  # in mm
    weight = np.abs(change) / np.abs(change).sum()
    assert weight[distance == 0].sum() > 0.7
    assert weight[distance <= 2].sum() > 0.97  # the rest is the lesion's soft edge
    assert np.abs(change[distance > 12]).max() <= 1  # float32 rounding only
    assert np.abs(change[images.lesion > 0]).mean() > 30
    assert change[images.lesion > 0].mean() < 0  # fluid and scar are darker


def test_labels_and_sides_are_balanced_and_lesions_graded() -> None:
    cases = [planted_case(seed) for seed in range(40)]
    names = [case.label_name for case in cases]
    assert [names.count(name) for name in ("HC", "left", "right")] == [20, 10, 10]
    sizes = [crop(case).lesion.sum() for case in cases[1:24:2]]
    strengths = [case.strength for case in cases if case.label]
    assert max(sizes) > 1.8 * min(sizes)
    assert min(strengths) < 0.35
    assert max(strengths) > 0.8
    prevalence = np.mean(sizes) / np.prod(FINE.size)
    assert 0.001 < prevalence < 0.02


def test_distractors_lie_in_both_classes_and_off_the_hippocampus() -> None:
    for label in (0, 1):
        case = planted_case(12, label=label)
        images, twin = crop(case, noise=False), crop(planted_case(12, label=label), noise=False)
        assert np.array_equal(images.image, twin.image)
        template = load_template()
        points = template.candidates.astype(np.float32)
        bare = np.full(len(points), 165.0, dtype=np.float32)
        case._add_distractors(points, bare)
        assert (bare != 165).sum() > 100
        inside = np.argwhere(np.isin(template.labels, (1, 2))) + template.origin
        hippocampus = np.full(len(inside), 165.0, dtype=np.float32)
        case._add_distractors(inside.astype(np.float32), hippocampus)
        assert (hippocampus != 165).mean() < 0.02


def test_a_second_session_is_the_same_head_scanned_again() -> None:
    first, second = head(planted_case(3)), head(planted_case(3, session=2))
    assert not np.array_equal(first.image, second.image)
    volumes = [crop(planted_case(3, session=session)).lesion.sum() for session in (1, 2)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_the_head_looks_like_one() -> None:
    images = head(planted_case(2))
    filled = images.image > 0
    assert 0.15 < filled.mean() < 0.35
    assert not filled[0].any()
    assert not filled[-1].any()
    assert not filled[:, 0].any()
    volumes = [(crop(planted_case(2)).regions == value).sum() / 1000 for value in (1, 2)]
    assert all(2.5 < volume < 6.5 for volume in volumes)  # ml
