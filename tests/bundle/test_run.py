"""Whole runs in processes of their own: exit codes, the last line, resume, two processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
FEW = ("--methods", "saliency,gradcam", "--key_slices", "4,8")
SLOW_METHODS = ("--methods", "saliency,smoothgrad", "--key_slices", "8", "--options#smoothgrad#samples", "300")


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def files_of(folder: Path) -> dict[str, str]:
    """Digest of every file; of records and ``run.json`` without times, which no two runs share."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.parent.name == "cases":
            record = json.loads(content)
            record.pop("seconds")
            content = json.dumps(record).encode()
        if path.name == "run.json":
            run = json.loads(content)
            content = json.dumps(
                [run["exit_code"], run["model"], [(c["case"], c["fingerprint"]) for c in run["cases"]]]
            ).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def test_plain_monai_explains_all_cases_and_a_second_run_does_none_again(run_bundle: Run, bundle: Path) -> None:
    result = run_bundle(*FEW)
    assert result.returncode == 0, result.stderr
    assert last_line(result) == "medsal: 3 of 3 cases done; results in out"
    lines = [line for line in result.stderr.splitlines() if " left" in line]
    assert [line.split()[:3] for line in lines] == [[f"{i}/3", f"sub-0{i}_T1w", "done"] for i in (1, 2, 3)]
    before = files_of(bundle / "out")
    assert {
        "run.json",
        "index.html",
        "attribution_statistics.csv",
        "saliency/sub-02_T1w/sub-02_T1w_saliency.nii.gz",
    } <= set(before)
    stamps = {path: path.stat().st_mtime_ns for path in (bundle / "out/saliency").rglob("*") if path.is_file()}
    again = run_bundle(*FEW, "--workflow_name", "medsal.bundle.Workflow")
    assert again.returncode == 0, again.stderr
    assert last_line(again) == "medsal: 3 of 3 cases done (3 of them before); results in out"
    assert files_of(bundle / "out") == before
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_mistyped_option_ends_plain_monai_with_one_line(run_bundle: Run, bundle: Path) -> None:
    result = run_bundle("--methds", "saliency")
    assert result.returncode == 2
    assert last_line(result) == "medsal: error: unknown option --methds; did you mean --methods?"
    assert "Traceback" not in result.stderr
    assert not (bundle / "out").exists()


def test_missing_weights_end_plain_monai_with_one_line(run_bundle: Run, bundle: Path) -> None:
    result = run_bundle("--ckpt_path", "models/absent.pt")
    assert result.returncode == 2
    assert "no file 'models/absent.pt'" in last_line(result)
    assert "Traceback" not in result.stderr
    assert not (bundle / "out/run.json").exists()


def test_no_case_at_all_is_exit_code_3(run_bundle: Run, bundle: Path) -> None:
    result = run_bundle("--dataset_dir", "nowhere")
    assert (result.returncode, "Traceback" in result.stderr) == (3, False), result.stderr
    assert "the list of cases is empty" in last_line(result)


def test_a_broken_case_among_good_ones_is_exit_code_4(run_bundle: Run, bundle: Path) -> None:
    (bundle / "data/sub-02_T1w.nii.gz").write_bytes(b"this is no image")
    result = run_bundle(*FEW)
    assert (result.returncode, "Traceback" in result.stderr) == (4, False), result.stderr
    assert last_line(result).startswith("medsal: error: 2 of 3 cases done, 1 failed: sub-02_T1w: ")
    run = json.loads((bundle / "out/run.json").read_text())
    assert [(case["case"], case["status"]) for case in run["cases"]] == [
        ("sub-01_T1w", "done"),
        ("sub-02_T1w", "failed"),
        ("sub-03_T1w", "done"),
    ]
    assert run["exit_code"] == 4
    assert (bundle / "out/saliency/sub-03_T1w").is_dir()


def started(bundle: Path, overlays: Path, *words: str) -> subprocess.Popen[str]:
    """A run in the background, once its first case is on the disk."""
    files = ["configs/inference.json", str(overlays / "explain.yaml")]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", repr(files), *words]
    process = subprocess.Popen(command, cwd=bundle, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 120
    while not list((bundle / "out/cases").glob("*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process


def test_a_run_that_is_killed_goes_on_where_it_was_and_ends_as_if_it_had_not_been(
    run_bundle: Run, bundle: Path, overlays: Path, tmp_path: Path
) -> None:
    whole = shutil.copytree(bundle, tmp_path / "whole")
    assert run_bundle(*SLOW_METHODS, root=whole).returncode == 0
    process = started(bundle, overlays, *SLOW_METHODS)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    half = bundle / "out"
    assert len(list((half / "cases").glob("*.json"))) < 3, "killed too late to see anything"
    (half / "saliency/sub-02_T1w").mkdir(parents=True, exist_ok=True)  # what a kill in the middle of a file leaves
    (half / "saliency/sub-02_T1w/.0123456789ab.part").write_bytes(b"half")
    (half / "saliency/sub-02_T1w/sub-02_T1w_saliency.nii.gz").write_bytes(b"old")
    finished = {path: path.stat().st_mtime_ns for path in (half / "saliency/sub-01_T1w").iterdir()}
    result = run_bundle(*SLOW_METHODS)
    assert result.returncode == 0, result.stderr
    assert files_of(half) == files_of(whole / "out")
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    assert "of them before" in last_line(result)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_a_run_json(bundle: Path, overlays: Path, sign: signal.Signals) -> None:
    process = started(bundle, overlays, *SLOW_METHODS)
    process.send_signal(sign)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert text.strip().splitlines()[-1] == "medsal: interrupted"
    run = json.loads((bundle / "out/run.json").read_text())
    assert run["interrupted"]
    assert run["exit_code"] == 130
    assert run["counts"]["done"] >= 1
    assert run["not_reached"] == ["sub-03_T1w"] or len(run["not_reached"]) == 2


METRIC = """
evaluator::key_val_metric:
  mae:
    _target_: IgniteMetricHandler
    metric_fn: {_target_: MAEMetric}
    output_transform: "$monai.handlers.from_engine(['saliency_saliency', 'image'])"
    save_details: true
+handlers:
- _target_: MetricsSaver
  save_dir: metrics
  metric_details: mae
  batch_transform: "$lambda batch: [item['image'].meta for item in batch]"
"""


@pytest.mark.slow
def test_two_processes_give_the_same_files_and_metrics_as_one(run_bundle: Run, bundle: Path, tmp_path: Path) -> None:
    metric = tmp_path / "metric.yaml"
    metric.write_text(METRIC)
    whole = shutil.copytree(bundle, tmp_path / "whole")
    overlay = ("explain", str(metric.with_suffix("")))
    assert run_bundle(*FEW, root=whole, overlay=overlay).returncode == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    result = run_bundle(*FEW, launcher=launcher, overlay=(*overlay, "dist"))
    assert result.returncode == 0, result.stderr
    assert "medsal: 3 of 3 cases done" in result.stderr
    assert files_of(bundle / "out") == files_of(whole / "out")
    rows = [(root / "metrics/mae_raw.csv").read_text().splitlines() for root in (whole, bundle)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert len(rows[0]) == 4
