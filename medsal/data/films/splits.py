"""Who is in which part: split files, tables of whose films they are, and the check that nobody is in two parts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.folders import PARTS, part_name
from medsal.data.films.listing import add_fault
from medsal.data.films.loading import film_id
from medsal.data.names import anonymise_cases, number_cases
from medsal.data.tables import Row, read_table
from medsal.errors import InputError, NothingToDoError, UsageError

__all__ = ["assign_splits", "assign_subjects", "check_leaks", "film_list"]

logger = logging.getLogger("medsal")

_FILM_COLUMNS = ("Image_ID", "ImageId", "patientId", "name", "image_id", "image", "case")
_PART_COLUMNS = ("Split", "split")
_SUBJECT_COLUMNS = ("patient_id", "subject", "PatientID", "patient", "participant_id")
HEADER = "header"


def film_list(
    cases: Sequence[Mapping[str, Any]],
    *,
    splits: str | Path | None = None,
    subjects: str | Path | None = None,
    part: str | None = None,
    anonymise: bool = False,
) -> list[dict[str, Any]]:
    """Complete the cases of a reader: whose films they are, in which part of a split, with or without names.

    In this order: subjects, splits, the check that nobody is in two parts, the part, names.

    Args:
        cases: of a reader of films.
        splits: a split file, see `assign_splits`; None: the cases' own ``split``, if they have one.
        subjects: a table of whose films they are, or ``header``, see `assign_subjects`; None: as the reader took it.
        part: only ``train``, ``val`` or ``test``; None or empty: all.
        anonymise: call cases by the number of the person, and no file of theirs by its name in an error.

    Returns:
        new dictionaries.

    Raises:
        UsageError: a table is wrong, somebody is in two parts, or there is no such part.
        NothingToDoError: nothing is in the part.
    """
    found = [dict(case) for case in cases]
    where = {case["case"]: f"film {place} of the list" for place, case in enumerate(found, 1)} if anonymise else {}
    if subjects is not None:
        assign_subjects(found, subjects)
    if splits is not None:
        where.update(assign_splits(found, splits))
    check_leaks(found, where)
    if part:
        known = Counter(case.get("split") for case in found)
        if part_name(part) not in PARTS:
            raise UsageError(f"part: wanted one of {', '.join(PARTS)}, got {part!r}")
        found = [case for case in found if case.get("split") == part_name(part)]
        if not found:
            there = ", ".join(f"{name or 'in no part'} {times}" for name, times in known.items())
            raise NothingToDoError(f"part {part}: no case is in it; the list has {there or 'no cases'}")
    if anonymise:
        anonymise_cases(found)
        number_cases(found)
    return found


def assign_splits(cases: Sequence[dict[str, Any]], splits: str | Path) -> dict[str, str]:
    """Put each case into the part that a split file tells, as ``split``.

    The file is a table with the columns ``Split`` (train, val or valid, test) and ``Image_ID``, ``ImageId``,
    ``patientId`` or ``name``, with or without the ending of a file; one row per film, or several that agree. Or it is a
    folder with ``train.csv``, ``val.csv`` and ``test.csv``, which need the column of films only.

    Args:
        cases: of a reader of films; a case that the file does not name gets a ``fault``.
        splits: the file or folder.

    Returns:
        file and row of each case, by its name.

    Raises:
        UsageError: there is no such file, a column is missing, a part has another name, or a film is in two parts.
    """
    path = Path(splits).expanduser()
    parts: dict[str, tuple[str, str]] = {}
    for where, film, part in _split_rows(path):
        if part not in PARTS:
            raise UsageError(f"{where}: the part is '{part}'; wanted {', '.join(PARTS)}")
        before, first = parts.setdefault(film, (part, where))
        if before != part:
            raise UsageError(f"{where}: the film is in {part}, but in {before} by {first}; wanted one part for each")
    found = {}
    for case in cases:
        known = parts.pop(film_id(case["image"]), None)
        if known:
            case["split"], found[case["case"]] = known
        else:
            add_fault(case, f"'{path.name}': no row names this film; wanted the part that it is in")
    if parts:
        where = next(iter(parts.values()))[1]
        logger.warning("'%s': %d films that are no case, the first in %s", path, len(parts), where)
    return found


def _split_rows(path: Path) -> list[tuple[str, str, str]]:
    """Where it stands, film and part."""
    if not path.is_dir():
        film, part, rows = _columns(path, _FILM_COLUMNS, _PART_COLUMNS)
        return [(f"'{path.name}' row {number}", film_id(row[film]), part_name(row[part])) for number, row in rows]
    found = []
    for file in sorted(path.glob("*.csv")):
        if part_name(file.stem) in PARTS:
            film, _, rows = _columns(file, _FILM_COLUMNS, ())
            found += [(f"'{file.name}' row {number}", film_id(row[film]), part_name(file.stem)) for number, row in rows]
    if not found:
        raise UsageError(f"'{path}': no films in {', '.join(f'{part}.csv' for part in PARTS)}; wanted a split")
    return found


def assign_subjects(cases: Sequence[dict[str, Any]], subjects: str | Path) -> None:
    """Say whose film each case is, as ``subject``.

    Args:
        cases: of a reader of films; a case that the table does not name, or whose header has no PatientID, gets a
            ``fault``: it may be of anybody.
        subjects: a table with the columns ``patient_id`` (or ``subject``, ``PatientID``) and ``image_id`` (or
            ``Image_ID``, ``ImageId``, ``patientId``, ``name``); or ``header``: the PatientID of each DICOM file.

    Raises:
        UsageError: there is no such file, a column is missing, or two rows give one film to two persons.
    """
    if str(subjects) == HEADER:
        _subjects_of_headers(cases)
        return
    path = Path(subjects).expanduser()
    film, person, rows = _columns(path, _FILM_COLUMNS, _SUBJECT_COLUMNS)
    known: dict[str, tuple[str, int]] = {}
    for number, row in rows:
        before, first = known.setdefault(film_id(row[film]), (row[person], number))
        if before != row[person]:
            raise UsageError(
                f"'{path}' row {number}: another '{person}' than row {first} for the same film; wanted one"
            )
    for case in cases:
        whose = known.get(film_id(case["image"]), ("", 0))[0]
        case["subject"] = whose or case["subject"]
        if not whose:
            add_fault(case, f"'{path.name}': does not say whose film this is; wanted a row with '{person}'")


def _subjects_of_headers(cases: Sequence[dict[str, Any]]) -> None:
    from medsal.data.films.dicom import patient_of

    for case in cases:
        if case.get("fault"):
            continue
        try:
            whose = patient_of(Path(case["image"]))
        except InputError as error:
            add_fault(case, str(error))
            continue
        case["subject"] = whose or case["subject"]
        if not whose:
            add_fault(case, f"'{case['image']}': no PatientID in the header; wanted whose film it is")


def _columns(path: Path, films: Sequence[str], others: Sequence[str]) -> tuple[str, str, list[Row]]:
    """The columns of films and of what is said of them (empty where nothing is asked), and the rows."""
    if not path.is_file():
        raise UsageError(f"'{path}': no such file; wanted a table with a column {films[0]}")
    header, rows = read_table(path)
    found = []
    for names in filter(None, (films, others)):
        there = [name for name in names if name in header]
        if not there:
            raise UsageError(f"'{path}': no column {' or '.join(names)}; it has {', '.join(header)}")
        found.append(there[0])
    for number, row in rows:
        if not all(row[name] for name in found):
            raise UsageError(f"'{path}' row {number}: nothing in column '{found[-1]}' or '{found[0]}'")
    return found[0], found[-1], rows


def check_leaks(cases: Sequence[Mapping[str, Any]], where: Mapping[str, str] | None = None) -> None:
    """Refuse a list that has a person in two parts of a split, or one name for two cases.

    Args:
        cases: with subject and case, and where known split.
        where: what an error calls a case, such as file and row, by its name; else it is called by its file.

    Raises:
        UsageError: there is such a person or name; the error names films, not persons.
    """
    twice = [name for name, times in Counter(case["case"] for case in cases).items() if times > 1]
    if twice:
        raise UsageError(f"the case '{twice[0]}' comes twice; wanted a name of its own for each film")
    first: dict[str, Mapping[str, Any]] = {}
    leaks = []
    for case in cases:
        if case.get("split"):
            other = first.setdefault(str(case["subject"]), case)
            if other["split"] != case["split"]:
                leaks.append((other, case))
    if leaks:
        told = [f"{(where or {}).get(case['case'], repr(str(case['image'])))} ({case['split']})" for case in leaks[0]]
        people = len({str(case["subject"]) for _, case in leaks})
        raise UsageError(
            f"{told[1]}: the same person as {told[0]}; {people} in all are in two parts; wanted each in one: mend the "
            "split, or say better whose films they are"
        )
