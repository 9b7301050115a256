"""`medsal dicom explain`: from a folder of DICOM to a folder of results, every series with its end."""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.bundle.exits import ALL_FAILED, DONE, NOTHING, SOME_FAILED, exit_code, root_cause
from medsal.dicom.grid import NativeGrid
from medsal.dicom.model import Explained, Model
from medsal.dicom.phi import CLEANER, pseudonym, quiet
from medsal.dicom.progress import Lines
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.results_folder import DiskError, ResultsFolder
from medsal.dicom.save import SERIES_KINDS, results, save_results
from medsal.dicom.scan import Series
from medsal.dicom.select import Selection
from medsal.dicom.sources import SERIES_NUMBERS, Study, open_study
from medsal.dicom.units import Found, Shard, begin, counts, unit_name
from medsal.errors import MedsalError, UsageError
from medsal.files import json_bytes, write_file

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from pydicom import Dataset

_LOG = logging.getLogger("medsal")
_EVERY = 5.0
"""Seconds between two writings of run.json while a run goes on."""


@dataclass
class End:
    """What became of a series.

    Attributes:
        series: its pseudonym.
        study: of its study.
        status: ``pending``, ``done``, ``refused`` or ``failed``.
        selected: whether the rules took it.
        reason: code of the refusal; class of the error of one that failed.
        detail: of it.
        before: whether an earlier run had finished it.
        seconds: that it took.
        prediction: of the model.
        files: below its folder.
    """

    series: str
    study: str
    status: str = "pending"
    selected: bool = False
    reason: str = ""
    detail: str = ""
    before: bool = False
    seconds: float = 0.0
    prediction: str = ""
    files: list[str] = field(default_factory=list)


def _why(error: BaseException) -> tuple[str, str, str]:
    """Status, reason and detail of a series that was not explained."""
    if isinstance(error, Refusal):
        return "refused", error.reason.value, error.detail
    said = CLEANER.clean(" ".join(str(error).split())) if isinstance(error, MedsalError) else ""
    return "failed", type(error).__name__, said


def plan(found: Found, chosen: Selection) -> tuple[list[Series], dict[str, End]]:
    """Give every series its place in the books before any work begins.

    Args:
        found: what is there.
        chosen: what the rules took.

    Returns:
        The series to explain, and what is known of the end of each, by pseudonym.
    """
    ends = {unit_name(one): End(unit_name(one), pseudonym(one.study_uid, "study")) for one in found.series}
    work = list(dict.fromkeys(series for _, series in chosen.chosen))
    for series in work:
        ends[unit_name(series)].selected = True
    for rejected in chosen.rejected:
        if rejected.series is None:
            continue
        end = ends[unit_name(rejected.series)]
        if not end.selected and end.status == "pending":
            end.status, end.reason, end.detail = "refused", rejected.refusal.reason.value, rejected.refusal.detail
    return work, ends


class Job:
    """One run over the series that were selected.

    Args:
        model: what explains them.
        folder: of the results.
        found: what is there.
        chosen: what the rules took.
        kinds: of DICOM results; the usual ones if None.
        shard: the part of the studies that ``found`` holds.

    Raises:
        UsageError: an unknown kind, or the folder cannot be made.
    """

    def __init__(
        self,
        model: Model,
        folder: str | Path,
        found: Found,
        chosen: Selection,
        *,
        kinds: Sequence[str] | None = None,
        shard: Shard | None = None,
    ) -> None:
        unknown = sorted(set(kinds or ()) - set(SERIES_NUMBERS))
        if unknown:
            raise UsageError(f"kinds: wanted of {', '.join(SERIES_NUMBERS)}, got {', '.join(unknown)}")
        self.model, self.found, self.kinds, self.shard = model, found, kinds, shard or Shard()
        self.folder = ResultsFolder(folder)
        self.work, self.ends = plan(found, chosen)
        self.stopped: BaseException | None = None
        self._began = time.time()
        self._written = 0.0

    @property
    def record_name(self) -> str:
        """Name of the file that says what became of all: ``run.json``, or one for each part of several."""
        part = self.shard
        return "run.json" if part.of == 1 else f"run-{part.number}-of-{part.of}.json"

    def run(self) -> int:
        """Explain what is not finished, and write down the end of every series.

        Returns:
            The exit code.

        Raises:
            BaseException: whatever stopped the run, such as an interrupt; the record says so.
        """
        from medsal.bundle.running import terminable

        with self.folder.alone(self.record_name.removesuffix(".json")):
            try:
                with terminable():
                    self._write()
                    self._all()
            except BaseException as error:
                self.stopped = error
                raise
            finally:
                self._write()
        return self.exit_code

    def _all(self) -> None:
        lines = Lines(len(self.work))
        for series in self.work:
            end = self.ends[unit_name(series)]
            began = time.monotonic()
            begin(series)
            self._one(series, end)
            end.seconds = round(time.monotonic() - began, 3)
            said = {"done": "done before" if end.before else "done"}.get(end.status, f"{end.status}: {end.reason};")
            lines.say(end.series, said, worked=not end.before)
            if time.monotonic() - self._written > _EVERY:
                self._write()

    def _one(self, series: Series, end: End) -> None:
        """Explain one series; whatever goes wrong with it, the others go on."""
        try:
            with quiet():
                record = self._record(series, end)
        except Exception as error:  # noqa: BLE001  whatever is wrong with one series, the others go on
            _LOG.debug("%s failed", end.series, exc_info=error)
            cause = root_cause(error)
            if isinstance(cause, UsageError | DiskError):
                raise cause from None
            end.status, end.reason, end.detail = _why(cause)
        else:
            end.status, end.prediction = "done", record["prediction"]
            end.files = [f"{end.series}/{entry['file']}" for entry in record["files"]]

    def _record(self, series: Series, end: End) -> dict[str, Any]:
        """The record of a series: of an earlier run, or made now."""
        fingerprint = self._fingerprint(series)
        known = self.folder.finished(end.series, fingerprint)
        if known:
            end.before = True
            return known
        image = self.model.loader.read(series)
        image.meta["filename_or_obj"] = end.series  # what errors call it
        said = self.model.explain(image)
        grid = NativeGrid.of(image)
        notes = [*grid.notes, *said.notes]

        def write(place: Path) -> list[Path]:
            files: list[Path] = []
            for method in said.maps:
                study = open_study(grid, said.provenance[method])
                files += save_results(self._objects(study, image, said, notes), place)
            return files

        record = {
            "series": end.series,
            "study": end.study,
            "fingerprint": fingerprint,
            "prediction": said.findings.prediction,
            "probabilities": said.findings.probabilities,
            "provenance": {method: made.as_dict() for method, made in said.provenance.items()},
            "records": said.records,
            "notes": notes,  # writing adds to them
        }
        return self.folder.put(end.series, record, write)

    def _objects(self, study: Study, image: MetaTensor, said: Explained, notes: list[str]) -> list[Dataset]:
        """The results of one method; of a map that is 0 everywhere all but the region, which there is not."""
        method = study.provenance.method
        relevance = said.maps[method]
        try:
            return results(study, image, relevance, said.findings, self.kinds)
        except Refusal as refusal:
            others = [kind for kind in self.kinds or SERIES_KINDS if kind != "seg"]
            if refusal.reason is not Reason.BLANK_MAP or not others:
                raise
        notes.append(f"{method}: the map is 0 everywhere; no region was written")
        return results(study, image, relevance, said.findings, others)

    def _fingerprint(self, series: Series) -> str:
        """Digest of the files, the setup and what is written."""
        digests = sorted(one.digest for one in series.files)
        kinds = None if self.kinds is None else sorted(self.kinds)
        return hashlib.sha256(json_bytes([digests, self.model.setup, kinds, __version__])).hexdigest()

    @property
    def exit_code(self) -> int:
        """That of what stopped the run (130 interrupted); 3 nothing selected, 5 none of it done, 4 some not, 0 all."""
        if self.stopped is not None:
            return exit_code(self.stopped)
        done = [self.ends[unit_name(one)].status == "done" for one in self.work]
        if not done:
            return NOTHING
        return DONE if all(done) else SOME_FAILED if any(done) else ALL_FAILED

    def as_dict(self) -> dict[str, Any]:
        """What became of every series.

        Returns:
            The content of ``run.json``.
        """
        from medsal.bundle.summary import versions

        ends = list(self.ends.values())
        statuses = ("done", "refused", "failed", "pending")
        return {
            "medsal": __version__,
            "began": datetime.datetime.fromtimestamp(self._began, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._began, 3),
            "exit_code": self.exit_code,
            "interrupted": isinstance(self.stopped, KeyboardInterrupt),
            "shard": str(self.shard),
            "counts": {
                **{status: sum(end.status == status for end in ends) for status in statuses},
                "selected": len(self.work),
                "finished_before": sum(end.before for end in ends),
                "total": len(ends),
            },
            "model": self.model.provenance.as_dict(),
            "versions": versions(),
            "refused_files": counts(self.found.refused),
            "series": [vars(end) for end in ends],
        }

    def _write(self) -> None:
        write_file(self.folder.root / self.record_name, json_bytes(self.as_dict()))
        self._written = time.monotonic()

    def closing(self) -> str:
        """How the run ended.

        Returns:
            One line.
        """
        found = self.as_dict()["counts"]
        done = f"{found['done']} of {found['selected']} selected series done"
        done += f" ({found['finished_before']} of them before)" if found["finished_before"] else ""
        codes = counts(Refusal(Reason(end.reason)) for end in self.ends.values() if end.status == "refused")
        refused = f", {found['refused']} refused ({', '.join(f'{n} {code}' for code, n in codes.items())})"
        failed = f", {found['failed']} failed" if found["failed"] else ""
        place = self.folder.root / self.record_name
        return f"medsal dicom explain: {done}{refused if codes else ''}{failed}; see {place}"
