"""The folder of results: one folder for each series that is there whole or not at all, and one run at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsal.errors import MedsalError, UsageError
from medsal.files import json_bytes, write_file

RECORD = "result.json"
"""In the folder of each series: what it was made from, and its files."""


class DiskError(MedsalError):
    """Results cannot be written: those of other series could not be either."""


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into ones that say so.

    Args:
        folder: that is written to.

    Yields:
        Nothing.

    Raises:
        DiskError: for an ``OSError``, also where a `MedsalError` was made of it.
        MedsalError: any other, as it came.
    """
    try:
        yield
    except OSError as error:
        cause = error
    except MedsalError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        cause = error.__cause__
    else:
        return
    why = cause.strerror or type(cause).__name__
    raise DiskError(f"cannot write results in {folder}: {why}; what is done stays, run again")


class ResultsFolder:
    """Results of series under their pseudonyms.

    Args:
        root: the folder; made where it is missing.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"OUT: cannot make {self.root} ({error.strerror})") from error

    @contextlib.contextmanager
    def alone(self, part: str) -> Iterator[None]:
        """Keep a second run of the same part out; the system lets go of the lock when the process ends, however.

        Args:
            part: of the job.

        Yields:
            Nothing.

        Raises:
            UsageError: another run is at work.
        """
        import fcntl

        path = self.root / f".{part}.lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"OUT: another run is writing to {self.root}; wait for it, or choose another"
                ) from None
            yield

    def finished(self, name: str, fingerprint: str) -> dict[str, Any]:
        """The record of a series that needs no work.

        Args:
            name: pseudonym of the series.
            fingerprint: what it must have been made from.

        Returns:
            The record; empty where there is none, it is of something else, or a file is missing or of another size.
        """
        folder = self.root / name
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            sizes = {entry["file"]: (folder / entry["file"]).stat().st_size for entry in record["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        whole = all(sizes[entry["file"]] == entry["size"] for entry in record["files"])
        return record if whole and record.get("fingerprint") == fingerprint else {}

    def put(self, name: str, record: Mapping[str, Any], write: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Make the folder of a series and put it in its place in one step.

        A run that is killed leaves a hidden folder at most, which the next one clears away.

        Args:
            name: pseudonym of the series.
            record: what it was made from.
            write: writes its files into a folder, and returns them.

        Returns:
            The record with ``files``.

        Raises:
            DiskError: the disk is full, or the folder cannot be written.
        """
        place, made, old = (self.root / each for each in (name, f".{name}.part", f".{name}.old"))
        self.clear(name)
        try:
            with disk_errors(self.root):
                made.mkdir()
                files = sorted(write(made))
                sizes = [{"file": str(path.relative_to(made)), "size": path.stat().st_size} for path in files]
                whole = {**record, "files": sizes}
                write_file(made / RECORD, json_bytes(whole))
                _settle(made)
                if place.exists():
                    place.replace(old)
                made.replace(place)
        finally:
            if old.exists() and not place.exists():
                old.replace(place)
            self.clear(name)
        return whole

    def clear(self, name: str) -> None:
        """Remove what a run left behind that was killed while it made a series.

        Args:
            name: pseudonym of the series.
        """
        for ending in ("part", "old"):
            shutil.rmtree(self.root / f".{name}.{ending}", ignore_errors=True)


def _settle(folder: Path) -> None:
    """Have the files on the disk before their folder gets its name."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
