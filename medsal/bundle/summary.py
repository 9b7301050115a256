"""The ``run.json`` that a run leaves: what was asked, with what, and what came of it."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.files import write_file

if TYPE_CHECKING:
    from medsal.ledger import Ledger, Outcome


def write_run(ledger: Ledger, outcome: Outcome, records: Sequence[Mapping[str, Any]], *, began: float) -> None:
    """Write ``run.json``: what was asked, with what, and what came of it.

    Args:
        ledger: the ledger of the run.
        outcome: what became of its cases.
        records: all records of the folder.
        began: when the run began, seconds since the epoch.
    """
    content = {
        "medsal": __version__,
        "began": datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - began, 3),
        "exit_code": outcome.exit_code,
        "interrupted": outcome.interrupted,
        "counts": {
            **{status: outcome.count(status) for status in ("done", "failed", "pending")},
            "finished_before": outcome.skipped,
            "total": len(outcome.cases),
        },
        "model": ledger.model,
        "seed": (ledger.config or {}).get("seed"),
        "versions": versions(),
        "cases": [
            {
                "case": record["case"],
                "status": outcome.cases.get(record["case"], record["status"]),
                "error": record["error"],
                "prediction": record.get("prediction"),
                "this_run": record["case"] in outcome.cases,
                "this_setup": record["setup"] == ledger.setup,
                "fingerprint": record["fingerprint"],
                "seconds": record.get("seconds", {}),
            }
            for record in records
        ],
        "not_reached": [case for case, status in outcome.cases.items() if status == "pending"],
        "completeness": completeness([record for record in records if record["setup"] == ledger.setup]),
        "config": unnamed(ledger.config) if any(record.get("anonymous") for record in records) else ledger.config,
    }
    write_file(ledger.output_dir / "run.json", (json.dumps(content, indent=1, default=str) + "\n").encode())


def unnamed(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A configuration without the paths of its sources: a file may be called by its person.

    Args:
        config: the raw merged configuration.

    Returns:
        A copy.
    """
    hidden = [key for key in ("csv_path", "dataset_dir") if (config or {}).get(key)]
    return {**(config or {}), **dict.fromkeys(hidden, "not recorded: anonymise")}


def completeness(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Collect what the methods say about themselves.

    Args:
        records: records of cases.

    Returns:
        method -> case -> its claims, such as ``{"completeness_gap": 0.01}``; methods without claims are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for method, made in record.get("records", {}).items():
            if made.get("claims"):
                found.setdefault(method, {})[record["case"]] = made["claims"]
    return found


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on.

    Returns:
        Name -> version.
    """
    from importlib.metadata import version

    packages = ("torch", "monai", "pytorch-ignite", "numpy", "nibabel", "SimpleITK")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
