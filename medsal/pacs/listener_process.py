"""The process of a listener: ``python -m medsal.pacs.listener_process``, told by standard input, ended by its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from medsal.errors import UsageError
from medsal.pacs.settings import Listening, Work
from medsal.pacs.troubles import Problem, Trouble

DRAIN_SECONDS = 20.0
"""How long a listener that is to end waits for its peers."""
_STACK = 2**19


def main() -> int:
    """Listen until standard input ends or SIGTERM comes.

    Returns:
        The exit code: 0 ended as asked, 1 it could not begin or go on; why stands on standard output then.
    """
    told = sys.stdin.buffer
    folder, listening, work = pickle.load(told)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _limit(listening)
    logging.disable(logging.CRITICAL)  # libraries quote what they are sent; what counts is counted
    try:
        with _alone(folder):
            _listen(folder, listening, work, told)
    except UsageError:  # of certificates that were changed since the parent looked at them
        trouble = Trouble(Problem.TLS, "certificates of the listener")
    except Trouble as error:
        trouble = error
    except Exception as error:  # noqa: BLE001  (its text may quote anything; the parent hears of its class)
        trouble = Trouble(Problem.CRASHED, type(error).__name__)
    else:
        return 0
    _say({"problem": trouble.problem.value, "detail": trouble.detail})
    return 1


def _limit(listening: Listening) -> None:
    most = int(listening.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    threading.stack_size(_STACK)
    os.umask(0o077)


@contextlib.contextmanager
def _alone(folder: Path) -> Any:
    """Only one listener receives into a folder: what it finds there of another is of one that was killed."""
    from medsal.pacs.parts import disk_trouble, private_folder

    with disk_trouble():
        lock = (private_folder(Path(folder) / "incoming") / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            busy = True
        else:
            busy = False
        if busy:
            raise Trouble(Problem.BUSY, "another listener receives into the folder")
        yield


def _listen(folder: Path, listening: Listening, work: Work, told: IO[bytes]) -> None:
    from pynetdicom import _config

    from medsal.pacs.listener_server import Server
    from medsal.pacs.spool import Spool

    _config.LOG_HANDLER_LEVEL = "none"
    spool = Spool(folder, work)
    spool.clear_incoming()
    context = None
    if listening.tls is not None:
        from medsal.pacs.tls import server_context

        context = server_context(listening.tls)
    try:
        server = Server(listening, spool, context)
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        why = ""
    if why:
        raise Trouble(Problem.BUSY, why)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    _say({"ready": os.getpid()})
    _report_until_told(server, told)
    server.shutdown()
    _drain(server)


def _report_until_told(server: Any, told: IO[bytes]) -> None:
    """Write the counts to standard output when they change."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    before: Counter[str] = Counter()
    while not ending.is_set():
        readable, _, _ = select.select([told], [], [], 0.5)
        if readable and not os.read(told.fileno(), 1024):
            return
        before = _counts(server, before)


def _counts(server: Any, before: Counter[str]) -> Counter[str]:
    now = Counter(server.counts)
    if now != before:
        _say({"counts": dict(sorted(now.items()))})
    return now


def _drain(server: Any) -> None:
    """Let associations end; those that go on are cut off."""
    end = time.monotonic() + DRAIN_SECONDS
    while server.inside and time.monotonic() < end:
        time.sleep(0.02)
    _counts(server, Counter())


def _say(what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of peers that do not end are no reason to stay
