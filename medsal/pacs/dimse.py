"""A node that is spoken to by DIMSE: C-ECHO, C-FIND, C-GET or C-MOVE, C-STORE, storage commitment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medsal.dicom.phi import contained
from medsal.dicom.uids import valid_uid
from medsal.pacs import query, retrieve, send
from medsal.pacs.client import Sent, Study, Wanted
from medsal.pacs.commitment import confirm
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble

answered = contained("pacs", lambda error: Trouble(Problem.UNREADABLE, type(error).__name__))
"""For what speaks with a node: whatever that answers, a `Trouble` is what comes of it."""


class DimseClient:
    """Everything that is asked of a node, by DIMSE.

    Args:
        node: of a site.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._classes: dict[str, str] = {}

    @answered
    def echo(self) -> None:
        """Ask whether the node is there and speaks with us.

        Raises:
            Trouble: it is not, or does not.
        """
        query.echo(self.node)

    @answered
    def find(self, wanted: Wanted) -> list[Study]:
        """Look for studies.

        Args:
            wanted: matching keys.

        Returns:
            The studies.

        Raises:
            Trouble: the node fails.
        """
        return query.find_studies(self.node, wanted)

    @answered
    def instances(self, study_uid: str) -> frozenset[str] | None:
        """The objects that the node holds of a study.

        Args:
            study_uid: study instance UID.

        Returns:
            Their SOP instance UIDs; None where it does not answer such questions.

        Raises:
            Trouble: the node cannot be spoken to.
        """
        held = retrieve.holdings(self.node, _valid(study_uid))
        return None if held is None else frozenset(held)

    @answered
    def patient(self, study_uid: str) -> str | None:
        """Whose study it is now.

        Args:
            study_uid: study instance UID.

        Returns:
            The patient's ID; None where the node does not say it.

        Raises:
            Trouble: the node fails.
        """
        return query.patient_of(self.node, _valid(study_uid))

    @answered
    def fetch(self, study_uid: str, folder: Path) -> int:
        """Fetch a study, or what is missing of it.

        Args:
            study_uid: study instance UID.
            folder: where its files go, each there whole or not at all, under a pseudonym.

        Returns:
            Number of its objects that are in the folder.

        Raises:
            Trouble: ``nothing_received``, ``incomplete``, ``disk_full``, or what keeps the node from being spoken to.
        """
        return retrieve.fetch(self.node, _valid(study_uid), Path(folder))

    @answered
    def store(self, files: Sequence[Path], done: Callable[[Sent], None] | None = None) -> list[Sent]:
        """Send objects; one that cannot be sent does not stop the others.

        Args:
            files: DICOM files.
            done: told of each as it is known.

        Returns:
            What became of each, in the order of the files.

        Raises:
            Trouble: ``not_allowed``, or why no association was made at all.
        """
        ends, items = send.store(self.node, files, done)
        self._classes.update({one.uid: one.sop_class for one in items})
        return ends

    @answered
    def confirm(self, study_uid: str, uids: Sequence[str]) -> frozenset[str]:
        """Ask whether the node keeps what was sent.

        Args:
            study_uid: study instance UID.
            uids: SOP instance UIDs.

        Returns:
            Those that it does not keep.

        Raises:
            Trouble: it cannot be asked, or does not answer.
        """
        return confirm(self.node, _valid(study_uid), uids, self._classes)


def _valid(uid: str) -> str:
    if not valid_uid(uid):
        raise Trouble(Problem.BAD_OBJECT, "the study's instance UID is none")
    return uid
