"""Every number of an evaluation computed again from its stored scores, and held against what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.errors import MedsalError
from medsal.scoring.record import RECORD, digest, read_record, versions
from medsal.scoring.settings import Settings
from medsal.scoring.summary import FILES, Summary, summarise
from medsal.scoring.table import ADVERSARIES, CSV, PARQUET, csv_bytes, read_scores

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1e-9
"""Relative difference up to which two numbers are the same: other machines round otherwise."""
PRIVATE = frozenset({"case", "patient"})
"""Columns whose content is not shown."""
NAMED_BY = ("kind", "method", "metric", "part", "map", "first", "second", "against")


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what does not agree.

    Attributes:
        checked: one line for each check.
        mismatches: one line each; empty where all agrees.
    """

    checked: tuple[str, ...]
    mismatches: tuple[str, ...]


def verify(folder: str | Path) -> list[str]:
    """Compute every number of an evaluation again from its stored scores and settings.

    Args:
        folder: with ``evaluation.json``, scores and summary.

    Returns:
        One line for each mismatch, with file, row, column, what is stored and what came out; empty where all agrees.
        A digest finds what was changed by hand or by accident, not what somebody made anew throughout.
    """
    return list(examine(folder).mismatches)


def examine(folder: str | Path) -> Verification:
    """``verify``, with what was looked at.

    Args:
        folder: with ``evaluation.json``, scores and summary.

    Returns:
        Both.
    """
    folder = Path(folder)
    record = read_record(folder)
    checked, wrong = ["evaluation.json: its own digest, and that of the configuration"], list(_record(record))
    wrong += _digests(folder, record)
    more = [ADVERSARIES] if _stored_digest(record, ADVERSARIES) or (folder / ADVERSARIES).is_file() else []
    checked.append(f"digests of {', '.join((CSV, PARQUET, *FILES, *more))}")
    tables: dict[str, pd.DataFrame] = {}
    for name in (CSV, PARQUET):
        try:
            tables[name] = read_scores(folder / name)
        except MedsalError as error:
            wrong.append(f"{name}: {error}")
    if len(tables) == 2:
        wrong += differences(PARQUET, as_text(tables[PARQUET]), tables[CSV], of=CSV)
        checked.append(f"{len(tables[CSV])} rows of {CSV}, held against {PARQUET}")
    if tables:
        lines, count = _summary(folder, record, _trusted(folder, record, tables))
        wrong += lines
        checked.append(f"{count} numbers and words of {', '.join([*FILES, *more])}, computed again")
    if wrong:
        wrong += _other_versions(record)
    return Verification(tuple(checked), tuple(wrong))


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table as its CSV file says it.

    Args:
        table: any.

    Returns:
        Columns of text.
    """
    import io

    return _read_text(io.BytesIO(csv_bytes(table)))


def differences(name: str, stored: pd.DataFrame, wanted: pd.DataFrame, *, of: str = "recomputed") -> Iterator[str]:
    """Hold a stored table against another, cell by cell.

    Args:
        name: file of the stored one.
        stored: columns of text.
        wanted: what it should be, with its types.
        of: what the other is called.

    Yields:
        A line for each cell that differs, or one for another shape.
    """
    if list(stored.columns) != list(wanted.columns):
        yield f"{name}: stored columns {', '.join(stored.columns)}; {of} {', '.join(wanted.columns)}"
        return
    if len(stored) != len(wanted):
        yield f"{name}: stored {len(stored)} rows, {of} {len(wanted)}"
    text = as_text(wanted)
    for column in wanted.columns:
        numeric = wanted[column].dtype.kind in "if"
        for at, (old, new) in enumerate(zip(stored[column], text[column], strict=False)):
            if old != new and not (numeric and _near(old, new)):
                what = "differs" if column in PRIVATE else f"stored {old or 'nothing'}, {of} {new or 'nothing'}"
                keys = " ".join(filter(None, (text[key].iloc[at] for key in NAMED_BY if key in text)))
                yield f"{name}, row {at + 1} ({keys}), {column}: {what}"


def _near(old: str, new: str) -> bool:
    try:
        return math.isclose(float(old), float(new), rel_tol=NEAR, abs_tol=1e-12)
    except ValueError:
        return False


def _read_text(file: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")


def _record(record: Mapping[str, Any]) -> Iterator[str]:
    stored, rest = record.get("record_sha256"), {k: v for k, v in record.items() if k != "record_sha256"}
    for name, old, new in (
        ("record_sha256", stored, digest(rest)),
        ("config_sha256", record.get("config_sha256"), digest(record.get("config"))),
    ):
        if old != new:
            yield f"{RECORD}, {name}: stored {old}, recomputed {new}"


def _digests(folder: Path, record: Mapping[str, Any]) -> Iterator[str]:
    more = [ADVERSARIES] if _stored_digest(record, ADVERSARIES) else []
    for name in (CSV, PARQUET, *FILES, *more):
        old, new = _stored_digest(record, name), _file_digest(folder / name)
        if old != new:
            yield f"{name}, sha256: stored {old or 'nothing'}, recomputed {new or 'nothing: no such file'}"


def _stored_digest(record: Mapping[str, Any], name: str) -> str:
    files = record.get("files")
    return str(files.get(name, "")) if isinstance(files, Mapping) else ""


def _file_digest(path: Path) -> str:
    from medsal.bundle.fingerprint import file_sha256

    return file_sha256(path) if path.is_file() else ""


def _trusted(folder: Path, record: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The table whose file is as it was written, so that one changed score is not told again as changed summaries."""
    whole = [name for name in tables if _stored_digest(record, name) == _file_digest(folder / name)]
    return tables[(whole or list(tables))[0]]


def _summary(folder: Path, record: Mapping[str, Any], scores: pd.DataFrame) -> tuple[list[str], int]:
    """Mismatches of the summary's files and of the counts of the record, and how many cells were looked at."""
    try:
        settings = Settings.from_dict(record.get("settings", {}))
        found = summarise(scores, settings)
    except (MedsalError, TypeError, ValueError, AttributeError) as error:
        return [f"{RECORD}, settings: cannot be used: {error}"], 0
    wrong, cells = list(_counts(record, scores, found)), 0
    tables = {name: getattr(found, attribute) for name, attribute in FILES.items()}
    if _stored_digest(record, ADVERSARIES) or (folder / ADVERSARIES).is_file():
        from medsal.scoring.adversaries import report_adversaries

        tables[ADVERSARIES] = report_adversaries(scores, settings).table
    for name, wanted in tables.items():
        cells += wanted.size
        try:
            stored = _read_text(folder / name)
        except (OSError, ValueError) as error:
            wrong.append(f"{name}: cannot be read: {' '.join(str(error).split())}")
            continue
        wrong += differences(name, stored, wanted)
    return wrong, cells


def _counts(record: Mapping[str, Any], scores: pd.DataFrame, found: Summary) -> Iterator[str]:
    counts = {"rows": len(scores), "cases": scores["case"].nunique(), "patients": scores["patient"].nunique()}
    for name, new in (("counts", counts), ("left_out", found.left_out.to_dict("records"))):
        if record.get(name) != new:
            yield f"{RECORD}, {name}: stored {record.get(name)}, recomputed {new}"


def _other_versions(record: Mapping[str, Any]) -> Iterator[str]:
    stored = record.get("versions")
    old = stored if isinstance(stored, Mapping) else {}
    changed = {name: new for name, new in versions().items() if old.get(name) != new}
    if changed:
        pairs = ", ".join(f"{name} {old.get(name)} -> {new}" for name, new in changed.items())
        yield f"{RECORD}, versions: other ones here, which may be the reason: {pairs}"
