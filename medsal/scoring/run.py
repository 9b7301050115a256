"""An evaluation from its cases to its tables, figures and record; it goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.bundle.exits import CasesFailedError, reason
from medsal.bundle.running import terminable
from medsal.bundle.summary import unnamed
from medsal.errors import NothingToDoError
from medsal.export.layout import safe_name
from medsal.files import json_bytes, write_file
from medsal.ledger import Outcome
from medsal.scoring.cases import CaseFiles, Cases
from medsal.scoring.record import digest
from medsal.scoring.scorer import Scorer
from medsal.scoring.settings import Settings
from medsal.scoring.table import ADVERSARIES, write_scores

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger("medsal")
_SHOWN = 3
_NUMBERS = ("value", "null", "null_sd", "p", "ceiling")


class Evaluation:
    """Scores every case and writes what came of it.

    Per case ``scores/<case>.json``, last and in one step, so that a run that is killed goes on where it was. At the end
    ``scores.csv`` and ``.parquet``, the summary's tables, ``figures/``, and ``evaluation.json``.

    Args:
        cases: what is scored.
        settings: how.
        output_dir: where results go.
        prior: items of a training split for the mean training mask, see ``training_prior``; None for none.
        config: the raw configuration of the run, for the record.

    Raises:
        NothingToDoError: if no case can be scored.
    """

    def __init__(
        self,
        cases: Cases,
        settings: Settings,
        output_dir: str | Path,
        *,
        prior: Any = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.cases, self.settings, self.folder = cases, settings, Path(output_dir)
        self.config = config
        if not cases.found:
            first = next(iter(cases.excluded.items()), ("", "none was found"))
            raise NothingToDoError(f"no case can be scored, {len(cases.excluded)} left out: {': '.join(first)}")
        self.scorer = Scorer(cases, settings, prior)
        self.skipped = 0

    def run(self) -> Outcome:
        """Score, summarise and write.

        Returns:
            What became of the cases.

        Raises:
            CasesFailedError: if no case could be scored.
        """
        began = time.time()
        records: dict[str, dict[str, Any]] = {}
        with terminable():
            for number, files in enumerate(self.cases.found, 1):
                records[files.case] = self._case(files)
                _LOG.info("%d/%d %s %s", number, len(self.cases.found), files.case, _said(records[files.case]))
        statuses = {case: record["status"] for case, record in records.items()}
        outcome = Outcome(cases=statuses, skipped=self.skipped)
        if not outcome.count("done"):
            raise CasesFailedError(self._line(outcome, records), outcome.exit_code)
        self._write(records, began)
        line = self._line(outcome, records)
        if outcome.exit_code:
            raise CasesFailedError(line, outcome.exit_code)
        sys.stderr.write(f"medsal: {line}\n")
        return outcome

    def _case(self, files: CaseFiles) -> dict[str, Any]:
        """The record of a case: that of an earlier run where nothing changed, else made and written."""
        path = self.folder / "scores" / f"{safe_name(files.case)}.json"
        began = time.perf_counter()
        try:
            mark = self.scorer.fingerprint(files)
            before = _read(path)
            whole = before.get("rows_sha256") == digest(before.get("rows"))
            if before.get("fingerprint") == mark and before.get("status") == "done" and whole:
                self.skipped += 1
                return before
            rows, resampled = self.scorer.score(files)
            made: dict[str, Any] = {
                "status": "done",
                "error": "",
                "fingerprint": mark,
                "resampled": resampled,
                "rows": rows,
                "rows_sha256": digest(rows),
            }
        except Exception as error:  # noqa: BLE001  recorded with the case; the others go on
            _LOG.debug("case %s failed", files.case, exc_info=error)
            made = {"status": "failed", "error": reason(error), "fingerprint": "", "resampled": {}, "rows": []}
        seconds = round(time.perf_counter() - began, 3)
        record = {"case": files.case, "patient": files.patient, **made, "seconds": seconds}
        write_file(path, json_bytes(record))
        return record

    def _write(self, records: Mapping[str, dict[str, Any]], began: float) -> None:
        """Everything that belongs to all cases."""
        from medsal.scoring.record import write_record
        from medsal.scoring.summary import summarise, write_summary
        from medsal.scoring.text import render

        rows = [row for record in records.values() for row in _numbers(record["rows"])]
        scores = write_scores(self.folder, rows)
        summary = summarise(scores, self.settings)
        write_summary(self.folder, summary)
        figures = dict(self._figures(scores, summary))
        for name, content in figures.items():
            write_file(self.folder / "figures" / name, content)
        self._clear(figures)
        text = render(summary)
        if self.settings.adversaries:
            from medsal.scoring.adversaries import render_adversaries, report_adversaries, write_adversaries

            report = report_adversaries(scores, self.settings)
            write_adversaries(self.folder, report)
            text += "\n" + render_adversaries(report)
        anonymous = any(files.anonymous for files in self.cases.found)
        failed = {case: record["error"] for case, record in records.items() if record["status"] != "done"}
        write_record(
            self.folder,
            self.settings,
            config=unnamed(self.config) if anonymous else self.config,
            exclusions={**self.cases.excluded, **failed},
            sources=self.cases.facts,
            seconds=round(time.time() - began, 3),
            resampled={case: record["resampled"] for case, record in records.items() if record["resampled"]},
            partners=self.scorer.partners,
            prior=sorted(self.scorer.prior.prior.cases) if self.scorer.prior else [],
        )
        for line in text.splitlines():
            _LOG.info("%s", line)
        for case, why in self.cases.excluded.items():
            _LOG.warning("left out: %s %s", case, why)

    def _clear(self, figures: Mapping[str, bytes]) -> None:
        """Take away what an earlier evaluation in this folder wrote and this one does not."""
        from medsal.evaluation import METRICS

        old = [f"{metric}{kind}.png" for metric in METRICS for kind in ("", "_differences")]
        for name in old:
            if name not in figures:
                (self.folder / "figures" / name).unlink(missing_ok=True)
        if not self.settings.adversaries:
            (self.folder / ADVERSARIES).unlink(missing_ok=True)

    def _figures(self, scores: pd.DataFrame, summary: Any) -> Iterator[tuple[str, bytes]]:
        from medsal.scoring.figures import draw_differences, draw_scores

        for metric in self.settings.metrics:
            yield f"{metric}.png", draw_scores(scores, summary, metric)
            if len(self.cases.methods) > 1 and self.settings.compared:
                yield f"{metric}_differences.png", draw_differences(summary, metric, alpha=self.settings.alpha)

    def _line(self, outcome: Outcome, records: Mapping[str, Mapping[str, Any]]) -> str:
        """How the run ended."""
        line = f"{outcome.count('done')} of {len(records)} cases scored"
        line += f" ({outcome.skipped} of them before)" if outcome.skipped else ""
        line += f", {len(self.cases.excluded)} left out" if self.cases.excluded else ""
        bad = {case: record["error"] for case, record in records.items() if record["status"] != "done"}
        if not bad:
            return f"{line}; results in {self.folder}"
        shown = "; ".join(f"{case}: {why}" for case, why in list(bad.items())[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        return f"{line}, {len(bad)} failed: {shown}{more}; see {self.folder / 'scores'}"


def _read(path: Path) -> dict[str, Any]:
    """A record of an earlier run; nothing where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the table has them: what JSON calls null is no number."""
    return [{**row, **{name: math.nan for name in _NUMBERS if row[name] is None}} for row in rows]


def _said(record: Mapping[str, Any]) -> str:
    seconds = f"{record['seconds']:.1f} s"
    return f"scored, {seconds}" if record["status"] == "done" else f"failed: {record['error']}"
