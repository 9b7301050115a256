"""A tiny bundle of three cases, complete with weights, for everything that needs one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet

NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": [2],
    "bn_size": 1,
}

METADATA = {
    "version": "0.1.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.10.0",
    "numpy_version": "2.0.0",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [16, 16, 16], "dtype": "float32"}},
        "outputs": {"pred": {"type": "probabilities", "num_channels": 2, "channel_def": {"0": "HC", "1": "TLE"}}},
    },
}

INFERENCE = {
    "bundle_root": ".",
    "device": "cpu",
    "dataset_dir": "$@bundle_root + '/data'",
    "csv_path": None,
    "output_dir": "$@bundle_root + '/out'",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "max_samples": 0,
    "imports": ["$import glob"],
    "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
    "network_def": {"_target_": "DenseNet", **NETWORK},
    "network": {"_target_": "medsal.bundle.load_weights", "network": "@network_def", "path": "@ckpt_path"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "NormalizeIntensityd", "keys": "image"},
            {"_target_": "Resized", "keys": "image", "spatial_size": [16, 16, 16]},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": None,
    "handlers": [],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
    },
    "initialize": [{"_target_": "medsal.bundle.check_command_line"}],
    "run": ["$@evaluator.run()"],
}


def write_bundle(root: Path) -> Path:
    """Metadata, inference config, weights and three images of different size and place."""
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "data").mkdir()
    (root / "configs/metadata.json").write_text(json.dumps(METADATA))
    (root / "configs/inference.json").write_text(json.dumps(INFERENCE))
    torch.manual_seed(0)
    torch.save(DenseNet(**NETWORK).state_dict(), root / "models/model.pt")
    rng = np.random.default_rng(0)
    for number, shape in enumerate(((12, 14, 10), (13, 12, 11), (10, 12, 15)), 1):
        affine = np.diag([-1.5, 1.0, 2.0, 1.0])
        affine[:3, 3] = rng.normal(size=3) * 20
        volume = rng.normal(size=shape).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, affine), root / f"data/sub-0{number}_T1w.nii.gz")
    return root


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as made; copy it before changing it."""
    return write_bundle(tmp_path_factory.mktemp("pristine") / "bundle")


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle for one test."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))


@pytest.fixture
def overlays(repository: Path) -> Path:
    """The folder of the shared overlays."""
    return repository / "configs"


@pytest.fixture
def run_bundle(bundle: Path, overlays: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_bundle("--methods", "saliency", ...)``: a real process of ``python -m monai.bundle run``."""

    def run(
        *words: str,
        launcher: tuple[str, ...] = (),
        overlay: tuple[str, ...] = ("explain",),
        root: Path = bundle,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        files = ["configs/inference.json", *(str(overlays / f"{name}.yaml") for name in overlay)]
        command = [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", repr(files), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run
