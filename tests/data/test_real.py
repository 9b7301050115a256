"""Lesions planted in real images: inside the hippocampus, distractors outside, subjects split."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsal.data.phantoms.real import REAL_SIZE, REAL_SPACING, plant, planted_in_real, write_planted_in_real
from medsal.errors import InputError, UsageError
from medsal.transforms import CheckImaged, LoadVolumed, ResampleToGridd


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve made-up images in the folder layout of the real ones."""
    rng = np.random.default_rng(0)
    inside = np.zeros((36, 50, 34), dtype=np.uint8)
    inside[12:24, 12:36, 12:22] = 1
    inside[12:24, 24:36, 12:22] = 2
    for kind in ("images", "labels"):
        (tmp_path / "in" / kind).mkdir(parents=True)
    for number in range(12):
        name = f"hippocampus_{number:03d}.nii.gz"
        image = rng.normal(600, 30, inside.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "in" / "images" / name)
        nib.save(nib.Nifti1Image(inside, np.eye(4)), tmp_path / "in" / "labels" / name)
    return tmp_path / "in"


def voxels(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_subjects_are_split_and_classes_balanced(source: Path, tmp_path: Path) -> None:
    train = planted_in_real(source, tmp_path / "out", part="train")
    test = planted_in_real(source, tmp_path / "out", part="test")
    assert (len(train), len(test)) == (9, 3)
    assert not {case["subject"] for case in train} & {case["subject"] for case in test}
    assert sum(case["label"] for case in train + test) == 6
    assert len(planted_in_real(source, tmp_path / "out", max_samples=2)) == 2


def test_the_lesion_lies_in_the_hippocampus_and_is_darker(source: Path, tmp_path: Path) -> None:
    cases = planted_in_real(source, tmp_path / "out", part="train") + planted_in_real(source, tmp_path / "out")
    spots = 0
    for case in cases:
        image, lesion, regions = (voxels(case[key]) for key in ("image", "lesion", "regions"))
        assert lesion.any() == bool(case["label"])
        assert (regions[lesion > 0] > 0).all()
        normal = np.median(image)
        if lesion.any():
            assert 0.001 < lesion.mean() < 0.03
            assert image[lesion > 0].mean() < 0.8 * normal
        spots += bool((image[regions == 0] < 0.75 * normal).sum() > 20)
    assert spots > len(cases) / 2  # most images of both classes have spots outside


def test_the_same_seed_gives_the_same_files_and_a_finished_set_is_kept(source: Path, tmp_path: Path) -> None:
    first = write_planted_in_real(source, tmp_path / "a")
    second = write_planted_in_real(source, tmp_path / "b")
    for path in sorted(first.rglob("*.nii.gz")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    stamp = (first / "train.csv").stat().st_mtime_ns
    write_planted_in_real(source, tmp_path / "a")
    assert (first / "train.csv").stat().st_mtime_ns == stamp
    write_planted_in_real(source, tmp_path / "a", seed=1)
    assert (first / "train.csv").read_bytes() != (second / "train.csv").read_bytes()


def test_the_network_grid_is_about_the_images_centre(source: Path, tmp_path: Path) -> None:
    case = planted_in_real(source, tmp_path / "out")[0]
    keys = ("image", "lesion")
    for transform in (
        LoadVolumed(keys),
        CheckImaged("image"),
        ResampleToGridd(keys, "center", REAL_SPACING, REAL_SIZE, ("bilinear", "nearest")),
    ):
        case = transform(case)
    assert case["image"].shape == case["lesion"].shape == (1, *REAL_SIZE)


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images with labels"):
        write_planted_in_real(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="wanted 'train' or 'test', got 'val'"):
        planted_in_real(tmp_path, tmp_path / "out", part="val")
    with pytest.raises(InputError, match="without hippocampus"):
        plant(np.ones((9, 9, 9)), np.zeros((9, 9, 9), bool), np.ones(3), np.random.default_rng(0), ill=True)


@pytest.mark.slow
def test_the_real_images_are_planted(real_data: Path, tmp_path: Path) -> None:
    train = planted_in_real(real_data / "mri_hippocampus_msd", tmp_path, part="train")
    test = planted_in_real(real_data / "mri_hippocampus_msd", tmp_path, part="test")
    assert len(train) + len(test) == 260
    prevalence = [voxels(case["lesion"]).mean() for case in test if case["label"]]
    assert 0.002 < np.mean(prevalence) < 0.02
    for case in test:
        lesion, regions = voxels(case["lesion"]), voxels(case["regions"])
        assert (regions[lesion > 0] > 0).all()
