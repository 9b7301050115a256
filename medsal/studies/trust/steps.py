"""The steps of a study: each done once, by whichever process comes to it, with the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medsal.errors import MedsalError
from medsal.studies.trust.records import Records

_LOG = logging.getLogger("medsal")
_PAUSE = 0.5
"""Seconds between two looks at steps that another process is doing."""


@dataclass(frozen=True)
class Step:
    """One thing to be done, whose result is a file of its own.

    Attributes:
        key: name of the file.
        words: for the reader of the log.
        run: gives the result.
    """

    key: str
    words: str
    run: Callable[[], dict[str, Any]]

    @property
    def kind(self) -> str:
        """What sort of step, for the time that is left."""
        return self.key.split("/", 1)[0]


def do_steps(records: Records, steps: Sequence[Step]) -> None:
    """Do the steps that are left, and say how long the rest will take.

    Several processes may work on one study: a step that another one is doing is left to it, and done here if that
    process ends without a result. All steps are done when this returns.

    Args:
        records: where results are kept; a step whose result is there is not done again.
        steps: in order.

    Raises:
        MedsalError: if a step fails; the error begins with what the step is called.
    """
    before = sum(records.done(step.key) for step in steps)
    if before:
        _LOG.info("%d of %d steps were done before", before, len(steps))
    clock = _Clock(records, steps, before)
    told = False
    while left := [step for step in steps if not records.done(step.key)]:
        if sum(_do(records, step, clock) for step in left):
            told = False
            continue
        if not told:
            _LOG.info("waiting for %d steps that other processes are doing, the first: %s", len(left), left[0].words)
            told = True
        time.sleep(_PAUSE)


def _do(records: Records, step: Step, clock: _Clock) -> bool:
    """Do a step unless it is done or another process is doing it."""
    if records.done(step.key):
        return False
    with records.claim(step.key) as mine:
        if not mine or records.done(step.key):
            return False
        began = time.monotonic()
        try:
            found = step.run()
        except MedsalError as error:
            raise type(error)(f"{step.words}: {error}") from error
        records.write(step.key, found)
        clock.say(step, time.monotonic() - began)
    return True


class _Clock:
    """How long the rest will take, from what steps of each kind took and how many processes share them."""

    def __init__(self, records: Records, steps: Sequence[Step], before: int) -> None:
        self.records, self.steps, self.before = records, steps, before
        self.took: dict[str, list[float]] = {}

    def say(self, step: Step, seconds: float) -> None:
        from medsal.handlers import duration

        self.took.setdefault(step.kind, []).append(seconds)
        every = [one for known in self.took.values() for one in known]
        mean = {kind: sum(known) / len(known) for kind, known in self.took.items()}
        left = [other for other in self.steps if not self.records.done(other.key)]
        done = len(self.steps) - len(left)
        hands = max(1.0, (done - self.before) / len(every))
        rest = sum(mean.get(other.kind, sum(every) / len(every)) for other in left) / hands
        _LOG.info("%d/%d %s: %.1f s, %s left", done, len(self.steps), step.words, seconds, duration(rest))
