"""A place where archives and modalities can send studies to: a process of its own that is started again if it dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from medsal.errors import UsageError
from medsal.pacs.listener_process import DRAIN_SECONDS
from medsal.pacs.nodes import Site
from medsal.pacs.tls import server_context
from medsal.pacs.troubles import Problem, Trouble

LOGGER = logging.getLogger(__name__)

_START_SECONDS = 60.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # before it is started again
_STEADY_SECONDS = 60.0  # after which it counts as healthy again


class Listener:
    """The C-STORE and C-ECHO service of a site. What it receives lies in the site's `Spool`.

    It answers success when an object is on the disk under its name, 0xA700 where there is no room, 0xA900 and 0xC000
    for objects that are not what they say or cannot be read. It gives no storage commitment: a spool is emptied, and a
    sender may delete what it was promised to be kept.

    Args:
        site: with its ``listener``.

    Raises:
        UsageError: the site has none, or its certificates cannot be loaded.

    Example:
        ::

            with Listener(load_site("medsal-pacs.toml")) as listener:
                ...  # studies appear in Spool(site.folder, site.work).quiet()
    """

    def __init__(self, site: Site) -> None:
        if site.listener is None:
            raise UsageError(f"{site.file or 'site'}: no table [listener]; listening needs one")
        self.site, self.listening = site, site.listener
        if self.listening.tls is not None:
            server_context(self.listening.tls)
        self._process: subprocess.Popen[bytes] | None = None
        self._ending, self._settled = threading.Event(), threading.Event()
        self._trouble: Trouble | None = None
        self._counts: dict[str, int] = {}
        self._past: dict[str, int] = {}
        self._thread = threading.Thread(target=self._keep, name="medsal-listener", daemon=True)
        self.starts = 0

    def start(self) -> Listener:
        """Start it.

        Returns:
            Itself, when peers can connect.

        Raises:
            Trouble: ``busy`` where the port or the folder is taken, ``tls``, ``disk_full``, or ``crashed``.
        """
        self._thread.start()
        if not self._settled.wait(_START_SECONDS):
            self._trouble = Trouble(Problem.TIMEOUT, "the listener does not start")
        if self._trouble is not None:
            self.stop()
            raise self._trouble
        return self

    def stop(self) -> None:
        """End it: nobody may connect any more, associations may end."""
        self._ending.set()
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                process.stdin.close()
            try:
                process.wait(DRAIN_SECONDS + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread.is_alive():
            self._thread.join(10)

    @property
    def pid(self) -> int | None:
        """Of its process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def counts(self) -> Mapping[str, int]:
        """What happened since `start`: ``stored``, ``associations``, and refusals by their codes."""
        return {key: self._past.get(key, 0) + self._counts.get(key, 0) for key in {**self._past, **self._counts}}

    def __enter__(self) -> Listener:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _keep(self) -> None:
        """Start the process, again and again, until it is not wanted any more."""
        quick = 0
        while not self._ending.is_set():
            begun = time.monotonic()
            self._live()
            if not self._settled.is_set():
                self._trouble = self._trouble or Trouble(Problem.CRASHED, "the listener")
                self._settled.set()
                return
            if self._ending.is_set():
                return
            quick = 0 if time.monotonic() - begun > _STEADY_SECONDS else quick + 1
            pause = _PAUSES[min(quick, len(_PAUSES)) - 1] if quick else 0.0
            LOGGER.warning("the listener ended; it is started again in %g s", pause)
            self._ending.wait(pause)

    def _live(self) -> None:
        """One life of the process."""
        self._past, self._counts = dict(self.counts), {}
        self.starts += 1
        with subprocess.Popen(
            [sys.executable, "-m", "medsal.pacs.listener_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings and tracebacks of libraries quote what peers send
            env=_environment(),
        ) as process:
            self._process = process
            told, said = process.stdin, process.stdout
            if told is None or said is None:  # pipes were asked for
                return
            with contextlib.suppress(OSError):  # it has ended already
                told.write(pickle.dumps((self.site.folder, self.listening, self.site.work)))
                told.flush()
            if self._ending.is_set():
                told.close()
            for line in said:
                self._hear(json.loads(line))

    def _hear(self, said: dict[str, Any]) -> None:
        if "counts" in said:
            self._counts = said["counts"]
        elif "problem" in said:
            self._trouble = Trouble(Problem(said["problem"]), said["detail"])
            LOGGER.warning("%s", self._trouble)
        else:
            self._trouble = None
            self._settled.set()


def _environment() -> dict[str, str]:
    """Of the process: few arenas and threads, so that its memory is what it uses; the same modules."""
    few = dict.fromkeys(("MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **few, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
