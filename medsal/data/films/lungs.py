"""Lung fields of a frontal film: their sides, six regions, and when a mask of them should be doubted.

Films are shown as if the patient faced the reader: the patient's right lung lies on the left of the array. The side is
said by where a field lies, not by what is in it: a film that was turned over is not noticed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZONES = ("upper", "middle", "lower")
SIDES = ("right", "left")
LUNG_REGIONS = {3 * s + z + 1: f"{side} {zone}" for s, side in enumerate(SIDES) for z, zone in enumerate(ZONES)}
"""Label -> region: 1 to 3 the right lung from above, 4 to 6 the left one; 0 is everything else."""
SMALLEST = 0.1
"""A part smaller than this share of the larger lung is no lung."""
SHARE = (0.12, 0.55)
"""Of a film that both lungs fill: outside of this a mask is doubted."""
UNLIKE = 2.5
"""One lung that many times the other is doubted."""
GREY = 0.4
"""Most of the found field that may be undecided (probability .1 to .9)."""


def lung_sides(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Tell the two lungs apart.

    Connected parts are given to the side of the middle of all of them (of the film, where there is one part only) on
    which their centre lies; a part on both sides (lungs that touch) is cut at its narrowest column. Crumbs are dropped.

    Args:
        mask: of both fields, ``(rows, columns)``; above 0 is lung.

    Returns:
        0, 1 (the patient's right, on the left of the array) or 2, of the same shape.

    Raises:
        UsageError: if the mask is not two-dimensional.

    Example:
        >>> lung_sides(np.array([[1, 0, 0, 1], [1, 0, 0, 1]])).tolist()
        [[1, 0, 0, 2], [1, 0, 0, 2]]
    """
    if mask.ndim != 2:
        raise UsageError(f"lung sides: wanted a mask of rows and columns, got the shape {mask.shape}")
    from skimage.measure import label

    lungs = mask > 0
    sides = np.zeros(mask.shape, dtype=np.uint8)
    if not lungs.any():
        return sides
    parts = label(lungs)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= SMALLEST * sizes.max())
    columns = np.flatnonzero(np.isin(parts, large).any(0))
    middle = (mask.shape[1] - 1) / 2 if len(large) == 1 else (columns[0] + columns[-1]) / 2
    for part in large:
        where = parts == part
        at = np.flatnonzero(where.any(0))
        if min(middle - at[0], at[-1] - middle) > 0.25 * (columns[-1] - columns[0]):
            third = len(at) // 3
            cut = at[third] + int(where[:, at[third] : at[-third]].sum(0).argmin())
            sides[:, :cut][where[:, :cut]] = 1
            sides[:, cut:][where[:, cut:]] = 2
        else:
            sides[where] = 1 if np.nonzero(where)[1].mean() < middle else 2
    return sides


def lung_regions(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Cut each lung into three zones of equal height between its apex and its base.

    Args:
        mask: of both fields, ``(rows, columns)``; above 0 is lung.

    Returns:
        Labels of ``LUNG_REGIONS``, of the same shape.

    Example:
        >>> lung_regions(np.ones((3, 1)) * [1, 0, 1]).tolist()
        [[1, 0, 4], [2, 0, 5], [3, 0, 6]]
    """
    sides = lung_sides(mask)
    found = np.zeros(mask.shape, dtype=np.uint8)
    for side in (1, 2):
        rows, columns = np.nonzero(sides == side)
        if len(rows):
            height = rows.max() - rows.min() + 1
            found[rows, columns] = 3 * (side - 1) + 1 + 3 * (rows - rows.min()) // height
    return found


def lung_doubts(probability: NDArray[Any]) -> list[str]:
    """Say what is odd about found lung fields.

    Args:
        probability: of lung, ``(rows, columns)``, from 0 to 1.

    Returns:
        Reasons; none where nothing is odd. A mask without any may still be wrong.
    """
    lungs = probability > 0.5
    sides = lung_sides(lungs)
    right, left = int((sides == 1).sum()), int((sides == 2).sum())
    share = (right + left) / lungs.size
    found = []
    if not right or not left:
        found.append("no lung was found" if not right and not left else f"no {SIDES[0] if left else SIDES[1]} lung")
    elif max(right, left) > UNLIKE * min(right, left):
        found.append(f"one lung is {max(right, left) / min(right, left):.1f} times the other")
    if (right or left) and not SHARE[0] <= share <= SHARE[1]:
        found.append(f"lungs fill {share:.0%} of the film; {SHARE[0]:.0%} to {SHARE[1]:.0%} are usual")
    undecided = ((probability > 0.1) & (probability < 0.9)).sum() / max(1, int(lungs.sum()))
    if lungs.any() and undecided > GREY:
        found.append(f"the edges are undecided ({undecided:.0%} of the field; up to {GREY:.0%} is usual)")
    return found


def lung_field_cases(dataset_dir: str | Path, *, split: str = "", folds: int = 4) -> list[dict[str, Any]]:
    """List films with the masks of their lung fields.

    The folder is that of the COVID-19 image repository of Hannover Medical School with the lung masks of V7 Labs:
    ``data.csv`` (columns ``image_id``, ``patient_id``), ``png/<image_id>.png``, ``lung_masks/<image_id>_lungmask.png``.

    Args:
        dataset_dir: the folder.
        split: ``"train"``, ``"test"`` or both (empty).
        folds: one of so many parts of the patients is the test split, by scikit-learn's ``GroupKFold``.

    Returns:
        Cases in the order of their names: ``case``, ``subject``, ``image``, ``mask`` and ``split``.

    Raises:
        UsageError: if the split is unknown.
        InputError: if there is no table, or a film has no patient or no mask.
    """
    if split not in {"", "train", "test"}:
        raise UsageError(f"split: wanted 'train', 'test' or '' for both, got {split!r}")
    root = Path(dataset_dir)
    table = root / "data.csv"
    if not table.is_file():
        raise InputError(f"'{table}': no such file; wanted the table of the films with image_id and patient_id")
    with table.open(newline="", encoding="utf-8") as file:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(file))
    owners = {row.get("image_id", ""): row.get("patient_id", "") for row in rows}
    cases = [_lung_case(film, owners) for film in sorted((root / "png").glob("*.png"))]
    if not cases:
        raise InputError(f"'{root / 'png'}': holds no film; wanted <image_id>.png")
    from sklearn.model_selection import GroupKFold

    _, test = next(GroupKFold(folds).split(cases, groups=[case["subject"] for case in cases]))
    for index, case in enumerate(cases):
        case["split"] = "test" if index in set(test.tolist()) else "train"
    return [case for case in cases if split in {"", case["split"]}]


def _lung_case(film: Path, owners: dict[str, str]) -> dict[str, Any]:
    name = film.stem
    mask = film.parents[1] / "lung_masks" / f"{name}_lungmask.png"
    if not owners.get(name):
        raise InputError(f"'{film}': data.csv has no patient_id for the image_id {name}")
    if not mask.is_file():
        raise InputError(f"'{mask}': no such file; wanted the lung mask of {film.name}")
    return {"case": name, "subject": owners[name], "session": "", "image": str(film), "mask": str(mask)}
