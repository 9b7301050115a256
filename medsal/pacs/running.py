"""From an archive and back: find, fetch, explain, send, confirm; nothing is lost, and nothing comes twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsal._version import __version__
from medsal.dicom.phi import quiet
from medsal.pacs.client import Wanted
from medsal.pacs.finding import Planned
from medsal.pacs.jobs import STAGES, State
from medsal.pacs.nodes import Node, Site
from medsal.pacs.settling import held_of
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.worker import select_study
from medsal.pacs.working import Loop


class Run(Loop):
    """One run over the jobs of a node; arguments and errors are those of `Loop`."""

    def run(self, wanted: Wanted, *, once: bool = True) -> int:
        """Find studies, explain them, send the results; and go on with what earlier runs left.

        Args:
            wanted: matching keys.
            once: end when nothing is due; otherwise stay until nothing is waiting.

        Returns:
            0 all done, 3 nothing to do, 4 some in quarantine or waiting, 5 all of them, 7 the node is not there.

        Raises:
            UsageError: the configuration is wrong, or another process works on the jobs of this site.
        """
        return self._session(STAGES, wanted, once=once)

    def pull(self, wanted: Wanted) -> int:
        """Find and fetch studies, and no more.

        Args:
            wanted: matching keys.

        Returns:
            As `run`.

        Raises:
            UsageError: as `run`.
        """
        return self._session((State.NEW,), wanted)

    def explain(self) -> int:
        """Explain what was fetched, and no more.

        Returns:
            As `run`.

        Raises:
            UsageError: as `run`.
        """
        return self._session((State.FETCHED,))

    def push(self) -> int:
        """Send what was made, and no more.

        Returns:
            As `run`.

        Raises:
            UsageError: as `run`.
            Trouble: ``not_allowed``.
        """
        if not self.node.write:
            raise Trouble(Problem.NOT_ALLOWED, f"node {self.node.name}")
        return self._session((State.COMPUTED,))

    def _session(self, stages: Sequence[State], wanted: Wanted | None = None, *, once: bool = True) -> int:
        from medsal.bundle.running import terminable

        with terminable(), self.opened(stages):
            asked = wanted is None or self.look(wanted) is not None
            self.work()
            while not once and not (asked and not self.left()):
                self.sleep(1.0)
                if not asked and wanted is not None and self.link.over:
                    asked = self.look(wanted) is not None
                self.work()
            return self.exit_code

    def plan(self, wanted: Wanted) -> list[Planned]:
        """Say what a run would do with the studies that the node names; nothing is fetched or entered.

        Args:
            wanted: matching keys.

        Returns:
            One for each.

        Raises:
            Trouble: the node fails.
            UsageError: the bundle is wrong.
        """
        with quiet():
            return self.finder.plan(wanted)

    def selections(self) -> dict[str, list[str]]:
        """Say what would be taken of the studies that were fetched, and why not the rest.

        Returns:
            Pseudonym of the study -> lines.

        Raises:
            Trouble: a study cannot be read.
            UsageError: the bundle or the rules are wrong.
        """
        made = {}
        for job in self.ledger.rows((State.FETCHED, State.COMPUTING, State.WAITING), self.node.name):
            held = held_of(self.spool, job.study)
            if held is not None:
                made[job.name] = select_study(held.folder, self.site)
        return made

    def as_dict(self) -> dict[str, Any]:
        """Where the jobs of the node stand.

        Returns:
            For programs: counts of all, and what became of those that this run saw.
        """
        jobs = [job for job in self.ledger.rows(node=self.node.name) if job.id in self.seen]
        return {
            "medsal": __version__,
            "node": self.node.name,
            "reached": self.reached,
            "exit_code": self.exit_code,
            "counts": self.ledger.counts(self.node.name),
            "jobs": [job.as_dict() for job in jobs],
        }

    def closing(self) -> str:
        """How the run ended.

        Returns:
            One line.
        """
        found = {state: number for state, number in self.ledger.counts(self.node.name).items() if number}
        said = ", ".join(f"{number} {state}" for state, number in found.items()) or "no studies"
        return f"medsal pacs: {self.node.name}: {said}{'' if self.reached else '; the node was not reached'}"


def explain_pulled(site: Site, node: Node | str) -> int:
    """Explain what was fetched from a node, or sent to us, without speaking to anybody.

    Args:
        site: its configuration.
        node: its name, or the node itself.

    Returns:
        The exit code of `Run.explain`.

    Raises:
        UsageError: the configuration is wrong.
    """
    run = Run(site, node)
    try:
        return run.explain()
    finally:
        run.close()
