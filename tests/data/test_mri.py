"""Tables, folders and BIDS datasets become cases; what is wrong with them is said in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsal.data.mri import UNLABELLED, mri_cases, one_source, subject_and_session
from medsal.errors import UsageError

HEADER = "file,HC_vs_LTLE_vs_RTLE_string\n"


def table(folder: Path, text: str, name: str = "val.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), path)
    return path


def test_the_seeds_table_is_read(tmp_path: Path) -> None:
    cases = mri_cases(
        table(
            tmp_path,
            HEADER + "data/mwp1sub-0001_ses-01_T1w.nii,HC\n/abs/mwp1sub-0002_ses-01_T1w.nii,left\n"
            "data/mwp1sub-0001_ses-02_T1w.nii,right\n",
        )
    )
    assert [case["label"] for case in cases] == [0, 1, 1]
    assert [case["label_name"] for case in cases] == ["HC", "left", "right"]
    assert [case["case"] for case in cases] == ["sub-0001_ses-01", "sub-0002_ses-01", "sub-0001_ses-02"]
    assert cases[2]["subject"] == "sub-0001"
    assert cases[2]["session"] == "ses-02"
    assert cases[0]["image"] == str(tmp_path / "data" / "mwp1sub-0001_ses-01_T1w.nii")
    assert cases[1]["image"] == "/abs/mwp1sub-0002_ses-01_T1w.nii"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_blanks_and_byte_order_marks_are_understood(tmp_path: Path, delimiter: str) -> None:
    text = "\ufeff id , file , HC_vs_LTLE_vs_RTLE_string \r\n1, a.nii ,left\r\n\r\n".replace(",", delimiter)
    cases = mri_cases(table(tmp_path, text))
    assert [(case["image"], case["label"]) for case in cases] == [(str(tmp_path / "a.nii"), 1)]


def test_column_names_labels_and_further_columns_are_configuration(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "path,dx,who,session,lesion,age\nx/a.nii.gz,healthy,P 1/7,2,m/a.nii.gz,40\nx/b.nii.gz,ill,P 1/7,3,,41\n",
    )
    cases = mri_cases(
        path,
        file_column="path",
        label_column="dx",
        labels={"healthy": 0, "ill": 1},
        columns={"subject": "who", "age": "age"},
    )
    assert [case["case"] for case in cases] == ["P-1-7_ses-2", "P-1-7_ses-3"]
    assert cases[0]["lesion"] == str(tmp_path / "m" / "a.nii.gz")
    assert "lesion" not in cases[1]
    assert [case["age"] for case in cases] == ["40", "41"]
    unlabelled = mri_cases(path, file_column="path", label_column="")
    assert {case["label"] for case in unlabelled} == {UNLABELLED}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        (HEADER, "no cases"),
        ("file,diagnosis\na.nii,HC\n", "no column 'HC_vs_LTLE_vs_RTLE_string'; it has file, diagnosis"),
        ("path,HC_vs_LTLE_vs_RTLE_string\na.nii,HC\n", "no column 'file'; it has path, HC_vs_LTLE_vs_RTLE_string"),
        (HEADER + "a.nii,HC\nb.nii,LTLE\n", "row 3: label 'LTLE' is unknown; wanted one of HC, left, right"),
        (HEADER + "a.nii,\n", "row 2: label '' is unknown"),
        (HEADER + "a.nii,hc\n", "row 2: label 'hc' is unknown"),
        (HEADER + ",HC\n", "row 2: no path in column 'file'"),
        (HEADER + "a.nii,HC,7\n", "row 2: 3 cells; wanted 2"),
        (HEADER + "a.nii,HC\nb.nii,HC\na.nii,left\n", "listed 2 times"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        mri_cases(table(tmp_path, text))
    assert words in str(caught.value)
    assert "val.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_source_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.csv': no such file or folder"):
        mri_cases(tmp_path / "nowhere.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        mri_cases(tmp_path / "a.csv")
    with pytest.raises(UsageError, match="no cases; wanted at least one NIfTI"):
        mri_cases(tmp_path)
    with pytest.raises(UsageError, match="max_samples: wanted 0"):
        mri_cases(tmp_path, max_samples=-1)


def test_a_missing_image_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert len(mri_cases(table(tmp_path, HEADER + "absent.nii,HC\n"))) == 1


@pytest.mark.parametrize(("max_samples", "count"), [(0, 3), (2, 2), (50, 3)])
def test_max_samples(tmp_path: Path, max_samples: int, count: int) -> None:
    path = table(tmp_path, HEADER + "a.nii,HC\nb.nii,HC\nc.nii,left\n")
    assert [case["case"] for case in mri_cases(path, max_samples=max_samples)] == ["a", "b", "c"][:count]


def test_a_folder_gives_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", "deep/c_ses-1_T1w.nii", "._b.nii.gz", "notes.txt"):
        path = tmp_path / name
        image(path) if not name.endswith("txt") else path.write_text("x")
    cases = mri_cases(tmp_path)
    assert [case["case"] for case in cases] == ["a", "b", "c_ses-1"]
    assert {case["label"] for case in cases} == {UNLABELLED}
    assert mri_cases(tmp_path / "a.nii")[0]["case"] == "a"


def test_a_bids_dataset_gives_its_t1w_images(tmp_path: Path) -> None:
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
        "derivatives/x/sub-02/anat/sub-02_T1w.nii.gz",
    ):
        image(tmp_path / name)
    table(tmp_path, "participant_id\tdx\nsub-01\tHC\nsub-02\tleft\n", "participants.tsv")
    cases = mri_cases(tmp_path, label_column="dx")
    assert [case["case"] for case in cases] == ["sub-01_ses-1_run-1", "sub-01_ses-1_run-2", "sub-01_ses-2", "sub-02"]
    assert [case["label"] for case in cases] == [0, 0, 0, 1]
    assert [case["label"] for case in mri_cases(tmp_path)] == [UNLABELLED] * 4  # no such column: no labels
    table(tmp_path, "participant_id\tdx\nsub-01\tHC\nsub-02\t?\n", "participants.tsv")
    with pytest.raises(UsageError, match=r"row 3: label '\?'"):
        mri_cases(tmp_path, label_column="dx")


def test_case_names_are_unique_and_safe(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "file,HC_vs_LTLE_vs_RTLE_string,subject,session\na.nii,HC,S__1,\nb.nii,HC,S_1,\nc.nii,HC,s_1,\nd.nii,HC,../x,\n"
        "e.nii,HC,S_1_2,\n",
    )
    names = [case["case"] for case in mri_cases(path)]
    assert names == ["S_1", "S_1_2", "s_1_3", "-x", "S_1_2_2"]
    assert len({name.lower() for name in names}) == 5


def test_anonymous_cases_carry_numbers_for_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="medsal")
    path = table(tmp_path, HEADER + "Doe_ses-2011_a.nii,HC\nRoe_b.nii,left\nDoe_ses-2012_c.nii,right\n")
    cases = mri_cases(path, anonymise=True)
    assert [case["case"] for case in cases] == ["anon-0001_ses-01", "anon-0002", "anon-0001_ses-02"]
    assert [case["subject"] for case in cases] == ["anon-0001", "anon-0002", "anon-0001"]
    shown = [{key: value for key, value in case.items() if key != "image"} for case in cases]
    assert "Doe" not in str(shown) + caplog.text
    assert "2011" not in str(shown) + caplog.text
    assert "3 cases (HC 1, left 1, right 1)" in caplog.text


def test_the_seeds_rule_for_names() -> None:
    assert subject_and_session("/a/b/mwp1sub-0007_ses-01_T1w.nii.gz") == ("sub-0007", "ses-01")
    assert subject_and_session("mwp1x.nii") == ("x", "")


def test_two_sources_or_an_empty_one_are_refused() -> None:
    assert one_source(None, None) is None
    assert one_source("a.csv", None) == "a.csv"
    with pytest.raises(UsageError, match=r"got 'a.csv' and 'b'; give one"):
        one_source("a.csv", "b")
    with pytest.raises(UsageError, match="got an empty path"):
        one_source("", None)


def test_a_column_that_is_there_twice_is_refused_where_it_is_read(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("file,file,note,note\na.nii,b.nii,1,2\n")
    with pytest.raises(UsageError, match="two columns are called 'file'"):
        mri_cases(table, label_column="")
    table.write_text("file,note,note\na.nii,1,2\n")
    assert len(mri_cases(table, label_column="")) == 1
