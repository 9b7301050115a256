"""`medsal pacs watch`: the loop without an end, over what a node has and over what is sent to us."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from medsal.bundle.exits import DONE, INTERRUPTED
from medsal.dicom.phi import quiet
from medsal.pacs.client import Client, Wanted
from medsal.pacs.jobs import ENDED, Job, State, job_id
from medsal.pacs.listener import Listener
from medsal.pacs.nodes import Node, Site
from medsal.pacs.settling import digest_of_files, names_in
from medsal.pacs.spool import Held, object_name
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.wanting import check, number, whole
from medsal.pacs.working import Loop

_LOG = logging.getLogger("medsal")


class Watch(Loop):
    """Watches a node, and what the site's listener receives, until it is told to stop.

    A study is begun when it was quiet for ``quiet_seconds`` of the site's work: nothing of it was sent to us, or the
    number of its objects at the node stayed. One that was sent to us is completed from the node where that has more.

    Args:
        site: its configuration.
        node: its name, or the node itself: what is found there, or sent to us, is explained, and results go there.
        client: how it is spoken to; as the node says if None.
        wanted: matching keys of the polling.
        days: how far back the polling looks, today counting as one; not used where ``wanted`` has dates or UIDs.
        every: seconds between two polls.
        poll: whether the node is polled; otherwise only what is sent to us is explained.
        **options: of `Loop`.

    Raises:
        UsageError: there is no such node, the ledger cannot be used, or a number is out of bounds.
    """

    def __init__(
        self,
        site: Site,
        node: Node | str,
        client: Client | None = None,
        *,
        wanted: Wanted | None = None,
        days: int = 2,
        every: float = 30.0,
        poll: bool = True,
        **options: Any,
    ) -> None:
        self.wanted, self.days, self.every, self.poll = wanted or Wanted(), days, every, poll
        check(self, {"days": whole(1, 100_000), "every": number(0.1, 86400, "seconds")})
        super().__init__(site, node, client, **options)
        self.interrupted = False
        self._next = 0.0

    def watch(self) -> int:
        """Work until SIGTERM or an interrupt comes; the step at work is ended first, and at once by a second one.

        Returns:
            0 after SIGTERM or ``stopping``, 130 after an interrupt.

        Raises:
            UsageError: the configuration is wrong, or another process works on the jobs of this site.
            Trouble: the listener cannot start.
        """
        with self._signals(), self.opened(), self._listening():
            _LOG.info("watching %s", self.node.name)
            while not self.stopping:
                self.turn()
        return INTERRUPTED if self.interrupted else DONE

    def turn(self) -> None:
        """Look for new studies where it is time to, then do one step, or wait."""
        if not self._next - self.every <= self._clock() < self._next:  # it is time, or the clock was set back
            self.intake()
            if self.poll and self.link.over:
                self.look(self._now_wanted(), self.site.work.quiet_seconds)
            self._next = self._clock() + self.every
        if not self.one():
            self.sleep(min(self.every, max(self._next - self._clock(), 0.05)))

    def _now_wanted(self) -> Wanted:
        """What to look for today."""
        if self.wanted.date or self.wanted.study_uids:
            return self.wanted
        today = datetime.datetime.fromtimestamp(self._clock())  # the dates of archives are local
        first = today - datetime.timedelta(days=self.days - 1)
        return dataclasses.replace(self.wanted, date=f"{first:%Y%m%d}-")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Let others send to us meanwhile, where the site says so."""
        if self.site.listener is None:
            yield
            return
        with Listener(self.site):
            yield

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._signalled) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping, self.interrupted = True, number == signal.SIGINT

    def intake(self) -> None:
        """Make a job of every study that was sent to us and is quiet; open those again of which more has come."""
        with quiet():
            for held in self.spool.quiet():
                try:
                    self._take(held)
                except Trouble as trouble:  # the node cannot be asked now: it stays until the next look
                    _LOG.info("a study that was sent to us waits: %s", trouble)

    def _take(self, held: Held) -> None:
        jobs = self.ledger.rows(study=held.uid)
        if any(one.node != self.node.name and one.state not in ENDED for one in jobs):
            return  # it was fetched from another node
        key = job_id(held.uid, self.node.name, self.setup)
        job = next((one for one in jobs if one.id == key), None)
        if job is None:
            job = self.ledger.add(held.uid, self.node.name, self.setup, source="listener")
            if self._node_has_more(held):
                self.ledger.reopen(job, stage=State.NEW)
        elif job.state in ENDED or (job.state is State.COMPUTED and not self.node.write):
            self._again(job, held)

    def _again(self, job: Job, held: Held) -> None:
        """More of a study that had its end, or the same again."""
        own = self.ledger.own(held.uid)
        inputs = digest_of_files(held.folder, own)
        if inputs in {job.inputs, ""}:
            self.steps.cleared(job)
            return
        listed = self.client.instances(held.uid)
        if listed is not None and listed - own:
            self.ledger.reopen(job, stage=State.NEW)
        else:  # what came first was removed when it was explained
            detail = "more objects of it were sent; the earlier ones are not here any more, and the node has none"
            self.ledger.quarantine(job, Problem.INCOMPLETE, detail, inputs=inputs, stage=State.NEW)

    def _node_has_more(self, held: Held) -> bool:
        listed = None
        with contextlib.suppress(Trouble):  # what was sent is explained; when the node is there again, it is compared
            listed = self.client.instances(held.uid)
        own = self.ledger.own(held.uid)
        return bool({object_name(uid) for uid in (listed or frozenset()) - own} - names_in(held.folder))
