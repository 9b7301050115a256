"""One SQLite file that survives a power cut and several processes; errors of it that say what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from medsal.errors import UsageError
from medsal.pacs.troubles import Problem, Trouble

VERSION = 1
"""Of its tables."""

_TABLES = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, node TEXT NOT NULL, setup TEXT NOT NULL, source TEXT NOT NULL,
    state TEXT NOT NULL, stage TEXT NOT NULL, seen INTEGER, held TEXT NOT NULL DEFAULT '',
    inputs TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '', counts TEXT NOT NULL DEFAULT '{}', created REAL NOT NULL, changed REAL NOT NULL);
CREATE INDEX jobs_by_state ON jobs (node, state, due);
CREATE INDEX jobs_by_study ON jobs (study);
CREATE TABLE results (
    job TEXT NOT NULL, inputs TEXT NOT NULL, uid TEXT NOT NULL, kind TEXT NOT NULL, file TEXT NOT NULL,
    PRIMARY KEY (job, inputs, uid)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class Books:
    """Opens the file; several processes may, `alone` says which of them works.

    Args:
        path: of the file; made where it is missing.
        read_only: only look; the file must be there.
        clock: seconds since 1970.

    Raises:
        UsageError: there is none to read, it is damaged, or a newer medsal wrote it.
        Trouble: ``disk_full`` or ``busy``.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(path), clock
        if read_only and not self.path.is_file():
            raise UsageError(f"no ledger at {self.path}: nothing has run for this site yet")
        with self._errors():
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # its journal gets the same mode
            mode = "ro" if read_only else "rw"
            self._base = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30.0)
            self._base.isolation_level = None  # transactions are begun by hand
            self._base.row_factory = sqlite3.Row
            self._open(read_only)

    def _open(self, read_only: bool) -> None:
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UsageError(
                f"the ledger {self.path} was written by a newer medsal (tables {version}, known here: {VERSION}): "
                "update medsal, or name another folder"
            )
        if not read_only:
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                if not self._base.execute("PRAGMA user_version").fetchone()[0]:
                    for statement in _TABLES.split(";"):
                        self._base.execute(statement)
        if self.check() != "ok":
            raise sqlite3.DatabaseError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def check(self) -> str:
        """Ask SQLite whether the file is whole.

        Returns:
            ``ok``, or what is wrong.
        """
        return str(self._base.execute("PRAGMA quick_check(1)").fetchone()[0])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second worker out; the system lets go when the process ends, however.

        Yields:
            Nothing.

        Raises:
            UsageError: another process works on these jobs.
        """
        import fcntl

        with self.path.with_name(f"{self.path.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another process works on the jobs of {self.path.parent}; wait for it or stop it"
                ) from None
            yield

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of SQLite and the disk into ones that say what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorname", "")
            if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                raise Trouble(Problem.DISK_FULL, f"the ledger cannot be written ({code})") from None
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise Trouble(Problem.BUSY, "the ledger is locked by another process") from None
            raise UsageError(f"the ledger {self.path} cannot be used ({code or type(error).__name__})") from None
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # a mistake of ours
                raise
            raise UsageError(
                f"the ledger {self.path} is damaged: move it away; the next run asks the nodes again, and sends "
                "nothing that they have"
            ) from None
        except OSError as error:
            raise UsageError(f"the ledger {self.path} cannot be opened ({error.strerror})") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.commit()
            except BaseException:
                self._base.rollback()
                raise
