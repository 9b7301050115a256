"""The books of what jobs have made: it is sent by them, and known again when it comes back."""

from __future__ import annotations

from collections.abc import Sequence

from medsal.pacs.books import Books
from medsal.pacs.jobs import Job, Result


class Made(Books):
    """Results of jobs; arguments and errors are those of `Books`."""

    def put_results(self, job: Job, results: Sequence[Result]) -> None:
        """Remember what a job has made of its images.

        Args:
            job: with the digest of its inputs.
            results: all of them.
        """
        with self._transaction() as base:
            base.execute("DELETE FROM results WHERE job = ? AND inputs = ?", (job.id, job.inputs))
            rows = [(job.id, job.inputs, one.uid, one.kind, one.file) for one in results]
            base.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows)

    def results(self, job: Job) -> list[Result]:
        """What a job has made of its images as they are now.

        Args:
            job: which.

        Returns:
            Its results, by file.
        """
        text = "SELECT uid, kind, file FROM results WHERE job = ? AND inputs = ? ORDER BY file"
        with self._errors():
            return [Result(**dict(row)) for row in self._base.execute(text, (job.id, job.inputs))]

    def own(self, study: str) -> frozenset[str]:
        """Everything that was ever made of a study here, for whatever node and setup.

        Args:
            study: study instance UID.

        Returns:
            SOP instance UIDs.
        """
        text = "SELECT uid FROM results JOIN jobs ON jobs.id = results.job WHERE jobs.study = ?"
        with self._errors():
            return frozenset(row[0] for row in self._base.execute(text, (study,)))
