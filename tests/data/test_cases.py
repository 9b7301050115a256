"""Broken cases come back as failures; the others go on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.transforms import Compose

from medsal.data.cases import CaseDataset, Failures, collate_cases, saved_meta
from medsal.data.mri import mri_cases
from medsal.errors import UsageError
from medsal.transforms import CheckImaged, LoadVolumed


def sound(path: Path) -> str:
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path.name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [sound(tmp_path / "a_1.nii"), "gone_2.nii", sound(tmp_path / "c_3.nii"), "bad_4.nii"]
    (tmp_path / "bad_4.nii").write_bytes(b"no image")
    path = tmp_path / "all.csv"
    path.write_text("file,HC_vs_LTLE_vs_RTLE_string\n" + "".join(f"{row},HC\n" for row in rows))
    return path


CHAIN = Compose([LoadVolumed("image"), CheckImaged("image")])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_past_broken_cases(source: Path, workers: int) -> None:
    dataset = CaseDataset(mri_cases(source), CHAIN)
    batches = list(DataLoader(dataset, batch_size=2, collate_fn=collate_cases, num_workers=workers))
    assert [batch["case"] for batch in batches] == [["a"], ["c"]]
    assert all(batch["image"].shape == (1, 1, 4, 5, 6) for batch in batches)
    failures = [failure for batch in batches for failure in batch["failures"]]
    assert [failure["case"] for failure in failures] == ["gone", "bad"]
    assert failures[0]["label"] == 0
    assert "gone_2.nii': no such file" in failures[0]["error"]
    assert "bad_4.nii': cannot be read as NIfTI" in failures[1]["error"]
    assert all("\n" not in failure["error"] for failure in failures)


def test_decollating_keeps_cases_and_failures_apart(source: Path) -> None:
    dataset = CaseDataset(mri_cases(source), CHAIN)
    for size in (3, 4):
        (batch, *_) = DataLoader(dataset, batch_size=size, collate_fn=collate_cases)
        items = decollate_batch(batch)
        assert [item["case"] for item in items] == ["a", "c"]
        assert [item["image"].shape for item in items] == [(1, 4, 5, 6)] * 2
        assert items[0]["image"].meta["filename_or_obj"].endswith("a_1.nii")
        assert len(items[0]["failures"]) == size - 2


def test_a_batch_of_failures_alone_is_a_batch(source: Path) -> None:
    dataset = CaseDataset(mri_cases(source)[1::2], CHAIN)
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=collate_cases)
    assert set(batch) == {"failures"}
    assert [failure["case"] for failure in batch["failures"]] == ["gone", "bad"]


def test_failures_survive_a_worker_and_count() -> None:
    failures = pickle.loads(pickle.dumps(Failures([{"case": "a", "error": "b"}])))
    assert list(failures) == [{"case": "a", "error": "b"}]
    assert bool(failures) is True
    assert not Failures()
    assert "'case': 'a'" in repr(failures)


def test_a_wrong_configuration_is_no_failed_case(source: Path) -> None:
    def wrong(case: dict[str, Any]) -> None:
        raise UsageError("option: wanted this, got that")

    with pytest.raises(UsageError, match="wanted this"):
        CaseDataset(mri_cases(source), Compose([wrong]))[0]


def test_any_error_of_a_transform_is_one_line_with_its_kind() -> None:
    def wrong(case: dict[str, Any]) -> None:
        raise ValueError("first\nsecond")

    item = CaseDataset([{"case": "x", "subject": "x", "session": "", "image": torch.zeros(1)}], Compose([wrong]))[0]
    assert item == {
        "case": "x",
        "subject": "x",
        "session": "",
        "error": "cannot be prepared (ValueError: first second)",
    }


def test_an_anonymous_case_does_not_name_its_file(source: Path) -> None:
    cases = mri_cases(source, anonymise=True)
    error = CaseDataset(cases, CHAIN)[1]["error"]
    assert "gone" not in error
    assert "image of anon-0002" in error


def test_slices_of_the_dataset_work_as_in_monai(source: Path) -> None:
    dataset = CaseDataset(mri_cases(source), CHAIN)
    assert [item["case"] for item in dataset[:2]] == ["a", "gone"]


def test_savers_are_told_the_file_of_a_case_unless_it_is_anonymous() -> None:
    image = MetaTensor(torch.zeros(1, 2), meta={"filename_or_obj": "/data/DoeJane.nii"})
    named, unnamed = saved_meta([{"case": "a", "image": image}, {"case": "b", "image": image, "anonymous": True}])
    assert named["filename_or_obj"] == "/data/DoeJane.nii"
    assert unnamed["filename_or_obj"] == "b"
