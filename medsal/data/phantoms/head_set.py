"""The embedded MRI set: whole heads with planted truth on disk, and the crops that a network is trained on.

Both come from `medsal.data.phantoms.heads`; the crops go through the preprocessing of a whole head, without the cost of
one: only the part around the temporal lobes is sampled at 1 mm, the head's mean and deviation on a coarse grid.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends

from medsal.data.grids import HEAD_GRID, TEMPORAL_GRID, Grid
from medsal.data.phantoms.heads import PlantedCase, planted_case
from medsal.data.phantoms.sets import finish, is_complete, write_table
from medsal.data.phantoms.template import REGIONS
from medsal.data.preprocessing import network_mri_transforms
from medsal.errors import MedsalError, UsageError
from medsal.files import write_file

__all__ = [
    "ORIENTATIONS",
    "TRAINING_SEED",
    "PlantedCrop",
    "head_grid",
    "planted_crops",
    "training_masks",
    "write_planted_set",
]

logger = logging.getLogger("medsal")

ORIENTATIONS = ("RAS", "LPS", "PIR", "LAS", "ASR", "RIA", "SLP", "LPI")
"""Axes of the written files, in turn: half of them are left-handed, half have left and right swapped."""

TRAINING_SEED = 1_000_000
"""The first seed of training crops; seeds below it are for cases that are explained and for held-out tests."""

_VERSION = 2  # raise it when the same seed gives other voxels
_MARGIN = 5.0  # mm around the network's grid: interpolation and anti-aliasing see no edge
_COLUMNS = ("file", "HC_vs_LTLE_vs_RTLE_string", "subject", "session", "lesion", "regions")


def write_planted_set(folder: str | Path, *, cases: int = 8, seed: int = 0, spacing: float = 1.0) -> Path:
    """Write whole heads with planted truth as NIfTI files and a table, or find them written already.

    The files lie in varying orientations (`ORIENTATIONS`); the fourth is anisotropic and the sixth oblique. From eight
    cases on, the last one is a second session of the fourth case's subject. Classes alternate, and the sides within
    class TLE. All files are written under another name first, and the same parameters give the same bytes.

    Args:
        folder: where to write; made if absent.
        cases: number of images.
        seed: the first case's seed, the following count up; even seeds are healthy.
        spacing: voxel size in mm.

    Returns:
        path of ``cases.csv`` with the columns file, HC_vs_LTLE_vs_RTLE_string, subject, session, lesion, regions; paths
        in it are relative to it. ``regions.json`` names the regions' values.

    Raises:
        UsageError: fewer than one case, spacing not above zero, or a folder that cannot be written.
    """
    if cases < 1 or not spacing > 0:
        raise UsageError(f"planted set: wanted at least 1 case and a spacing above 0 mm, got {cases} and {spacing:g}")
    root = Path(folder)
    parameters = {"version": _VERSION, "cases": cases, "seed": seed, "spacing": spacing}
    table = root / "cases.csv"
    if is_complete(root, parameters):
        return table
    files: list[Path] = []
    rows = []
    try:
        for index in range(cases):
            row, written = _write_case(root, index, _case_of(index, cases, seed), spacing)
            rows.append(row)
            files.extend(written)
            logger.info("planted set: case %d of %d", index + 1, cases)
        write_table(table, _COLUMNS, rows)
        write_file(root / "regions.json", json.dumps({str(k): v for k, v in REGIONS.items()}, indent=1).encode())
        finish(root, parameters, [*files, table])
    except MedsalError as error:
        raise UsageError(f"planted set: {error}") from error
    return table


def head_grid(index: int, spacing: float = 1.0) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The grid of the n-th whole head: the same box of the world in another orientation each time.

    Args:
        index: number of the case from 0.
        spacing: voxel size in mm.

    Returns:
        affine from voxel indices to world mm, and shape.

    Example:
        >>> affine, shape = head_grid(1)
        >>> shape, [int(v) for v in np.diag(affine)]
        ((182, 218, 182), [-1, -1, 1, 1])
    """
    import nibabel.orientations as axes  # here: only the embedded set needs it

    steps = (spacing, spacing, 1.6 * spacing) if index == 3 else (spacing, spacing, spacing)
    grid = HEAD_GRID.with_spacing(steps)
    wanted = axes.axcodes2ornt(ORIENTATIONS[index % len(ORIENTATIONS)])
    change = axes.ornt_transform(axes.axcodes2ornt("RAS"), wanted)
    affine = grid.affine @ axes.inv_ornt_aff(change, grid.size)
    order = np.argsort(change[:, 0])
    i, j, k = (int(grid.size[axis]) for axis in order)
    if index == 5:  # oblique: 8 degrees about the left-right axis, through the middle of the head
        angle = np.deg2rad(8)
        turn, middle = np.eye(4), np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        middle[:3, 3] = np.mean(grid.bounds, axis=0)
        affine = middle @ turn @ np.linalg.inv(middle) @ affine
    return affine, (i, j, k)


class PlantedCrop(Transform):  # type: ignore[misc]  # MONAI is untyped
    """From a seed to a training case: the network's view of that head, with the lesion on the same grid.

    For ``monai.data.Dataset(data=seeds, transform=PlantedCrop())`` and MONAI's caching datasets.

    Args:
        grid: where the network looks.
        clamp: largest absolute value after z-normalisation.
        spacing: voxel size in mm of the head that the crop is resampled from.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(self, grid: Grid = TEMPORAL_GRID, clamp: float = 5.0, spacing: float = 1.0) -> None:
        self.grid = grid
        self.clamp = clamp
        self.spacing = spacing

    def __call__(self, data: int | Mapping[str, Any]) -> dict[str, Any]:
        """Make one case.

        Args:
            data: the seed, or a mapping with the key ``"seed"``.

        Returns:
            image (1, x, y, z), lesion, label, label_name, case, subject, session.
        """
        seed = int(data["seed"] if isinstance(data, Mapping) else data)
        case = planted_case(seed)
        # another scanner's voxels do not lie where ours do: shift by part of a voxel
        shift = np.random.default_rng([seed, 99]).uniform(-0.5, 0.5, 3) * self.spacing
        near = self.grid.grown(_MARGIN).with_spacing((self.spacing,) * 3)
        affine = near.affine
        affine[:3, 3] += shift
        part = case.sample(affine, near.size)
        chain = network_mri_transforms(
            mask_keys=("lesion",), grid=self.grid, clamp=self.clamp, load=False, statistics=_head_statistics(case)
        )
        done = chain({"image": _meta(part.image, affine), "lesion": _meta(part.lesion, affine)})
        name = f"planted-{seed:07d}"
        return {
            **done,
            "label": case.label,
            "label_name": case.label_name,
            "case": name,
            "subject": name,
            "session": "",
        }


def planted_crops(seeds: Sequence[int], **options: Any) -> Iterator[dict[str, Any]]:
    """Training cases of several seeds, one after the other.

    Args:
        seeds: one integer per case; training starts at `TRAINING_SEED`.
        **options: as for `PlantedCrop`.

    Yields:
        one case dictionary per seed.
    """
    make = PlantedCrop(**options)
    for seed in seeds:
        yield make(seed)


def training_masks(cases: int = 128, *, grid: Grid = TEMPORAL_GRID) -> list[dict[str, Any]]:
    """Where the lesions of training cases lie, for the mean training mask: of the first seeds that have one.

    Args:
        cases: how many.
        grid: of the masks; the network's.

    Returns:
        One dictionary per case: mask (1, x, y, z) on the grid, case, subject, and split, which is train.

    Raises:
        UsageError: fewer than one case.
    """
    if cases < 1:
        raise UsageError(f"training masks: wanted at least 1 case, got {cases}")
    found = []
    for seed in range(TRAINING_SEED + 1, TRAINING_SEED + 2 * cases, 2):  # even seeds are healthy
        name = f"planted-{seed:07d}"
        mask = _meta(planted_case(seed).sample(grid.affine, grid.size).lesion, grid.affine)
        found.append({"mask": mask, "case": name, "subject": name, "split": "train"})
    return found


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write a compressed NIfTI atomically; the same voxels give the same bytes.

    Args:
        path: where to write, ending in ``.nii.gz``.
        array: the voxels; their type is the file's type.
        affine: 4x4 matrix from voxel indices to world mm.

    Returns:
        the path.
    """
    import nibabel  # here: only writing needs it

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    write_file(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    return path


def _meta(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.as_tensor(affine))


def _head_statistics(case: PlantedCase) -> tuple[float, float]:
    """Mean and deviation of the brain's voxels, from every sixth millimetre."""
    coarse = HEAD_GRID.with_spacing((6.0, 6.0, 6.0))
    image = case.sample(coarse.affine, coarse.size).image
    brain = image[image > 0]
    return float(brain.mean()), float(brain.std())


def _case_of(index: int, cases: int, seed: int) -> PlantedCase:
    if cases >= 8 and index == cases - 1:
        return planted_case(seed + 3, session=2)
    return planted_case(seed + index)


def _write_case(root: Path, index: int, case: PlantedCase, spacing: float) -> tuple[dict[str, str], list[Path]]:
    subject = f"sub-{(3 if case.session == 2 else index) + 1:04d}"
    session = f"ses-{case.session:02d}"
    images = case.sample(*head_grid(index, spacing))
    name = f"{subject}_{session}"
    paths = [
        write_nifti(root / "images" / f"{name}_T1w.nii.gz", images.image, images.affine),
        write_nifti(root / "lesions" / f"{name}_lesion.nii.gz", images.lesion, images.affine),
        write_nifti(root / "regions" / f"{name}_regions.nii.gz", images.regions, images.affine),
    ]
    truth = {key: value for key, value in asdict(case).items() if key != "template"}
    write_file(root / "lesions" / f"{name}_lesion.json", json.dumps(truth, indent=1).encode())
    file, lesion, regions = (path.relative_to(root).as_posix() for path in paths)
    return dict(zip(_COLUMNS, (file, case.label_name, subject, session, lesion, regions), strict=True)), paths
