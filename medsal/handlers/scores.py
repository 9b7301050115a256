"""Scores of a run to the disk: an Ignite handler that gathers what ``Scored`` transforms found."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

from medsal.bundle.fingerprint import identified
from medsal.bundle.results import named
from medsal.engines import AttributionEvents
from medsal.errors import UsageError
from medsal.ledger import Ledger, rank
from medsal.transforms.scores import SCORES

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger("medsal")
_PREFIX = "saliency_"
NOT_EXPLAINED = "not explained"
"""Reason of no answer of a case that could not be read or explained."""


@dataclass(frozen=True)
class _Case:
    """The scores of one case; none where it failed."""

    case: str
    patient: str
    rows: tuple[Mapping[str, Any], ...] = field(default=())


class ScoreTable:
    """Writes the scores that ``medsal.transforms.Scored`` transforms put into the output, as one long table.

    At the end of the run the first process writes ``scores.csv`` and ``scores.parquet`` for the cases of all processes:
    one row for each case, map, metric and part. A case that could not be explained has a row without a value for each
    score that the other cases have. Cases that an earlier run finished are not in the table; they are counted.

    Args:
        output_dir: where to write.
        ledger: lets cases that were finished before be counted.

    Attributes:
        table: what was written; None before, and in other processes than the first.
    """

    def __init__(self, output_dir: str | Path, ledger: Ledger | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.ledger = ledger
        self.table: pd.DataFrame | None = None
        self._cases: list[_Case] = []

    def attach(self, engine: Engine) -> None:
        """Listen to an engine.

        Args:
            engine: an ``AttributionEvaluator`` whose ``postprocessing`` has ``Scored`` transforms.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(AttributionEvents.BATCH_FAILED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        self._cases, self.table = [], None

    def _collect(self, engine: Engine) -> None:
        """Keep the scores of a batch, and the names of its cases that failed."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            names = named(batch, output)
            if SCORES not in output:
                raise UsageError("no scores: put transforms such as AveragePrecisiond into postprocessing")
            self._cases.append(_Case(names["case"], names["subject"] or names["case"], tuple(output[SCORES])))
        scored = {case.case for case in self._cases}
        for failure in engine.state.failures:
            names = identified({"image": "case", **failure.case})
            if names["case"] not in scored:  # else it was explained, and failed to be written
                self._cases.append(_Case(names["case"], names["subject"] or names["case"]))

    def _finish(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        """Gather the cases of all processes and write them, in the first."""
        cases = list(_once(_gathered(self._cases)))
        if rank() != 0:
            return
        from medsal.scoring.table import write_scores

        self.table = write_scores(self.output_dir, _rows(cases))
        missing = self.table["reason"][self.table["value"].isna()]
        why = ", ".join(f"{reason} ({count})" for reason, count in missing.value_counts().items())
        _LOG.info("%d scores of %d cases in %s", len(self.table), len(cases), self.output_dir)
        if why:
            _LOG.warning("%d scores have no answer: %s", len(missing), why)
        if self.ledger and self.ledger.skipped:
            _LOG.warning(
                "%d cases were finished before and are not in the table of scores; score the stored maps to have all",
                len(self.ledger.skipped),
            )


def _gathered(cases: list[_Case]) -> list[_Case]:
    """The cases of all processes, in turns, as a sampler deals them out."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return cases
    shares: list[list[_Case]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, cases)
    return [case for turn in zip_longest(*shares) for case in turn if case is not None]


def _once(cases: Iterable[_Case]) -> Iterator[_Case]:
    """Leave out the copies with which a sampler fills up the last turn; other cases of one name stay, to be refused."""
    seen: set[str] = set()
    for case in cases:
        if repr(case) not in seen:
            seen.add(repr(case))
            yield case


def _rows(cases: Iterable[_Case]) -> Iterator[dict[str, Any]]:
    """Rows of the table; where a case failed, one without a value for every score that there is of others."""
    cases = list(cases)
    about = ("method", "metric", "side", "part")
    every = dict.fromkeys(tuple((name, row[name]) for name in about) for case in cases for row in case.rows)
    for case in cases:
        who = {"case": case.case, "patient": case.patient, "kind": "method"}
        for row in case.rows or [{**dict(one), "reason": NOT_EXPLAINED} for one in every]:
            yield {**who, **row, "method": row["method"].removeprefix(_PREFIX)}
