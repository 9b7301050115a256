"""What an output folder holds of other runs: no case may take the place of another."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medsal.errors import UsageError

_LOG = logging.getLogger("medsal")

Rows = Sequence[Mapping[str, Any]]


def neighbours(items: Rows, records: Rows) -> list[dict[str, Any]]:
    """Find the cases that other runs left in the folder.

    Args:
        items: the cases of this run.
        records: all records of the folder.

    Returns:
        ``case``, ``subject``, ``session`` and ``name`` (what its files are called) of each case that has files and is
        not among the items.

    Example:
        >>> neighbours([{"case": "a"}], [{"case": "a", "files": [1]}, {"case": "b", "files": [1]}])
        [{'case': 'b', 'subject': '', 'session': '', 'name': ''}]
    """
    own = {item["case"] for item in items}
    found = [record for record in records if record.get("files") and record.get("case", "") not in {*own, ""}]
    return [{**{key: record.get(key, "") for key in ("case", "subject", "session")}, "name": _name(record)}
            for record in found]  # fmt: skip


def refuse_strangers(items: Rows, records: Rows, images: Mapping[str, str]) -> None:
    """Refuse a folder where names would tell whose an anonymous case is, or a number would change its person.

    Anonymous names are numbers in the order of one list: another list gives the same numbers to other people.

    Args:
        items: the cases of this run.
        records: all records of the folder.
        images: case -> digest of its image.

    Raises:
        UsageError: if cases with and without names would share the folder, or an anonymous case was another image.
    """
    anonymous = {bool(item.get("anonymous")) for item in items}
    mixed = sum(bool(record.get("anonymous")) not in anonymous for record in records)
    if mixed:
        kind = "under their names" if True in anonymous else "without their names"
        raise UsageError(
            f"anonymise: wanted an output folder of its own, got one with cases {kind} ({mixed}); "
            "choose another --output_dir"
        )
    before = {record.get("case"): record.get("image") for record in records if record.get("files")}
    changed = [item for item in items if _other(before.get(item["case"]), images.get(item["case"]))]
    for case in [item["case"] for item in changed if item.get("anonymous")]:
        raise UsageError(
            f"anonymise: {case} is another image in this output folder, numbers count along one list of cases; "
            "choose another --output_dir"
        )
    if changed:
        _LOG.warning("%s: another image than in an earlier run; made anew", _few(item["case"] for item in changed))


def _name(record: Mapping[str, Any]) -> str:
    """What the files of a case are called."""
    rows = record.get("statistics") or [{}]
    return str(rows[0].get("subject_id", ""))


def _other(before: str | None, now: str | None) -> bool:
    return bool(before and now and before != now)


def _few(cases: Iterable[str]) -> str:
    names = list(cases)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
