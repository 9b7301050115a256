"""The books of all jobs: where every study stands, what it is waiting for, and why it was put aside.

The file must lie on a disk of this machine: the journal that it keeps (WAL) does not work over NFS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medsal.dicom.phi import CLEANER
from medsal.errors import UsageError
from medsal.files import json_bytes
from medsal.pacs.jobs import DOING, STAGES, Job, State, job_id
from medsal.pacs.made import Made
from medsal.pacs.troubles import Trouble

FILE = "ledger.sqlite"
"""Name of the ledger in a site's folder."""
_LONGEST = 300  # characters of a detail


class Ledger(Made):
    """The jobs of a site, and what they made; arguments and errors are those of `medsal.pacs.books.Books`."""

    def add(
        self, study: str, node: str, setup: str, *, source: str = "node", seen: int | None = None, due: float = 0.0
    ) -> Job:
        """Enter a study, unless it is there.

        Args:
            study: study instance UID.
            node: name.
            setup: digest.
            source: ``node`` or ``listener``.
            seen: number of its objects at the node.
            due: when its first step may begin.

        Returns:
            The job, as it was where it was there.
        """
        key, now = job_id(study, node, setup), self._clock()
        stage = State.FETCHED if source == "listener" else State.NEW
        with self._transaction() as base:
            base.execute(
                "INSERT OR IGNORE INTO jobs (id, study, node, setup, source, state, stage, seen, due, created, changed)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, study, node, setup, source, stage, stage, seen, due, now, now),
            )
        return self.job(key)

    def job(self, key: str) -> Job:
        """One job.

        Args:
            key: its id, or the beginning of it, or the pseudonym of its study.

        Returns:
            It as it is now.

        Raises:
            UsageError: there is none, or several.
        """
        with self._errors():
            found = [Job.of(row) for row in self._base.execute("SELECT * FROM jobs WHERE id = ?", (key,))]
        found = found or [job for job in self.rows() if key and (job.id.startswith(key) or job.name == key)]
        if len(found) != 1:
            raise UsageError(f"wanted the id of one job or the name of its study, got {key!r}: {len(found)} jobs")
        return found[0]

    def rows(self, states: Iterable[State] = (), node: str = "", study: str = "") -> list[Job]:
        """Jobs, oldest first.

        Args:
            states: that are wanted; all if none is named.
            node: name; all if empty.
            study: study instance UID; all if empty.

        Returns:
            They.
        """
        wanted = tuple(states) or tuple(State)
        terms = [f"state IN ({', '.join('?' * len(wanted))})"]
        terms += ["node = ?"] * bool(node) + ["study = ?"] * bool(study)
        text = f"SELECT * FROM jobs WHERE {' AND '.join(terms)} ORDER BY created"
        with self._errors():
            return [Job.of(row) for row in self._base.execute(text, (*wanted, *filter(None, (node, study))))]

    def counts(self, node: str = "") -> dict[str, int]:
        """How many jobs are in which state.

        Args:
            node: name; all if empty.

        Returns:
            Every state -> number.
        """
        with self._errors():
            found = dict(
                self._base.execute("SELECT state, count(*) FROM jobs WHERE ? IN ('', node) GROUP BY state", (node,))
            )
        return {state.value: int(found.get(state.value, 0)) for state in State}

    def claim(self, node: str, setup: str, stages: Sequence[State]) -> Job | None:
        """Take the job whose step is due; of several the one that is nearest to its end.

        Args:
            node: name.
            setup: of what is explained now; results that are there are sent whatever made them.
            stages: whose next steps are wanted.

        Returns:
            It, marked as being worked on; None where none is due.
        """
        marks, ready, now = ", ".join("?" * len(stages)), (*STAGES, State.WAITING), self._clock()
        order = "CASE stage WHEN 'computed' THEN 0 WHEN 'fetched' THEN 1 ELSE 2 END, starts, tries, created, id"
        with self._transaction() as base:
            row = base.execute(
                "SELECT * FROM jobs WHERE node = ? AND (due <= ? OR changed > ?) AND state IN (?, ?, ?, ?)"
                f" AND stage IN ({marks}) AND (setup = ? OR stage = 'computed') ORDER BY {order} LIMIT 1",
                (node, now, now + 1.0, *ready, *stages, setup),  # what changed in the future was before a wrong clock
            ).fetchone()
            if row is None:
                return None
            job = Job.of(row)
            self._set(job, state=DOING[job.stage], starts=job.starts + (job.stage is State.FETCHED))
        return self.job(job.id)

    def _set(self, job: Job, **columns: Any) -> None:
        columns["changed"] = self._clock()
        if "counts" in columns:
            columns["counts"] = json_bytes(columns["counts"]).decode()
        if "detail" in columns:
            columns["detail"] = CLEANER.clean(columns["detail"])[:_LONGEST]
        names = ", ".join(f"{name} = ?" for name in columns)
        self._base.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*columns.values(), job.id))

    def advance(self, job: Job, state: State, **facts: Any) -> Job:
        """A step is done.

        Args:
            job: as it was claimed.
            state: that it reached.
            **facts: columns that are known now, such as ``inputs``, ``held``, ``seen``, ``counts``, ``reason``.

        Returns:
            The job as it is now.
        """
        cleared: dict[str, Any] = {"reason": "", "detail": "", "tries": 0, "due": 0.0}
        if state in STAGES:
            cleared["stage"] = state
        if state is not State.FETCHED:
            cleared["starts"] = 0
        with self._transaction():
            self._set(job, **{**cleared, "state": state, **facts})
        return self.job(job.id)

    def wait(self, job: Job, why: Trouble, due: float, *, counts: bool = True) -> Job:
        """A step went wrong and shall be tried again.

        Args:
            job: as it was claimed.
            why: what happened.
            due: when it may be tried again (seconds since 1970).
            counts: whether it was the job's own fault, and uses up one of its tries.

        Returns:
            The job as it is now.
        """
        facts = {"reason": why.problem.value, "detail": why.detail, "tries": job.tries + counts, "due": due}
        starts = max(job.starts - (job.stage is State.FETCHED), 0)  # it came to an end, if to a bad one
        with self._transaction():
            self._set(job, state=State.WAITING, starts=starts, **facts)
        return self.job(job.id)

    def quarantine(self, job: Job, reason: str, detail: str = "", **facts: Any) -> Job:
        """Put a job aside until somebody asks for it again.

        Args:
            job: which.
            reason: a code.
            detail: that says more.
            **facts: columns that are known now.

        Returns:
            The job as it is now.
        """
        known = {"starts": 0, "reason": reason, "detail": detail}
        with self._transaction():
            self._set(job, **{**known, "state": State.QUARANTINE, **facts})
        return self.job(job.id)

    def reopen(self, job: Job, *, stage: State = State.NEW, seen: int | None = None, due: float = 0.0) -> Job:
        """Begin a job again that had come to an end: the study has changed, or somebody asks for it.

        Args:
            job: which.
            stage: what is here of it.
            seen: number of its objects at the node.
            due: when it may begin.

        Returns:
            The job as it is now.
        """
        new = {"reason": "", "detail": "", "tries": 0, "starts": 0, "due": due, "seen": seen}
        with self._transaction():
            self._set(job, state=stage, stage=stage, **new)
        return self.job(job.id)

    def note(self, job: Job, **facts: Any) -> Job:
        """Keep something that was learnt about a job, whatever its state.

        Args:
            job: which.
            **facts: columns.

        Returns:
            The job as it is now.
        """
        with self._transaction():
            self._set(job, **facts)
        return self.job(job.id)

    def retry(self, jobs: Iterable[Job] = ()) -> list[Job]:
        """Let jobs in quarantine, and those that wait, go on now.

        Args:
            jobs: which; all in quarantine if none is named.

        Returns:
            Those that go on.
        """
        chosen = [
            job for job in list(jobs) or self.rows([State.QUARANTINE]) if job.state in (State.QUARANTINE, State.WAITING)
        ]
        return [self.reopen(job, stage=job.stage, seen=job.seen) for job in chosen]

    def recover(self, node: str) -> int:
        """Put jobs back to the beginning of the step that an earlier process was at when it ended.

        Args:
            node: name.

        Returns:
            How many there were.
        """
        with self._transaction():
            found = self.rows(DOING.values(), node)
            for job in found:
                self._set(job, state=job.stage)
        return len(found)

    def adopt(self, node: str, setup: str) -> int:
        """Give jobs that have no results yet to the setup that explains now: the one they came for is gone.

        Args:
            node: name.
            setup: digest.

        Returns:
            How many there were.
        """
        with self._transaction() as base:
            waiting = self.rows((*STAGES, State.WAITING), node)
            found = [job for job in waiting if job.setup != setup and job.stage is not State.COMPUTED]
            for job in found:
                key = job_id(job.study, node, setup)
                if base.execute("SELECT 1 FROM jobs WHERE id = ?", (key,)).fetchone():
                    base.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
                else:
                    base.execute("UPDATE jobs SET id = ?, setup = ? WHERE id = ?", (key, setup, job.id))
                base.execute("UPDATE OR REPLACE results SET job = ? WHERE job = ?", (key, job.id))
        return len(found)
