"""The overlays that score stored maps: a run's, beside untrained weights; another tool's, without a network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medsal.bundle.weights
from medsal.bundle import CasesFailedError, Workflow
from medsal.bundle.audit import unsafe_items
from medsal.bundle.command_line import read_config
from medsal.bundle.exits import root_cause
from medsal.errors import NothingToDoError, UsageError
from medsal.scoring import read_scores
from medsal.scoring.verification import verify

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),  # said by MONAI's image readers
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI's reminder that configs are code
]
QUICK = {"shifts": 9, "resamples": 50, "metrics": ["average_precision"]}


@pytest.fixture(autouse=True)
def _inside(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle whose heads have a lesion each, on the grid of their file; paths are relative to its root."""
    monkeypatch.chdir(bundle)
    monkeypatch.setenv("MEDSAL_PROGRESS", "off")
    content = json.loads(Path("configs/inference.json").read_text())
    content["dataset"]["data"] = "$[{'image': i, 'lesion': i.replace('data', 'masks')} for i in @datalist]"
    Path("configs/inference.json").write_text(json.dumps(content))
    Path("masks").mkdir()
    for number, path in enumerate(sorted(Path("data").iterdir())):
        image = nib.load(path)
        mask = np.zeros(image.shape, np.uint8)
        mask[3 + number : 7 + number, 4:8, 3:6] = 1
        nib.save(nib.Nifti1Image(mask, image.affine), Path("masks") / path.name)


@pytest.fixture
def files(overlays: Path) -> Any:
    """``files("explain")``: the bundle's own config and an overlay."""
    return lambda *names: ["configs/inference.json", *(str(overlays / f"{name}.yaml") for name in names)]


def run(config: list[str], **options: Any) -> None:
    workflow = Workflow(config, **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def cause(caught: Any) -> BaseException:
    return root_cause(caught.value)


def record() -> Any:
    return json.loads(Path("out/evaluation/evaluation.json").read_text())


def test_the_maps_of_a_run_are_scored_beside_untrained_ones_and_no_network_is_made(
    files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {"methods": "saliency,gradcam", "key_slices": 8}
    run(files("explain"), **methods)
    run(files("explain"), **methods, ckpt_path="untrained", output_dir="untrained")
    assert json.loads(Path("untrained/run.json").read_text())["model"]["path"] == "untrained"
    monkeypatch.setattr(medsal.bundle.weights, "load_weights", lambda *_, **__: pytest.fail("a network was made"))
    capsys.readouterr()
    run(files("evaluate"), **QUICK, untrained_dir="untrained", network_def={"_target_": "medsal.there_is_none"})
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "medsal: 3 of 3 cases scored; results in ./out/evaluation".replace("./", "")
    table = read_scores("out/evaluation")
    methods_seen = set(table["method"])
    assert {"saliency", "gradcam", "untrained: saliency", "another patient: gradcam", "edges"} <= methods_seen
    assert "mean training mask" not in methods_seen
    assert set(table["case"]) == {f"sub-0{number}_T1w" for number in (1, 2, 3)}
    ceilings = table[table["method"] == "gradcam"].set_index("case")["ceiling_of"]
    assert ceilings.str.startswith("layer grid").all()
    assert set(record()["resampled"]) == set(table["case"])
    assert record()["sources"]["model"]["path"] == "models/model.pt" or record()["sources"]["model"]["sha256"]
    assert verify("out/evaluation") == []


def test_a_run_that_is_killed_goes_on_where_it_was(files: Any, overlays: Path, tmp_path: Path) -> None:
    run(files("explain"), methods="saliency,input_x_gradient", key_slices=8)
    options = {"shifts": 1500, "resamples": 50, "metrics": ["iou", "average_precision"]}
    whole = tmp_path / "whole"
    words = ["--shifts", "1500", "--resamples", "50", "--metrics", "['iou','average_precision']"]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", repr(files("evaluate")), *words]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ)
    )
    until = time.monotonic() + 120
    while (
        not list(Path("out/evaluation/scores").glob("*.json")) and process.poll() is None and time.monotonic() < until
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, text = process.communicate()
    assert process.returncode == -signal.SIGKILL, text
    before = {path: path.stat().st_mtime_ns for path in Path("out/evaluation/scores").glob("*.json")}
    assert 0 < len(before) < 3, "killed too late to see anything"
    assert not Path("out/evaluation/scores.csv").exists()
    run(files("evaluate"), **options)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    run(files("evaluate"), **options, evaluation_dir=str(whole))
    for name in ("scores.csv", "scores.parquet", "summary.csv", "comparisons.csv", "verdicts.csv"):
        assert (whole / name).read_bytes() == (Path("out/evaluation") / name).read_bytes(), name


def test_a_failed_case_and_a_missing_mask_are_told_apart(files: Any) -> None:
    run(files("explain"), methods="saliency", key_slices=8)
    Path("masks/sub-01_T1w.nii.gz").write_bytes(b"this is no mask")
    content = json.loads(Path("configs/inference.json").read_text())
    content["dataset"]["data"] = (
        "$[{'image': i, **({'lesion': i.replace('data', 'masks')} if '02' not in i else {})} for i in @datalist]"
    )
    Path("configs/inference.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as caught:
        run(files("evaluate"), **QUICK)
    error = cause(caught)
    assert isinstance(error, CasesFailedError)
    assert error.exit_code == 4
    assert str(error).startswith("1 of 2 cases scored, 1 left out, 1 failed: sub-01_T1w: mask ")
    assert record()["exclusions"]["sub-02_T1w"] == "has no truth: no lesion in the data list"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maps_dir": "nowhere"}, "no run in nowhere"),
        ({"metrics": ["avrage_precision"]}, "average_precision"),
        ({"grid": "voxel"}, "grid: wanted network or patient"),
        ({"untrained_dir": "out"}, "wanted a finished run with --ckpt_path untrained"),
        ({"region_names": "absent.json"}, "region_names"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_scored(files: Any, options: dict[str, Any], words: str) -> None:
    run(files("explain"), methods="saliency", key_slices=8)
    with pytest.raises(RuntimeError) as caught:
        run(files("evaluate"), **QUICK | options)
    assert isinstance(cause(caught), UsageError)
    assert words in str(cause(caught))
    assert not Path("out/evaluation/scores").exists()


def test_another_tools_maps_are_scored_without_a_bundle(
    overlays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [str(overlays / "maps.yaml"), str(overlays / "evaluate.yaml")]
    rng = np.random.default_rng(0)
    for path in sorted(Path("masks").iterdir()):
        mask = nib.load(path)
        for method, strength in (("good", 2), ("noise", 0)):
            folder = Path("theirs") / method
            folder.mkdir(parents=True, exist_ok=True)
            relevance = rng.random(mask.shape) + strength * np.asarray(mask.dataobj)
            nib.save(nib.Nifti1Image(relevance.astype(np.float32), mask.affine), folder / path.name)
    options: dict[str, Any] = {
        "logging_file": False,
        "maps": "theirs/{method}/{case}.nii.gz",
        "mask": "masks/{case}.nii.gz",
    }
    run(config, **QUICK, **options)
    assert capsys.readouterr().err.strip().splitlines()[-1] == "medsal: 3 of 3 cases scored; results in out/evaluation"
    table = read_scores("out/evaluation")
    means = table[table["kind"] == "method"].groupby("method")["value"].mean()
    assert means["good"] == 1
    assert means["noise"] < 0.2
    assert verify("out/evaluation") == []
    moved = nib.load("masks/sub-01_T1w.nii.gz")
    mirrored = np.diag([-1.0, 1, 1, 1])  # the first axis the other way round, in the same place
    mirrored[0, 3] = moved.shape[0] - 1
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), moved.affine @ mirrored), "masks/sub-01_T1w.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        run(config, **QUICK, **options)
    assert "wanted the grid of the map" in str(cause(caught))
    run(config, **QUICK, **options, resample=True)
    assert record()["resampled"] == {"sub-01_T1w": {"mask": "nearest"}}
    with pytest.raises(RuntimeError) as caught:
        run(config, **QUICK | options | {"maps": "theirs/{case}.png"})
    assert isinstance(cause(caught), NothingToDoError)


def test_the_overlays_pass_the_audit(overlays: Path, repository: Path) -> None:
    for names in (("maps", "evaluate"),):
        assert not list(unsafe_items(read_config([str(overlays / f"{name}.yaml") for name in names])))
    own = repository / "bundles/mri_tle_efficientnet/configs/inference.json"
    assert not list(unsafe_items(read_config([str(own), str(overlays / "evaluate.yaml")])))


def test_untrained_weights_are_the_same_each_time_and_others_than_the_trained(bundle: Path) -> None:
    from monai.networks.nets import DenseNet

    from tests.bundle.conftest import NETWORK

    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(medsal.bundle.weights.load_weights(DenseNet(**NETWORK), "untrained"))
    one, two = (network.state_dict() for network in networks)
    assert all(torch.equal(one[key], two[key]) for key in one)
    digests = {medsal.bundle.weights.weights_record(network)["sha256"] for network in networks}
    assert len(digests) == 1
    trained = medsal.bundle.weights.load_weights(DenseNet(**NETWORK), bundle / "models/model.pt")
    assert not all(torch.equal(one[key], value) for key, value in trained.state_dict().items())
