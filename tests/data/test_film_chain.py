"""One chain prepares a film for training and for explaining; film and truth stay on one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandAffined, RandFlipd, Randomizable

from medsal.bundle.results import case_result
from medsal.data.cases import CaseDataset, collate_cases
from medsal.data.films.chain import INTENSITIES, film_transforms
from medsal.data.films.loading import LoadFilm
from medsal.data.films.rle import encode_rle
from medsal.errors import UsageError
from medsal.geometry import patient_grid, to_grid
from tests.data.films_made import write_dicom, write_picture


def blob(rows: int, columns: int, centre: tuple[float, float], size: float) -> np.ndarray:
    """A disc at a place given in shares of the film."""
    y, x = np.mgrid[:rows, :columns]
    return ((y + 0.5) / rows - centre[0]) ** 2 + ((x + 0.5) / columns - centre[1]) ** 2 < size**2


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    """A film of unequal sides whose bright disc is its mask and its layer of highest code."""
    disc = blob(300, 200, (0.3, 0.7), 0.15)
    write_dicom(tmp_path / "film.dcm", (40 + 200 * disc).astype(np.uint8), PixelSpacing=[0.5, 0.4])
    write_picture(tmp_path / "mask.png", (255 * disc).astype(np.uint8))
    write_picture(tmp_path / "layers.png", (255 * disc).astype(np.uint8))
    files = {key: str(tmp_path / f"{key}.png") for key in ("mask", "layers")}
    return {"case": "a", "label": 1, "image": str(tmp_path / "film.dcm"), **files}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_film_and_truth_stay_on_one_grid(case: dict[str, Any], fit: str) -> None:
    found = film_transforms(64, fit=fit, intensity="unit")(case)
    image, mask, layers = found["image"], found["mask"], found["layers"]
    assert image.shape == (3, 64, 64)
    assert mask.shape == layers.shape == (1, 64, 64)
    assert torch.equal((layers == 255).as_tensor(), (mask == 1).as_tensor())
    bright = image[:1] > 0.55
    union = (bright | mask.bool()).sum()
    assert (bright & mask.bool()).sum() / union > 0.9
    assert torch.allclose(image.affine, mask.affine)
    centre = image.affine.numpy() @ np.array([*mask[0].nonzero().double().mean(0).tolist(), 0, 1])
    assert centre[:2] == pytest.approx([0.3 * 300 * 0.5, 0.7 * 200 * 0.4], abs=1.0)


def test_the_film_is_resized_as_torchvision_does(case: dict[str, Any]) -> None:
    from torchvision.transforms.functional import resize

    film = LoadFilm()(case["image"])
    found = film_transforms(48, intensity="unit", channels=1)(case)["image"]
    assert torch.allclose(found.as_tensor(), resize(film.as_tensor(), [48, 48], antialias=True), atol=1e-6)
    edge = found[0].as_tensor()[[0, -1]]
    assert edge.min().item() == pytest.approx(40 / 255, abs=1e-6)  # not darkened


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_map_finds_its_way_back_to_the_film(case: dict[str, Any], fit: str) -> None:
    found = film_transforms(96, fit=fit)(case)
    affine, shape = patient_grid(found["image"])
    assert shape == (300, 200)
    back = to_grid(MetaTensor(found["mask"].as_tensor().float(), affine=found["image"].affine), affine, shape) > 0.5
    truth = torch.from_numpy(blob(300, 200, (0.3, 0.7), 0.15))
    assert (back[0] & truth).sum() / (back[0] | truth).sum() > 0.93


def test_the_ranges_of_values(case: dict[str, Any]) -> None:
    found = {name: film_transforms(32, intensity=name)(case)["image"] for name in INTENSITIES}
    unit = found["unit"].as_tensor()
    assert unit.min().item() == pytest.approx(40 / 255, abs=1e-3)
    assert torch.allclose(found["signed"].as_tensor(), unit * 2 - 1, atol=1e-6)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    standard = (unit - mean[:, None, None]) / deviation[:, None, None]
    assert torch.allclose(found["imagenet"].as_tensor(), standard, atol=1e-5)
    assert film_transforms(32, channels=1)(case)["image"].shape == (1, 32, 32)


def test_colours_pass_where_they_are_kept(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = write_picture(tmp_path / "a.png", colours)
    found = film_transforms(40, colour="keep", intensity="unit")({"case": "a", "image": str(path)})
    assert torch.allclose(
        found["image"].as_tensor(), torch.from_numpy(colours / 255).permute(2, 0, 1).float(), atol=1e-6
    )


def test_nothing_is_random_without_augmentation_and_training_is_what_is_explained(case: dict[str, Any]) -> None:
    explain = film_transforms(48)
    never = (RandFlipd(["image", "mask", "layers"], prob=0.0),)
    train = film_transforms(48, augment=never)
    assert not any(isinstance(step, Randomizable) for step in explain.flatten().transforms)
    for key in ("image", "mask", "layers"):
        assert torch.equal(explain(case)[key], explain(case)[key])
        assert torch.equal(explain(case)[key], train(case)[key])


def test_augmentation_moves_film_and_truth_together(case: dict[str, Any]) -> None:
    move = RandAffined(["image", "mask", "layers"], prob=1.0, rotate_range=0.6, mode=["bilinear", "nearest", "nearest"])
    chain = film_transforms(96, intensity="unit", augment=[move])
    chain.set_random_state(3)
    still, found = film_transforms(96, intensity="unit")(case), chain(case)
    assert (found["mask"] != still["mask"]).any()
    bright, mask = found["image"][:1] > 0.55, found["mask"].bool()
    assert (bright & mask).sum() / (bright | mask).sum() > 0.85


def test_cases_with_and_without_a_finding_make_a_batch(tmp_path: Path) -> None:
    films = [write_picture(tmp_path / f"{n}.png", np.eye(64, dtype=np.uint8) * 255) for n in "abc"]
    wide = blob(1024, 1024, (0.5, 0.5), 0.2)
    masks = [{"rle": encode_rle(wide)}, {"rle": "-1"}, {"boxes": [[[0, 0], [512, 1024]]]}]
    cases = [{"case": film.stem, "image": str(film), **mask} for film, mask in zip(films, masks, strict=True)]
    batch = collate_cases(list(CaseDataset(cases, film_transforms(32))))
    assert not batch["failures"]
    shares = batch["mask"].float().mean((1, 2, 3)).tolist()
    assert shares == pytest.approx([wide.mean(), 0, 0.5], abs=0.01)
    bare = collate_cases(list(CaseDataset(cases, film_transforms(32, truth=False))))
    assert {"mask", "rle", "boxes"}.isdisjoint(bare)
    assert bare["image"].shape == (3, 3, 32, 32)


def test_a_film_without_contrast_is_a_failure(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", np.full((32, 32), 7, np.uint8))
    failure = CaseDataset([{"case": "a", "image": str(path)}], film_transforms(32))[0]
    assert "wanted an image with contrast" in failure["error"]


def test_options_are_checked() -> None:
    for options in ({"intensity": "ct"}, {"fit": "crop"}, {"channels": 2}):
        with pytest.raises(UsageError, match="film_transforms: wanted intensity signed, unit, imagenet"):
            film_transforms(32, **options)
    for options in ({"colour": "keep"}, {"intensity": "imagenet"}):
        with pytest.raises(UsageError, match="are of 3 channels"):
            film_transforms(32, channels=1, **options)


def test_what_is_written_of_a_film_is_on_its_own_grid(case: dict[str, Any]) -> None:
    found = film_transforms(64)(case)
    image = found["image"]
    output = {
        "image": image,
        "pred": torch.zeros(2),
        "saliency_x": MetaTensor(image.as_tensor()[:1], affine=image.affine),
    }
    result = case_result({"case": "a", "subject": "a", "session": "", "label": 1}, output)
    assert result.native.shape == result.native_maps["x"].shape == (1, 300, 200)
    assert torch.allclose(result.native.affine, result.native_maps["x"].affine)
    disc = torch.from_numpy(blob(300, 200, (0.3, 0.7), 0.15))
    assert torch.equal(result.native[0].as_tensor() > 0.5, disc)


def test_the_real_films_are_prepared(real_data: Path) -> None:
    folder = real_data / "cxr_hannover"
    if not folder.is_dir():
        pytest.skip(f"no films in {folder}")
    films = sorted((folder / "png").glob("*.png"))[::15]
    cases = [
        {"case": film.stem, "image": str(film), "mask": str(folder / "lung_masks" / f"{film.stem}_lungmask.png")}
        for film in films
    ]
    chain = film_transforms(96, fit="pad", channels=1)
    assert isinstance(chain, Compose)
    batch = collate_cases(list(CaseDataset(cases, chain)))
    assert not batch["failures"]
    assert batch["image"].shape == batch["mask"].shape == (len(films), 1, 96, 96)
    lungs = torch.stack([image[mask.bool()].mean() for image, mask in zip(batch["image"], batch["mask"], strict=True)])
    assert (lungs < batch["image"].amax((1, 2, 3))).all()
