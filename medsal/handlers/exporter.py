"""Results of a run to the disk: an Ignite handler that writes each explained case and closes the run."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medsal.bundle.exits import chain, reason
from medsal.bundle.results import case_result, named, places
from medsal.engines import AttributionEvents, Failure
from medsal.errors import MedsalError, UsageError
from medsal.export import ExportOptions, export_case, export_summary, prepare_export
from medsal.export.choice import NoSuchSliceError
from medsal.ledger import Ledger, Outcome, barrier, rank

_LOG = logging.getLogger("medsal")
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class ExplanationExporter:
    """Brings every explained case to the patient's grid and to the disk, and closes the run.

    Per case: maps to the grid of the file, ``export_case``, then the record of the ledger. At the end, on rank 0: the
    tables, the page and ``run.json``, from all records in the folder.

    Args:
        ledger: the ledger of the output folder.
        options: what is written, and how.
        slice_axis: array axis of the network's grid that plain slice numbers count along (1: coronal).
    """

    def __init__(self, ledger: Ledger, options: ExportOptions | None = None, *, slice_axis: int = 1) -> None:
        self.ledger = ledger
        self.options = options or ExportOptions()
        self.slice_axis = slice_axis
        self.outcome: Outcome | None = None
        self.began = time.time()
        self._batch_began = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Listen to an engine.

        Args:
            engine: an ``AttributionEvaluator``.
        """
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.export)
        engine.add_event_handler(AttributionEvents.BATCH_FAILED, self.export)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        """Check, before anything is computed, that no case would overwrite another.

        Args:
            engine: the engine.
        """
        self.outcome = None
        self.options = prepare_export(
            self.ledger.output_dir,
            [*self.ledger.items, *self.ledger.others],
            replace(self.options, model=self._model()),
        )

    def _mark(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        self._batch_began = time.perf_counter()

    def export(self, engine: Engine) -> None:
        """Write the cases of a batch, and the records of those that failed.

        Args:
            engine: the engine, its batch and output decollated.

        Raises:
            UsageError: if what is to be written does not exist.
        """
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = {key: batch[key] for key in ("case", "subject", "session", "label", "label_name") if key in batch}
            try:
                self._export(case | named(batch, output), batch, output)
            except UsageError:
                raise
            except Exception as error:  # recorded with the case; the others go on
                _LOG.debug("case %s failed", case.get("case"), exc_info=error)
                if isinstance(error, NoSuchSliceError) and not self.ledger.outcome().count("done"):
                    raise UsageError(f"{error} (case {case.get('case')}, no case was done before it)") from error
                _stop_if_hopeless(error)
                engine.state.failures.append(Failure(case | named(batch, output), reason(error)))
        for failure in engine.state.failures:
            self._record_failure(failure)

    def _export(self, case: dict[str, Any], batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Write one case: its files, then its record."""
        began = time.perf_counter()
        result = case_result({**batch, **case}, output, self.slice_axis, self.ledger.positions.get(case["case"]))
        grid = time.perf_counter() - began
        for note in result.notes:
            _LOG.warning("%s: %s", result.case, note)
        self.ledger.begin(result.case)
        written = export_case(result, self.ledger.output_dir, self.options)
        seconds = {**output.get("seconds", {}), "grid": grid, **written.seconds}
        self.ledger.finish(
            {
                **_names(case),
                "status": "done",
                "error": "",
                "label": result.label,
                "label_name": result.label_name,
                "prediction": result.prediction,
                "logits": list(result.logits),
                "target": result.target,
                **result.facts,
                "notes": list(result.notes),
                "statistics": written.statistics,
                "records": dict(result.records),
                **places(result, written.maps),
                "seconds": {part: round(value, 4) for part, value in seconds.items()},
            },
            written.files,
        )

    def _record_failure(self, failure: Failure) -> None:
        """Write the record of a case that failed."""
        names = _names(failure.case)
        _LOG.debug("case %s: %s", names["case"], failure.error)
        if names["case"] in self.ledger.fingerprints:
            self.ledger.finish({**names, "status": "failed", "error": failure.error})

    def finish(self, engine: Engine | None = None, *, interrupted: bool = False) -> Outcome:  # noqa: ARG002  as above
        """Close the run, once: tables, page and ``run.json`` of everything in the folder; rank 0 writes them.

        Args:
            engine: the engine.
            interrupted: whether the run was stopped before its end.

        Returns:
            What became of the cases.
        """
        if self.outcome is not None:
            return self.outcome
        if not interrupted:
            barrier()
        self.outcome = self.ledger.outcome(interrupted=interrupted)
        if rank() == 0:
            from medsal.bundle.summary import write_run
            from medsal.report import write_index

            self.ledger.sweep()
            records = sorted(self.ledger.records(), key=self._place)
            records = [record for record in records if record["status"] in {"done", "failed"}]
            done = [record for record in records if record["status"] == "done"]
            alike = [record for record in done if record["setup"] == self.ledger.setup]
            if len(alike) < len(done):
                left = len(done) - len(alike)
                _LOG.warning("%d cases in %s are of another setup: not in the tables", left, self.ledger.output_dir)
            export_summary(self.ledger.output_dir, [row for record in alike for row in record["statistics"]])
            write_run(self.ledger, self.outcome, records, began=self.began)
            marked = [record if record["setup"] == self.ledger.setup else _foreign(record) for record in records]
            write_index(self.ledger.output_dir, marked, model=self._model())
        return self.outcome

    def _model(self) -> dict[str, str]:
        """Name and digest of the weights, for the page and the sidecar files."""
        return {"name": Path(self.ledger.model["path"]).stem, "sha256": self.ledger.model["sha256"]}

    def _place(self, record: Mapping[str, Any]) -> tuple[int, str]:
        """Cases of this run first, in their order, then those of earlier runs."""
        return self.ledger.positions.get(record["case"], len(self.ledger.positions)), record["case"]


def _names(case: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(case.get(key, "")) for key in ("case", "subject", "session")}


def _foreign(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a case of another setup, with the mark that the page shows."""
    made = f"model sha256 {str(record.get('model', ''))[:12] or 'not recorded'}"
    return {**record, "mark": f"explained by an earlier run of another setup ({made}); it is not in the tables"}


def _stop_if_hopeless(error: Exception) -> None:
    """Do not compute case after case for a disk that takes no more."""
    for found in chain(error):
        if isinstance(found, OSError) and found.errno in _HOPELESS:
            raise error if isinstance(error, MedsalError) else MedsalError(reason(error)) from error
