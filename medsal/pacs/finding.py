"""Which studies are to be explained: those that a node names, and those of them that have changed since."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medsal.dicom.phi import pseudonym
from medsal.dicom.uids import valid_uid
from medsal.pacs.client import Client, Study, Wanted
from medsal.pacs.jobs import ENDED, Job, State, job_id
from medsal.pacs.ledger import Ledger
from medsal.pacs.settling import digest_of_objects
from medsal.pacs.troubles import Trouble

_LOG = logging.getLogger("medsal")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do with a study.

    Attributes:
        study: its pseudonym.
        instances: number of its objects at the node; None where it does not say.
        modalities: of its series.
        state: of its job; empty where there is none yet.
        would: ``fetch``, ``explain``, ``send``, ``wait`` or ``leave``.
    """

    study: str
    instances: int | None
    modalities: tuple[str, ...]
    state: str
    would: str


_WOULD = {State.NEW: "fetch", State.FETCHED: "explain", State.COMPUTED: "send"}


def planned(study: Study, job: Job | None, *, write: bool) -> Planned:
    """Say what a run would do with a study.

    Args:
        study: as the node names it.
        job: its job; None where there is none yet.
        write: whether the node may be sent to.

    Returns:
        It.
    """
    ended = job is not None and (job.state in ENDED or (job.stage is State.COMPUTED and not write))
    would = "leave" if ended else _WOULD[job.stage] if job is not None else "fetch"
    state = job.state.value if job is not None else ""
    return Planned(
        study=pseudonym(study.uid, "study"),
        instances=study.instances,
        modalities=study.modalities,
        state=state,
        would=would,
    )


class Finder:
    """Enters what a node has into the ledger.

    Args:
        client: of the node.
        ledger: of the site.
        setup: digest of what explains.
        clock: seconds since 1970.
    """

    def __init__(self, client: Client, ledger: Ledger, setup: str, clock: Callable[[], float] = time.time) -> None:
        self.client, self.ledger, self.setup, self._clock = client, ledger, setup, clock

    def studies(self, wanted: Wanted) -> list[Study]:
        """Ask the node.

        Args:
            wanted: matching keys.

        Returns:
            Its answers, without those whose UID is none.

        Raises:
            Trouble: the node fails.
        """
        found = self.client.find(wanted)
        good = [one for one in found if valid_uid(one.uid)]
        if len(good) < len(found):
            _LOG.warning("%d studies are left out: their UIDs are none", len(found) - len(good))
        return good

    def enter(self, studies: Sequence[Study], quiet: float = 0.0) -> list[Job]:
        """Make a job of every study that has none, and open those again that have changed.

        Args:
            studies: as the node names them.
            quiet: seconds that a study must stay as it is before it is fetched.

        Returns:
            Their jobs.

        Raises:
            Trouble: the node fails.
        """
        return [self._one(study, quiet) for study in studies]

    def _one(self, study: Study, quiet: float) -> Job:
        node = self.client.node.name
        before = {job.id for job in self.ledger.rows(node=node, study=study.uid)}
        due = self._clock() + quiet if quiet else 0.0
        job = self.ledger.add(study.uid, node, self.setup, seen=study.instances, due=due)
        if job.id not in before:
            return job
        if job.state is State.NEW and quiet:
            return self._settle(job, study, due)
        finished = job.state in ENDED or (job.state is State.COMPUTED and not self.client.node.write)
        if finished and self._changed(job, study):
            return self.ledger.reopen(job, seen=study.instances, due=due)
        return job

    def _settle(self, job: Job, study: Study, due: float) -> Job:
        """Let a study that still grows wait on."""
        count = study.instances
        if count is None:
            listed = self.client.instances(study.uid)
            count = None if listed is None else len(listed)
        return job if count == job.seen else self.ledger.note(job, seen=count, due=due)

    def _changed(self, job: Job, study: Study) -> bool:
        """Whether the node has other images of a study than those that its job has ended with."""
        if study.instances is not None and study.instances == job.seen:
            return False
        listed = None
        with contextlib.suppress(Trouble):  # what cannot be asked has not changed; the next look tells
            listed = self.client.instances(study.uid)
        if listed is None:
            return False
        own = self.ledger.own(study.uid)
        now = digest_of_objects(listed, own)
        fewer = not job.held and len(listed - own) <= job.counts.get("images", 0)  # than were sent to us
        if not fewer and now != (job.held or job.inputs):
            return True
        self.ledger.note(job, held=now, seen=study.instances if study.instances is not None else len(listed))
        return False

    def plan(self, wanted: Wanted) -> list[Planned]:
        """Say what a run would do; nothing is entered.

        Args:
            wanted: matching keys.

        Returns:
            One for each study that the node names.

        Raises:
            Trouble: the node fails.
        """
        name, write = self.client.node.name, self.client.node.write
        made = []
        for study in self.studies(wanted):
            key = job_id(study.uid, name, self.setup)
            job = next((one for one in self.ledger.rows(node=name, study=study.uid) if one.id == key), None)
            made.append(planned(study, job, write=write))
        return made
