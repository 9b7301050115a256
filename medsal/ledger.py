"""The ledger of a run: which cases are finished, by what, and what the run as a whole did.

A case is finished when its record ``cases/<case>.json`` says ``done``, carries the fingerprint of today's inputs and
configuration, and every file that it lists is there with its size. The record is written last and in one step, so a run
that is killed at any time leaves nothing that a later run takes for finished.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsal.bundle.fingerprint import NO_CASES, contents, digest, fingerprint, named_apart, setup_digest
from medsal.bundle.neighbours import neighbours, refuse_strangers
from medsal.errors import MedsalError, NothingToDoError, UsageError
from medsal.files import write_file

_LOG = logging.getLogger("medsal")

TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.part")
"""Names of files that ``medsal.files.write_file`` is writing, in the folder of the file itself."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the cases of a run.

    Attributes:
        cases: case -> ``done``, ``failed`` or ``pending``.
        skipped: how many of the done ones an earlier run had finished.
        interrupted: whether the run was stopped before its end.
    """

    cases: Mapping[str, str]
    skipped: int = 0
    interrupted: bool = False

    def count(self, status: str) -> int:
        """Count the cases with a status.

        Args:
            status: ``done``, ``failed`` or ``pending``.

        Returns:
            Their number.
        """
        return sum(found == status for found in self.cases.values())

    @property
    def exit_code(self) -> int:
        """130 interrupted, 5 all failed, 4 some failed, 0 all done."""
        if self.interrupted:
            return 130
        bad = len(self.cases) - self.count("done")
        return 0 if not bad else 5 if bad == len(self.cases) else 4


class Ledger:
    """The records of one output folder.

    Two processes may share a folder: each writes the records of its own cases, rank 0 what belongs to all.

    Args:
        output_dir: the folder of the run; made if it is not there.
        config: the raw merged configuration of the run; None: unknown, then no case counts as finished.
        network: the network, whose weights must have come through ``medsal.bundle.load_weights``.
        model_sha256: digest of the weights, where there is no network to ask.

    Raises:
        UsageError: if the folder cannot be written to, or nothing was loaded into the network.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        network: Any = None,
        model_sha256: str = "",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.config = config
        self.model = {"path": "", "sha256": model_sha256}
        if network is not None:
            from medsal.bundle.weights import weights_record

            self.model = weights_record(network)
        self.setup = setup_digest(config, self.model["sha256"])
        self.items: list[dict[str, Any]] = []
        self.positions: dict[str, int] = {}
        self.fingerprints: dict[str, str] = {}
        self.skipped: list[str] = []
        self.others: list[dict[str, Any]] = []
        self._facts: dict[str, dict[str, Any]] = {}
        try:
            write_file(self._folder / f".writable-{os.getpid()}", b"").unlink()
        except MedsalError as error:
            raise UsageError(f"output_dir: {error}") from error

    @property
    def _folder(self) -> Path:
        return self.output_dir / "cases"

    def pending(self, datalist: Iterable[Any], *, limit: int = 0) -> list[dict[str, Any]]:
        """Choose the cases of this run that are not finished, before any of them is loaded.

        Args:
            datalist: items with ``image`` and, where known, ``case``, ``subject``, ``session``; or paths.
            limit: how many cases to take from the front; 0 takes all.

        Returns:
            The unfinished ones, each with ``case``, ``subject`` and ``session``.

        Raises:
            NothingToDoError: if the list is empty.
            UsageError: if two cases have one name, or the folder holds an anonymous case of another image or of
                another kind of names.
        """
        from medsal.export import repeated_subjects

        items = named_apart(datalist)[: limit or None]
        if not items:
            raise NothingToDoError(NO_CASES)
        sources: dict[str, Any] = {}
        for item in items:
            if item["case"] in sources:
                raise UsageError(f"case {item['case']} comes twice: {sources[item['case']]} and {item['image']}")
            sources[item["case"]] = item["image"]
        if rank() == 0:
            self.sweep()
        records = self.records()
        self.items, self.others = items, neighbours(items, records)
        repeated = repeated_subjects([*items, *self.others])  # a subject's cases then carry the session in their names
        self.positions = {item["case"]: index for index, item in enumerate(items)}
        for item in items:
            whole = {**item, "repeated": item["subject"] in repeated}
            inputs = contents(whole)
            self.fingerprints[item["case"]] = fingerprint(whole, self.config, self.model["sha256"], inputs)
            image = digest(inputs["image"]) if inputs else ""
            self._facts[item["case"]] = {"image": image, "anonymous": bool(item.get("anonymous"))}
        refuse_strangers(items, records, {case: facts["image"] for case, facts in self._facts.items()})
        self.skipped = [case for case, mark in self.fingerprints.items() if self.finished(case, mark)]
        barrier()  # no process may write before every process has read
        if self.skipped:
            _LOG.info("%d of %d cases were finished before", len(self.skipped), len(items))
        return [item for item in items if item["case"] not in set(self.skipped)]

    def finished(self, case: str, fingerprint: str) -> bool:
        """Whether a case needs no work.

        Args:
            case: its name.
            fingerprint: what it must have been made from.

        Returns:
            True if its record is done, of this fingerprint, and all its files are there with their sizes.
        """
        record = self.read(case)
        if record.get("status") != "done" or record.get("fingerprint") != fingerprint:
            return False
        paths = [(self.output_dir / entry["path"], entry["size"]) for entry in record["files"]]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    def read(self, case: str) -> dict[str, Any]:
        """Read the record of a case.

        Args:
            case: its name.

        Returns:
            The record; empty if there is none that can be read.
        """
        try:
            found = json.loads((self._folder / f"{case}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self, case: str) -> None:
        """Say that the files of a case are about to be written, so that its old record no longer vouches for them.

        Args:
            case: its name.
        """
        old = self.read(case)
        if old:
            self._write({**old, "status": "started"})

    def finish(self, record: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
        """Write the record of a case, after its files; files that only its old record lists are removed.

        A failed case keeps what an earlier run made of it; its record says that it failed.

        Args:
            record: ``case``, ``subject``, ``session``, ``status`` (``done`` or ``failed``), ``error`` and more.
            files: the files of the case.

        Returns:
            The record as written.
        """
        case = record["case"]
        old = {entry["path"] for entry in self.read(case).get("files", ())}
        entries = {path.relative_to(self.output_dir).as_posix(): path.stat().st_size for path in sorted(files)}
        if record["status"] == "done":
            for path in old - set(entries):
                self._remove(path)
        else:
            entries |= {path: _size(self.output_dir / path) for path in old - set(entries)}
        listed = [{"path": path, "size": size} for path, size in sorted(entries.items())]
        made = {"setup": self.setup, "model": self.model["sha256"], "fingerprint": self.fingerprints.get(case, "")}
        full = {**record, **self._facts.get(case, {}), **made, "files": listed}
        self._write(full)
        return full

    def records(self) -> list[dict[str, Any]]:
        """Read every record of the folder, also those of earlier runs.

        Returns:
            The records, by name of the case.
        """
        return [record for path in sorted(self._folder.glob("*.json")) if (record := self.read(path.stem))]

    def outcome(self, *, interrupted: bool = False) -> Outcome:
        """Say what became of the cases of this run, by what is on the disk.

        Args:
            interrupted: whether the run was stopped before its end.

        Returns:
            The outcome.
        """
        cases = {}
        for case, mark in self.fingerprints.items():
            record = self.read(case)
            same = record.get("fingerprint") == mark
            cases[case] = record["status"] if same and record["status"] in {"done", "failed"} else "pending"
        return Outcome(cases=cases, skipped=len(self.skipped), interrupted=interrupted)

    def sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for folder, _, names in os.walk(self.output_dir):
            for name in names:
                if TEMPORARY.fullmatch(name):
                    (Path(folder) / name).unlink(missing_ok=True)

    def _write(self, record: Mapping[str, Any]) -> None:
        write_file(self._folder / f"{record['case']}.json", json.dumps(record, indent=1, default=str).encode())

    def _remove(self, path: str) -> None:
        """Remove a file of an old record, if it lies inside the output folder, and the folders that it leaves empty."""
        root, file = self.output_dir.resolve(), (self.output_dir / path).resolve()
        if not file.is_relative_to(root):
            return
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the first folder that holds something ends it
            for folder in file.parents[: len(file.relative_to(root).parts) - 1]:
                folder.rmdir()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def rank() -> int:
    """Number of this process among those of the run.

    Returns:
        0 where the run has one process.
    """
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait for the other processes of the run, if there are any."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
