"""Bundles in the layout of MONAI's model zoo are explained by the overlay with no code of the user.

The two are made here from what the zoo says in public of its classification bundles: the ids of their
``inference.json`` and the kind of network and image. Weights are random.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet121, SEResNet50
from PIL import Image

from medsal.bundle import Workflow
from medsal.errors import UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]


def zoo_config(root: Path, network: dict[str, Any], data: str, transforms: list[dict[str, Any]]) -> dict[str, Any]:
    """What the inference configs of the zoo have in common; nothing in it knows of medsal."""
    return {
        "imports": ["$import glob", "$import json", "$import os"],
        "bundle_root": str(root),
        "model_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": str(root / "images"),
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "dataset": {
            "_target_": "CacheDataset",
            "data": data,
            "transform": "@preprocessing",
            "cache_rate": 1,
            "num_workers": 1,
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 2,
            "shuffle": True,
            "num_workers": 1,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 2}],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@model_dir + '/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "StatsHandler", "iteration_log": True},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": True,
        },
        "evaluating": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@evaluator.run()"],
    }


def metadata(dims: int, channels: int) -> dict[str, Any]:
    image = {"type": "image", "num_channels": channels, "spatial_shape": [64] * dims, "dtype": "float32"}
    pred = {"type": "probabilities", "num_channels": 2, "spatial_shape": [1, 2]}
    return {
        "version": "0.4.9",
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def write(root: Path, config: dict[str, Any], meta: dict[str, Any], network: torch.nn.Module) -> Path:
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True)
    (root / "configs/inference.json").write_text(json.dumps(config, indent=4))
    (root / "configs/metadata.json").write_text(json.dumps(meta, indent=4))
    torch.save(network.state_dict(), root / "models/model.pt")
    return root


@pytest.fixture(scope="module")
def endoscopy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2D, colour: SE-ResNet50 on PNG and JPEG of any size, named in a JSON file; two files of one name."""
    root = tmp_path_factory.mktemp("zoo2d") / "inbody"
    rng = np.random.default_rng(0)
    items = []
    for name, label, size in (("a/1.png", 0, (70, 90)), ("b/1.png", 1, (64, 80)), ("b/two.jpg", 1, (96, 72))):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        items.append({"image": str(path), "label": label})
    (root / "images/test.json").write_text(json.dumps(items))
    config = zoo_config(
        root,
        {"_target_": "SEResNet50", "spatial_dims": 2, "in_channels": 3, "num_classes": 2},
        "$json.load(open(@dataset_dir + '/test.json', 'r', encoding='utf8'))",
        [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64], "mode": "bilinear"},
            {"_target_": "CastToTyped", "keys": "image", "dtype": "$torch.float32"},
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    )
    return write(root, config, metadata(2, 3), SEResNet50(spatial_dims=2, in_channels=3, num_classes=2))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3D: DenseNet121 on NIfTI in any orientation, found by their folder, with one-hot labels."""
    root = tmp_path_factory.mktemp("zoo3d") / "densenet"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, shape in enumerate(((30, 36, 28), (26, 34, 40))):
        affine = np.diag([-1.5, 1.0, 2.0, 1.0])
        affine[:3, 3] = rng.normal(size=3) * 20
        nib.save(nib.Nifti1Image(rng.random(shape, np.float32), affine), root / f"images/IXI{number}.nii.gz")
    config = zoo_config(
        root,
        {"_target_": "DenseNet121", "spatial_dims": 3, "in_channels": 1, "out_channels": 2},
        "$[{'image': i, 'label': [0, 1]} for i in sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))]",
        [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "ScaleIntensityd", "keys": "image"},
            {"_target_": "Resized", "keys": "image", "spatial_size": [32, 32, 32]},
        ],
    )
    return write(root, config, metadata(3, 1), DenseNet121(3, 1, 2))


FEW = ("--methods", "saliency,gradcam", "--ckpt_path", "models/model.pt", "--output_dir", "maps")


def test_a_colour_bundle_in_2d(endoscopy: Path, run_bundle: Run) -> None:
    result = run_bundle(*FEW, root=endoscopy)
    assert result.returncode == 0, result.stderr
    out = endoscopy / "maps"
    cases = {case["case"]: case for case in json.loads((out / "run.json").read_text())["cases"]}
    assert {name: case["status"] for name, case in cases.items()} == dict.fromkeys(["a_1", "b_1", "two"], "done")
    for name, size in (("a_1", (90, 70)), ("b_1", (80, 64)), ("two", (72, 96))):
        for method in ("saliency", "gradcam"):
            found = nib.load(out / f"{method}/{name}/{name}_{method}.nii.gz").get_fdata()
            assert found.squeeze().shape == size  # as MONAI reads pictures: columns first
            assert found.std() > 0
            picture = out / f"{method}/{name}/{name}_{method}_slice_00.png"
            assert np.asarray(Image.open(picture)).std() > 0
        record = json.loads((out / f"cases/{name}.json").read_text())
        assert record["label"] == (0 if name == "a_1" else 1)
        assert len(record["logits"]) == 2
    again = run_bundle(*FEW, root=endoscopy)
    assert "3 of 3 cases done (3 of them before)" in again.stderr


def test_a_bundle_of_volumes(volumes: Path, run_bundle: Run) -> None:
    result = run_bundle(*FEW, root=volumes)
    assert result.returncode == 0, result.stderr
    for name in ("IXI0", "IXI1"):
        image = nib.load(volumes / f"images/{name}.nii.gz")
        for method in ("saliency", "gradcam"):
            found = nib.load(volumes / f"maps/{method}/{name}/{name}_{method}.nii.gz")
            assert found.shape == image.shape
            np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
            assert found.get_fdata().std() > 0
        assert json.loads((volumes / f"maps/cases/{name}.json").read_text())["label"] == 1


def test_what_the_bundle_lacks_is_named_in_one_line(volumes: Path, run_bundle: Run) -> None:
    result = run_bundle("--methods", "saliency", root=volumes)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "medsal: error: config: network::path wants the id ckpt_path, which the bundle does not have; "
        "add --ckpt_path models/model.pt"
    )


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_medsals_workflow_names_what_of_a_foreign_config_it_does_not_trust(
    endoscopy: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(endoscopy)
    files = ["configs/inference.json", str(overlays / "explain.yaml")]
    with pytest.raises(UsageError, match=r"attribute json.load.*to trust this bundle with any code add --audit False"):
        Workflow(files, ckpt_path="models/model.pt")
    Workflow(files, ckpt_path="models/model.pt", audit=False)


def test_the_zoos_own_run_still_works(volumes: Path) -> None:
    """The layout is one that MONAI itself runs."""
    words = ["run", "evaluating", "--config_file", "configs/inference.json"]
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd=volumes,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
