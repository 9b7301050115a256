"""How a run over jobs ends: its exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medsal.bundle.exits import ALL_FAILED, DONE, NOTHING, SOME_FAILED
from medsal.pacs.jobs import STAGES, Job, State

UNREACHABLE = 7
"""Exit code where the node could not be reached."""


def ended(jobs: Iterable[Job], stages: Sequence[State]) -> int:
    """The exit code of a run that reached its node.

    Args:
        jobs: that it saw, or left.
        stages: whose steps it did.

    Returns:
        0 all done, 3 nothing to do, 4 some in quarantine or waiting, 5 all of them.
    """
    last = max((STAGES.index(one) for one in stages), default=-1)
    good = [_good(job, last) for job in jobs if job.state is not State.NOTHING]
    if not good:
        return NOTHING
    return DONE if all(good) else SOME_FAILED if any(good) else ALL_FAILED


def _good(job: Job, last: int) -> bool:
    """Whether a job has come as far as it could come."""
    if job.state is State.QUARANTINE or job.counts.get("failed"):
        return False
    return job.state is State.DONE or STAGES.index(job.stage) > last
