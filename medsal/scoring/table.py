"""The long table of scores: one row for each case, map and metric, as CSV and as Parquet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.errors import InputError, UsageError
from medsal.files import write_file

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "case", "patient", "kind", "method", "metric", "part", "side", "value", "null", "null_sd", "p", "ceiling",
    "ceiling_of", "reason",
)  # fmt: skip
"""Names of the columns, in their order."""
NUMBERS = ("value", "null", "null_sd", "p", "ceiling")
"""Columns of floats, NaN where there is none; the others are text."""
ORDER = ("case", "kind", "method", "metric", "part")
"""What one row is about. Rows are sorted by these, each in the order in which its values come first."""
NEEDED = ("case", "patient", "kind", "method", "metric")
"""Columns that may not be empty."""
KINDS = ("method", "baseline", "adversary")
CSV, PARQUET = "scores.csv", "scores.parquet"
ADVERSARIES = "adversaries.csv"


def write_scores(folder: str | Path, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Write the table of scores as ``scores.csv`` and ``scores.parquet``.

    Args:
        folder: made where it is missing.
        rows: one for each case, map and metric (and part), with the columns of ``COLUMNS``; a number that is left out
            is NaN, a text empty.

    Returns:
        The table as ``read_scores`` reads it from either file.
    """
    table = as_table(rows)
    write_file(Path(folder) / CSV, csv_bytes(table))
    write_file(Path(folder) / PARQUET, lambda file: table.to_parquet(file, engine="pyarrow", index=False))
    return table


def read_scores(folder: str | Path) -> pd.DataFrame:
    """Read a table of scores.

    Args:
        folder: with ``scores.parquet``, or else ``scores.csv``; or either file.

    Returns:
        Columns of text and of floats as ``COLUMNS`` and ``NUMBERS`` say.

    Raises:
        UsageError: if there is no such file.
        InputError: if the file cannot be read, or is no table of scores.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / PARQUET if (path / PARQUET).is_file() else path / CSV
    if not path.is_file():
        raise UsageError(f"no scores at {folder}: wanted {PARQUET} or {CSV}")
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path, engine="pyarrow")
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # also pandas' and Arrow's own errors of format
        raise InputError(f"{path.name}: cannot be read as a table: {' '.join(str(error).split())}") from error
    try:
        return _checked(table)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def as_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of scores from its rows.

    Args:
        rows: as ``write_scores`` takes them.

    Returns:
        The table, sorted; see ``ORDER``.

    Raises:
        InputError: if a row has an unknown column, or the table is not as ``read_scores`` wants it.
    """
    import pandas as pd

    full = []
    for at, row in enumerate(rows, 1):
        unknown = [name for name in row if name not in COLUMNS]
        if unknown:
            raise InputError(f"row {at}: no column {', '.join(map(str, unknown))}; there are {', '.join(COLUMNS)}")
        full.append([row.get(name, math.nan if name in NUMBERS else "") for name in COLUMNS])
    table = _checked(pd.DataFrame(full, columns=list(COLUMNS)))
    ranks = pd.DataFrame({name: pd.factorize(table[name])[0] for name in ORDER})
    return table.loc[ranks.sort_values(list(ORDER), kind="stable").index].reset_index(drop=True)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Write a table as CSV: UTF-8, numbers with all their digits, NaN as nothing.

    Args:
        table: any.

    Returns:
        The bytes of the file.
    """
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with typed columns, if it is one of scores."""
    import pandas as pd

    missing = [name for name in COLUMNS if name not in table]
    if missing or len(table.columns) != len(COLUMNS):
        wrong = f"{', '.join(missing)} missing" if missing else f"got {', '.join(map(str, table.columns))}"
        raise InputError(f"wanted the columns {', '.join(COLUMNS)}; {wrong}")
    typed = {name: _numbers(table[name]) if name in NUMBERS else _text(table[name]) for name in COLUMNS}
    found = pd.DataFrame(typed)
    for name in NEEDED:
        _refuse(found, found[name] == "", f"{name}: wanted a name, got nothing")
    _refuse(found, ~found["kind"].isin(KINDS), f"kind: wanted one of {', '.join(KINDS)}")
    gone, said = found["value"].isna(), found["reason"] != ""
    _refuse(found, gone & ~said, "no value, and no reason why")
    _refuse(found, ~gone & said, "a value, and a reason why there is none")
    _refuse(found, found.duplicated(list(ORDER)), "the same case, map, metric and part as a row before")
    _one_each(found, ["case"], "patient")
    _one_each(found, ["kind", "method", "metric", "part"], "side")
    return found


def _text(column: pd.Series) -> pd.Series:
    return column.fillna("").map(str).astype("str")


def _numbers(column: pd.Series) -> pd.Series:
    import pandas as pd

    return pd.Series([_number(value, at, column.name) for at, value in enumerate(column, 1)], dtype="float64")


def _number(value: Any, row: int, column: Any) -> float:
    try:
        found = math.nan if value is None or value == "" else float(value)  # Python's own reading loses no digit
    except (TypeError, ValueError):
        raise InputError(f"row {row}, {column}: wanted a number, got {value!r}") from None
    if math.isinf(found):
        raise InputError(f"row {row}, {column}: wanted a finite number, got {found}")
    return found


def _refuse(table: pd.DataFrame, wrong: pd.Series, why: str) -> None:
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        row = table.iloc[at]
        raise InputError(f"row {at + 1} ({row['kind']} {row['method']}, {row['metric']} {row['part']}): {why}")


def _one_each(table: pd.DataFrame, keys: list[str], column: str) -> None:
    first = table.groupby(keys, sort=False)[column].transform("first")
    _refuse(table, first != table[column], f"another {column} than in a row before of the same {', '.join(keys)}")
