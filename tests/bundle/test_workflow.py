"""The workflow inside a program: errors are errors, nothing is taken in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, create_workflow

import medsal
import medsal.bundle
from medsal.bundle import CasesFailedError, Workflow
from medsal.bundle.exits import root_cause
from medsal.bundle.workflow import config_paths
from medsal.errors import NothingToDoError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),  # said by MONAI's image readers
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI's reminder that configs are code
]


@pytest.fixture(autouse=True)
def _inside(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a bundle are relative to its root."""
    monkeypatch.chdir(bundle)
    monkeypatch.setenv("MEDSAL_PROGRESS", "off")


FILES = ["configs/inference.json", "medsal:explain.yaml"]


def run(**options: Any) -> None:
    workflow = Workflow(FILES, methods="saliency", key_slices=8, **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def run_json() -> Any:
    return json.loads(Path("out/run.json").read_text())


def test_a_run_and_a_second_with_other_methods(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr().err.splitlines()[-1] == "medsal: 3 of 3 cases done; results in out"
    assert Path("out/saliency").is_dir()
    first = run_json()
    assert first["config"]["methods"] == "saliency"
    assert first["model"]["sha256"] != ""
    run(seed=1)
    assert run_json()["counts"]["finished_before"] == 0
    workflow = Workflow(FILES, methods="input_x_gradient", key_slices=8, seed=1)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert not [path for path in Path("out/saliency").rglob("*") if path.is_file()]
    assert len(list(Path("out/input_x_gradient").rglob("*.nii.gz"))) == 3


def test_monai_finds_the_workflow_by_name() -> None:
    workflow = create_workflow("medsal.bundle.Workflow", config_file=FILES, methods="saliency")
    assert isinstance(workflow, Workflow)
    assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methds": "saliency"}, "did you mean --methods"),
        ({"methods": "salincy"}, "Did you mean saliency"),
        ({"run_id": "evaluating"}, "no 'evaluating'"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_evaluated(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Workflow(FILES, **options)


def test_a_config_that_the_audit_does_not_know_is_refused_unless_asked_for() -> None:
    content = json.loads(Path("configs/inference.json").read_text())
    content["imports"] += ["$import subprocess"]
    Path("configs/inference.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="imports::1: import of 'subprocess'"):
        Workflow(FILES)
    Workflow(FILES, audit=False)


@pytest.mark.parametrize("files", ["absent.json", ["configs/inference.json", "medsal:absent.yaml"]])
def test_a_missing_config_file_is_named(files: Any) -> None:
    with pytest.raises(UsageError, match=r"config_file: no file .*absent"):
        config_paths(files)


def test_config_files_may_be_joined_by_commas() -> None:
    found = config_paths("configs/inference.json, medsal:explain.yaml")
    assert found[0] == "configs/inference.json"
    assert Path(found[1]).is_file()


def test_no_case_at_all_is_an_error_and_weights_are_not_even_looked_for() -> None:
    workflow = Workflow(FILES, dataset_dir="nowhere", ckpt_path="absent.pt")
    workflow.initialize()
    with pytest.raises(NothingToDoError, match="--dataset_dir"):
        workflow.run()


def test_missing_weights_are_an_error_also_where_a_template_would_disable_their_loading() -> None:
    content = json.loads(Path("configs/inference.json").read_text())
    content["network"] = "$@network_def.to(@device)"
    content["handlers"] = [
        {
            "_target_": "CheckpointLoader",
            "_disabled_": "$not os.path.exists(@ckpt_path)",
            "load_path": "@ckpt_path",
            "load_dict": {"model": "@network"},
        }
    ]
    content["imports"] += ["$import os"]
    Path("configs/inference.json").write_text(json.dumps(content))
    Path("models/model.pt").unlink()
    workflow = Workflow(FILES)
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert "no file './models/model.pt'" in str(root_cause(caught.value))


def test_a_network_that_loads_nothing_is_refused() -> None:
    workflow = Workflow(FILES, network="$@network_def.to(@device)")
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert "random weights" in str(root_cause(caught.value))


def test_all_cases_failing_is_an_error_with_code_5() -> None:
    for path in Path("data").iterdir():
        path.write_bytes(b"this is no image")
    with pytest.raises(RuntimeError) as caught:
        run()
    cause = root_cause(caught.value)
    assert isinstance(cause, CasesFailedError)
    assert cause.exit_code == 5
    assert run_json()["exit_code"] == 5
    assert str(cause).startswith("0 of 3 cases done, 3 failed: sub-01_T1w: ")


def test_a_disabled_handler_is_left_out() -> None:
    workflow = Workflow(FILES, methods="saliency", **{"progress#_disabled_": True})
    workflow.initialize()
    assert workflow.parser.get_parsed_content("progress") is None
    with pytest.raises(UsageError, match="which would not disable"):
        Workflow(FILES, methods="saliency", **{"progress#_disabled_": "yes"})


def test_max_samples_takes_the_first_cases() -> None:
    run(max_samples=2)
    assert [case["case"] for case in run_json()["cases"]] == ["sub-01_T1w", "sub-02_T1w"]


def test_monais_own_workflow_runs_too_and_counts_nothing_as_finished() -> None:
    for _ in range(2):
        overlay = config_paths("medsal:explain.yaml")[0]
        workflow = ConfigWorkflow(
            ["configs/inference.json", overlay], workflow_type="infer", methods="saliency", key_slices=8
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        assert run_json()["counts"] == {"done": 3, "failed": 0, "pending": 0, "finished_before": 0, "total": 3}


def test_naming_the_workflow_costs_little() -> None:
    program = (
        "import sys, medsal.bundle\n"
        "heavy = {'torch', 'monai', 'captum', 'matplotlib', 'pandas', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_every_public_name_is_there() -> None:
    assert all(callable(getattr(medsal.bundle, name)) for name in medsal.bundle.__all__)
    assert sorted(medsal.bundle.__all__) == sorted(medsal.bundle._HOMES)
    with pytest.raises(AttributeError, match="nothing"):
        _ = medsal.bundle.nothing  # type: ignore[attr-defined]  # that is what is asked


def test_the_same_overlay_explains_a_bundle_of_others_in_2d() -> None:
    """A bundle as the model zoo has them: no option of ours, weights by a handler that the overlay leaves out."""
    from monai.networks.nets import DenseNet
    from PIL import Image

    content = json.loads(Path("configs/inference.json").read_text())
    network = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 4, "block_config": [2]}
    torch.save({"model": DenseNet(**network).state_dict()}, "models/model.pt")
    folder = Path("pictures")
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"xray{number}.png")
    for key in ("max_samples", "csv_path", "initialize", "inferer"):
        del content[key]
    content |= {
        "datalist": "$sorted(glob.glob('pictures/*.png'))",
        "network_def": {"_target_": "DenseNet", **network},
        "network": "$@network_def.to(@device)",
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device"},
    }
    content["preprocessing"]["transforms"][0]["reader"] = "PILReader"
    content["preprocessing"]["transforms"][3]["spatial_size"] = [32, 32]
    Path("configs/inference.json").write_text(json.dumps(content))
    workflow = Workflow(FILES, methods="saliency,gradcam,deep_lift", target=2)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert run_json()["counts"]["done"] == 2
    assert len(list(Path("out").rglob("*_attributions.npy"))) == 6


def test_named_maps_are_exported_under_their_names_and_a_preset_changes_the_fingerprint() -> None:
    methods = {"rough": {"method": "integrated_gradients", "steps": 2}, "gradcam": {}}

    def explained(**given: Any) -> dict[str, Any]:
        workflow = Workflow(FILES, max_samples=1, autocast="bfloat16", **given)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return run_json()

    first = explained(methods=methods)
    (record,) = [json.loads(path.read_text()) for path in Path("out/cases").glob("*.json")]
    assert record["records"]["rough"]["options"]["steps"] == 2
    assert record["records"]["gradcam"]["autocast"] == "torch.bfloat16"
    assert [row["method"] for row in record["statistics"]] == ["rough", "gradcam"]
    assert len(list(Path("out/rough").rglob("*_rough.nii.gz"))) == 1
    again = explained(methods=methods)
    assert again["counts"]["finished_before"] == 1
    few = {label: {"steps": 2} for label in ("integrated_gradients", "noise_tunnel_ig")}
    few["noise_tunnel_ig"]["samples"] = 2
    preset = explained(preset="mri_tle", options=few)
    assert preset["counts"]["finished_before"] == 0
    assert preset["cases"][0]["fingerprint"] != first["cases"][0]["fingerprint"]
    assert {path.name for path in Path("out").iterdir()} >= set(medsal.PRESETS["mri_tle"])
    (record,) = [json.loads(path.read_text()) for path in Path("out/cases").glob("*.json")]
    assert record["target"] == 1
