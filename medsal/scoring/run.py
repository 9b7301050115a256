"""An evaluation from its cases to its tables, figures and record; it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from medsal._version import __version__
from medsal.bundle.exits import CasesFailedError, reason
from medsal.bundle.fingerprint import digest, file_sha256
from medsal.bundle.running import terminable
from medsal.bundle.summary import unnamed
from medsal.errors import InputError, NothingToDoError
from medsal.evaluation import METRICS
from medsal.export.layout import safe_name
from medsal.files import json_bytes, write_file
from medsal.ledger import Outcome
from medsal.scoring.arrays import stretched
from medsal.scoring.case import ScoredCase
from medsal.scoring.cases import CaseFiles, Cases
from medsal.scoring.prior import Prior, training_prior
from medsal.scoring.reading import CaseReader, LazyMaps
from medsal.scoring.score import score_case
from medsal.scoring.settings import Settings
from medsal.scoring.table import COLUMNS, write_scores

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger("medsal")
_SHOWN = 3
_SUMMARY_ONLY = ("level", "alpha", "resamples", "correction", "primary")
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
        wanted = prior is not None and "mean training mask" in settings.baselines
        self.prior: Prior | None = training_prior(prior, cases) if wanted else None
        self.partners = self._partners()
        self._by_name = {files.case: files for files in cases.found}
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
                _LOG.info("%d/%d %s %s", number, len(self.cases), files.case, _said(records[files.case]))
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

    def _partners(self) -> dict[str, str]:
        """For each case, whose map and mask stand in for its own: another patient's, with a finding where there is one."""
        found = self.cases.found
        if len({files.patient for files in found}) < 2:
            _LOG.warning("all cases are of one patient: no other patient's map is there to compare with")
            return {}
        if not self.settings.adversaries and "another patient" not in self.settings.baselines:
            return {}
        donors = [files for files in found if self._has_finding(files)]
        draw, chosen = np.random.default_rng(self.settings.seed), {}
        for files in found:
            others = [one.case for one in donors if one.patient != files.patient]
            others = others or [one.case for one in found if one.patient != files.patient]
            chosen[files.case] = str(draw.choice(others))
        return chosen

    def _has_finding(self, files: CaseFiles) -> bool:
        """Whether the mask of a case can be read and is not empty."""
        try:
            mask = CaseReader(files, resample=self.cases.resample).mask()
        except InputError:
            return False
        return mask is not None and bool(mask.any())

    def _case(self, files: CaseFiles) -> dict[str, Any]:
        """The record of a case: that of an earlier run where nothing changed, else made and written."""
        path = self.folder / "scores" / f"{safe_name(files.case)}.json"
        began = time.perf_counter()
        names = {"case": files.case, "patient": files.patient}
        try:
            mark = self._fingerprint(files)
            before = _read(path)
            if before.get("fingerprint") == mark and before.get("status") == "done":
                self.skipped += 1
                return before
            rows, resampled = self._score(files)
            record = {**names, "status": "done", "error": "", "fingerprint": mark, "resampled": resampled, "rows": rows}
        except Exception as error:  # noqa: BLE001  recorded with the case; the others go on
            _LOG.debug("case %s failed", files.case, exc_info=error)
            record = {
                **names,
                "status": "failed",
                "error": reason(error),
                "fingerprint": "",
                "resampled": {},
                "rows": [],
            }
        record["seconds"] = round(time.perf_counter() - began, 3)
        write_file(path, json_bytes(record))
        return record

    def _score(self, files: CaseFiles) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Score a case; without the other patient's map where that cannot be read."""
        partner = self._by_name.get(self.partners.get(files.case, ""))
        try:
            return self._scored(files, partner)
        except InputError:
            why = _unreadable(partner, resample=self.cases.resample) if partner else ""
            if not why:
                raise
            _LOG.warning("%s: no map of another patient beside it: %s", files.case, why)
            rows, resampled = self._scored(files, None)
            return rows, {**resampled, "another patient": f"left out: {why}"}

    def _scored(self, files: CaseFiles, partner: CaseFiles | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows of a case, and what was resampled."""
        reader = CaseReader(files, resample=self.cases.resample)
        other = CaseReader(partner, resample=self.cases.resample) if partner else None
        case = ScoredCase(
            **self._truth(reader),
            case=files.case,
            patient=files.patient,
            maps=LazyMaps(list(files.maps), reader.map),
            grids=files.grids,
            prior=self.prior.at(reader.like) if self.prior else None,
            untrained=LazyMaps([name for name in files.maps if name in files.untrained], reader.untrained),
            others=_others(other, reader) if other else {},
            other_mask=_other_mask(other, reader) if other and self.settings.adversaries else None,
            missing={name: "no map of this method" for name in self.cases.methods if name not in files.maps},
            spacing=reader.spacing,
        )
        rows = score_case(case, self.settings)
        return [{name: row[name] for name in COLUMNS} for row in rows], dict(reader.resampled)

    def _truth(self, reader: CaseReader) -> dict[str, Any]:
        """Truth and image of a case."""
        looks = "edges" in self.settings.baselines or self.settings.adversaries
        families = {METRICS[name].family for name in self.settings.metrics}
        mask = reader.mask()
        labels = {
            kind: reader.labels(kind) if mask is None or kind in families else None for kind in ("layers", "regions")
        }
        return {
            **labels,
            "mask": mask,
            "boxes": reader.files.boxes is not None,
            "region_names": self.cases.region_names,
            "ignore": reader.binary("ignore"),
            "body": reader.binary("body"),
            "readers": reader.readers(),
            "image": reader.image() if looks else None,
        }

    def _fingerprint(self, files: CaseFiles) -> str:
        """Digest of everything that the scores of a case depend on."""
        partner = self._by_name.get(self.partners.get(files.case, ""))
        settings = {name: value for name, value in self.settings.as_dict().items() if name not in _SUMMARY_ONLY}
        return digest(
            [
                __version__,
                settings,
                _content(files),
                _content(partner) if partner else None,
                _prior_digest(self.prior) if self.prior else None,
                sorted(set(self.cases.methods)),
                [self.cases.resample, {str(code): name for code, name in self.cases.region_names.items()}],
            ]
        )

    def _write(self, records: Mapping[str, dict[str, Any]], began: float) -> None:
        """Everything that belongs to all cases."""
        from medsal.scoring.record import write_record
        from medsal.scoring.summary import render, summarise, write_summary

        rows = [row for record in records.values() for row in _numbers(record["rows"])]
        scores = write_scores(self.folder, rows)
        summary = summarise(scores, self.settings)
        write_summary(self.folder, summary)
        for name, content in self._figures(scores, summary):
            write_file(self.folder / "figures" / name, content)
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
            partners=self.partners,
            prior=sorted(self.prior.prior.cases) if self.prior else [],
        )
        for line in render(summary).splitlines():
            _LOG.info("%s", line)
        for case, why in self.cases.excluded.items():
            _LOG.warning("left out: %s %s", case, why)

    def _figures(self, scores: pd.DataFrame, summary: Any) -> Iterator[tuple[str, bytes]]:
        from medsal.scoring.figures import draw_differences, draw_scores

        for metric in self.settings.metrics:
            yield f"{metric}.png", draw_scores(scores, summary, metric)
            if len(self.cases.methods) > 1:
                yield f"{metric}_differences.png", draw_differences(summary, metric)

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


def _others(other: CaseReader, own: CaseReader) -> LazyMaps:
    """Another patient's maps on the grid of a case."""
    names = [name for name in own.files.maps if name in other.files.maps]
    return LazyMaps(names, lambda name: stretched(other.map(name), own.space))


def _other_mask(other: CaseReader, own: CaseReader) -> Tensor | None:
    """Another patient's truth on the grid of a case."""
    mask = other.mask()
    return None if mask is None else stretched(mask.float(), own.space, "nearest") > 0


def _unreadable(files: CaseFiles, *, resample: bool) -> str:
    """Why a map or the mask of a case cannot be read; empty where all can."""
    try:
        reader = CaseReader(files, resample=resample)
        reader.mask()
        for name in files.maps:
            reader.map(name)
    except InputError as error:
        return reason(error)
    return ""


def _content(files: CaseFiles) -> dict[str, Any]:
    """A case by the content of its files."""
    plain = replace(files, maps={}, truth={}, untrained={}, readers=(), image=None)
    return {
        "files": {
            what: _digest(path, path.stat().st_mtime_ns) for what, path in files.files().items() if path.is_file()
        },
        "image": "prepared" if callable(files.image) else "",
        "rest": repr(plain),
    }


@lru_cache(maxsize=4096)
def _digest(path: Path, changed: int) -> str:  # noqa: ARG001  another time of change is another file
    return file_sha256(path)


@lru_cache(maxsize=4)
def _prior_digest(prior: Prior) -> str:
    return hashlib.sha256(prior.prior.relevance.numpy().tobytes()).hexdigest()


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
