"""Each study is explained in a process of its own, so that one that crashes, hangs or fills the memory harms no other.

The processes are forked from a server that has imported torch and MONAI once, which makes a new one in a twentieth of
a second. The server itself loads no model and computes nothing: threads of OpenMP do not survive a fork.

Memory is limited in two ways. The resident memory of the process and its children is looked at 20 times a second, and
the whole group is killed above ``memory_gib``; virtual memory (``RLIMIT_AS``) says nothing with torch, which reserves
gigabytes that it never touches. Writable memory (``RLIMIT_DATA``) beyond that of the server is bounded at twice that,
so that no single allocation can be faster than who watches; not with CUDA, whose driver reserves as it likes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, ForkServerProcess
from pathlib import Path
from typing import Any

from medsal.dicom.uids import valid_uid
from medsal.errors import UsageError
from medsal.files import json_bytes
from medsal.pacs.jobs import Result
from medsal.pacs.nodes import Site
from medsal.pacs.troubles import Problem, Trouble

_PRELOAD = ["medsal.pacs.warm"]
_START = 300.0  # seconds for the server to import and to fork
_EVERY = 0.05  # seconds between two looks
_LONGEST = 2**26  # bytes of an answer
_OURS = {signal.SIGINT, signal.SIGTERM}  # who asked decides what becomes of a study when a service is to end


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a study.

    Attributes:
        results: everything that was made.
        counts: ``series``, ``selected``, ``done``, ``refused_files`` and ``results``; ``reasons`` why series were not
            explained, code -> number.
        failed: reason and detail of every series that was selected and could not be explained.
        seconds: that it took.
    """

    results: tuple[Result, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    @property
    def selected(self) -> int:
        """Number of series that the rules took."""
        return int(self.counts.get("selected", 0))

    @property
    def reasons(self) -> str:
        """Why series were not explained, in words."""
        return ", ".join(f"{number} {code}" for code, number in self.counts.get("reasons", {}).items())


def explain_study(source: str | Path, results: str | Path, site: Site, setup: str = "") -> Outcome:
    """Explain a study in a process of its own.

    Args:
        source: folder of its images.
        results: folder of its results; what is finished there is kept.
        site: with the bundle, its rules and options, and the limits.
        setup: from `setup_of`, that must still hold; not looked at where empty.

    Returns:
        What became of it.

    Raises:
        Trouble: ``crashed``, ``too_slow``, ``too_much_memory``, ``disk_full``, ``busy``, or ``unreadable``.
        UsageError: the bundle, the rules or an option are wrong, or no longer those of the setup.
    """
    began = time.monotonic()
    said = _ask(site, does="explain", source=str(source), results=str(results), setup=setup)
    ends = said["ends"]
    failed = tuple((end["reason"], end["detail"]) for end in ends if end["selected"] and end["status"] != "done")
    made = tuple(_result(one) for one in said["results"])
    return Outcome(
        results=made,
        counts={
            "series": len(ends),
            "selected": sum(end["selected"] for end in ends),
            "done": sum(end["status"] == "done" for end in ends),
            "results": len(made),
            "reasons": dict(sorted(Counter(end["reason"] for end in ends if end["reason"]).items())),
            "refused_files": said["refused_files"],
        },
        failed=failed,
        seconds=time.monotonic() - began,
    )


def _result(said: Mapping[str, str]) -> Result:
    path = Path(said["file"])
    if not valid_uid(said["uid"]) or path.is_absolute() or ".." in path.parts:
        raise Trouble(Problem.CRASHED, "an answer that cannot be")
    return Result(said["uid"], said["kind"], said["file"])


def select_study(source: str | Path, site: Site) -> list[str]:
    """Say which series of a study would be explained, and why not the others.

    Args:
        source: folder of its images.
        site: with the bundle and its rules.

    Returns:
        Lines without anything of the patient's.

    Raises:
        Trouble: as `explain_study` says.
        UsageError: the bundle or the rules are wrong.
    """
    lines: list[str] = _ask(site, does="select", source=str(source))["lines"]
    return lines


def setup_of(site: Site) -> str:
    """Digest of all that results depend on but the images: weights, configuration, rules, kinds, medsal's version.

    Args:
        site: with the bundle, its rules and options.

    Returns:
        A SHA-256.

    Raises:
        Trouble: as `explain_study` says.
        UsageError: the bundle, the rules or an option are wrong.
    """
    return str(_ask(site, does="setup")["setup"])


def _ask(site: Site, **asked: Any) -> dict[str, Any]:
    """Have something done in a process of its own."""
    if site.bundle is None:
        raise UsageError("[site] bundle: wanted the folder of a bundle, got none")
    level = logging.getLevelName(logging.getLogger("medsal").getEffectiveLevel())
    asked |= {
        "bundle": str(site.bundle),
        "rules": site.rules,
        "kinds": list(site.kinds) if site.kinds else None,
        "explain": dict(site.explain),
        "memory_gib": site.work.memory_gib,
        "log_level": level if level in {"DEBUG", "INFO", "WARNING", "ERROR"} else "WARNING",
    }
    with _process(json_bytes(asked)) as (process, answer):
        said = _watched(process, answer, site.work.seconds, site.work.memory_gib)
    if "usage" in said:
        raise UsageError(said["usage"])
    if "problem" in said:
        raise Trouble(Problem(said["problem"]), said["detail"])
    return said


@contextlib.contextmanager
def _process(task: bytes) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A process that works on a task; it and all that it started are gone afterwards."""
    from medsal.pacs.inside import work

    context: Any = processes()
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(task, theirs))
    try:
        process.start()
        theirs.close()
        yield process, ours
    finally:
        ours.close()
        _kill(process)


def processes() -> BaseContext:
    """Where processes come from: the server that forks them, running.

    It and what it forks are deaf to the signals that end a service: systemd sends them to all of its processes, and a
    study must not be blamed for that.

    Returns:
        Of multiprocessing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    resource_tracker.ensure_running()  # where it begins to run, it lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)  # the server inherits it; here they come a moment later
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _kill(process: ForkServerProcess) -> None:
    """Kill a process with its group, and wait for it."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.join(10)


def _watched(process: ForkServerProcess, answer: Connection, seconds: float, gib: float) -> dict[str, Any]:
    """Wait for the answer of a process while it keeps within its limits."""
    end, begun, most = time.monotonic() + _START, False, int(gib * 2**30)
    while True:
        if answer.poll(_EVERY):
            try:
                said = answer.recv_bytes(_LONGEST)
            except (EOFError, OSError):
                raise Trouble(Problem.CRASHED, _how(process)) from None
            if begun:
                return _read(said)
            begun, end = True, time.monotonic() + seconds
        if time.monotonic() > end:
            if not begun:
                raise Trouble(Problem.BUSY, f"no process could be started in {_START:g} s")
            raise Trouble(Problem.TOO_SLOW, f"{seconds:g} s")
        if resident(process.pid) > most:
            raise Trouble(Problem.TOO_MUCH_MEMORY, f"{gib:g} GiB")


def _read(said: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        raise Trouble(Problem.CRASHED, "an answer that cannot be") from None
    return found


def _how(process: ForkServerProcess) -> str:
    """How a process ended."""
    process.join(10)
    code = process.exitcode
    if code is None:
        return "it closed its connection"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def resident(pid: int | None) -> int:
    """Memory of a process and everything below it that is in use now, shared libraries too.

    Args:
        pid: its number.

    Returns:
        Bytes; 0 where the system does not say (it is not Linux).
    """
    total, todo = 0, [pid] if pid is not None and sys.platform == "linux" else []
    while todo:
        place = Path(f"/proc/{todo.pop()}")
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            total += int((place / "statm").read_text(encoding="ascii").split()[1])
            for thread in (place / "task").iterdir():
                todo += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return total * os.sysconf("SC_PAGE_SIZE")
