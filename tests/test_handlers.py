"""The exporter and the progress: files, records, tables; a broken case and a full disk."""

from __future__ import annotations

import errno
import io
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.networks.nets import DenseNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Resized

from medsal.bundle.results import case_result, probability, slice_choice
from medsal.data.cases import CaseDataset, collate_cases
from medsal.engines import AttributionEvaluator
from medsal.errors import MedsalError
from medsal.export import ExportOptions
from medsal.handlers import ExplanationExporter, ProgressBar, duration
from medsal.handlers import exporter as exporting
from medsal.ledger import Ledger

OPTIONS = ExportOptions(slices="8")


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    """Three small heads, the second of which is no image."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        path = tmp_path / f"sub-{number}.nii.gz"
        affine = np.diag([-1.5, 1.0, 2.0, 1.0])
        affine[:3, 3] = (number, 5, -3)
        nib.save(nib.Nifti1Image(rng.normal(size=(12, 14, 10)).astype(np.float32), affine), path)
        found.append({
            "image": str(path), "case": f"sub-{number}", "subject": f"sub-{number}", "session": "",
            "label": 1, "label_name": "left",
        })  # fmt: skip
    Path(found[1]["image"]).write_bytes(b"this is no image")
    return found


def run(
    tmp_path: Path, cases: list[dict[str, Any]], stream: io.StringIO | None = None, batch_size: int = 1
) -> tuple[ExplanationExporter, AttributionEvaluator]:
    ledger = Ledger(tmp_path / "out", config={"methods": "saliency"}, model_sha256="m")
    chain = Compose(
        [
            LoadImaged("image", reader="NibabelReader"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=None),
            Resized("image", (16, 16, 16)),
        ]
    )
    loader = DataLoader(CaseDataset(ledger.pending(cases), chain), batch_size=batch_size, collate_fn=collate_cases)
    torch.manual_seed(0)
    network = DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)
    exporter = ExplanationExporter(ledger, OPTIONS)
    evaluator = AttributionEvaluator(
        "cpu",
        loader,
        network,
        "saliency,gradcam",
        val_handlers=[exporter, ProgressBar(ledger, stream=stream or io.StringIO())],
    )
    evaluator.run()
    return exporter, evaluator


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_broken_case_is_recorded_and_the_others_are_written(
    tmp_path: Path, cases: list[dict[str, Any]], batch_size: int
) -> None:
    exporter, _ = run(tmp_path, cases, batch_size=batch_size)
    assert exporter.outcome is not None
    assert dict(exporter.outcome.cases) == {"sub-0": "done", "sub-1": "failed", "sub-2": "done"}
    run_json = json.loads((tmp_path / "out/run.json").read_text())
    assert run_json["exit_code"] == 4
    assert run_json["counts"] == {"done": 2, "failed": 1, "pending": 0, "finished_before": 0, "total": 3}
    failed = exporter.ledger.read("sub-1")
    assert "sub-1" in failed["error"] or "image" in failed["error"]
    done = exporter.ledger.read("sub-2")
    assert {"compute", "grid", "draw", "write"} <= set(done["seconds"])
    assert done["label_name"] == "left"
    assert [row["sample_idx"] for row in done["statistics"]] == [2, 2]
    assert len((tmp_path / "out/attribution_statistics.csv").read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / "out/index.html").is_file()


def test_the_map_lies_on_the_grid_of_the_file(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    run(tmp_path, cases[:1])
    source, written = nib.load(cases[0]["image"]), nib.load(tmp_path / "out/saliency/sub-0/sub-0_saliency.nii.gz")
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert np.abs(written.get_fdata()).max() > 0


def test_a_second_run_does_only_what_is_missing(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, cases)
    nib.save(
        nib.Nifti1Image(np.random.default_rng(3).normal(size=(8, 8, 8)).astype(np.float32), np.eye(4)),
        cases[1]["image"],
    )
    written: list[str] = []
    real = exporting.export_case
    monkeypatch.setattr(
        exporting, "export_case", lambda result, *rest: (written.append(result.case), real(result, *rest))[1]
    )
    exporter, _ = run(tmp_path, cases)
    assert written == ["sub-1"]
    assert exporter.outcome is not None
    assert (exporter.outcome.exit_code, exporter.outcome.skipped) == (0, 2)
    assert len((tmp_path / "out/attribution_statistics.csv").read_text().splitlines()) == 1 + 3 * 2


def test_a_case_that_cannot_be_written_is_its_own_failure(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.export_case

    def picky(result: Any, *rest: Any) -> Any:
        if result.case == "sub-0":
            raise ZeroDivisionError("a drawing\nwent wrong")
        return real(result, *rest)

    monkeypatch.setattr(exporting, "export_case", picky)
    exporter, _ = run(tmp_path, [cases[0], cases[2]], batch_size=2)
    assert exporter.outcome is not None
    assert dict(exporter.outcome.cases) == {"sub-0": "failed", "sub-2": "done"}
    assert exporter.ledger.read("sub-0")["error"] == "ZeroDivisionError: a drawing went wrong"


def test_a_full_disk_ends_the_run_and_what_is_finished_stays(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.export_case

    def full(result: Any, *rest: Any) -> Any:
        if result.case == "sub-2":
            raise MedsalError("cannot write map.npy: No space left on device") from OSError(
                errno.ENOSPC, "No space left on device"
            )
        return real(result, *rest)

    monkeypatch.setattr(exporting, "export_case", full)
    with pytest.raises(MedsalError, match="No space left"):
        run(tmp_path, [cases[0], cases[2]])
    monkeypatch.setattr(exporting, "export_case", real)
    exporter, _ = run(tmp_path, [cases[0], cases[2]])
    assert exporter.outcome is not None
    assert (exporter.outcome.exit_code, exporter.outcome.skipped) == (0, 1)


def test_cases_of_another_setup_stay_out_of_the_tables(
    tmp_path: Path, cases: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, [cases[0]])
    record = tmp_path / "out/cases/sub-0.json"
    old = {**json.loads(record.read_text().replace("sub-0", "sub-9")), "setup": "another"}
    (tmp_path / "out/cases/sub-9.json").write_text(json.dumps(old))
    run(tmp_path, [cases[0], cases[2]])
    assert len((tmp_path / "out/attribution_statistics.csv").read_text().splitlines()) == 1 + 2 * 2
    assert "1 cases in" in caplog.text
    listed = {case["case"]: case for case in json.loads((tmp_path / "out/run.json").read_text())["cases"]}
    assert not listed["sub-9"]["this_setup"]
    text = (tmp_path / "out/index.html").read_text()
    assert "explained, but its file for this page cannot be read" in text
    (tmp_path / "out/report/sub-9.json").write_text((tmp_path / "out/report/sub-0.json").read_text())
    run(tmp_path, [cases[0], cases[2]])[0].finish()
    pages = json.loads(re.findall('id="data">(.*?)</script>', (tmp_path / "out/index.html").read_text())[0])["cases"]
    assert ["mark" in page for page in pages] == [False, False, True]
    assert "another setup (model sha256 m)" in pages[2]["mark"]
    assert not listed["sub-9"]["this_run"]


def test_lines_say_case_status_and_time_left(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDSAL_PROGRESS", raising=False)
    stream = io.StringIO()
    run(tmp_path, cases, stream)
    lines = stream.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["1/3", "sub-0"], ["2/3", "sub-1"], ["3/3", "sub-2"]]
    assert " done " in lines[0]
    assert lines[1].split()[2] == "failed:"
    assert lines[2].endswith(" s, 0 s left")
    stream = io.StringIO()
    run(tmp_path, cases, stream)
    assert [line.split()[:2] for line in stream.getvalue().splitlines()] == [["3/3", "sub-1"]]


def test_a_bar_counts_cases_times_methods(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAL_PROGRESS", "bar")
    stream = io.StringIO()
    run(tmp_path, cases, stream)
    assert "/6" in stream.getvalue()
    assert "sub-1 failed" in stream.getvalue()


def test_progress_can_be_turned_off(
    tmp_path: Path, cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAL_PROGRESS", "off")
    stream = io.StringIO()
    run(tmp_path, cases, stream)
    assert not stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (120, "2 min"), (7200, "2.0 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ((None, None), None),
        ((30, None), "30"),
        (("30,40", None), "30,40"),
        (([30, 40], None), "30,40"),
        ((None, "axial:peak"), "axial:peak"),
        ((None, ["axial:peak", "coronal:evenly=3"]), "axial:peak;coronal:evenly=3"),
        (((30, 40), "axial:peak"), "30,40;axial:peak"),
        ((0, None), "0"),
    ],
)
def test_slices_of_both_kinds_are_joined(given: tuple[Any, Any], choice: str | None) -> None:
    assert slice_choice(*given) == choice


@pytest.mark.parametrize(
    ("logits", "wanted"), [([0.0], 0.5), ([2.0], 0.8808), ([0.0, 0.0], 0.5), ([0.0, 1.0, 0.0], 0.5761)]
)
def test_probability_of_class_one(logits: list[float], wanted: float) -> None:
    assert probability(torch.tensor(logits)) == pytest.approx(wanted, abs=1e-4)


def test_an_image_that_came_from_no_file_stays_on_its_own_grid() -> None:
    from monai.data import MetaTensor

    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 1, 1, 1])))
    output = {
        "image": image,
        "pred": torch.zeros(2),
        "saliency_a": MetaTensor(torch.rand(1, 4, 5, 6), affine=image.affine),
    }
    result = case_result({"case": "a", "subject": "a", "session": "", "label": torch.tensor(-1)}, output)
    assert result.native.shape == image.shape
    assert result.label is None
    torch.testing.assert_close(result.native_maps["a"].affine, image.affine)


def test_scores_beside_the_maps_are_no_maps() -> None:
    from monai.data import MetaTensor

    image = MetaTensor(torch.rand(1, 4, 5, 6))
    output = {"image": image, "pred": torch.zeros(2), "saliency_a": image * 2}
    output |= {"saliency_a_entropy": 1.0, "saliency_a_entropy_reason": "", "saliency_a_region_scores": torch.ones(3)}
    assert list(case_result({"case": "a", "subject": "a", "session": ""}, output).maps) == ["a"]


def test_an_anonymous_case_does_not_say_which_file_it_was(cases: list[dict[str, Any]]) -> None:
    image = LoadImaged("image", reader="NibabelReader")(cases[0])["image"][None]
    output = {"image": image, "pred": torch.zeros(1)}
    names = {"case": "anon-0001", "subject": "anon-0001", "session": ""}
    assert case_result({**names, "anonymous": True}, output).source == Path("anon-0001")
    assert case_result(names, output).source == Path(cases[0]["image"])
