"""The RSNA tables become cases; boxes are half-open, and only the legacy rule draws them larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from medsal.data.cases import CaseDataset, collate_cases
from medsal.data.films.loading import LoadFilmd
from medsal.data.films.rsna import rsna_cases
from medsal.data.films.truth import DrawBoxesd
from medsal.errors import UsageError
from tests.data.films_made import write_dicom, write_picture

HEADER = "patientId,x,y,width,height,Target\n"
DETAILS = "patientId,class\n"
LOAD = Compose([LoadFilmd("image"), DrawBoxesd("mask")])


def table(folder: Path, text: str, header: str = HEADER, name: str = "boxes.csv") -> Path:
    path = folder / name
    path.write_text(header + text)
    return path


def films(folder: Path, *names: str, size: int = 64) -> Path:
    for name in names:
        write_picture(folder / "films" / f"{name}.png", np.full((size, size), 9, np.uint8))
    return folder / "films"


def test_the_published_form_is_read(tmp_path: Path) -> None:
    boxes = "n1,,,,,0\np1,264.0,152.0,213.0,379.0,1\np1,562.0,152.0,256.0,453.0,1\nn2,,,,,0\n"
    details = "n1,No Lung Opacity / Not Normal\np1,Lung Opacity\np1,Lung Opacity\nn2,Normal\n"
    levels = np.zeros((1024, 1024), np.uint8)
    for name in ("n1", "p1", "n2"):
        write_dicom(tmp_path / "films" / f"{name}.dcm", levels, jpeg=True)
    found = table(tmp_path, boxes), tmp_path / "films"
    cases = rsna_cases(*found, details=table(tmp_path, details, DETAILS, "details.csv"))
    assert [(case["case"], case["label"], case["label_name"], case["detail"]) for case in cases] == [
        ("n1", 0, "no lung opacity", "No Lung Opacity / Not Normal"),
        ("p1", 1, "lung opacity", "Lung Opacity"),
        ("n2", 0, "no lung opacity", "Normal"),
    ]
    assert not any("fault" in case for case in cases)
    assert cases[1]["boxes"] == [[[152, 264], [531, 477]], [[152, 562], [605, 818]]]
    batch = collate_cases([CaseDataset(cases, LOAD)[i] for i in range(3)])
    assert not batch["failures"]
    truth = torch.zeros(1024, 1024, dtype=torch.uint8)
    truth[152 : 152 + 379, 264 : 264 + 213] = 1
    truth[152 : 152 + 453, 562 : 562 + 256] = 1
    assert torch.equal(batch["mask"][1, 0].as_tensor(), truth)
    assert batch["mask"][0].sum() == batch["mask"][2].sum() == 0
    kept = rsna_cases(*found, details=tmp_path / "details.csv", leave_out=["No Lung Opacity / Not Normal"])
    assert [case["case"] for case in kept] == ["p1", "n2"]


@pytest.mark.parametrize(("size", "pixels"), [(1024, 64 * 32), (512, 32 * 16), (320, 20 * 10)])
def test_a_box_keeps_its_share_of_the_film(tmp_path: Path, size: int, pixels: int) -> None:
    images = films(tmp_path, "a", size=size)
    cases = rsna_cases(table(tmp_path, "a,128,256,64,32,1\n"), images)
    mask = LOAD(cases[0])["mask"]
    assert int(mask.sum()) == pixels
    assert mask[0, size // 4, size // 8] == 1
    assert mask[0, size // 4 - 1, size // 8] == mask[0, size // 4, size // 8 - 1] == 0


def test_the_legacy_rule_draws_as_the_study_did(tmp_path: Path) -> None:
    images = films(tmp_path, "a", size=320)
    cases = rsna_cases(table(tmp_path, "a,264,152,213,379,1\na,800,800,224,224,1\n"), images)
    mask = Compose([LoadFilmd("image"), DrawBoxesd("mask", rule="arun2021")])(cases[0])["mask"]
    truth = np.zeros((320, 320), np.uint8)
    for x, y, width, height in ((264, 152, 213, 379), (800, 800, 224, 224)):
        x0, y0, x1, y1 = (int(320 * c / 1023) for c in (x, y, x + width, y + height))
        truth[y0 : y1 + 1, x0 : x1 + 1] = 1
    assert np.array_equal(mask[0].numpy(), truth)
    assert mask.sum() > LOAD(cases[0])["mask"].sum()
    with pytest.raises(UsageError, match="wanted half-open or arun2021"):
        DrawBoxesd(rule="inclusive")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("a,1000,5,25,5,1\n", "row 2: box x 1000, y 5, width 25, height 5 leaves the film of 1024 x 1024"),
        ("a,-1,5,25,5,1\n", "row 2: box x -1, y 5"),
        ("a,1,5,25,5,1\na,5,1000,5,25,1\n", "row 3: box x 5, y 1000"),
        ("a,1,5,0,5,1\n", "row 2: box x 1, y 5, width 0, height 5; wanted a width and a height above 0"),
        ("a,1,,5,5,1\n", "row 2: the box is 1, , 5, 5; wanted four numbers"),
        ("a,inf,1,5,5,1\n", "row 2: box x inf"),
        ("a,1,5,25,5,1\na,1,5,25,5,1\n", "row 3: the same as row 2"),
        ("a,,,,,0\na,,,,,0\n", "row 3: the same as row 2"),
        ("a,,,,,1\n", "row 2: Target 1, but 0 boxes"),
        ("a,1,5,25,5,0\n", "row 2: Target 0, but 1 boxes"),
        ("a,1,5,25,5,1\na,,,,,0\n", "row 2: Target of the film is 0 and 1"),
        ("a,,,,,yes\n", "row 2: Target of the film is yes"),
    ],
)
def test_a_faulty_film_is_recorded_and_the_others_go_on(tmp_path: Path, rows: str, fault: str) -> None:
    cases = rsna_cases(table(tmp_path, rows + "b,0,0,1024,1024,1\n"), films(tmp_path, "a", "b"))
    assert [case["case"] for case in cases] == ["a", "b"]
    assert cases[0]["fault"].startswith(f"'boxes.csv' {fault}")
    dataset = CaseDataset(cases, LOAD)
    assert dataset[0]["error"] == cases[0]["fault"]
    assert dataset[1]["mask"].all()


def test_details_that_do_not_fit_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = films(tmp_path, "a", "b", "c", "d")
    path = table(tmp_path, "a,,,,,0\nb,,,,,0\nc,,,,,0\nd,,,,,0\n")
    rows = "a,Lung Opacity\nb,Sick\nd,Normal\nd,Lung Opacity\ne,Normal\n"
    cases = rsna_cases(path, images, details=table(tmp_path, rows, DETAILS, "details.csv"))
    assert [case["fault"] for case in cases] == [
        "'details.csv' row 2: 'Lung Opacity', but Target is 0; wanted tables that agree",
        "'details.csv' row 3: says 'Sick' of the film; "
        "wanted one of Normal, No Lung Opacity / Not Normal, Lung Opacity",
        "'details.csv': says nothing of the film; wanted one of Normal, No Lung Opacity / Not Normal, Lung Opacity",
        "'details.csv' row 4: says 'Lung Opacity' and 'Normal' of the film; "
        "wanted one of Normal, No Lung Opacity / Not Normal, Lung Opacity",
    ]
    assert "details.csv: 1 films that the table of boxes does not name" in caplog.text


def test_classes_to_leave_out_must_be_known(tmp_path: Path) -> None:
    path, images = table(tmp_path, "a,,,,,0\n"), films(tmp_path, "a")
    with pytest.raises(UsageError, match="got 'Sick'"):
        rsna_cases(path, images, leave_out=["Sick"])
    with pytest.raises(UsageError, match="the table of details, which was not given"):
        rsna_cases(path, images, leave_out=["Normal"])
