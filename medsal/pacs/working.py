"""The loop over jobs: which step is next, what a failure means, and how a run ends."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Self

from medsal.dicom.phi import quiet
from medsal.dicom.progress import Lines
from medsal.errors import MedsalError
from medsal.pacs.client import Client, Study, Wanted
from medsal.pacs.connecting import connect
from medsal.pacs.ends import UNREACHABLE, ended
from medsal.pacs.finding import Finder
from medsal.pacs.jobs import DOING, ENDED, STAGES, Job, State
from medsal.pacs.ledger import FILE, Ledger
from medsal.pacs.nodes import Node, Site
from medsal.pacs.parts import disk_trouble
from medsal.pacs.settling import Pause, backoff
from medsal.pacs.spool import Spool
from medsal.pacs.steps import Steps
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.worker import setup_of

_LOG = logging.getLogger("medsal")
_LINK = frozenset(map(Problem, ("unreachable", "not_accepted", "tls", "timeout", "no_status", "busy")))
"""What may be the node's fault rather than the job's: an echo tells."""
_NAP = 0.5  # seconds between two looks at whether to stop


class Loop:
    """Works on the jobs of one node of a site.

    Args:
        site: its configuration.
        node: its name, or the node itself.
        client: how it is spoken to; as the node says if None.
        clock: seconds since 1970.
        draw: numbers from 0 to 1 for the waiting times.

    Attributes:
        ledger: of the site.
        spool: of the site.
        stopping: set it to end after the step that is at work.

    Raises:
        UsageError: there is no such node, or the ledger cannot be used.
    """

    def __init__(
        self,
        site: Site,
        node: Node | str,
        client: Client | None = None,
        *,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.site, self.node = site, site.node(node) if isinstance(node, str) else node
        self.client = client or connect(self.node)
        self.ledger = Ledger(site.folder / FILE, clock=clock)
        self.spool = Spool(site.folder, site.work)
        self.steps = Steps(site, self.client, self.ledger, self.spool)
        self.link, self.disk, self.archive = (Pause(site.work, clock) for _ in range(3))
        self._refused: set[str] = set()
        self.stages: tuple[State, ...] = STAGES
        self.seen: set[str] = set()
        self.reached = self.stopping = self._unsettled = False
        self.lines = Lines(0)
        self._clock, self._draw = clock, draw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()

    @cached_property
    def setup(self) -> str:
        """Digest of what explains; empty where it is not needed: to send, or to fetch without a bundle."""
        wanted = self.site.bundle is not None and self.stages != (State.COMPUTED,)
        return setup_of(self.site) if wanted else ""

    @property
    def finder(self) -> Finder:
        """Enters studies of the node."""
        return Finder(self.client, self.ledger, self.setup, self._clock)

    @contextlib.contextmanager
    def opened(self, stages: Sequence[State] = STAGES) -> Iterator[None]:
        """Work alone, on jobs that are in order.

        Args:
            stages: whose next steps are done; those that send only where the node may be written to.

        Yields:
            Nothing.

        Raises:
            UsageError: another process works on the jobs of this site, or the bundle is wrong.
        """
        self.stages = tuple(one for one in stages if one is not State.COMPUTED or self.node.write)
        with self.ledger.alone():
            self.ledger.recover(self.node.name)
            self.spool.adopt()
            self._tidy()
            if self.stages != (State.COMPUTED,):
                self.ledger.adopt(self.node.name, self.setup)
            waiting = self.ledger.rows((State.WAITING,), self.node.name)
            self._refused = {job.id for job in waiting if job.reason == Problem.OUT_OF_RESOURCES}
            self.lines = Lines(0)  # its clock runs from here
            yield

    def _tidy(self) -> None:
        """Remove what was not needed any more when an earlier run was killed."""
        ended = (*ENDED, State.COMPUTED) if not self.node.write else ENDED
        for held in self.spool.studies():
            for job in self.ledger.rows(ended, self.node.name, held.uid):
                self.steps.cleared(job)
        if not self.site.work.keep_results:
            for job in self.ledger.rows((State.DONE,), self.node.name):
                self.steps.remove_results(job)

    def look(self, wanted: Wanted, quiet_seconds: float = 0.0) -> list[Study] | None:
        """Ask the node for studies, and enter them.

        Args:
            wanted: matching keys.
            quiet_seconds: that a study must stay as it is before it is fetched.

        Returns:
            The studies; None where the node cannot be asked, which is logged.
        """
        finder = self.finder
        try:
            with quiet():
                studies = finder.studies(wanted)
                jobs = finder.enter(studies, quiet_seconds)
        except Trouble as trouble:
            (self.disk if trouble.problem is Problem.DISK_FULL else self.link).failed()
            _LOG.warning("node %s cannot be asked: %s", self.node.name, trouble)
            return None
        self._reached()
        self.seen.update(job.id for job in jobs)
        return studies

    def _reached(self) -> None:
        self.reached = True
        self.link.worked()

    def work(self) -> None:
        """Do every step that is due and can be done now."""
        self.lines.total = self.lines.count + len(self.left())
        while not self.stopping and self.one():
            pass
        full = self.spool.room() if any(job.stage is State.NEW for job in self.left()) else None
        if full:
            _LOG.warning("nothing more is fetched: %s", full)

    def one(self) -> bool:
        """Do one step.

        Returns:
            False where none is due, or the ledger cannot be written at the moment.
        """
        try:
            if self._unsettled:
                self.ledger.recover(self.node.name)
                self._unsettled = False
            job = self.ledger.claim(self.node.name, self.setup, self._possible())
            if job is None:
                return False
            self.seen.add(job.id)
            with quiet():
                self._report(self._step(job))
        except Trouble as trouble:
            _LOG.warning("the work stands still: %s", trouble)
            self.disk.failed()
            self._unsettled = True
            return False
        return True

    def _possible(self) -> list[State]:
        """Stages whose next steps can be done now: the node is there, and there is room."""
        there, room = self.link.over and self.archive.over, self.disk.over
        possible = {
            State.NEW: there and room and self.spool.room() is None,
            State.FETCHED: room,
            State.COMPUTED: there,
        }
        return [stage for stage in self.stages if possible[stage]]

    def _step(self, job: Job) -> Job:
        try:
            after = self._safely(job)
        except Trouble as trouble:
            _LOG.info("%s %s: %s", job.name, job.state, trouble)
            return self._troubled(job, trouble)
        except BaseException:
            self.ledger.note(job, state=job.stage, starts=max(job.starts - 1, 0))  # it is not the job's fault
            raise
        if job.stage is State.FETCHED:
            self.disk.worked()
        else:
            self._reached()
        if job.stage is State.COMPUTED:
            self.archive.worked()
            self._refused.clear()
        return after

    def _safely(self, job: Job) -> Job:
        """Do a step; whatever is wrong with one study, the others go on."""
        try:
            with disk_trouble():
                return self.steps.step(job)
        except MedsalError:
            raise
        except Exception as error:  # noqa: BLE001  an answer or a file that nobody thought of must not stop all others
            _LOG.debug("%s", job.name, exc_info=error)
            name = type(error).__name__
        raise Trouble(Problem.CRASHED, name)

    def _troubled(self, job: Job, trouble: Trouble) -> Job:
        """Put a job where it belongs after a step that went wrong."""
        problem, tries = trouble.problem, job.tries + 1
        if problem in _LINK and job.stage is not State.FETCHED and not self._there():
            self.link.failed()
            return self.ledger.wait(job, trouble, 0.0, counts=False)
        if problem is Problem.DISK_FULL and self.spool.room() is not None:
            self.disk.failed()
            return self.ledger.wait(job, trouble, 0.0, counts=False)
        self.reached |= job.stage is not State.FETCHED
        if problem is Problem.OUT_OF_RESOURCES and self._full(job):
            self.archive.failed()
            return self.ledger.wait(job, trouble, 0.0, counts=False)
        if trouble.transient and tries < self.site.work.tries:
            due = self._clock() + backoff(self.site.work, tries, self._draw)
            return self.ledger.wait(job, trouble, due)
        return self.steps.put_aside(job, trouble, tries)

    def _full(self, job: Job) -> bool:
        """Whether the archive takes nothing from anybody; what it does not take from one job is that job's own."""
        self._refused.add(job.id)
        return job.stage is State.COMPUTED and len(self._refused) > 1

    def _there(self) -> bool:
        try:
            self.client.echo()
        except Trouble:
            return False
        return True

    def _report(self, job: Job) -> None:
        """Say what became of a job when this run is through with it, for the moment or for good."""
        if job.state in self.stages:
            return
        why = f": {job.reason};" if job.reason else ""
        self.lines.total = max(self.lines.total, self.lines.count + 1)
        self.lines.say(job.name, f"{job.state}{why}")

    def left(self) -> list[Job]:
        """Jobs that this run, or a later one, has to go on with.

        Returns:
            They, whether they are due or not.
        """
        states = (*STAGES, *DOING.values(), State.WAITING)
        return [job for job in self.ledger.rows(states, self.node.name) if job.stage in self.stages]

    def sleep(self, seconds: float) -> None:
        """Wait, unless it is time to stop.

        Args:
            seconds: at most.
        """
        end = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < end:
            time.sleep(min(_NAP, max(end - time.monotonic(), 0.0)))

    @property
    def exit_code(self) -> int:
        """0 all done, 3 nothing to do, 4 some in quarantine or waiting, 5 all of them, 7 the node is not there."""
        if self.link.failures and not self.reached:
            return UNREACHABLE
        named = {*self.seen, *(job.id for job in self.left())}
        jobs = [job for job in self.ledger.rows(node=self.node.name) if job.id in named]
        return ended(jobs, self.stages)
