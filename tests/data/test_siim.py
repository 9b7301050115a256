"""The SIIM table becomes cases; its faulty rows are named and the others go on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from medsal.data.cases import CaseDataset, collate_cases
from medsal.data.films.loading import LoadFilmd
from medsal.data.films.rle import encode_rle
from medsal.data.films.siim import siim_cases
from medsal.data.films.truth import DrawRled
from medsal.errors import UsageError
from tests.data.films_made import write_dicom, write_picture

STEM = "1.2.276.0.7230010.3.1.4.8323329."
HEADER = "ImageId, EncodedPixels\n"
LOAD = Compose([LoadFilmd("image"), DrawRled("mask")])


def ellipse(row: int, column: int) -> np.ndarray:
    y, x = np.mgrid[:1024, :1024]
    return ((y - row) / 150) ** 2 + ((x - column) / 60) ** 2 < 1


def table(folder: Path, text: str) -> Path:
    path = folder / "train-rle.csv"
    path.write_text(HEADER + text)
    return path


def films(folder: Path, *names: str) -> Path:
    for name in names:
        write_picture(folder / "films" / f"{name}.png", np.full((8, 8), 9, np.uint8))
    (folder / "films").mkdir(exist_ok=True)
    return folder / "films"


def test_the_published_form_is_read(tmp_path: Path) -> None:
    left, right = ellipse(300, 200), ellipse(420, 800)
    rows = f"{STEM}1.5, {encode_rle(left)}\n{STEM}2.5, -1\n{STEM}1.5, {encode_rle(right)}\n"
    films = tmp_path / "dicom-images-train"
    levels = (np.arange(1024 * 1024) % 251).astype(np.uint8).reshape(1024, 1024)
    write_dicom(films / "study1" / "series" / f"{STEM}1.5.dcm", levels, jpeg=True)
    write_dicom(films / "study2" / "series" / f"{STEM}2.5.dcm", levels)
    cases = siim_cases(table(tmp_path, rows), films)
    assert [(case["label"], case["label_name"]) for case in cases] == [(1, "pneumothorax"), (0, "no pneumothorax")]
    assert [case["case"] for case in cases] == [f"{STEM}1.5", f"{STEM}2.5"]
    assert cases[0]["image"] == str(films / "study1" / "series" / f"{STEM}1.5.dcm")
    assert not any("fault" in case for case in cases)
    batch = collate_cases([CaseDataset(cases, LOAD)[i] for i in range(2)])
    assert not batch["failures"]
    assert batch["image"].shape == batch["mask"].shape == (2, 1, 1024, 1024)
    assert torch.equal(batch["mask"][0, 0].bool().as_tensor(), torch.from_numpy(left | right))
    assert batch["mask"][1].sum() == 0


def test_the_mask_is_brought_to_the_size_of_the_film(tmp_path: Path) -> None:
    truth = ellipse(500, 500)
    write_picture(tmp_path / "png" / "a.png", np.zeros((256, 512), np.uint8))
    case = LOAD(siim_cases(table(tmp_path, f"a,{encode_rle(truth)}\n"), tmp_path / "png")[0])
    assert case["mask"].shape == (1, 256, 512)
    assert torch.equal(case["mask"].affine, case["image"].affine)
    assert torch.equal(case["mask"][0].as_tensor(), torch.from_numpy(truth[2::4, 1::2].astype(np.uint8)))


def test_a_mask_of_many_runs_is_read_whole(tmp_path: Path) -> None:
    text = " ".join(["1 1"] * 200_000)  # more than the csv module takes in one cell
    before = csv.field_size_limit()
    case = siim_cases(table(tmp_path, f"a,{text}\n"), films(tmp_path, "a"))[0]
    assert "fault" not in case
    assert len(case["rle"].split()) == 400_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("a,0 5 1048572 1\n", "'train-rle.csv' row 2: run 2 ends at pixel 1048578 of an image of 1048576"),
        ("a,5 7\na,1048576 1\n", "'train-rle.csv' row 3: run 1 ends"),
        ("a,5 seven\n", "'train-rle.csv' row 2: wanted whole numbers"),
        ("a,5 7\na,-1\n", "'train-rle.csv' row 3: -1 (no finding), but row 2 has the same film"),
        ("a,-1\na,-1\n", "'train-rle.csv' row 2: -1 (no finding), but row 3 has the same film"),
        ("a,5 7\na,9 9\na,5 7\n", "'train-rle.csv' row 4: the same mask as row 2"),
    ],
)
def test_a_faulty_film_is_recorded_and_the_others_go_on(tmp_path: Path, rows: str, fault: str) -> None:
    cases = siim_cases(table(tmp_path, rows + "b,-1\n"), films(tmp_path, "a", "b"))
    assert [case["case"] for case in cases] == ["a", "b"]
    assert cases[0]["fault"].startswith(fault)
    dataset = CaseDataset(cases, LOAD)
    assert dataset[0]["error"] == cases[0]["fault"]
    assert "error" not in dataset[1]


def test_films_and_rows_without_each_other_are_recorded(tmp_path: Path) -> None:
    path, images = table(tmp_path, "gone,-1\nhere,-1\ntwice,-1\n"), films(tmp_path, "here", "twice", "extra")
    write_picture(images / "again" / "twice.jpg", np.zeros((8, 8), np.uint8))
    found = {case["case"]: case.get("fault", "") for case in siim_cases(path, images)}
    assert (
        found["gone"]
        == f"'train-rle.csv' row 2: no film of this name in '{images}'; wanted a file with it for each row"
    )
    assert found["twice"].startswith("'train-rle.csv' row 4: 2 films of this name ('again/twice.jpg', 'twice.png')")
    assert found["extra"].startswith(f"'{images / 'extra.png'}': no row in 'train-rle.csv'")
    assert not found["here"]
    assert "extra" not in {case["case"] for case in siim_cases(path, images, unlisted="ignore")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,EncodedPixels\na,-1\n", "no column 'ImageId'; it has id, EncodedPixels"),
        ("ImageId,EncodedPixels,EncodedPixels\na,-1,-1\n", "two columns are called 'EncodedPixels'"),
        ("ImageId,EncodedPixels\n,-1\n", "row 2: nothing in column 'ImageId'"),
        ("ImageId,EncodedPixels\n", "no cases"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"other\.csv'") as error:
        siim_cases(path, films(tmp_path))
    assert words in str(error.value)
    with pytest.raises(UsageError, match="no such folder"):
        siim_cases(table(tmp_path, "a,-1\n"), tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no such file"):
        siim_cases(tmp_path / "absent.csv", tmp_path)
