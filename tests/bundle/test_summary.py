"""The steps ``run`` and ``finalize``: how a run ends, and what ``run.json`` collects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsal.bundle import CasesFailedError, end_run, run_cases
from medsal.bundle.summary import completeness, versions
from medsal.errors import MedsalError, UsageError
from medsal.ledger import Ledger, Outcome


class Engine:
    """Ends as it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def run(self) -> None:
        if self.error is not None:
            raise self.error


class Exporter:
    """Knows what became of the cases."""

    def __init__(self, folder: Path, **cases: str) -> None:
        self.ledger = Ledger(folder, config={})
        self.ledger.fingerprints = dict.fromkeys(cases, "f")
        for case, status in cases.items():
            if status != "pending":
                self.ledger.finish({"case": case, "status": status, "error": "cut off" if status == "failed" else ""})
        self.interrupted: bool | None = None

    def finish(self, *, interrupted: bool = False) -> Outcome:
        self.interrupted = interrupted
        return self.ledger.outcome(interrupted=interrupted)


def test_an_interrupted_run_is_closed_as_such(tmp_path: Path) -> None:
    exporter: Any = Exporter(tmp_path, a="done")
    with pytest.raises(KeyboardInterrupt):
        run_cases(Engine(KeyboardInterrupt()), exporter)  # type: ignore[arg-type]  # as much of an engine as is used
    assert exporter.interrupted is True


@pytest.mark.parametrize(("status", "code"), [("done", 4), ("failed", 5)])
def test_a_disk_that_is_full_ends_the_run_with_what_there_is(tmp_path: Path, status: str, code: int) -> None:
    exporter: Any = Exporter(tmp_path, a=status, b="pending")
    with pytest.raises(CasesFailedError, match=r"disk full; [01] finished cases stay") as caught:
        run_cases(Engine(MedsalError("disk full")), exporter)  # type: ignore[arg-type]  # as above
    assert caught.value.exit_code == code


def test_a_wrong_option_stays_what_it_is(tmp_path: Path) -> None:
    exporter: Any = Exporter(tmp_path, a="pending")
    with pytest.raises(UsageError, match="no layer"):
        run_cases(Engine(UsageError("no layer")), exporter)  # type: ignore[arg-type]  # as above


def test_the_last_line_names_the_first_failures_and_counts_the_others(tmp_path: Path) -> None:
    exporter: Any = Exporter(tmp_path, a="done", b="failed", c="failed", d="pending", e="failed")
    with pytest.raises(CasesFailedError) as caught:
        end_run(exporter)
    assert str(caught.value) == (
        f"1 of 5 cases done, 4 failed: b: cut off; c: cut off; d: not reached; and 1 more; see {tmp_path / 'run.json'}"
    )
    assert caught.value.exit_code == 4


def test_claims_are_collected_by_method_and_case() -> None:
    records = [
        {"case": "a", "records": {"ig": {"claims": {"completeness_gap": 0.1}}, "saliency": {"claims": {}}}},
        {"case": "b", "records": {"ig": {"claims": {"completeness_gap": 0.2}}}},
        {"case": "c"},
    ]
    assert completeness(records) == {"ig": {"a": {"completeness_gap": 0.1}, "b": {"completeness_gap": 0.2}}}


def test_versions_name_what_numbers_depend_on() -> None:
    assert {"python", "torch", "monai", "numpy"} <= set(versions())
