"""Planted chest films: pure functions of a seed, true to their truth, and not mirrored."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from medsal.data.phantoms.thorax import FIELD
from medsal.data.phantoms.thorax_film import FilmImages, planted_film
from medsal.data.phantoms.thorax_findings import FINDINGS
from medsal.errors import UsageError

SEEDS = (1, 3, 5, 7, 9, 11)


def films(finding: str, label: int | None = None, size: int = 128) -> list[FilmImages]:
    return [planted_film(seed, finding=finding, label=label).sample(size) for seed in SEEDS]


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_film_is_a_function_of_its_seed(finding: str) -> None:
    first, again, other = (planted_film(seed, finding=finding).sample(128) for seed in (5, 5, 7))
    for name in ("image", "parts", "lungs"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.image.dtype == np.uint8
    assert not np.array_equal(first.image, other.image)
    np.random.seed(3)  # noqa: NPY002  (the legacy state is what must not matter)
    assert np.array_equal(planted_film(5, finding=finding).sample(128).image, first.image)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_film_and_its_twin_differ_at_the_finding_alone(finding: str) -> None:
    for ill, well in zip(films(finding), films(finding, label=0), strict=True):
        change = np.abs(ill.image.astype(int) - well.image)
        reach = 1.3 if finding == "pneumothorax" else 0.5  # cm: the lung that has drawn back is denser along its edge
        near = binary_dilation(ill.mask, iterations=round(reach / FIELD * 128))
        assert not change[~near].any()
        assert change[ill.mask > 0].mean() > 4
        assert not well.mask.any()
        assert np.array_equal(ill.lungs, well.lungs)


def test_air_darkens_and_fluid_brightens() -> None:
    for finding, sign in (("pneumothorax", -1), ("pneumonia", 1)):
        for ill, well in zip(films(finding), films(finding, label=0), strict=True):
            inside = ill.mask > 0
            assert sign * (ill.image[inside].mean() - well.image[inside].mean()) > 0


@pytest.mark.parametrize("finding", FINDINGS)
def test_findings_lie_in_the_lungs_and_leave_most_of_them(finding: str) -> None:
    for film in films(finding):
        assert film.mask.any()
        assert (film.lungs[film.mask > 0] > 0).all()
        assert 0.004 < film.mask.sum() / (film.lungs > 0).sum() < 0.6


def test_no_film_with_a_finding_is_without_its_mask() -> None:
    for finding in FINDINGS:
        shares = [planted_film(seed, finding=finding, label=1).sample(64).mask.mean() for seed in range(60)]
        assert min(shares) > 0.003


@pytest.mark.parametrize("finding", FINDINGS)
def test_boxes_are_half_open_and_tight(finding: str) -> None:
    several = 0
    for film in films(finding):
        several += len(film.boxes) > 1
        drawn = np.zeros_like(film.mask)
        for x0, y0, x1, y1 in film.boxes:
            drawn[y0:y1, x0:x1] = 1
        assert (drawn[film.mask > 0] == 1).all()
        for part, (x0, y0, x1, y1) in zip(np.unique(film.parts)[1:], film.boxes, strict=True):
            own = film.parts == part
            assert own[y0].any()
            assert own[y1 - 1].any()
            assert own[:, x0].any()
            assert own[:, x1 - 1].any()
            assert own[y0:y1, x0:x1].sum() == own.sum()
    assert several or finding == "pneumothorax"


def test_the_patients_left_is_on_the_images_right() -> None:
    """Low down the heart keeps the left lung farther from the spine than the right one, and is bright there."""
    for seed in range(0, 24, 2):
        film = planted_film(seed).sample(128)
        columns = np.arange(128)
        left, right = ((film.lungs == side).sum(0) @ columns / (film.lungs == side).sum() for side in (1, 2))
        assert left > right + 30
        rows = np.flatnonzero((film.lungs > 0).any(1))
        high, low = (rows[0] + int(share * np.ptp(rows)) for share in (0.15, 0.72))
        upper = np.flatnonzero(film.lungs[high] == 1).min(), np.flatnonzero(film.lungs[high] == 2).max()
        lower_left, lower_right = np.flatnonzero(film.lungs[low] == 1).min(), np.flatnonzero(film.lungs[low] == 2).max()
        spine = sum(upper) / 2
        assert lower_left - spine > 1.3 * (spine - lower_right)
        way = 0.8 * (lower_left - spine)
        heart, lung = (film.image[low - 2 : low + 3, round(spine + sign * way)].mean() for sign in (1, -1))
        assert heart > lung


def test_anatomy_and_truth_are_the_same_at_every_size() -> None:
    for finding in FINDINGS:
        small, large = (planted_film(3, finding=finding).sample(size) for size in (128, 512))
        for name in ("mask", "lungs"):
            fine = getattr(large, name)[2::4, 2::4] > 0
            coarse = getattr(small, name) > 0
            assert 2 * (fine & coarse).sum() / (fine.sum() + coarse.sum()) > 0.93
        averaged = large.image.reshape(128, 4, 128, 4).mean((1, 3))
        assert np.corrcoef(averaged.ravel(), small.image.ravel())[0, 1] > 0.98


def test_another_visit_is_the_same_person() -> None:
    first, second = (planted_film(4, visit=visit).sample(128) for visit in (1, 2))
    other = planted_film(6).sample(128)
    assert not np.array_equal(first.image, second.image)
    areas = [(film.lungs > 0).sum() for film in (first, second, other)]
    assert areas[0] == pytest.approx(areas[1], rel=0.35)


def test_intensities_are_those_of_films() -> None:
    """77 adult films of a clinic: mean 119 +- 20, deviation 38 +- 16, lungs darker than the rest by 14 on average."""
    made = [planted_film(seed).sample(128) for seed in range(30)]
    means = np.array([film.image.mean() for film in made])
    assert 90 < means.mean() < 150
    assert 8 < means.std() < 40
    assert all(15 < film.image.std() < 90 for film in made)
    assert np.mean([film.image[film.lungs > 0].mean() - film.image[film.lungs == 0].mean() for film in made]) < 0
    shares = np.array([(film.lungs > 0).mean() for film in made])
    assert 0.2 < shares.mean() < 0.45
    assert all((film.image == 255).mean() < 0.25 for film in made)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown finding 'fracture'; there are pneumothorax, pneumonia"):
        planted_film(0, finding="fracture")
    with pytest.raises(UsageError, match="a size of 64 to 4096 pixels, got 10"):
        planted_film(0).sample(10)
