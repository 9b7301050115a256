"""Where the scans of the skin ultrasound bundle come from: the folds of the study, or the planted set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from medsal.data.films.chain import FitFilmd
from medsal.data.films.listing import sound_cases
from medsal.data.films.loading import LoadFilmd
from medsal.data.films.skin import skin_cases
from medsal.data.films.splits import film_list
from medsal.data.films.truth import LoadLayersd
from medsal.data.phantoms.skin_scan import SKIN_CLASSES
from medsal.data.phantoms.skin_set import write_planted_skin
from medsal.errors import NothingToDoError, UsageError

__all__ = ["skin_source", "training_layer_masks"]


def skin_source(
    dataset_dir: str | Path | None,
    planted: Mapping[str, Any],
    *,
    fold: int | str = 1,
    part: str | None = None,
    sound: bool = False,
    subjects: str | Path | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The scans of one part of one fold, or planted ones where no folder is given.

    Args:
        dataset_dir: the folder with ``k1``, ``k2``, ...; None for planted scans.
        planted: arguments of `medsal.data.write_planted_skin`.
        fold: ``k1``, or its number.
        part: ``train``, ``val`` or ``test``; None or empty: all.
        sound: without those with a fault, which are logged; for training.
        subjects: a table of whose scans they are, see `medsal.data.assign_subjects`.
        **options: ``layers``, ``classes`` and ``subject_pattern`` of `medsal.data.skin_cases`.

    Returns:
        the cases as `medsal.data.skin_cases` gives them; planted ones that are not normal have ``mask``, the file of
        what was planted.

    Raises:
        UsageError: there is no such folder, fold or part, or somebody is in two parts of the fold.
        NothingToDoError: nothing is in the part.
    """
    number = _number(fold)
    if dataset_dir is None:
        root = write_planted_skin(**planted).parent
        cases = skin_cases(root, fold=number, layers=root / "layers", classes=SKIN_CLASSES)
        found = film_list(cases, subjects=root / "skin.csv", part=part)
        for case in found:
            if case["label"] != 0:
                case["mask"] = str(root / "evidence" / Path(case["image"]).name)
    else:
        found = film_list(skin_cases(dataset_dir, fold=number, **options), subjects=subjects, part=part)
    found = sound_cases(found) if sound else found
    if not found:
        raise NothingToDoError(f"fold k{number}, part {part or 'all'}: no scan is in it")
    return found


def training_layer_masks(
    cases: Sequence[Mapping[str, Any]],
    size: int,
    *,
    codes: Sequence[int] = (255,),
    fit: str = "stretch",
    most: int = 100,
) -> list[dict[str, Any]] | None:
    """Where a layer lies in the scans of the training part, for the mean training mask, on the network's grid.

    Args:
        cases: of the training part.
        size: rows and columns that the network takes.
        codes: of the layer, or of several.
        fit: as in `medsal.data.film_transforms`.
        most: as many scans as this, the first of them.

    Returns:
        One dictionary per scan: mask (1, size, size), case, subject, and split. None where no scan has a map of layers.
    """
    chain = Compose([LoadFilmd("image"), LoadLayersd(), FitFilmd("image", ("layers",), size, fit)])
    found = []
    for case in [case for case in cases if case.get("layers") and not case.get("fault")][:most]:
        layers = chain({key: case[key] for key in ("image", "layers")})["layers"].as_tensor()
        mask = sum((layers == code for code in codes), layers == -1).float()
        found.append({"mask": mask, **{key: case[key] for key in ("case", "subject", "split")}})
    return found or None


def _number(fold: int | str) -> int:
    """The number of a fold, as a command line has it."""
    said = re.fullmatch(r"k?(\d+)", str(fold).strip())
    if said is None:
        raise UsageError(f"fold: wanted k1, k2, ... or a number, got {fold!r}")
    return int(said.group(1))
