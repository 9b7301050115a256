"""Small explained cases whose every voxel is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsal.export import CaseResult

OBLIQUE = np.array(
    [[1.9, 0.3, -0.1, -20.0], [-0.25, 1.45, 0.2, -31.0], [0.12, -0.2, 2.9, 5.0], [0, 0, 0, 1]], dtype=np.float64
)


def tensor(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """One channel with an affine."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(affine.copy()))


def build(
    shape: tuple[int, ...] = (12, 10, 8),
    affine: np.ndarray = OBLIQUE,
    marks: dict[tuple[int, ...], float] | None = None,
    **changes: object,
) -> CaseResult:
    """A ramp as image, a map that is 0 but for some marked voxels; both grids are the same unless changed."""
    image = np.linspace(0, 100, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    relevance = np.zeros(shape, dtype=np.float32)
    for place, value in (marks or {tuple(n // 4 for n in shape): 2.0, tuple(n // 2 for n in shape): -1.0}).items():
        relevance[place] = value
    maps = {"saliency": tensor(np.abs(relevance), affine), "integrated_gradients": tensor(relevance, affine)}
    facts: dict[str, object] = {
        "case": "sub-0001_ses-01", "subject": "sub-0001", "session": "ses-01", "source": Path("/secret/name.nii.gz"),
        "label": 1, "label_name": "left", "prediction": 0.875, "logits": [1.9459], "target": None,
        "image": tensor(image, affine), "maps": maps, "native": tensor(image, affine), "native_maps": maps,
        "records": {"integrated_gradients": {"options": {"steps": 32}, "claims": {"completeness_gap": [0.01]}}},
        "slice_axis": 1,
    }  # fmt: skip
    return CaseResult(**{**facts, **changes})


@pytest.fixture(scope="session")
def make_case() -> Callable[..., CaseResult]:
    """The function that builds a case."""
    return build


@pytest.fixture(scope="session")
def make_tensor() -> Callable[..., MetaTensor]:
    """The function that dresses an array."""
    return tensor


@pytest.fixture(scope="session")
def oblique() -> np.ndarray:
    """An affine with three spacings and no axis along the world's."""
    return OBLIQUE
