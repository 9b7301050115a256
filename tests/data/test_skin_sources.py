"""Where the scans of the skin bundle come from, and where its layers usually lie."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsal.data import skin_source, training_layer_masks, write_planted_skin
from medsal.errors import NothingToDoError, UsageError

CASES = 20


def table_of(root):
    return csv.DictReader((root / "skin.csv").read_text().splitlines())


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("skin"), "cases": CASES, "seed": 0}


def test_the_parts_of_a_fold_are_the_folders_of_the_planted_set_and_hold_each_person_once(planted):
    parts = {part: skin_source(None, planted, fold="k2", part=part) for part in ("train", "val", "test")}
    rows = list(table_of(planted["folder"]))
    assert {case["case"] for case in parts["test"]} == {row["case"] for row in rows if row["fold"] == "2"}
    assert sum(map(len, parts.values())) == CASES
    people = [{case["subject"] for case in cases} for cases in parts.values()]
    assert not (people[0] & people[1])
    assert not (people[0] & people[2])
    assert not (people[1] & people[2])


def test_labels_are_in_the_order_of_the_planted_classes_and_only_findings_have_a_mask(planted):
    cases = skin_source(None, planted)
    rows = {row["case"]: row for row in table_of(planted["folder"])}
    assert len(cases) == CASES
    for case in cases:
        row = rows[case["case"]]
        assert (str(case["label"]), case["subject"]) == (row["label"], row["patient"])
        assert ("mask" in case) == (case["label"] != 0)
        assert Path(case["layers"]).name == Path(case["image"]).name


def test_a_folder_of_ones_own_is_read_by_its_classes(planted, tmp_path):
    root = write_planted_skin(**planted).parent
    cases = skin_source(root, {"folder": tmp_path / "never"}, fold=1, part="train", subjects=root / "skin.csv")
    assert {case["label_name"]: case["label"] for case in cases} == {
        "lesion": 0, "low_echo_band": 1, "normal": 2, "thick_epidermis": 3,
    }  # fmt: skip
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("fold", ["k", "one", "k-1", ""])
def test_what_is_no_fold_is_refused(planted, fold):
    with pytest.raises(UsageError, match="fold: wanted k1"):
        skin_source(None, planted, fold=fold)


def test_a_fold_that_is_not_there_is_refused(planted):
    with pytest.raises(UsageError, match="no fold k9; it has k1"):
        skin_source(None, planted, fold="k9")


def test_somebody_in_two_parts_is_refused(planted, tmp_path):
    root = write_planted_skin(**planted).parent
    table = tmp_path / "people.csv"
    names = [row["case"] for row in table_of(root)]
    table.write_text("name,subject\n" + "".join(f"{name},somebody\n" for name in names))
    with pytest.raises(UsageError, match="in two parts"):
        skin_source(root, planted, subjects=table)


def test_for_training_scans_with_a_fault_are_left_out(planted, tmp_path):
    root = write_planted_skin(**planted).parent
    kept = [row["case"] for row in table_of(root)][1:]
    table = tmp_path / "people.csv"
    table.write_text("name,subject\n" + "".join(f"{name},{name}\n" for name in kept))
    assert len(skin_source(root, planted, subjects=table)) == CASES
    assert len(skin_source(root, planted, subjects=table, sound=True)) == CASES - 1


def test_the_masks_of_the_epidermis_are_the_code_255_of_the_maps(planted):
    cases = skin_source(None, planted, part="train")
    masks = training_layer_masks(cases, 224, most=3)
    assert [one["split"] for one in masks] == ["train"] * 3
    for one, case in zip(masks, cases, strict=False):
        codes = np.asarray(Image.open(case["layers"]))
        assert np.array_equal(one["mask"][0].numpy(), codes == 255)
    both = training_layer_masks(cases, 112, codes=(255, 128), most=1)[0]["mask"]
    assert both.shape == (1, 112, 112)
    assert both.sum() > training_layer_masks(cases, 112, most=1)[0]["mask"].sum() > 0


def test_without_maps_of_layers_there_is_no_mask(planted):
    cases = [{key: value for key, value in case.items() if key != "layers"} for case in skin_source(None, planted)]
    assert training_layer_masks(cases, 112) is None


def test_an_empty_part_is_nothing_to_do(tmp_path):
    with pytest.raises(NothingToDoError):
        skin_source(None, {"folder": tmp_path, "cases": 1, "seed": 0}, fold=1, part="val", sound=True)
