"""The region study from its films to its tables, figures and record."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.bundle.exits import ALL_FAILED, SOME_FAILED, CasesFailedError, reason
from medsal.bundle.fingerprint import file_sha256
from medsal.bundle.summary import unnamed
from medsal.errors import NothingToDoError
from medsal.files import json_bytes, write_file
from medsal.scoring.record import digest, portable, versions
from medsal.scoring.table import csv_bytes
from medsal.studies.regions.cases import StudyCases
from medsal.studies.regions.comparison import compare_groups, compare_readers
from medsal.studies.regions.scores import COLUMNS, region_names, score_case
from medsal.studies.regions.settings import RegionSettings

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_LOG = logging.getLogger("medsal")
RECORD = "region_study.json"
TABLES = ("regions.csv", "cases.csv", "tests.csv", "readers.csv")
_SHOWN = 3


class RegionStudy:
    """Scores regions of stored maps, tests groups, and writes what came of it.

    ``regions.csv``, ``cases.csv`` (group, doubts, and why a film was left out), ``tests.csv``, ``readers.csv``,
    ``figures/`` and ``region_study.json``. All of it is made anew each time: it takes a second for fifty films. What
    takes long, the maps, is kept by the runs that made them.

    Args:
        cases: of ``study_cases``.
        settings: how; also as a mapping of its names.
        output_dir: where results go.
        config: the raw configuration of the run, for the record.

    Raises:
        NothingToDoError: if no film can be scored.
    """

    def __init__(
        self,
        cases: StudyCases,
        settings: RegionSettings | Mapping[str, Any] | None = None,
        output_dir: str | Path = "regions",
        *,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.study, self.folder, self.config = cases, Path(output_dir), config
        given = settings or {}
        self.settings = given if isinstance(given, RegionSettings) else RegionSettings.from_dict(given)
        self.failed: dict[str, str] = {}
        self.resampled: dict[str, Mapping[str, str]] = {}
        if not cases.cases.found:
            first = next(iter(cases.cases.excluded.items()), ("", "none was found"))
            raise NothingToDoError(f"no film can be scored, {len(cases.cases.excluded)} left out: {': '.join(first)}")

    def run(self) -> pd.DataFrame:
        """Score, test, draw and write.

        Returns:
            The table ``tests.csv``.

        Raises:
            CasesFailedError: if films could not be read; what the others gave is written.
        """
        began = time.time()
        scores, labels = self._scores()
        cases = self._cases()
        if not len(scores):
            raise CasesFailedError(self._line(cases), ALL_FAILED)
        tests = compare_groups(scores, cases, self.settings)
        readers = compare_readers(scores, cases, self.settings)
        for name, table in zip(TABLES, (scores, cases, tests, readers), strict=True):
            write_file(self.folder / name, csv_bytes(table))
        used = {case: labels[case] for case in cases[cases["left_out"] == ""]["case"]}
        figures = dict(self._figures(scores, cases, tests, used))
        for name, content in figures.items():
            write_file(self.folder / "figures" / name, content)
        self._record(cases, sorted(figures), round(time.time() - began, 3))
        self._say(cases, tests)
        if self.failed:
            raise CasesFailedError(self._line(cases), SOME_FAILED)
        sys.stderr.write(f"medsal: {self._line(cases)}\n")
        return tests

    def _scores(self) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        """The table of all regions, and the regions of each film."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        labels: dict[str, Tensor] = {}
        for files in self.study.cases.found:
            try:
                found, labels[files.case], resampled = score_case(self.study, files, self.settings)
            except Exception as error:  # noqa: BLE001  recorded with the film; the others go on
                _LOG.debug("film %s failed", files.case, exc_info=error)
                self.failed[files.case] = reason(error)
                continue
            rows += found
            if resampled:
                self.resampled[files.case] = dict(resampled)
        names = region_names(self.study, tuple(sorted({row["region"] for row in rows})))
        return pd.DataFrame([{**row, "region": names[row["region"]]} for row in rows], columns=list(COLUMNS)), labels

    def _cases(self) -> pd.DataFrame:
        """The table of films: group, doubts, and why one is not tested."""
        import pandas as pd

        rows = []
        groups, doubts = self.study.groups, self.study.doubts
        for files in self.study.cases.found:
            doubt = doubts.get(files.case, "")
            out = f"doubted: {doubt}" if doubt and self.settings.doubted == "leave out" else ""
            row = {"case": files.case, "patient": files.patient, "group": groups.group[files.case], "doubts": doubt}
            said = {f"reader {name}": by_case.get(files.case, float("nan")) for name, by_case in groups.readers.items()}
            rows.append({**row, "left_out": self.failed.get(files.case, out), **said})
        return pd.DataFrame(rows)

    def _figures(
        self, scores: pd.DataFrame, cases: pd.DataFrame, tests: pd.DataFrame, labels: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, bytes]]:
        from medsal.studies.regions.figures import draw_effects, draw_groups

        drawn = tests[tests["preset"] == self.settings.tests[0]]
        flat = all(label.ndim == 4 for label in labels.values())
        for reduce in self.settings.reduce:
            own = drawn[drawn["reduce"] == reduce]
            yield f"groups_{reduce}.png", draw_groups(scores[scores["reduce"] == reduce], cases, own)
            if flat:
                names = region_names(
                    self.study, tuple(sorted({int(c) for one in labels.values() for c in one.flatten().tolist()} - {0}))
                )
                yield f"effects_{reduce}.png", draw_effects(own, list(labels.values()), names)

    def _record(self, cases: pd.DataFrame, figures: list[str], seconds: float) -> None:
        """Write what was done, with digests of what went in and of what came out."""
        anonymous = any(files.anonymous for files in self.study.cases.found)
        plain = portable(unnamed(self.config) if anonymous and self.config else self.config or {})
        inputs = {
            files.case: {what: file_sha256(path) for what, path in files.files().items() if path.is_file()}
            for files in self.study.cases.found
        }
        regions = self.study.regions
        kind = "lungs" if regions.lungs_dir else "grid" if regions.cells else "label maps"
        content = {
            "medsal": __version__,
            "settings": self.settings.as_dict(),
            "regions": {"kind": kind, "cells": list(regions.cells), "key": regions.key},
            "config": plain,
            "config_sha256": digest(plain),
            "sources": self.study.cases.facts,
            "films": _counts(cases),
            "exclusions": {**self.study.cases.excluded, **self.failed},
            "doubts": {row["case"]: row["doubts"] for row in cases.to_dict("records") if row["doubts"]},
            "resampled": self.resampled,
            "inputs": inputs,
            "inputs_sha256": digest(inputs),
            "files": {
                **{name: file_sha256(self.folder / name) for name in TABLES},
                **{f"figures/{name}": file_sha256(self.folder / "figures" / name) for name in figures},
            },
            "versions": versions(),
            "seconds": seconds,
        }
        whole = json.loads(json_bytes(content))
        whole["record_sha256"] = digest(whole)
        write_file(self.folder / RECORD, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())

    def _say(self, cases: pd.DataFrame, tests: pd.DataFrame) -> None:
        """What was found, in the log."""
        for name, count in _counts(cases).items():
            _LOG.info("%s: %d films of %d patients tested, %d left out", name, *count.values())
        for case, why in self.study.cases.excluded.items():
            _LOG.warning("left out: %s %s", case, why)
        for row in tests.to_dict("records"):
            text = "%s %s %s: %s - %s in %s: d %.2f, p %.3g, corrected %.3g"
            names = (row["method"], row["reduce"], row["preset"], row["group"], row["reference"], row["region"])
            _LOG.info(text, *names, row["cohen_d"], row["p"], row["p_corrected"])

    def _line(self, cases: pd.DataFrame) -> str:
        """How the study ended."""
        tested = int((cases["left_out"] == "").sum())
        doubted = int(cases["left_out"].str.startswith("doubted").sum())
        line = f"{tested} of {len(cases)} films tested"
        line += f", {doubted} left out as their lung fields are doubted" if doubted else ""
        line += f", {len(self.study.cases.excluded)} not scored" if self.study.cases.excluded else ""
        if not self.failed:
            return f"{line}; results in {self.folder}"
        shown = "; ".join(f"{case}: {why}" for case, why in list(self.failed.items())[:_SHOWN])
        more = f"; and {len(self.failed) - _SHOWN} more" if len(self.failed) > _SHOWN else ""
        return f"{line}, {len(self.failed)} failed: {shown}{more}"


def _counts(cases: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Of each group: films and patients that were tested, films that were left out."""
    used = cases[cases["left_out"] == ""]
    out = Counter(cases[cases["left_out"] != ""]["group"])
    found = {}
    for name in sorted(set(cases["group"])):
        own = used[used["group"] == name]
        found[name] = {"films": len(own), "patients": own["patient"].nunique(), "left_out": out[name]}
    return found
