"""Lesions planted in real hippocampus images: a second truth, on the noise and anatomy of real scanners and people.

The source is a folder laid out as Task04 of the Medical Segmentation Decathlon (``images/`` and ``labels/`` with the
same file names, label 1 anterior and 2 posterior hippocampus). Half of the subjects get a dark blob inside the
hippocampus; blobs of the same kind lie outside it in most images of both classes, so that only the place tells the
classes apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medsal.data.mri import mri_cases
from medsal.data.phantoms.head_set import write_nifti
from medsal.data.phantoms.sets import write_table
from medsal.errors import InputError, UsageError
from medsal.files import write_file

__all__ = ["REAL_LABELS", "REAL_REGIONS", "REAL_SIZE", "REAL_SPACING", "planted_in_real", "write_planted_in_real"]

REAL_LABELS = {"HC": 0, "TLE": 1}
"""Class of each label string; the side is not known."""

REAL_REGIONS = {1: "anterior hippocampus", 2: "posterior hippocampus"}
"""What the values of a region map mean."""

REAL_SIZE, REAL_SPACING = (28, 40, 28), 1.5
"""The network's grid for these crops, about the centre of each image: ``ResampleToGridd(origin="center", ...)``."""

_COLUMNS = ("file", "label", "subject", "lesion", "regions")
_VERSION = 1


def planted_in_real(
    source: str | Path, folder: str | Path, *, part: str = "test", seed: int = 0, max_samples: int = 0
) -> list[dict[str, Any]]:
    """The cases of the training or the test part, planted first if they are not there yet.

    Args:
        source: folder with ``images/`` and ``labels/``.
        folder: where the planted images are written.
        part: ``"train"`` or ``"test"``; a subject is in one of them only.
        seed: every random number follows from it and the subject.
        max_samples: as many cases as this from the start, 0 for all.

    Returns:
        case dictionaries as `medsal.data.mri_cases` gives them.

    Raises:
        UsageError: another part was asked for, or the source holds no images.
    """
    if part not in {"train", "test"}:
        raise UsageError(f"part of the planted set: wanted 'train' or 'test', got '{part}'")
    write_planted_in_real(source, folder, seed=seed)
    table = Path(folder) / f"{part}.csv"
    return mri_cases(table, label_column="label", labels=REAL_LABELS, max_samples=max_samples)


def write_planted_in_real(source: str | Path, folder: str | Path, *, seed: int = 0, test_share: float = 0.25) -> Path:
    """Plant lesions and distractors in real images and write them with ``train.csv`` and ``test.csv``.

    Args:
        source: folder with ``images/`` and ``labels/``.
        folder: where to write; a finished set of the same source and seed is left as it is.
        seed: every random number follows from it and the subject.
        test_share: part of the subjects held out.

    Returns:
        the folder.

    Raises:
        UsageError: the source holds no pair of image and label.
    """
    origin, root = Path(source), Path(folder)
    names = sorted(
        path.name for path in (origin / "images").glob("*.nii.gz") if (origin / "labels" / path.name).is_file()
    )
    if not names:
        raise UsageError(f"'{origin}': no images with labels; wanted images/*.nii.gz and labels/ with the same names")
    parameters = {
        "version": _VERSION,
        "source": str(origin.resolve()),
        "names": names,
        "seed": seed,
        "share": test_share,
    }
    done = root / "planted.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == parameters:
        return root
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    held_out = set(order[: max(1, round(test_share * len(names)))].tolist())
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for rank, index in enumerate(order.tolist()):
        row = _plant(origin, root, names[index], label=rank % 2, seed=seed)
        rows["test" if index in held_out else "train"].append(row)
    for part, chosen in rows.items():
        write_table(root / f"{part}.csv", _COLUMNS, sorted(chosen, key=lambda row: row["file"]))
    write_file(root / "regions.json", json.dumps({str(k): v for k, v in REAL_REGIONS.items()}).encode())
    write_file(done, json.dumps(parameters).encode())
    return root


def plant(
    image: np.ndarray, hippocampus: np.ndarray, spacing: np.ndarray, rng: np.random.Generator, *, ill: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Darken a blob inside the hippocampus, and blobs of the same kind outside it.

    Args:
        image: intensities.
        hippocampus: where it is.
        spacing: voxel size in mm.
        rng: source of every random number.
        ill: whether the hippocampus gets its blob; the blobs outside do not depend on it.

    Returns:
        the planted image and the lesion mask, empty where not ill.

    Raises:
        InputError: the label is empty, or fills the image.
    """
    from scipy.ndimage import distance_transform_edt  # here: nothing else in this module needs it

    outside = distance_transform_edt(~hippocampus, sampling=spacing)
    depth = distance_transform_edt(hippocampus, sampling=spacing)
    if not hippocampus.any() or not (outside > 6).any():
        raise InputError("a label map without hippocampus, or with nothing else; wanted both")
    result = image.astype(np.float32)
    lesion = np.zeros(image.shape, dtype=np.uint8)
    place = rng.choice(np.argwhere(depth >= np.quantile(depth[hippocampus], 0.7)))
    weight = _blob(image.shape, place, spacing, rng) * np.clip(depth, 0, 1)
    strength = rng.uniform(0.3, 0.55)
    others = [rng.choice(np.argwhere(outside > 6)) for _ in range(3)]
    for number, other in enumerate(others):
        blob = _blob(image.shape, other, spacing, rng) * np.clip((outside - 1) / 2, 0, 1)
        change = rng.uniform(0.3, 0.55)
        if number < 2 and rng.uniform() < 0.7:
            result *= 1 - change * blob
    if ill:
        result *= 1 - strength * weight
        lesion = (weight >= 0.5).astype(np.uint8)
    return result, lesion


def _blob(shape: tuple[int, ...], centre: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth-edged ellipsoid of 3.5 to 5.5 mm radius: 1 inside, 0 outside."""
    radii = rng.uniform(3.5, 5.5, 3)
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    away = sum(((axis - c) * s / r) ** 2 for axis, c, s, r in zip(axes, centre, spacing, radii, strict=True))
    return np.asarray(np.clip((1 - np.sqrt(away)) * radii.mean() + 0.5, 0, 1), dtype=np.float32)


def _plant(origin: Path, root: Path, name: str, *, label: int, seed: int) -> dict[str, str]:
    import nibabel  # here: only reading needs it

    image, regions = (nibabel.load(origin / kind / name) for kind in ("images", "labels"))
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    values = np.asarray(regions.dataobj).astype(np.uint8)
    subject = name.removesuffix(".nii.gz").replace("_", "-")
    number = int("".join(character for character in subject if character.isdigit()) or 0)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    planted, lesion = plant(voxels, values > 0, spacing, np.random.default_rng([seed, 2, number]), ill=bool(label))
    scaled = np.clip(np.rint(planted * (1000 / max(float(np.percentile(voxels, 99)), 1e-6))), 0, 32767).astype(np.int16)
    row = {"label": ("HC", "TLE")[label], "subject": subject}
    for column, kind, array in (("file", "T1w", scaled), ("lesion", "lesion", lesion), ("regions", "regions", values)):
        path = write_nifti(root / kind / f"{subject}_{kind}.nii.gz", array, image.affine)
        row[column] = path.relative_to(root).as_posix()
    return row
