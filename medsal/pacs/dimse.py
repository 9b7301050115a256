"""A node that is spoken to by DIMSE: C-ECHO, C-FIND, C-GET or C-MOVE, C-STORE, storage commitment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from medsal.dicom.phi import quiet
from medsal.dicom.uids import valid_uid
from medsal.errors import MedsalError, UsageError
from medsal.pacs import query, retrieve, send
from medsal.pacs.client import Sent, Study, Wanted
from medsal.pacs.commitment import confirm
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble

P = ParamSpec("P")
T = TypeVar("T")


def contained(function: Callable[P, T]) -> Callable[P, T]:
    """Let nothing out of a function but its result and errors of medsal.

    Args:
        function: speaks with a node; what that answers may raise anything, with values of headers in the text.

    Returns:
        The function, with warnings counted and errors replaced.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with quiet():
                return function(*args, **kwargs)
        except MedsalError:
            raise
        except ImportError as error:
            raise UsageError(f"medsal.pacs: no {error.name}; install it with: pip install 'medsal[pacs]'") from None
        except Exception as error:  # noqa: BLE001  (answers of a broken node raise nearly everything; none may pass)
            name = type(error).__name__
        raise Trouble(Problem.UNREADABLE, name)  # outside of the handlers, so that no context carries the text on

    return wrapper


class DimseClient:
    """Everything that is asked of a node, by DIMSE.

    Args:
        node: of a site.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._classes: dict[str, str] = {}

    @contained
    def echo(self) -> None:
        """Ask whether the node is there and speaks with us.

        Raises:
            Trouble: it is not, or does not.
        """
        query.echo(self.node)

    @contained
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

    @contained
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

    @contained
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

    @contained
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

    @contained
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

    @contained
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
