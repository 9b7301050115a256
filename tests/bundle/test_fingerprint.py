"""Names of cases and what their results depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsal.bundle.fingerprint import fingerprint, identified, relevant, setup_digest
from medsal.errors import UsageError


@pytest.mark.parametrize(
    ("item", "case"),
    [
        ("/data/sub-01_T1w.nii.gz", "sub-01_T1w"),
        (Path("a.b.nii"), "a.b"),
        ({"image": "x/mwp1sub 7.nii"}, "mwp1sub-7"),
        ({"image": ["x/t1.nii.gz", "x/t2.nii.gz"]}, "t1"),
        ({"image": "x/.nii"}, "case"),
        ({"image": "x/y.nii", "case": "sub-01_ses-02"}, "sub-01_ses-02"),
    ],
)
def test_a_case_has_a_name_that_is_safe_as_a_file_name(item: Any, case: str) -> None:
    found = identified(item)
    assert found["case"] == case
    assert (found["subject"], found["session"]) == (case, "")


@pytest.mark.parametrize("case", ["../x", "a/b", ".hidden", "", "a b", "a\nb"])
def test_a_name_that_is_not_safe_is_refused(case: str) -> None:
    with pytest.raises(UsageError, match="no safe file name"):
        identified({"image": "x.nii", "case": case})


def test_an_item_without_an_image_is_refused() -> None:
    with pytest.raises(UsageError, match="got the keys file, label"):
        identified({"file": "x", "label": 1})


def test_names_that_are_there_stay() -> None:
    found = identified({"image": "x.nii", "case": "a", "subject": "s", "session": "1", "label": 0})
    assert found == {"image": "x.nii", "case": "a", "subject": "s", "session": "1", "label": 0}


def test_folders_and_lists_of_files_count_by_content(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"a")
    (tmp_path / "t1.nii").write_bytes(b"b")
    item = {"image": [str(series), str(tmp_path / "t1.nii")]}
    first = fingerprint(item, {}, "m")
    assert fingerprint(item, {}, "m") == first
    (series / "1.dcm").write_bytes(b"c")
    assert fingerprint(item, {}, "m") != first


def test_what_is_no_image_may_look_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(b"b")
    item = {"image": str(tmp_path / "x.nii"), "label_name": "HC/TLE", "lesion": "not/there.nii"}
    assert fingerprint(item, {}, "m") == fingerprint(item, {}, "m")


def test_a_missing_image_or_configuration_never_has_the_same_fingerprint_twice(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(b"b")
    assert fingerprint({"image": "absent.nii"}, {}, "m") != fingerprint({"image": "absent.nii"}, {}, "m")
    item = {"image": str(tmp_path / "x.nii")}
    assert fingerprint(item, None, "m") != fingerprint(item, None, "m")


def test_relevant_leaves_out_places_and_keeps_the_format_of_the_data() -> None:
    config = {"output_dir": "a", "seed": 1, "_meta_": {"version": "1", "network_data_format": {"x": 1}}}
    assert relevant(config) == {"seed": 1, "_meta_": {"x": 1}}
    assert setup_digest(config, "m") != setup_digest(config, "n")


def test_what_the_evaluator_refers_to_counts_and_what_makes_the_data_list_does_not() -> None:
    config = {
        "evaluator": {"network": "@network", "val_data_loader": "@dataloader"},
        "network": {"_target_": "x", "network": "$@network_def.to(@device)"},
        "network_def": {"width": "@width"},
        "width": 3,
        "dataset": {"data": "@pending", "transform": "@preprocessing"},
        "preprocessing": {"spacing": "@grid#spacing"},
        "grid": {"spacing": 2},
        "pending": "$@ledger.pending(@datalist)",
        "datalist": "$make(@how_many)",
        "how_many": 8,
    }
    assert set(relevant(config)) == {
        "evaluator", "network", "network_def", "width", "dataset", "preprocessing", "grid", "_meta_",
    }  # fmt: skip


def test_a_long_text_of_a_case_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("film")
    item = {"image": str(tmp_path / "a.png"), "rle": "1 1 " * 5000, "boxes": [[[1.0, 2.0], [3.0, 4.0]]]}
    assert fingerprint(item, {}, "w") == fingerprint(item, {}, "w")
    assert fingerprint(item, {}, "w") != fingerprint({**item, "rle": "2 2 " * 5000}, {}, "w")
