"""Where the films of a bundle come from, in which part they are, and their truth as files and as a prior."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medsal.data import (
    film_part,
    film_source,
    film_table_cases,
    film_transforms,
    mask_files,
    training_film_masks,
    write_planted_films,
)
from medsal.errors import NothingToDoError, UsageError
from medsal.transforms import LoadVolume


def planted(folder, finding="pneumothorax", cases=24):
    return {"folder": folder, "finding": finding, "cases": cases, "seed": 3, "size": 64}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return write_planted_films(**planted(tmp_path_factory.mktemp("films")))


@pytest.fixture(scope="module")
def opacities(tmp_path_factory):
    return write_planted_films(**planted(tmp_path_factory.mktemp("opacities"), "pneumonia"))


def own_table(folder, rows):
    """A table of films beside their pictures, which are made where a row has the name of one."""
    for row in rows:
        if row["file"].endswith(".png"):
            Image.fromarray(np.arange(600, dtype=np.uint8).reshape(30, 20)).save(folder / row["file"])
    path = folder / "own.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def mask_of(case):
    return film_transforms(64)(case)["mask"].as_tensor()


def test_without_a_table_films_are_planted(tmp_path, films):
    cases = film_source(None, None, planted(tmp_path))
    assert len(cases) == 24
    assert {case["label"] for case in cases} == {0, 1}
    assert [case["case"] for case in cases] == [case["case"] for case in film_table_cases(films)]
    assert {"subject", "image", "mask", "split"} <= cases[0].keys()


def test_the_columns_tell_which_table_it_is_and_the_truth_is_the_same(films):
    folder = films.parent
    own, siim = film_source(films, None, {}), film_source(folder / "siim.csv", folder / "images", {})
    assert "rle" in siim[0]
    assert [case["label"] for case in own] == [case["label"] for case in siim]
    for one, other in zip(own, siim, strict=True):
        assert torch.equal(mask_of(one), mask_of(other))


def test_a_table_of_boxes_is_read_with_its_classes(opacities):
    folder = opacities.parent
    cases = film_source(
        folder / "rsna.csv", folder / "images", {}, details=folder / "rsna_classes.csv", leave_out=["Normal"]
    )
    assert len(cases) == 12
    assert all(case["boxes"] and case["label"] == 1 for case in cases)


@pytest.mark.parametrize(
    ("table", "images", "more", "said"),
    [
        (None, "images", {}, "set --csv_path"),
        ("absent.csv", None, {}, "csv_path: no file"),
        ("siim.csv", None, {}, "set --images_dir"),
        ("films.csv", None, {"details": "rsna_classes.csv"}, "no table of boxes"),
        ("rsna_classes.csv", None, {}, "no column 'file'"),
    ],
)
def test_a_source_that_is_not_whole_is_refused(films, table, images, more, said):
    folder = films.parent
    with pytest.raises(UsageError, match=said):
        film_source(folder / table if table else None, images and folder / images, {}, **more)


def test_a_row_that_is_wrong_goes_with_its_case(tmp_path):
    rows = [
        {"file": "a.png", "label": "1", "patient": "p", "split": "valid"},
        {"file": "b.png", "label": "2", "patient": "", "split": ""},
        {"file": "c.tif", "label": "0", "patient": "", "split": ""},
    ]
    a, b, c = film_table_cases(own_table(tmp_path, rows))
    assert (a["subject"], a["split"], a.get("fault")) == ("p", "val", None)
    assert b["fault"] == "'own.csv' row 3: the label is '2'; wanted 0 or 1"
    assert c["fault"].startswith("'own.csv' row 4: no film")


@pytest.mark.parametrize(
    ("row", "said"), [({"file": "a.png", "split": ""}, "listed twice"), ({"file": "b.png", "split": "fun"}, "'fun'")]
)
def test_a_table_that_is_wrong_is_refused(tmp_path, row, said):
    rows = [{"file": "a.png", "label": "1", "split": "train"}, {**row, "label": "1"}]
    with pytest.raises(UsageError, match=said):
        film_table_cases(own_table(tmp_path, rows))


def test_persons_are_dealt_out_once_and_for_all_where_no_split_is_given(films):
    cases = [{k: v for k, v in case.items() if k != "split"} for case in film_table_cases(films)]
    parts = {part: film_part(cases, part, seed=1) for part in ("train", "val", "test")}
    people = {part: {case["subject"] for case in found} for part, found in parts.items()}
    assert sum(map(len, parts.values())) == len(cases)
    assert not people["train"] & people["test"]
    assert not (people["train"] | people["test"]) & people["val"]
    assert film_part(cases, "test", seed=1) == parts["test"]


def test_the_split_of_the_table_stands(films):
    cases = film_table_cases(films)
    assert film_part(cases, "valid") == [case for case in cases if case["split"] == "val"]
    assert film_part(cases, None) == cases


def test_a_part_that_cannot_be_is_refused(films):
    cases = film_table_cases(films)
    with pytest.raises(UsageError, match="wanted one of train, val, test"):
        film_part(cases, "fold1")
    with pytest.raises(NothingToDoError, match="no film is in it"):
        film_part([case for case in cases if case["split"] == "train"], "test")
    hidden = [{"case": "1", "subject": "1", "label": 1, "anonymous": True}]
    with pytest.raises(UsageError, match="--splits"):
        film_part(hidden, "test")


def test_films_in_no_part_are_told(films, caplog):
    cases = film_table_cases(films)
    cases[0].pop("split")
    assert cases[0] not in film_part(cases, "train")
    assert f"1 films are in no part, the first of them {cases[0]['case']}" in caplog.text


def test_films_with_a_fault_are_not_trained_on(films, caplog):
    cases = film_table_cases(films)
    broken = [{**cases[0], "fault": "torn"}, *cases[1:]]
    assert film_part(broken, None, sound=True) == cases[1:]
    assert "torn" in caplog.text


@pytest.mark.parametrize("table", ["films.csv", "siim.csv"])
def test_truth_is_written_on_the_films_own_grid(films, tmp_path, table):
    folder = films.parent
    cases = film_source(folder / table, folder / "images", {}) if table == "siim.csv" else film_table_cases(films)
    for case, kept in zip(cases, mask_files(cases, tmp_path), strict=True):
        truth = np.asarray(Image.open(folder / "masks" / f"{case['case']}.png")) > 0
        volume = LoadVolume(placed=False)(kept["mask"])
        assert np.array_equal(volume.numpy()[0, ..., 0] > 0, truth)  # rows first, as films are
        assert "rle" not in kept


def test_a_film_that_cannot_be_read_does_not_stop_the_others(films, tmp_path):
    cases = [dict(case) for case in film_table_cases(films)[:3]]
    (tmp_path / "torn.png").write_bytes(b"no film")
    cases[1]["image"] = str(tmp_path / "torn.png")
    found = mask_files(cases, tmp_path / "truth")
    assert "torn.png" in found[1]["fault"]
    assert len(list((tmp_path / "truth").iterdir())) == 2
    assert mask_files(cases, None) == cases
    assert nibabel.load(found[0]["mask"]).shape == (64, 64, 1)


def test_the_prior_is_of_training_films_only(films):
    cases = film_table_cases(films)
    found = training_film_masks(cases, 32, part="test")
    positive = {case["case"] for case in cases if case["split"] == "train" and case["label"] == 1}
    assert {item["case"] for item in found} == positive
    assert all(item["split"] == "train" and item["mask"].shape == (1, 32, 32) and item["mask"].any() for item in found)
    assert training_film_masks(cases, 32) is None
    assert training_film_masks(cases, 32, part="train") is None


def test_the_prior_of_planted_films_shares_no_name_with_them(films):
    cases = film_table_cases(films)
    found = training_film_masks(cases, 64, finding="pneumothorax", most=4)
    assert len({item["case"] for item in found}) == 4
    assert not {item["subject"] for item in found} & {case["subject"] for case in cases}
    assert all(item["mask"].any() for item in found)
