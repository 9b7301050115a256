"""MRI sources: a table of files, a folder of NIfTI files, or a BIDS dataset, read into lists of cases.

Only names are read here; a file that is missing or broken becomes a failed case when it is loaded, and the others go
on.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsal.data.names import anonymise_cases, number_cases
from medsal.data.tables import read_table
from medsal.errors import NothingToDoError, UsageError

__all__ = ["SEED_LABELS", "UNLABELLED", "mri_cases", "one_source", "subject_and_session"]

logger = logging.getLogger("medsal")

SEED_LABELS: dict[str, int] = {"HC": 0, "left": 1, "right": 1}
"""Class of each label string: healthy, or temporal lobe epilepsy of one side."""

UNLABELLED = -1
"""The label of a case whose class the source does not tell; its ``label_name`` is empty."""

_NIFTI = (".nii", ".nii.gz")
_COLUMNS = {"subject": "subject", "session": "session", "lesion": "lesion", "regions": "regions"}


def mri_cases(
    source: str | Path,
    *,
    file_column: str = "file",
    label_column: str = "HC_vs_LTLE_vs_RTLE_string",
    labels: Mapping[str, int] | None = None,
    max_samples: int = 0,
    anonymise: bool = False,
    columns: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The cases of a source, in its order (files by name).

    A table (``.csv``, ``.tsv``, any usual delimiter; paths in it are relative to it), one NIfTI file, a BIDS dataset
    (its T1w images; labels from ``participants.tsv`` where that has the label column), or a folder searched for NIfTI
    files. Subject and session come from the table's columns, the BIDS name, or the file name up to the first underscore
    without ``mwp1``; two sessions of one subject stay two cases, and further files of the same session are numbered.

    Args:
        source: path of the table, file or folder.
        file_column: the table's column of image paths.
        label_column: the table's column of label strings; empty: no labels.
        labels: class of each label string; `SEED_LABELS` if None.
        max_samples: as many cases as this from the start, 0 for all.
        anonymise: call subjects and sessions by number, in order of first appearance.
        columns: other columns to read, key of the case to name in the table; a missing one is passed over. Subject,
            session, lesion and regions are read under their own names anyway.

    Returns:
        one dictionary per case: image (path), label (`UNLABELLED` if unknown), label_name, case, subject, session, and,
        where the table has them, the paths lesion and regions.

    Raises:
        UsageError: the source is missing or not understood: a missing column, an unknown label string, the same file
            twice.
        NothingToDoError: the source holds no case.
    """
    path = Path(source).expanduser()
    if max_samples < 0:
        raise UsageError(f"max_samples: wanted 0 (all) or more, got {max_samples}")
    if not path.exists():
        raise UsageError(f"'{path}': no such file or folder; wanted a CSV of images, a NIfTI file, or a folder of them")
    classes = dict(SEED_LABELS if labels is None else labels)
    if path.is_dir():
        rows = _folder_rows(path, label_column, classes)
    elif path.name.endswith(_NIFTI):
        rows = [{"image": str(path)}]
    else:
        wanted = {"image": file_column, "label_name": label_column, **_COLUMNS, **(columns or {})}
        rows = _table_rows(path, wanted, classes)
    if not rows:
        raise NothingToDoError(f"'{path}': no cases; wanted at least one NIfTI image (.nii or .nii.gz) or row")
    cases = [_case(row, classes) for row in rows]
    _refuse_repeats(path, cases)
    if anonymise:
        anonymise_cases(cases)
    number_cases(cases)
    counts = Counter(case["label_name"] or "unlabelled" for case in cases)
    logger.info("%s: %d cases (%s)", path.name, len(cases), ", ".join(f"{k} {n}" for k, n in counts.items()))
    return cases[: max_samples or None]


def one_source(*sources: str | Path | None) -> str | Path | None:
    """The one source that a user gave.

    Args:
        sources: what may be given: a table, a folder.

    Returns:
        the one that is not None; None if none was given.

    Raises:
        UsageError: two were given, or one is empty.

    Example:
        >>> one_source(None, "heads")
        'heads'
    """
    given = [source for source in sources if source is not None]
    if len(given) > 1:
        raise UsageError(f"wanted one source of cases, got {' and '.join(repr(str(s)) for s in given)}; give one")
    if given and not str(given[0]).strip():
        raise UsageError("wanted a table or folder of cases, got an empty path; is a variable of the shell unset?")
    return given[0] if given else None


def subject_and_session(name: str) -> tuple[str, str]:
    """What a file name says about whose image it is.

    Args:
        name: file name, with or without folders.

    Returns:
        the part before the first underscore without a leading ``mwp1``, and the part ``ses-...``, or empty.

    Example:
        >>> subject_and_session("mwp1sub-0012_ses-02_T1w.nii")
        ('sub-0012', 'ses-02')
        >>> subject_and_session("scan7.nii.gz")
        ('scan7', '')
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", Path(name).name)
    session = re.search(r"_(ses-[^_]+)", stem)
    return stem.split("_")[0].replace("mwp1", ""), session.group(1) if session else ""


def _table_rows(path: Path, wanted: Mapping[str, str], classes: Mapping[str, int]) -> list[dict[str, str]]:
    header, lines = read_table(path)
    needed = {wanted["image"], wanted["label_name"]} - {""}
    missing = sorted(needed - set(header))
    twice = sorted(name for name in wanted.values() if header.count(name) > 1)
    if twice:
        raise UsageError(f"'{path}': two columns are called '{twice[0]}'; rename the one that is not meant")
    if missing:
        raise UsageError(f"'{path}': no column '{missing[0]}'; it has {', '.join(header)}: name the column to use")
    rows = []
    for number, line in lines:
        row = {key: line[name] for key, name in wanted.items() if line.get(name)}
        if "image" not in row:
            raise UsageError(f"'{path}' row {number}: no path in column '{wanted['image']}'; wanted an image file")
        if wanted["label_name"]:
            _check_label(f"'{path}' row {number}", row.setdefault("label_name", ""), classes)
        for key in {"image", "lesion", "regions"} & set(row):
            row[key] = str(path.parent / Path(row[key]).expanduser())
        rows.append(row)
    return rows


def _check_label(where: str, label: str, classes: Mapping[str, int]) -> None:
    if label not in classes:
        raise UsageError(f"{where}: label '{label}' is unknown; wanted one of {', '.join(classes)}")


def _folder_rows(path: Path, label_column: str, classes: Mapping[str, int]) -> list[dict[str, str]]:
    subjects = sorted(part for part in path.glob("sub-*") if part.is_dir())
    bids = [file for part in subjects for file in sorted(part.glob("**/anat/*_T1w.nii*")) if file.name.endswith(_NIFTI)]
    if not bids:
        found = sorted(file for file in path.rglob("*") if file.name.endswith(_NIFTI) and not file.name.startswith("."))
        return [{"image": str(file)} for file in found]
    names = _participants(path / "participants.tsv", label_column, classes)
    return [_bids_row(file, names) for file in bids]


def _bids_row(file: Path, names: Mapping[str, str]) -> dict[str, str]:
    entities = dict(part.split("-", 1) for part in file.name.split("_") if "-" in part)
    rest = [f"{key}-{value.split('.')[0]}" for key, value in entities.items() if key not in {"sub", "ses"}]
    subject = f"sub-{entities['sub']}"
    session = f"ses-{entities['ses']}" if "ses" in entities else ""
    row = {"image": str(file), "subject": subject, "session": session, "rest": "_".join(rest)}
    return {**row, "label_name": names[subject]} if subject in names else row


def _participants(path: Path, label_column: str, classes: Mapping[str, int]) -> dict[str, str]:
    if not path.is_file():
        return {}
    header, rows = read_table(path)
    if "participant_id" not in header or label_column not in header:
        return {}
    for number, row in rows:
        _check_label(f"'{path}' row {number}", row[label_column], classes)
    return {row["participant_id"]: row[label_column] for _, row in rows}


def _case(row: Mapping[str, str], classes: Mapping[str, int]) -> dict[str, Any]:
    subject, session = subject_and_session(row["image"])
    name = row.get("label_name", "")
    own = {"subject": row.get("subject", subject), "session": row.get("session", "" if "subject" in row else session)}
    return {**row, **own, "label": classes.get(name, UNLABELLED), "label_name": name}


def _refuse_repeats(path: Path, cases: Sequence[Mapping[str, Any]]) -> None:
    file, times = Counter(case["image"] for case in cases).most_common(1)[0]
    if times > 1:
        raise UsageError(f"'{path}': the image '{file}' is listed {times} times; wanted each image once")
