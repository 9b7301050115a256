"""Reading and checking images: one line that names the file, what was wanted and what came."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage

from medsal import transforms
from medsal.errors import InputError
from medsal.transforms import CheckImage, CheckImaged, LoadVolume, LoadVolumed, ResampleToGridd, ResizeSlicesd

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 2.0, 0, -30], [0, 0, 1.5, 5], [0, 0, 0, 1]])


def written(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8", ">f4", ">i2", "float64"])
def test_a_volume_is_read_as_monai_reads_it(tmp_path: Path, volume: np.ndarray, suffix: str, dtype: str) -> None:
    path = written(tmp_path / f"a{suffix}", (volume * 20 + 100).astype(dtype))
    image = LoadVolume()(str(path))
    assert image.shape == (1, 6, 7, 8)
    assert image.dtype == torch.float32
    assert torch.allclose(image.as_tensor()[0], torch.from_numpy((volume * 20 + 100).astype(dtype).astype(np.float32)))
    assert np.allclose(image.affine, AFFINE)
    assert np.allclose(image.meta["original_affine"], AFFINE)
    assert list(image.meta["spatial_shape"]) == [6, 7, 8]
    assert image.meta["filename_or_obj"] == str(path)


@pytest.mark.filterwarnings("ignore::UserWarning:monai")  # LoadImage makes every reader it knows, and some warn
def test_the_meta_is_that_of_load_image(tmp_path: Path, volume: np.ndarray) -> None:
    path = written(tmp_path / "a.nii.gz", volume)
    ours, theirs = LoadVolume()(path), LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())
    assert set(ours.meta) == set(theirs.meta)


def good() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


def cut_off(path: Path) -> None:
    written(path, good())
    path.write_bytes(path.read_bytes()[:300])


def flat_affine(path: Path) -> None:
    image = nib.Nifti1Image(good(), None)
    image.header.set_sform(np.diag([1, 1, 0, 1.0]), code=1)
    nib.save(image, path)


def no_position(path: Path) -> None:
    image = nib.Nifti1Image(good(), AFFINE)
    image.set_sform(AFFINE, 0)
    image.set_qform(AFFINE, 0)
    nib.save(image, path)


def in_colour(path: Path) -> None:
    colours = np.zeros((6, 7, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    written(path, colours)


def not_finite(path: Path) -> None:
    array = good()
    array[2, 3, 4], array[5, 0, 0] = np.nan, np.inf
    written(path, array)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file; wanted a NIfTI image"),
    "cut off": (cut_off, "cannot be read as NIfTI"),
    "no position": (no_position, "left and right are unknown"),
    "colours": (in_colour, "voxels are colours; wanted real numbers"),
    "complex": (lambda path: written(path, good().astype(np.complex64)), "voxels are complex64 numbers"),
    "no nifti": (
        lambda path: path.write_bytes(gzip.compress(b"no header of an image" * 99)),
        "cannot be read as NIfTI",
    ),
    "not gzipped": (lambda path: path.write_bytes(b"plain text"), "cannot be read as NIfTI"),
    "flat affine": (flat_affine, "affine has no inverse"),
    "4D": (
        lambda path: written(path, np.stack([good()] * 2, -1)),
        r"2 volumes or .* of \(6, 7, 8\) \(a 4D file\?\); wanted 1",
    ),
    "NaN": (not_finite, r"2 voxels are NaN or infinite, the first at index \(2, 3, 4\)"),
    "2D": (lambda path: written(path, good()[:, :, 0]), "2 spatial dimensions"),
    "constant": (lambda path: written(path, good() * 0 + 3), "all 336 voxels are 3; wanted an image with contrast"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_input_is_one_line_naming_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sub-1.nii.gz"
    make, words = BROKEN[kind]
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        CheckImage()(LoadVolume()(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


def test_sizes_and_channels_are_checked() -> None:
    with pytest.raises(InputError, match=r"no voxels, shape \(0, 4, 4\)"):
        CheckImage()(torch.zeros(1, 0, 4, 4))
    with pytest.raises(InputError, match=r"1 volumes or channels .* wanted 3"):
        CheckImage(channels=3)(torch.rand(1, 4, 4, 4))
    with pytest.raises(InputError, match=r"shape \(4, 4, 4\); wanted at least \(1, 5, 1\)"):
        CheckImage(min_size=(1, 5, 1))(torch.rand(1, 4, 4, 4))


def test_a_sound_image_passes_untouched(tmp_path: Path, volume: np.ndarray) -> None:
    case = {"image": str(written(tmp_path / "a.nii", volume)), "label": 1}
    out = Compose([LoadVolumed("image"), CheckImaged("image")])(case)
    assert isinstance(case["image"], str)  # the list of cases is not written to
    assert np.allclose(out["image"].numpy()[0], volume)
    assert out["label"] == 1


def test_dictionary_transforms_apply_one_mode_per_key_and_invert(volume: np.ndarray) -> None:
    image = MetaTensor(torch.from_numpy(volume)[None], affine=torch.as_tensor(AFFINE))
    mask = MetaTensor((image.as_tensor() > 0).float(), affine=image.affine)
    chain = Compose(
        [
            CheckImaged("image"),
            ResampleToGridd(
                ("image", "mask", "absent"), "center", 1.0, (10, 11, 12), ("bilinear", "nearest", "nearest"), True
            ),
        ]
    )
    out = chain({"image": image, "mask": mask})
    assert out["image"].shape == out["mask"].shape == (1, 10, 11, 12)
    assert set(out["mask"].unique().tolist()) <= {0.0, 1.0}
    assert len(out["image"].unique()) > 2
    back = ResampleToGridd("image", "center", 1.0, (10, 11, 12)).inverse
    assert chain.transforms[1].inverse({"image": out["image"], "mask": out["mask"]})["image"].shape == image.shape
    assert callable(back)
    with pytest.raises(KeyError, match="absent"):
        ResizeSlicesd("absent")({"image": image})


@pytest.mark.parametrize("name", ["CheckImage", "LoadVolume", "ResampleToGrid", "ResizeSlices"])
def test_names_follow_monai(name: str) -> None:
    dictionary = getattr(transforms, f"{name}d")
    assert getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict") is dictionary
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(transforms.__all__)
