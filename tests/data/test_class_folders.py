"""Class folders and the folds of the skin study become cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from medsal.data.cases import CaseDataset
from medsal.data.films.kermany import class_folder_cases
from medsal.data.films.loading import LoadFilmd
from medsal.data.films.skin import skin_cases
from medsal.data.films.truth import LoadLayersd, LoadMaskd
from medsal.errors import NothingToDoError, UsageError
from tests.data.films_made import write_picture

FILM = np.arange(256, dtype=np.uint8).reshape(16, 16)


def write(root: Path, *names: str) -> Path:
    for name in names:
        write_picture(root / name, FILM)
    return root


def test_class_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path, "PNEUMONIA/person7_virus_2.jpeg", "PNEUMONIA/person7_bacteria_1.jpeg", "NORMAL/IM-0005-0001.jpeg")
    cases = class_folder_cases(tmp_path)
    assert [(case["case"], case["subject"], case["label"], case["label_name"]) for case in cases] == [
        ("IM-0005-0001", "IM-0005", 0, "NORMAL"),
        ("person7_bacteria_1", "person7", 1, "PNEUMONIA"),
        ("person7_virus_2", "person7", 1, "PNEUMONIA"),
    ]
    assert cases[1]["image"] == str(tmp_path / "PNEUMONIA" / "person7_bacteria_1.jpeg")
    assert not any("split" in case for case in cases)
    apart = class_folder_cases(tmp_path, subject_pattern=r"(person\d+_[a-z]+)_", classes=["PNEUMONIA", "NORMAL"])
    assert [(case["subject"], case["label"]) for case in apart] == [
        ("person7_bacteria", 0),
        ("person7_virus", 0),
        ("IM-0005-0001", 1),
    ]


def test_parts_are_read(tmp_path: Path) -> None:
    write(tmp_path, "test/A/1.png", "train/A/1.png", "train/B/2.png", "Valid/B/3.png", "__MACOSX/A/4.png")
    cases = class_folder_cases(tmp_path)
    assert [(case["split"], case["label_name"], case["case"]) for case in cases] == [
        ("train", "A", "1"),
        ("train", "B", "2"),
        ("val", "B", "3"),
        ("test", "A", "1_2"),
    ]


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["train/A/1.png", "B/1.png"], {}, "has the folder 'B' beside train"),
        (["A/1.png"], {"classes": ["A", "B"]}, "has the folders A; wanted the classes A, B"),
        (["A/1.png", "C/1.png"], {"classes": ["A"]}, "has the folders A, C; wanted the classes A"),
        (["1.png"], {}, "no folders in it"),
        (["A/1.png"], {"subject_pattern": "("}, "is no regular expression"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, names: list[str], options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as error:
        class_folder_cases(write(tmp_path, *names), **options)
    assert words in str(error.value)


def test_empty_class_folders_are_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    with pytest.raises(NothingToDoError):
        class_folder_cases(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        class_folder_cases(tmp_path / "absent")


def test_the_real_pediatric_films_are_read(real_data: Path) -> None:
    if not (real_data / "cxr_pediatric").is_dir():
        pytest.skip(f"no films in {real_data / 'cxr_pediatric'}")
    cases = class_folder_cases(real_data / "cxr_pediatric")
    assert [case["label_name"] for case in cases] == ["NORMAL"] * 20 + ["PNEUMONIA"] * 20
    people = {case["subject"] for case in cases}
    assert len(people) == 39  # two films are of person111
    assert {"person111", "IM-0033", "NORMAL2-IM-0033"} <= people


def test_a_fold_of_the_skin_study_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "folds", "k1/train/CG/a_1.png", "k1/val/PS/b_1.png", "k1/test/ST/c_1.png")
    write(root, "k1/test/CG/d_1.png", "k2/train/CG/c_1.png", "k2/test/PS/a_1.png")
    maps = write(tmp_path / "maps", "x/c_1.png", "e_1.png")
    cases = skin_cases(root, layers=maps)
    assert [(case["split"], case["label"], case["label_name"], case["case"], case["fold"]) for case in cases] == [
        ("train", 0, "CG", "a_1", 1),
        ("val", 1, "PS", "b_1", 1),
        ("test", 0, "CG", "d_1", 1),
        ("test", 2, "ST", "c_1", 1),
    ]
    assert [case.get("layers") for case in cases] == [None, None, None, str(maps / "x" / "c_1.png")]
    assert [case["case"] for case in skin_cases(root, fold=2, classes=["CG", "PS"])] == ["c_1", "a_1"]
    write(maps, "y/c_1.png")
    assert "2 layer maps of this name" in skin_cases(root, layers=maps)[3]["fault"]


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        (3, "no fold k3; it has k1, k2, k4"),
        (2, "none of train, val, test with classes"),
        (4, "has the folder 'more' beside test"),
    ],
)
def test_folds_of_another_form_are_refused(tmp_path: Path, fold: int, words: str) -> None:
    root = write(tmp_path, "k1/train/CG/a.png", "k2/CG/a.png", "k4/test/CG/a.png", "k4/more/CG/a.png")
    with pytest.raises(UsageError) as error:
        skin_cases(root, fold=fold)
    assert words in str(error.value)


def test_the_maps_of_layers_are_checked(tmp_path: Path) -> None:
    codes = np.repeat(np.array([32, 255, 128, 64, 32, 0], np.uint8), 4)[:, None].repeat(24, 1)
    write_picture(tmp_path / "film.png", np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8))
    wrong = codes.copy()
    wrong[3, 5:8] = 200
    colours = np.dstack([codes, codes, codes // 2])
    files = {
        "good": write_picture(tmp_path / "good.png", codes),
        "grey": write_picture(tmp_path / "grey.png", np.dstack([codes] * 3)),
        "wrong": write_picture(tmp_path / "wrong.png", wrong),
        "colours": write_picture(tmp_path / "colours.png", colours),
        "moved": write_picture(tmp_path / "moved.jpg", codes),
        "wide": write_picture(tmp_path / "wide.png", codes[:12]),
        "gone": tmp_path / "gone.png",
    }
    cases = [{"case": name, "image": str(tmp_path / "film.png"), "layers": str(file)} for name, file in files.items()]
    chain = Compose([LoadFilmd("image"), LoadLayersd()])
    found = {case["case"]: case for case in CaseDataset(cases, chain)}
    drawn = torch.from_numpy(codes.repeat(2, 0).repeat(2, 1))
    assert torch.equal(found["good"]["layers"][0].as_tensor(), drawn)
    assert torch.equal(found["grey"]["layers"][0].as_tensor(), drawn)
    for name, words in (
        ("wrong", "wrong.png': 3 pixels of the code 200; wanted the codes 0, 32, 64, 128, 255"),
        ("colours", "colours.png': has colours"),
        ("moved", "moved.jpg': wanted a PNG"),
        ("wide", "wide.png': 12 x 24 pixels, its film 48 x 48; wanted the same field of view"),
        ("gone", "gone.png': no such file"),
    ):
        assert words in found[name]["error"]


def test_the_published_layer_map_is_read(real_data: Path) -> None:
    path = real_data / "skin" / "SKIN_LAYERS_MAP.png"
    if not path.is_file():
        pytest.skip(f"no layer map at {path}")
    case = Compose([LoadFilmd("image"), LoadLayersd()])({"case": "a", "image": str(path), "layers": str(path)})
    codes, pixels = case["layers"].as_tensor().unique(return_counts=True)
    assert dict(zip(codes.tolist(), pixels.tolist(), strict=True)) == {
        0: 15965,
        32: 11284,
        64: 7812,
        128: 7812,
        255: 7303,
    }
    with Image.open(path) as stored:
        assert np.array_equal(case["layers"][0].numpy(), np.asarray(stored))


def test_masks_are_read_and_checked(tmp_path: Path, real_data: Path) -> None:
    images, masks = real_data / "cxr_hannover" / "png", real_data / "cxr_hannover" / "lung_masks"
    if not images.is_dir():
        pytest.skip(f"no films in {images}")
    film = sorted(images.glob("*.png"))[0]
    mask = masks / f"{film.stem}_lungmask.png"
    chain = Compose([LoadFilmd("image"), LoadMaskd()])
    case = chain({"case": "a", "image": str(film), "mask": str(mask)})
    assert case["mask"].shape == case["image"].shape
    assert np.array_equal(case["mask"][0].numpy(), np.asarray(Image.open(mask)) > 0)
    assert 0.1 < case["mask"].float().mean() < 0.6
    wrong = {"case": "a", "image": str(film), "mask": str(film)}
    assert "wanted a mask: 0 and one other" in CaseDataset([wrong], chain)[0]["error"]
