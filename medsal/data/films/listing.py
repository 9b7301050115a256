"""What the readers of film tables share: a case for each name in a table, its film found, what is wrong put down.

What is wrong with one case goes with it under ``fault``, one line that names file and row; `medsal.data.CaseDataset`
hands such a case on as a failure and the others go on. Only what spoils the whole list is raised.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.loading import film_id, find_films
from medsal.data.mri import UNLABELLED
from medsal.data.names import own_name, safe_case_name
from medsal.data.tables import Row
from medsal.errors import NothingToDoError, UsageError

__all__ = ["add_fault", "by_film", "film_case", "find_images", "log_cases", "sound_cases"]

logger = logging.getLogger("medsal")

UNLISTED = ("fault", "ignore")


def by_film(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """The rows of each film, in order of first appearance.

    Args:
        rows: of a table.
        column: the one that names the film, with or without the ending of a file.

    Returns:
        Name of the film and its rows.
    """
    films: dict[str, list[Row]] = {}
    for number, row in rows:
        films.setdefault(film_id(row[column]), []).append((number, row))
    return films


def film_case(name: str, label: int, label_name: str, taken: Counter[str], **more: Any) -> dict[str, Any]:
    """A case of one film.

    Args:
        name: of the film.
        label: its class.
        label_name: its class in words.
        taken: names that are given, see `medsal.data.names.own_name`.
        **more: further entries.

    Returns:
        case, subject (the film itself, until a table says whose it is), session, image, label, label_name and more.
    """
    case = own_name(safe_case_name(name), taken)
    known = {"case": case, "subject": name, "session": "", "image": name}
    return {**known, "label": label, "label_name": label_name, **more}


def add_fault(case: dict[str, Any], fault: str) -> None:
    """Put down what is wrong with a case; the first that is found stands.

    Args:
        case: the case.
        fault: one line that names file and row.
    """
    case.setdefault("fault", fault)


def find_images(
    cases: list[dict[str, Any]], images: str | Path, table: Path, rows: Mapping[str, Sequence[Row]], unlisted: str
) -> None:
    """Find the film of each case, and the films that no case is of.

    Args:
        cases: whose image is the name of the film; becomes its path. Cases of films not in the table are added.
        images: folder of the films.
        table: that the cases are from.
        rows: of the table, by film.
        unlisted: what becomes of a film that the table does not name: a case with a ``fault``, or ``ignore`` it; how
            many there are is logged.

    Raises:
        UsageError: unlisted is neither of them, or there is no such folder.
    """
    if unlisted not in UNLISTED:
        raise UsageError(f"unlisted: wanted {' or '.join(UNLISTED)}, got {unlisted!r}")
    root = Path(images).expanduser()
    found = find_films(root)
    for case in cases:
        name = case["image"]
        files = found.pop(name, [])
        case["image"] = str(files[0] if files else root / f"{name}.png")
        where = f"'{table.name}' row {rows[name][0][0]}"
        if not files:
            add_fault(case, f"{where}: no film of this name in '{root}'; wanted a file with it for each row")
        elif len(files) > 1:
            folders = ", ".join(f"'{file.relative_to(root)}'" for file in files)
            add_fault(case, f"{where}: {len(files)} films of this name ({folders}); wanted one")
    if found:
        logger.warning("'%s': %d films that '%s' does not name: %s", root, len(found), table.name, unlisted)
    taken: Counter[str] = Counter(case["case"].lower() for case in cases)
    for name, files in (found if unlisted == "fault" else {}).items():
        case = film_case(name, UNLABELLED, "", taken)
        case["image"] = str(files[0])
        add_fault(case, f"'{files[0]}': no row in '{table.name}' names this film; wanted its class")
        cases.append(case)


def sound_cases(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases with which nothing is wrong, for training; the others are logged one by one.

    Args:
        cases: of a reader.

    Returns:
        Those without ``fault``.
    """
    for case in cases:
        if case.get("fault"):
            logger.warning("left out %s: %s", case["case"], case["fault"])
    return [case for case in cases if not case.get("fault")]


def log_cases(source: Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Log how many cases there are of each class, and how many cannot be used.

    Args:
        source: the table or folder.
        cases: of it.

    Raises:
        NothingToDoError: there is none.
    """
    if not cases:
        raise NothingToDoError(f"'{source}': no cases; wanted at least one film")
    counts = Counter(case["label_name"] or "unlabelled" for case in cases)
    faults = sum(bool(case.get("fault")) for case in cases)
    told = ", ".join(f"{name} {n}" for name, n in counts.items())
    logger.info("%s: %d films (%s)%s", source.name, len(cases), told, f", {faults} with a fault" if faults else "")
