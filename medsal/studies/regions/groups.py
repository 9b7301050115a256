"""Which group each film belongs to, whose it is, and what readers said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsal.data.tables import table_rows
from medsal.errors import UsageError


@dataclass(frozen=True)
class Groups:
    """What is known of films beside their maps.

    Attributes:
        group: case -> its group; a film without one is not in it.
        patient: case -> whose it is, where that is told.
        readers: name -> case -> what a reader said; NaN where nothing.
    """

    group: Mapping[str, str]
    patient: Mapping[str, str] = field(default_factory=dict)
    readers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def groups_of_table(path: Path, readers: Sequence[str] = ()) -> Groups:
    """Read groups from a table.

    Args:
        path: of a table with ``case`` and ``group``, perhaps ``patient``, and the columns of readers.
        readers: names of columns with numbers; an empty cell is no answer.

    Returns:
        The groups.

    Raises:
        UsageError: if a column is missing, a case is there twice, or a reader's score is no number.
    """
    rows = table_rows(path, ("case", "group", *readers))
    group: dict[str, str] = {}
    patient: dict[str, str] = {}
    said: dict[str, dict[str, float]] = {name: {} for name in readers}
    for number, row in rows:
        case, where = row["case"], f"'{path}' row {number}"
        if case in patient:
            raise UsageError(f"{where}: case {case!r} is there twice")
        patient[case] = row.get("patient", "")
        if row["group"]:
            group[case] = row["group"]
        for name in readers:
            said[name][case] = _number(row[name], f"{where}: {name}")
    return Groups(group, {case: owner for case, owner in patient.items() if owner}, said)


def groups_of_items(items: Sequence[Mapping[str, Any]], key: str, readers: Sequence[str] = ()) -> Groups:
    """Read groups from a data list.

    Args:
        items: with ``case``.
        key: of the group.
        readers: keys of what readers said.

    Returns:
        The groups.

    Raises:
        UsageError: if no item has a group, or a reader's score is no number.
    """
    group = {str(item["case"]): str(item[key]) for item in items if item.get(key) not in {None, ""}} if key else {}
    if not group:
        raise UsageError(f"groups: no case has a group under {key!r}; set --group_key, or --groups to a table")
    said = {
        name: {str(item["case"]): _number(item.get(name), f"case {item['case']}: {name}") for item in items}
        for name in readers
    }
    return Groups(group, {}, said)


def _number(value: Any, where: str) -> float:
    if value is None or str(value).strip() == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: wanted a number or nothing, got {value!r}") from None
