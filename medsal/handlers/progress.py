"""How far a run is, on a terminal or in a log."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

from ignite.engine import Engine, Events

from medsal.bundle.results import named
from medsal.engines import AttributionEvents
from medsal.ledger import Ledger, rank


class ProgressBar:
    """How far a run is: a bar over cases and methods on a terminal, else one line per case.

    ``MEDSAL_PROGRESS`` may be ``off``, ``bar`` or ``lines``; without it a terminal gets the bar.

    Args:
        ledger: lets cases that were finished before count as done.
        stream: where to write; standard error by default.
    """

    def __init__(self, ledger: Ledger | None = None, *, stream: IO[str] | None = None) -> None:
        self.ledger = ledger
        self.stream = stream
        self.cases = self.total = self.before = self.methods = 0
        self._bar: Any = None
        self._began = self._last = 0.0

    def attach(self, engine: Engine) -> None:
        """Listen to an engine.

        Args:
            engine: an ``AttributionEvaluator``.
        """
        wanted = os.environ.get("MEDSAL_PROGRESS", "auto")
        if wanted == "off" or rank() != 0:
            return
        self.stream = self.stream or sys.stderr
        bar = wanted == "bar" or (wanted != "lines" and self.stream.isatty())
        engine.add_event_handler(Events.STARTED, self._start, bar=bar)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(AttributionEvents.BATCH_FAILED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        if bar:
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine, *, bar: bool) -> None:
        """Count what there is to do."""
        loader = engine.data_loader
        own = len(getattr(loader, "sampler", None) or loader.dataset)
        alone = own == len(loader.dataset)
        self.before = len(self.ledger.skipped) if self.ledger and alone else 0
        self.cases, self.total, self.methods = self.before, own + self.before, len(engine.methods)
        self._began = self._last = time.monotonic()
        if bar:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total * self.methods,
                initial=self.before * self.methods,
                unit="map",
                file=self.stream,
                leave=False,
            )

    def _advance(self, engine: Engine) -> None:
        """Say which cases came to their end."""
        failed = {str(failure.case.get("case", "?")): failure.error for failure in engine.state.failures}
        names = [str(named(b, o)["case"]) for b, o in zip(engine.state.batch, engine.state.output, strict=True)]
        names += [name for name in failed if name not in names]
        now = time.monotonic()
        for name in names:
            self._say(name, failed.get(name), (now - self._last) / len(names), now)
        self._last = now

    def _say(self, name: str, error: str | None, seconds: float, now: float) -> None:
        """One case."""
        self.cases += 1
        left = (now - self._began) / (self.cases - self.before) * (self.total - self.cases)
        status = "done" if error is None else f"failed: {error};"
        line = f"{self.cases}/{self.total} {name} {status} {seconds:.1f} s, {duration(left)} left"
        if self._bar is None:
            assert self.stream is not None
            self.stream.write(f"{line}\n")
            self.stream.flush()
            return
        self._bar.set_postfix_str(name)
        self._bar.update(self.methods)
        if error is not None:
            self._bar.write(line, file=self.stream)

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:  # noqa: ARG002  the signature of Ignite
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if error is not None:
            raise error  # an engine with a handler for errors would otherwise keep them to itself


def duration(seconds: float) -> str:
    """Write a time span for a reader.

    Args:
        seconds: how long.

    Returns:
        Seconds, minutes or hours.

    Example:
        >>> duration(16.2), duration(200), duration(9000)
        ('16 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
