"""The MRI bundle and bad input: one clear line that names what is wrong, and what was finished stays."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medsal.bundle import CasesFailedError, Workflow
from medsal.bundle.exits import root_cause
from medsal.errors import MedsalError, NothingToDoError, UsageError

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mri_tle_efficientnet"
FILES = [str(BUNDLE / "configs" / "inference.json"), "medsal:explain.yaml"]
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -80, -100, -60

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI's word on every config


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAL_PROGRESS", "off")


def save(path: Path, voxels: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), AFFINE), path)
    return path


def head() -> np.ndarray:
    return np.random.default_rng(0).random((40, 50, 36)) + 1


def with_nan() -> np.ndarray:
    voxels = head()
    voxels[3, 4, 5] = np.nan
    return voxels


def table(folder: Path, *rows: str, header: str = "file,HC_vs_LTLE_vs_RTLE_string") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def run(folder: Path, **options: Any) -> None:
    given = {"csv_path": str(folder / "cases.csv"), "output_dir": str(folder / "out"), "methods": "saliency"}
    workflow = Workflow(FILES, bundle_root=str(BUNDLE), device="cpu", **{"key_slices": "10", **given, **options})
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def failure(folder: Path, **options: Any) -> BaseException:
    """What a user is told of a run that fails."""
    try:
        run(folder, **options)
    except Exception as error:  # noqa: BLE001  MONAI wraps whatever is raised in a config
        return root_cause(error)
    raise AssertionError("the run did not fail")


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no volume" * 50)


def cut_off(path: Path) -> None:
    content = save(path, head()).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def text_in_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"x" * 400))


BAD_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "bad.nii.gz"),
    "unreadable": (garbage, "bad.nii.gz"),
    "cut off": (cut_off, "bad.nii.gz"),
    "no NIfTI inside": (text_in_gzip, "bad.nii.gz"),
    "four dimensions": (lambda path: save(path, np.stack([head()] * 3, -1)), "4"),
    "not a number": (lambda path: save(path, with_nan()), "3, 4, 5"),
    "all the same": (lambda path: save(path, np.zeros((40, 50, 36))), "voxels are 0"),
}


@pytest.mark.parametrize("kind", BAD_CASES)
def test_a_bad_file_fails_alone_with_its_name_and_reason(kind: str, tmp_path: Path) -> None:
    make, words = BAD_CASES[kind]
    make(tmp_path / "bad.nii.gz")
    save(tmp_path / "good.nii.gz", head())
    table(tmp_path, "bad.nii.gz,left", "good.nii.gz,HC")
    found = failure(tmp_path)
    assert isinstance(found, CasesFailedError)
    assert found.exit_code == 4
    assert str(found).startswith("1 of 2 cases done, 1 failed: bad")
    record = json.loads((tmp_path / "out" / "cases" / "bad.json").read_text())
    assert record["status"] == "failed"
    assert "\n" not in record["error"]
    assert re.search(words, record["error"]), record["error"]
    assert json.loads((tmp_path / "out" / "cases" / "good.json").read_text())["status"] == "done"
    assert list((tmp_path / "out" / "saliency" / "good").glob("*.nii.gz"))
    assert not (tmp_path / "out" / "saliency" / "bad").exists()


def wrong_weights(folder: Path) -> dict[str, Any]:
    torch.save({"layer.weight": torch.zeros(2)}, folder / "other.pt")
    return {"ckpt_path": str(folder / "other.pt")}


def file_as_folder(folder: Path) -> dict[str, Any]:
    (folder / "file").write_text("")
    return {"output_dir": str(folder / "file" / "out")}


BAD_RUNS: dict[str, tuple[Callable[[Path], dict[str, Any]], type[MedsalError], str]] = {
    "unknown label": (lambda f: {"csv_path": str(table(f, "good.nii.gz,middle"))}, UsageError, "middle"),
    "missing column": (
        lambda f: {"csv_path": str(table(f, "good.nii.gz", header="path"))}, UsageError, "no column .*; it has path"),
    "empty table": (lambda f: {"csv_path": str(table(f))}, NothingToDoError, "no cases"),
    "no table": (lambda f: {"csv_path": str(f / "none.csv")}, UsageError, "none.csv.*no such file"),
    "unknown method": (lambda f: {"methods": "grad-cam"}, UsageError, "Did you mean gradcam"),
    "unknown layer": (lambda f: {"methods": "gradcam", "target_layer": "stage9"}, UsageError, "no layer 'stage9'"),
    "unknown option of a method": (
        lambda f: {"options": {"saliency": {"colour": 1}}}, UsageError, "no option 'colour'"),
    "slice out of range": (lambda f: {"key_slices": "999"}, UsageError, "999"),
    "slice outside the image": (
        lambda f: {"key_slices": None, "slices": "axial@-500mm"}, UsageError, "slices: wanted axial slices at -500 mm"),
    "label as target without labels": (lambda f: {"label_column": "", "target": "label"}, UsageError, "wants a label"),
    "broken grid": (lambda f: {"grid_size": [44, 28]}, UsageError, "grid: wanted three numbers each"),
    "two sources": (lambda f: {"dataset_dir": str(f)}, UsageError, "wanted one source"),
    "unknown layout": (lambda f: {"layout": "tree"}, UsageError, "tree"),
    "weights of another network": (wrong_weights, UsageError, "other.pt"),
    "no weights": (lambda f: {"ckpt_path": str(f / "none.pt")}, UsageError, "none.pt"),
    "unwritable output": (file_as_folder, MedsalError, "cannot write|not a folder|output_dir"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_a_bad_run_ends_with_one_line(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "good.nii.gz", head())
    table(tmp_path, "good.nii.gz,HC")
    prepare, error, words = BAD_RUNS[kind]
    options = prepare(tmp_path)
    found = failure(tmp_path, **options)
    assert isinstance(found, error), repr(found)
    assert "\n" not in str(found)
    assert re.search(words, str(found)), str(found)
    assert not list((tmp_path / "out").glob("cases/*.json"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB: enough for a case or two."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(small_disk: Path, tmp_path: Path) -> None:
    for name in "abcdefgh":
        save(tmp_path / f"{name}.nii.gz", head())
    table(tmp_path, *(f"{name}.nii.gz,HC" for name in "abcdefgh"))
    found = failure(tmp_path, output_dir=str(small_disk / "out"))
    assert isinstance(found, CasesFailedError)
    assert "No space left on device" in str(found)
    done = list((small_disk / "out" / "cases").glob("*.json"))
    assert done
    assert f"; {len(done)} finished cases stay" in str(found)
    assert not list(small_disk.rglob("*.part"))
    for path in (small_disk / "out" / "cases").glob("*.json"):
        record = json.loads(path.read_text())
        if record["status"] == "done":
            assert all(Path(small_disk / "out" / f["path"]).stat().st_size == f["size"] for f in record["files"])
