"""The steps of a study: each done once, in order, with the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medsal.studies.trust.records import Records

_LOG = logging.getLogger("medsal")


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

    Args:
        records: where results are kept; a step whose result is there is not done again.
        steps: in order.
    """
    from medsal.handlers import duration

    left = [step for step in steps if not records.done(step.key)]
    if len(left) < len(steps):
        _LOG.info("%d of %d steps were done before", len(steps) - len(left), len(steps))
    took: dict[str, list[float]] = {}
    for number, step in enumerate(left, 1):
        began = time.monotonic()
        records.write(step.key, step.run())
        took.setdefault(step.kind, []).append(time.monotonic() - began)
        every = [seconds for known in took.values() for seconds in known]
        mean = {kind: sum(known) / len(known) for kind, known in took.items()}
        rest = sum(mean.get(other.kind, sum(every) / len(every)) for other in left[number:])
        done = len(steps) - len(left) + number
        _LOG.info("%d/%d %s: %.1f s, %s left", done, len(steps), step.words, took[step.kind][-1], duration(rest))
