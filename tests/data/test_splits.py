"""Splits: the files of both studies, folds by patient, and nobody in two parts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsal.data.films.folds import patient_folds, patient_split
from medsal.data.films.listing import sound_cases
from medsal.data.films.splits import assign_splits, assign_subjects, check_leaks, film_list
from medsal.errors import NothingToDoError, UsageError
from tests.data.films_made import write_dicom


def films(*names: str) -> list[dict[str, Any]]:
    """Cases as a reader leaves them."""
    more = {"session": "", "label": 0, "label_name": "no"}
    return [{"case": name, "subject": name, "image": f"/films/{name}.png", **more} for name in names]


def file(folder: Path, text: str, name: str = "splits.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_split_files_of_both_studies_are_read(tmp_path: Path) -> None:
    uuid, number = "aaa685a7-16f1-448e-af0f-a06867f78e1c", "1.2.276.0.7230010.3.1.4.8323329.10287.1517875222.997107"
    for text in (
        f",Image_ID,Split\n0,{uuid}.png,train\n1,b.png,val\n2,{number},test\n",
        f"Split,patientId,Target,x,y,width,height\ntrain,{uuid},1,1,2,3,4\ntrain,{uuid},1,5,6,7,8\n"
        f"val,b,0,,,,\ntest,{number},0,,,,\n",
        f"Split,ImageId,label\nTrain,{uuid},1\nvalid,b,0\nTEST,{number},0\n",
    ):
        cases = films(uuid, "b", number)
        where = assign_splits(cases, file(tmp_path, text))
        assert [case["split"] for case in cases] == ["train", "val", "test"]
        assert where[uuid] == "'splits.csv' row 2"
        assert sound_cases(cases) == cases


def test_a_folder_of_three_tables_is_a_split(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        file(tmp_path, f"name,label\n{name}.png,1\n", f"{part}.csv")
    cases = films("c", "a", "b")
    assign_splits(cases, tmp_path)
    assert [case["split"] for case in cases] == ["test", "train", "val"]
    file(tmp_path, "name,label\na.png,1\n", "test.csv")
    with pytest.raises(UsageError, match=r"'train.csv' row 2: the film is in train, but in test by 'test.csv' row 2"):
        assign_splits(cases, tmp_path)


def test_films_and_rows_without_each_other_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = films("a", "b")
    assign_splits(cases, file(tmp_path, "Image_ID,Split\na,train\nx,test\ny,test\n"))
    assert cases[1]["fault"] == "'splits.csv': no row names this film; wanted the part that it is in"
    assert "2 films that are no case, the first in 'splits.csv' row 3" in caplog.text
    assert sound_cases(cases) == cases[:1]
    assert "left out b: 'splits.csv'" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Image_ID,Split\na,train\na.png,test\n", "row 3: the film is in test, but in train by 'splits.csv' row 2"),
        ("Image_ID,Split\na,training set\n", "row 2: the part is 'training set'; wanted train, val, test"),
        ("id,Split\na,train\n", "no column Image_ID or ImageId"),
        ("Image_ID,part\na,train\n", "no column Split or split; it has Image_ID, part"),
        ("Image_ID,Split\na,\n", "row 2: nothing in column 'Split'"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=r"splits\.csv'") as error:
        assign_splits(films("a"), file(tmp_path, text))
    assert words in str(error.value)


def test_a_patient_in_two_parts_is_refused_by_file_and_row(tmp_path: Path) -> None:
    splits = file(tmp_path, "Image_ID,Split\na,train\nb,train\nc,test\n")
    people = file(tmp_path, "patient_id,image_id\nDoe,a\nRoe,b\nDoe,c\n", "people.csv")
    with pytest.raises(UsageError) as error:
        film_list(films("a", "b", "c"), splits=splits, subjects=people)
    assert str(error.value).startswith(
        "'splits.csv' row 4 (test): the same person as 'splits.csv' row 2 (train); 1 in all"
    )
    assert "Doe" not in str(error.value)
    mended = film_list(films("a", "b"), splits=splits, subjects=people)
    assert [(case["subject"], case["split"]) for case in mended] == [("Doe", "train"), ("Roe", "train")]


def test_parts_of_folders_are_checked_too() -> None:
    cases = [{**case, "split": part} for case, part in zip(films("a", "b"), ("train", "test"), strict=True)]
    check_leaks(cases)
    cases[1]["subject"] = "a"
    with pytest.raises(UsageError, match=r"'/films/b.png' \(test\): the same person as '/films/a.png' \(train\)"):
        check_leaks(cases)
    with pytest.raises(UsageError, match=r"film 2 of the list \(test\): the same person as film 1 of the list"):
        film_list(cases, anonymise=True)
    with pytest.raises(UsageError, match="the case 'a' comes twice"):
        check_leaks(films("a", "a"))


def test_one_part_is_taken_and_names_are_left_out(tmp_path: Path) -> None:
    splits = file(tmp_path, "Image_ID,Split\nDoe1,train\nDoe2,train\nRoe,test\n")
    people = file(tmp_path, "subject,name\nDoe,Doe1\nDoe,Doe2\nRoe,Roe\n", "people.csv")
    given = films("Doe1", "Roe", "Doe2")
    given[2]["fault"] = "'/films/Doe2.png': 2 films ('x/Doe2.dcm', 'Doe2.png') in 'Doe20'"
    found = film_list(given, splits=splits, subjects=people, part="train", anonymise=True)
    assert [(case["case"], case["subject"]) for case in found] == [
        ("anon-0001", "anon-0001"),
        ("anon-0001_2", "anon-0001"),
    ]
    hidden = "'image of anon-0001_2'"
    assert found[1]["fault"] == f"{hidden}: 2 films ({hidden}, {hidden}) in 'Doe20'"
    assert given[0]["subject"] == "Doe1"
    with pytest.raises(NothingToDoError, match="part valid: no case is in it; the list has train 2, test 1"):
        film_list(given, splits=splits, part="valid")
    with pytest.raises(UsageError, match="wanted one of train, val, test, got 'dev'"):
        film_list(given, splits=splits, part="dev")


def test_subjects_come_from_a_table_or_the_headers(tmp_path: Path) -> None:
    cases = films("a", "b")
    assign_subjects(cases, file(tmp_path, "patient_id,image_id\nDoe,a.png\n", "people.csv"))
    assert cases[0]["subject"] == "Doe"
    assert cases[1]["fault"].startswith("'people.csv': does not say whose film this is")
    with pytest.raises(UsageError, match="row 3: another 'patient_id' than row 2 for the same film") as error:
        assign_subjects(cases, file(tmp_path, "patient_id,image_id\nDoe,a\nRoe,a\n", "people.csv"))
    assert "Roe" not in str(error.value)
    levels = np.zeros((4, 4), np.uint8)
    cases = films("a", "b", "c")
    for case, options in zip(cases, ({}, {"PatientID": ""}, {}), strict=True):
        case["image"] = str(write_dicom(tmp_path / f"{case['case']}.dcm", levels, **options))
    Path(cases[2]["image"]).write_text("no film")
    assign_subjects(cases, "header")
    assert cases[0]["subject"] == "secret-17"
    assert "no PatientID in the header" in cases[1]["fault"]
    assert "is no DICOM file" in cases[2]["fault"]


def clinic(seed: int = 0, people: int = 40) -> list[dict[str, Any]]:
    """Persons with one to four films; a third are ill."""
    random = np.random.default_rng(seed)
    cases = []
    for person in range(people):
        for film in range(random.integers(1, 5)):
            case = films(f"p{person}_{film}")[0]
            cases.append({**case, "subject": f"p{person}", "label": int(person % 3 == 0)})
    return cases


@pytest.mark.parametrize("stratified", [True, False])
def test_folds_hold_whole_patients_and_all_films(stratified: bool) -> None:
    cases = clinic()
    dealt = patient_folds(cases, 5, stratified=stratified)
    assert [case["case"] for case in dealt] == [case["case"] for case in cases]
    assert len({(case["subject"], case["fold"]) for case in dealt}) == 40
    sizes = Counter(case["fold"] for case in dealt)
    assert sorted(sizes) == [1, 2, 3, 4, 5]
    if stratified:
        assert max(sizes.values()) - min(sizes.values()) <= 6
        ill = Counter(case["fold"] for case in dealt if case["label"])
        shares = [ill[fold] / sizes[fold] for fold in sizes]
        assert max(shares) - min(shares) < 0.15
    else:
        assert set(Counter(fold for _, fold in {(case["subject"], case["fold"]) for case in dealt}).values()) == {8}
    assert dealt == patient_folds(cases, 5, stratified=stratified)
    assert dealt != patient_folds(cases, 5, stratified=stratified, seed=1)


def test_parts_have_their_shares_and_whole_patients() -> None:
    cases = clinic(people=120)
    split = patient_split(cases)
    check_leaks(split)
    sizes = Counter(case["split"] for case in split)
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert sizes[part] / len(cases) == pytest.approx(share, abs=0.03)
        ill = [case["label"] for case in split if case["split"] == part]
        assert np.mean(ill) == pytest.approx(np.mean([case["label"] for case in cases]), abs=0.06)
    halves = Counter(case["split"] for case in patient_split(cases, {"train": 0.25, "test": 0.75}))
    assert halves["test"] / len(cases) == pytest.approx(0.75, abs=0.03)
    assert patient_split(cases) == split != patient_split(cases, seed=1)


def test_too_few_patients_are_said() -> None:
    cases = clinic(people=4)
    with pytest.raises(UsageError, match=r"as many as there are persons \(4\), got 5"):
        patient_folds(cases, 5)
    one = [{**case, "label": int(place == 0)} for place, case in enumerate(cases)]
    with pytest.raises(UsageError, match="1 films of class 1 for 3 folds"):
        patient_folds(one, 3)
    assert len(patient_folds(one, 3, stratified=False)) == len(cases)
    for shares in (
        {"train": 1.0},
        {"train": 0.5, "test": 0.6},
        {"train": 1.0, "test": 0.0},
        {"train": np.nan, "test": 0.5},
    ):
        with pytest.raises(UsageError, match="that sum to 1"):
            patient_split(cases, shares)


def test_the_real_films_are_split_by_their_patients(real_data: Path) -> None:
    folder = real_data / "cxr_hannover"
    if not folder.is_dir():
        pytest.skip(f"no films in {folder}")
    cases = films(*(path.stem for path in sorted((folder / "png").glob("*.png"))))
    assign_subjects(cases, folder / "data.csv")
    assert not any("fault" in case for case in cases)
    assert (len(cases), len({case["subject"] for case in cases})) == (77, 43)
    dealt = patient_folds(cases, 5)
    check_leaks([{**case, "split": "train" if case["fold"] == 1 else "test"} for case in dealt])
    by_film = [{**case, "split": "train" if place % 2 else "test"} for place, case in enumerate(cases)]
    with pytest.raises(UsageError, match="the same person"):
        check_leaks(by_film)
    sizes = sorted(Counter(case["fold"] for case in dealt).values())
    assert all(b - a <= 5 for a, b in pairwise(sizes))
