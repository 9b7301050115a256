"""The RSNA pneumonia tables: boxes on 1024 x 1024 pixels, several per film, and the detailed class of each film."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.listing import add_fault, by_film, film_case, find_images, log_cases
from medsal.data.tables import Row, table_rows
from medsal.errors import InputError, UsageError

__all__ = ["RSNA_CLASSES", "RSNA_DETAILS", "RSNA_SHAPE", "rsna_cases"]

logger = logging.getLogger("medsal")

RSNA_CLASSES = ("no lung opacity", "lung opacity")
"""Names of the classes 0 and 1."""

RSNA_DETAILS = {"Normal": 0, "No Lung Opacity / Not Normal": 0, "Lung Opacity": 1}
"""The detailed classes and the class that each belongs to."""

RSNA_SHAPE = (1024, 1024)
"""Rows and columns of the films that the boxes were drawn on."""

_FILM, _TARGET, _DETAIL = "patientId", "Target", "class"
_CORNER = ("x", "y", "width", "height")


def rsna_cases(
    table: str | Path,
    images: str | Path,
    *,
    details: str | Path | None = None,
    leave_out: Sequence[str] = (),
    shape: tuple[int, int] = RSNA_SHAPE,
    unlisted: str = "fault",
) -> list[dict[str, Any]]:
    """The cases of a table ``patientId, x, y, width, height, Target``, in its order.

    A film with opacities has a row for each box; a film without has one row with empty cells. A box holds the pixels
    from ``x`` to ``x + width``, that one not included, and likewise down the rows. ``patientId`` names a film: several
    films may be of one person, which `medsal.data.film_list` takes from a table.

    Args:
        table: the CSV of boxes, ``stage_2_train_labels.csv``.
        images: folder of the films as DICOM or PNG, in any folders below it, named as in the table.
        details: the CSV ``patientId, class``, ``stage_2_detailed_class_info.csv``; each film's ``detail``.
        leave_out: detailed classes to leave out. The saliency study left out ``No Lung Opacity / Not Normal``.
        shape: rows and columns of the films that the boxes were drawn on.
        unlisted: a film that the table does not name becomes a case with a ``fault``, or ``ignore`` it.

    Returns:
        one dictionary per film: case, subject, session, image (path), label (0 or 1), label_name, ``boxes``: for each
        box ``[[first row, first column], [row after the last, column after the last]]`` in pixels of ``shape``, for
        `medsal.data.DrawBoxesd`; ``detail`` where known; ``fault`` where something is wrong: a box outside the film or
        without size, the same box twice, Target and boxes or class that contradict, no film, two films.

    Raises:
        UsageError: there is no such table or folder, a column is missing, or leave_out names no class or needs details.
        NothingToDoError: there is no case.
    """
    path = Path(table).expanduser()
    unknown = [name for name in leave_out if name not in RSNA_DETAILS]
    if unknown or (leave_out and details is None):
        wrong = f"got {unknown[0]!r}" if unknown else "and the table of details, which was not given"
        raise UsageError(f"leave_out: wanted {', '.join(RSNA_DETAILS)}; {wrong}")
    films = by_film(table_rows(path, (_FILM, *_CORNER, _TARGET)), _FILM)
    taken: Counter[str] = Counter()
    cases = [_case(name, rows, path, shape, taken) for name, rows in films.items()]
    find_images(cases, images, path, films, unlisted)
    if details is not None:
        _add_details(cases, Path(details).expanduser())
    kept = [case for case in cases if case.get("detail") not in leave_out]
    if len(kept) < len(cases):
        logger.info("%s: left out %d films of %s", path.name, len(cases) - len(kept), " and ".join(leave_out))
    log_cases(path, kept)
    return kept


def _case(name: str, rows: Sequence[Row], path: Path, shape: tuple[int, int], taken: Counter[str]) -> dict[str, Any]:
    targets = [row[_TARGET] for _, row in rows]
    label = int("1" in targets)
    case = film_case(name, label, RSNA_CLASSES[label], taken, boxes=[])
    where = f"'{path.name}' row {rows[0][0]}"
    if set(targets) not in ({"0"}, {"1"}):
        add_fault(
            case, f"{where}: Target of the film is {' and '.join(sorted(set(targets)))}; wanted 0 or 1 throughout"
        )
    seen: dict[str, int] = {}
    for number, row in rows:
        try:
            box = _box(row, shape)
        except InputError as error:
            add_fault(case, f"'{path.name}' row {number}: {error}")
            continue
        first = seen.setdefault(str(box), number)
        if first != number:
            add_fault(case, f"'{path.name}' row {number}: the same as row {first}; wanted each box once")
        elif box is not None:
            case["boxes"].append(box)
    if label != bool(case["boxes"]):
        has = f"{len(case['boxes'])} boxes"
        add_fault(case, f"{where}: Target {label}, but {has}; wanted boxes where Target is 1 and nowhere else")
    return case


def _box(row: Mapping[str, str], shape: tuple[int, int]) -> list[list[float]] | None:
    """Start and stop of a box along rows and columns; None where the row has none."""
    cells = [row[name] for name in _CORNER]
    if all(cell.lower() in {"", "nan"} for cell in cells):
        return None
    try:
        x, y, width, height = (float(cell) for cell in cells)
    except ValueError as error:
        raise InputError(f"the box is {', '.join(cells)}; wanted four numbers: {', '.join(_CORNER)}") from error
    told = f"box x {x:g}, y {y:g}, width {width:g}, height {height:g}"
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise InputError(f"{told}; wanted a width and a height above 0")
    if x < 0 or y < 0 or x + width > shape[1] or y + height > shape[0]:
        raise InputError(f"{told} leaves the film of {shape[1]} x {shape[0]} pixels; wanted boxes inside it")
    return [[y, x], [y + height, x + width]]


def _add_details(cases: Sequence[dict[str, Any]], path: Path) -> None:
    """Join the detailed class of each film; its rows, one per box, must agree."""
    films = by_film(table_rows(path, (_FILM, _DETAIL)), _FILM)
    others = len(set(films) - {case["subject"] for case in cases})
    if others:
        logger.warning("%s: %d films that the table of boxes does not name", path.name, others)
    for case in cases:
        rows = films.get(case["subject"], [])
        names = sorted({row[_DETAIL] for _, row in rows})
        where = f"'{path.name}'" + (f" row {rows[0][0]}" if rows else "")
        if len(names) != 1 or names[0] not in RSNA_DETAILS:
            said = " and ".join(f"'{name}'" for name in names) or "nothing"
            add_fault(case, f"{where}: says {said} of the film; wanted one of {', '.join(RSNA_DETAILS)}")
            continue
        case["detail"] = names[0]
        if case["label"] not in {RSNA_DETAILS[names[0]], -1}:
            add_fault(case, f"{where}: '{names[0]}', but Target is {case['label']}; wanted tables that agree")
