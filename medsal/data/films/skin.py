"""Skin ultrasound: pictures in folds ``k1..k5/{train,val,test}/<class>/``, and maps of the skin's layers."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.folders import PARTS, class_names, class_parts, films_of_folders, folders_in
from medsal.data.films.listing import add_fault, log_cases
from medsal.data.films.loading import film_id, find_films
from medsal.errors import UsageError

__all__ = ["skin_cases"]

logger = logging.getLogger("medsal")


def skin_cases(
    root: str | Path,
    *,
    fold: int = 1,
    layers: str | Path | None = None,
    classes: Sequence[str] | None = None,
    subject_pattern: str | None = None,
) -> list[dict[str, Any]]:
    """The pictures of one fold of the skin ultrasound study, by part, class and name.

    Args:
        root: the folder with ``k1``, ``k2``, ...
        fold: number of the fold.
        layers: folder of the layer maps, PNG named as the pictures, in any folders below it; a picture without one gets
            none. `medsal.data.LoadLayersd` reads and checks them.
        classes: names of the classes in the order of their numbers; None: the names of the folders in alphabetical
            order.
        subject_pattern: a regular expression for what in the name of a picture tells whose it is; its first group, or
            all that it finds. None: each name is another person.

    Returns:
        one dictionary per picture: case, subject, session, image (path), label, label_name, ``split``, ``fold``, and
        ``layers`` (path) where there is a map; ``fault`` where there are two.

    Raises:
        UsageError: there is no such folder or fold, it has no parts or other folders too, the classes are not those of
            the folders, or the pattern is wrong.
        NothingToDoError: there is no picture.
    """
    path = Path(root).expanduser()
    folds = {int(name.group(1)): part for part in folders_in(path) if (name := re.fullmatch(r"k(\d+)", part.name))}
    if fold not in folds:
        there = ", ".join(f"k{number}" for number in sorted(folds)) or "none"
        raise UsageError(f"'{path}': no fold k{fold}; it has {there}; wanted folders k1, k2, ...")
    found = class_parts(folds[fold])
    if not found:
        raise UsageError(f"'{folds[fold]}': none of {', '.join(PARTS)} with classes in it; wanted at least one")
    cases = films_of_folders(found, class_names(folds[fold], found, classes), subject_pattern, fold=fold)
    if layers is not None:
        _add_layers(cases, Path(layers).expanduser())
    log_cases(folds[fold], cases)
    return cases


def _add_layers(cases: Sequence[dict[str, Any]], folder: Path) -> None:
    """Give each picture the map of its name."""
    maps = find_films(folder)
    named = {film_id(case["image"]) for case in cases}
    for case in cases:
        files = maps.get(film_id(case["image"]), [])
        if files:
            case["layers"] = str(files[0])
        if len(files) > 1:
            add_fault(case, f"'{files[0]}': {len(files)} layer maps of this name in '{folder}'; wanted one")
    without, unused = sum("layers" not in case for case in cases), len(set(maps) - named)
    if without or unused:
        logger.warning("'%s': %d pictures have no layer map, %d maps have no picture", folder, without, unused)
