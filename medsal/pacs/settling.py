"""How long to wait: between two tries of a job, and for a node or a disk that is not there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from medsal.pacs.jobs import digest_of
from medsal.pacs.nodes import Work
from medsal.pacs.spool import Held, Spool, object_name
from medsal.pacs.strays import ARRIVED


def backoff(work: Work, tries: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after some failed tries: doubled each time, up to a bound, and never the same for two jobs.

    Args:
        work: with ``backoff`` and ``backoff_max``.
        tries: failed ones so far, from 1.
        draw: a number from 0 to 1.

    Returns:
        Half of it to all of it.

    Example:
        >>> [backoff(Work(), tries, lambda: 1.0) for tries in (1, 2, 3, 12)]
        [10.0, 20.0, 40.0, 3600.0]
    """
    whole = min(work.backoff * 2.0 ** min(max(tries, 1) - 1, 64), work.backoff_max)
    return whole * (0.5 + 0.5 * draw())


class Pause:
    """Keeps everybody away from something that does not work, for longer each time.

    Args:
        work: with ``backoff`` and ``backoff_max``.
        clock: seconds since 1970.
    """

    def __init__(self, work: Work, clock: Callable[[], float] = time.time) -> None:
        self.work, self._clock = work, clock
        self.failures, self.until, self._since = 0, 0.0, 0.0

    def failed(self) -> float:
        """Note that it does not work.

        Returns:
            When it may be tried again (seconds since 1970).
        """
        self.failures += 1
        self._since = self._clock()
        self.until = self._since + backoff(self.work, self.failures)
        return self.until

    def worked(self) -> None:
        """Note that it works."""
        self.failures, self.until = 0, 0.0

    @property
    def over(self) -> bool:
        """Whether it may be tried; also where the clock was set back since."""
        return not self._since <= self._clock() < self.until


def held_of(spool: Spool, study: str) -> Held | None:
    """What the spool holds of one study.

    Args:
        spool: the spool.
        study: study instance UID.

    Returns:
        It; None where there is no object.
    """
    folder = spool.study(study)
    mark = folder / ARRIVED
    try:
        arrived = (mark if mark.exists() else folder).stat().st_mtime
    except FileNotFoundError:
        return None
    files = len(names_in(folder))
    return Held(study, folder, files, arrived) if files else None


def names_in(folder: Path) -> frozenset[str]:
    """The objects of a study in the spool.

    Args:
        folder: of the study.

    Returns:
        Names of files, see `medsal.pacs.spool.object_name`.
    """
    return frozenset(path.name for path in folder.glob("object-*.dcm"))


def digest_of_objects(uids: frozenset[str], own: frozenset[str]) -> str:
    """Objects of a study as one value that is comparable with `digest_of` of their files.

    Args:
        uids: SOP instance UIDs.
        own: those of them that are results of ours, which do not count.

    Returns:
        A SHA-256; empty where there are none.
    """
    return digest_of(object_name(uid) for uid in uids - own)


def digest_of_files(folder: Path, own: frozenset[str]) -> str:
    """Files of a study as one value.

    Args:
        folder: in the spool.
        own: SOP instance UIDs of results of ours, which do not count.

    Returns:
        As `digest_of_objects`.
    """
    return digest_of(names_in(folder) - {object_name(uid) for uid in own})
