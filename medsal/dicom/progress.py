"""One line for each series while a command works, on standard error."""

from __future__ import annotations

import os
import sys
import time
from typing import IO


class Lines:
    """Says what became of each series: ``3/12 series-ab12 done 4.2 s, 40 s left``.

    ``MEDSAL_PROGRESS=off`` keeps it silent.

    Args:
        total: how many there are.
        stream: where to write; standard error by default.
    """

    def __init__(self, total: int, stream: IO[str] | None = None) -> None:
        self.total = total
        self.stream = stream or sys.stderr
        self.silent = os.environ.get("MEDSAL_PROGRESS", "auto") == "off"
        self.count = self.worked = 0
        self._began = self._last = time.monotonic()

    def say(self, name: str, status: str, *, worked: bool = True) -> None:
        """Say what became of one.

        Args:
            name: its pseudonym.
            status: in a few words.
            worked: whether it took any work; what took none does not count for the time that is left.
        """
        from medsal.handlers.progress import duration

        self.count += 1
        self.worked += worked
        now = time.monotonic()
        left = (now - self._began) / max(self.worked, 1) * (self.total - self.count)
        if not self.silent:
            self.stream.write(
                f"{self.count}/{self.total} {name} {status} {now - self._last:.1f} s, {duration(left)} left\n"
            )
            self.stream.flush()
        self._last = now
