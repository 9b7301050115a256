"""The three steps of a job: fetch a study, explain it, send what was made; each may be broken off and begun again."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsal.dicom.reasons import Reason
from medsal.pacs.client import Client, Sent
from medsal.pacs.jobs import ENDED, Job, Result, State
from medsal.pacs.ledger import Ledger
from medsal.pacs.nodes import Site
from medsal.pacs.settling import digest_of_files, digest_of_objects, held_of, names_in
from medsal.pacs.spool import Spool, object_name
from medsal.pacs.troubles import TRANSIENT, Problem, Trouble
from medsal.pacs.worker import Outcome, explain_study

STARTS = 8
"""How often a run may end while it explains a study before the study is to blame."""

CHANGES = 5
"""How often the images of a study may be others when its results are to be sent before somebody has to look."""
IMAGES = "its images"


class Steps:
    """What a run does with a job that it has claimed.

    Args:
        site: of the job.
        client: of its node.
        ledger: where it is entered.
        spool: of the site.
    """

    def __init__(self, site: Site, client: Client, ledger: Ledger, spool: Spool) -> None:
        self.site, self.client, self.ledger, self.spool = site, client, ledger, spool
        self._does = {State.NEW: self.fetch, State.FETCHED: self.explain, State.COMPUTED: self.send}

    def step(self, job: Job) -> Job:
        """Do what comes next.

        Args:
            job: as it was claimed.

        Returns:
            It as it is now.

        Raises:
            Trouble: it went wrong.
            UsageError: the bundle, the rules or an option are wrong.
        """
        return self._does[job.stage](job)

    def results_of(self, job: Job) -> Path:
        """Folder of the results of a job.

        Args:
            job: which.

        Returns:
            Its path, whether it is there or not.
        """
        return self.site.folder / "results" / job.name / job.id[:12]

    def fetch(self, job: Job) -> Job:
        """Fetch a study, or what is missing of it.

        Args:
            job: as it was claimed.

        Returns:
            It, fetched.

        Raises:
            Trouble: there is no room, the node fails, or does not give all that it says it has.
        """
        full = self.spool.room()
        if full:
            raise full
        listed, own = self.client.instances(job.study), self.ledger.own(job.study)
        if listed is not None:
            job = self.ledger.note(job, held=digest_of_objects(listed, own), seen=len(listed))
            if listed and not listed - own:
                raise Trouble(Problem.NOTHING_RECEIVED, "the node has results of it, and no images")
        folder = self.spool.study(job.study)
        self.client.fetch(job.study, folder)
        here = names_in(folder)
        if not here:
            raise Trouble(Problem.NOTHING_RECEIVED)
        lacking = {object_name(uid) for uid in (listed or frozenset()) - own} - here
        if lacking:
            raise Trouble(Problem.INCOMPLETE, f"{len(lacking)} of {len(listed or ())} objects are missing")
        return self.ledger.advance(job, State.FETCHED)

    def explain(self, job: Job) -> Job:
        """Explain what the rules take of a study.

        Args:
            job: as it was claimed.

        Returns:
            It: computed, nothing, in quarantine, or new where the images are gone.

        Raises:
            Trouble: as `medsal.pacs.worker.explain_study` says.
            UsageError: the bundle, the rules or an option are wrong.
        """
        if job.starts > STARTS:
            raise Trouble(Problem.CRASHED, f"the run ended {job.starts - 1} times while this was explained")
        held = held_of(self.spool, job.study)
        if held is None:
            return self.ledger.advance(job, State.NEW)
        inputs = digest_of_files(held.folder, self.ledger.own(job.study))
        job = self.ledger.note(job, inputs=inputs)
        outcome = explain_study(held.folder, self.results_of(job), self.site, job.setup)
        return self._explained(job, outcome, held.files)

    def _explained(self, job: Job, outcome: Outcome, images: int) -> Job:
        counts = {**outcome.counts, "images": images, "seconds": round(outcome.seconds, 2)}
        counts |= {name: number for name, number in job.counts.items() if name == "changed"}
        if not outcome.selected:
            why = {"reason": Reason.NO_MATCH.value, "detail": outcome.reasons}
            return self.cleared(self.ledger.advance(job, State.NOTHING, counts=counts, **why))
        facts: dict[str, Any] = {"counts": counts}
        if outcome.failed:
            codes = [f"{code} ({detail})" if detail else code for code, detail in outcome.failed]
            detail = f"{len(codes)} of {outcome.selected} series: {', '.join(codes)}"
            counts["failed"] = detail
            if not outcome.results:
                job = self.ledger.quarantine(job, Problem.UNREADABLE, detail, **facts)
                return self.cleared(job)
            facts |= {"reason": Problem.UNREADABLE.value, "detail": detail}
        self.ledger.put_results(job, outcome.results)
        job = self.ledger.advance(job, State.COMPUTED, **facts)
        return job if self.client.node.write else self.cleared(job)

    def send(self, job: Job) -> Job:
        """Send what the node does not have yet, and have it confirmed.

        Args:
            job: as it was claimed.

        Returns:
            It: done; in quarantine where a series of it could not be explained; fetched where results are gone.

        Raises:
            Trouble: the node fails, or does not confirm.
        """
        if not self.client.node.write:
            raise Trouble(Problem.NOT_ALLOWED)
        folder, results = self.results_of(job), self.ledger.results(job)
        wanted = [one for one in results if one.kind in self.client.node.send]
        if any(not (folder / one.file).is_file() for one in wanted) or not results:
            return self.ledger.advance(job, State.FETCHED)
        listed = self.client.instances(job.study)
        missing = [one for one in wanted if one.uid not in (listed or frozenset())]
        changed = self._changed(job, listed, [folder / one.file for one in missing])
        if changed:
            return self._anew(job, changed)
        self._store(folder, missing)
        lacking = self.client.confirm(job.study, [one.uid for one in wanted]) if wanted else frozenset()
        if lacking:
            raise Trouble(Problem.NOT_CONFIRMED, f"{len(lacking)} of {len(wanted)} results")
        counts = {**job.counts, "sent": len(wanted)}
        counts.pop("changed", None)
        failed = str(counts.get("failed", ""))
        if failed:
            return self.cleared(self.ledger.quarantine(job, Problem.UNREADABLE, failed, counts=counts))
        return self.cleared(self.ledger.advance(job, State.DONE, counts=counts))

    def _changed(self, job: Job, listed: frozenset[str] | None, files: Sequence[Path]) -> str:
        """What the node says otherwise of a study than when it was fetched: nothing may be sent then."""
        if not files:
            return ""
        own = self.ledger.own(job.study)
        if listed is not None and job.source == "node" and job.held and digest_of_objects(listed, own) != job.held:
            return IMAGES
        said = self.client.patient(job.study)
        return "its patient" if said is not None and any(patient_in(path) != said for path in files) else ""

    def _anew(self, job: Job, changed: str) -> Job:
        """Begin again with the study as it is now; where that does not help, somebody has to look."""
        held = held_of(self.spool, job.study)
        if held is not None and job.source == "node":
            self.spool.remove(held)
        self.remove_results(job)
        counts = {**job.counts, "changed": int(job.counts.get("changed", 0)) + 1}
        if counts["changed"] > (CHANGES if changed == IMAGES else 1) or job.source != "node":
            counts.pop("changed")
            detail = f"{changed}: not as in the images that came"
            return self.ledger.quarantine(job, Problem.CHANGED, detail, counts=counts, stage=State.NEW)
        job = self.ledger.reopen(job, seen=job.seen)
        return self.ledger.note(job, counts=counts)

    def _store(self, folder: Path, results: Sequence[Result]) -> None:
        if not results:
            return
        said = self.client.store([folder / one.file for one in results])
        bad = [(one.problem, one) for one in said if one.problem is not None]
        for problem, one in sorted(bad, key=lambda each: each[0] not in TRANSIENT):  # what may still go comes first
            raise Trouble(problem, f"{len(bad)} of {len(said)} results{_because(one)}")

    def put_aside(self, job: Job, why: Trouble, tries: int) -> Job:
        """Put a job into quarantine after a step that went wrong for good, or too often.

        Args:
            job: as it was claimed.
            why: what happened.
            tries: how often.

        Returns:
            It as it is now.
        """
        now = self.ledger.job(job.id)
        facts: dict[str, Any] = {"tries": tries}
        if now.source == "listener":  # its images stay; they are the ones that this is about
            own = self.ledger.own(now.study)
            facts["inputs"] = digest_of_files(self.spool.study(now.study), own) or now.inputs
        return self.cleared(self.ledger.quarantine(now, why.problem.value, why.detail, **facts))

    def remove_results(self, job: Job) -> None:
        """Remove the results of a job from the disk, and the folder of its study where no others are left.

        Args:
            job: that is done.
        """
        folder = self.results_of(job)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds results of other jobs, or is gone
            folder.parent.rmdir()

    def cleared(self, job: Job) -> Job:
        """Remove what is not needed any more of a job, unless more of its study has arrived since.

        Images that were sent to us stay while their job is in quarantine: there may be nobody to ask for them again.

        Args:
            job: at its end.

        Returns:
            It; opened again where more has arrived.
        """
        sent = job.state is State.DONE and not self.site.work.keep_results
        if sent or (job.state in ENDED and not self.ledger.results(job)):
            self.remove_results(job)
        held = held_of(self.spool, job.study)
        if held is None:
            return job
        digest = digest_of_files(held.folder, self.ledger.own(job.study))
        if digest and digest != job.inputs and job.inputs:
            return self.ledger.reopen(job, stage=State.FETCHED, due=held.arrived + self.site.work.quiet_seconds)
        kept = job.state is State.QUARANTINE and job.source == "listener"
        others = [one for one in self.ledger.rows(study=job.study) if one.id != job.id and one.state not in ENDED]
        if not kept and not others:
            self.spool.remove(held)
        return job


def patient_in(path: Path) -> str:
    """Whose object a file is.

    Args:
        path: of a DICOM file.

    Returns:
        The patient's ID, for comparison only.
    """
    from pydicom import dcmread

    return str(dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID") or "").strip()


def _because(sent: Sent) -> str:
    return f": {sent.detail}" if sent.detail else ""
