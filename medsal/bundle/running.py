"""The ``run`` and ``finalize`` steps of a config, and the ``run.json`` that a run leaves."""

from __future__ import annotations

import datetime
import json
import logging
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.bundle.exits import ALL_FAILED, SOME_FAILED, CasesFailedError, reason
from medsal.errors import MedsalError, UsageError
from medsal.export.files import write_file

if TYPE_CHECKING:
    from medsal.engines import AttributionEvaluator
    from medsal.handlers import ExplanationExporter
    from medsal.ledger import Ledger, Outcome

_LOG = logging.getLogger("medsal")
_SHOWN = 3


def run_cases(evaluator: AttributionEvaluator, exporter: ExplanationExporter) -> Outcome:
    """Explain all cases and close the run, also when it is interrupted or the disk is full.

    Args:
        evaluator: the engine.
        exporter: the exporter among its handlers.

    Returns:
        What became of the cases.

    Raises:
        UsageError: if an option, the configuration or the weights are wrong.
        CasesFailedError: if nothing can be written any more.
        KeyboardInterrupt: if the user stopped the run; ``run.json`` says so.
    """
    try:
        evaluator.run()
    except KeyboardInterrupt:
        exporter.finish(interrupted=True)
        raise
    except UsageError:
        raise
    except MedsalError as error:
        outcome = exporter.ledger.outcome()
        code = SOME_FAILED if outcome.count("done") else ALL_FAILED
        raise CasesFailedError(f"{reason(error)}; {outcome.count('done')} finished cases stay", code) from error
    return exporter.finish()


def end_run(exporter: ExplanationExporter) -> None:
    """Say in one line how the run ended, as the last step of a config's ``finalize``.

    Args:
        exporter: the exporter, after ``run_cases``.

    Raises:
        CasesFailedError: if cases failed; at the top of a command line it becomes exit code 4 or 5.
    """
    from medsal.ledger import rank

    outcome = exporter.finish()
    if rank() != 0:
        return
    folder = exporter.ledger.output_dir
    done, total = outcome.count("done"), len(outcome.cases)
    line = f"{done} of {total} cases done" + (f" ({outcome.skipped} of them before)" if outcome.skipped else "")
    bad = [case for case, status in outcome.cases.items() if status != "done"]
    if not bad:
        sys.stderr.write(f"medsal: {line}; results in {folder}\n")
        return
    shown = [f"{case}: {exporter.ledger.read(case).get('error') or 'not reached'}" for case in bad[:_SHOWN]]
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    raise CasesFailedError(
        f"{line}, {len(bad)} failed: {'; '.join(shown)}{more}; see {folder / 'run.json'}", outcome.exit_code
    )


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
        "completeness": completeness(records),
        "config": ledger.config,
    }
    write_file(ledger.output_dir / "run.json", (json.dumps(content, indent=1, default=str) + "\n").encode())


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
