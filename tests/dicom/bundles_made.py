"""Tiny bundles of one film and of one volume, untrained: what they say is noise, where it lies is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import DenseNet

from tests.bundle.conftest import INFERENCE, METADATA, NETWORK
from tests.dicom.builders import AXIAL, set_pixels, slices_of

FLAT = {**NETWORK, "spatial_dims": 2}


def volume_bundle(root: Path, loader: str | None = None) -> Path:
    """A bundle of volumes; its loader is MONAI's unless another is named."""
    config, metadata = copy.deepcopy(INFERENCE), copy.deepcopy(METADATA)
    if loader:
        config["preprocessing"]["transforms"][:2] = [{"_target_": loader, "keys": "image"}]
    return _write(root, config, metadata, NETWORK)


def film_bundle(root: Path, loader: dict | None = None) -> Path:
    """A bundle of films, stretched to 24 x 24."""
    config, metadata = copy.deepcopy(INFERENCE), copy.deepcopy(METADATA)
    config["network_def"].update(FLAT)
    config["preprocessing"] = {
        "_target_": "Compose",
        "transforms": [
            loader or {"_target_": "medsal.data.LoadFilmd", "keys": "image"},
            {"_target_": "medsal.data.films.chain.FitFilmd", "keys": "image", "size": 24},
        ],
    }
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [24, 24]
    return _write(root, config, metadata, FLAT)


def _write(root: Path, config: dict, metadata: dict, network: dict) -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs/metadata.json").write_text(json.dumps(metadata))
    (root / "configs/inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    torch.save(DenseNet(**network).state_dict(), root / "models/model.pt")
    return root


def dicom_of(image, levels: int = 60000, **options):
    """A volume with an affine (RAS+) as slices along its last axis, and their values as they can be read back."""
    voxels, affine = image.as_tensor()[0].numpy(), image.affine.numpy()
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    turn = np.diag([-1.0, -1.0, 1.0])
    axes = turn @ affine[:3, :3] / sizes
    slope = float(f"{np.ptp(voxels) / levels:.10g}")
    low = float(f"{voxels.min():.10g}")
    stored = np.rint((voxels - low) / slope)
    made = slices_of(voxels.shape[2], AXIAL, rows=voxels.shape[1], columns=voxels.shape[0], **options)
    for index, one in enumerate(made):
        one.ImageOrientationPatient = [f"{number:.10g}" for number in (*axes[:, 0], *axes[:, 1])]
        place = turn @ (affine[:3, 3] + index * affine[:3, 2])
        one.ImagePositionPatient = [f"{number:.10g}" for number in place]
        one.PixelSpacing, one.SliceThickness = [sizes[1], sizes[0]], sizes[2]
        one.RescaleSlope, one.RescaleIntercept = slope, low
        set_pixels(one, stored[:, :, index].T)
    return made, (stored * slope + low).astype(np.float32)
