"""Whether an archive keeps what was sent: its own word (storage commitment), else what it says that it holds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from medsal.pacs.associations import NotOffered, Talk, associate, context
from medsal.pacs.nodes import Node
from medsal.pacs.receiving import receiving
from medsal.pacs.retrieve import holdings
from medsal.pacs.troubles import Problem, Trouble, of_status

if TYPE_CHECKING:
    from pydicom import Dataset

_LOG = logging.getLogger("medsal")

COMMITMENT, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
"""Storage commitment push model: SOP class, and its well-known instance."""

_GRACE = 0.05  # seconds for the answer to the report, before the association that it came over is released


def confirm(node: Node, study_uid: str, uids: Sequence[str], classes: Mapping[str, str]) -> frozenset[str]:
    """Ask whether a node keeps objects.

    Args:
        node: of a site.
        study_uid: study instance UID.
        uids: SOP instance UIDs.
        classes: SOP instance UID -> SOP class UID, where known.

    Returns:
        Those that it does not keep.

    Raises:
        Trouble: it cannot be asked, or does not answer.
    """
    if not uids:
        return frozenset()
    held = holdings(node, study_uid)
    if node.commit:
        known = {**(held or {}), **classes}
        asked = {uid: known[uid] for uid in uids if known.get(uid)}
        if held is not None and any(uid in held for uid in uids if uid not in asked):
            kept = None  # without the SOP class of each it cannot be asked
        else:
            kept = committed(node, asked)
        if kept is not None:
            return frozenset(uids) - kept
        _LOG.warning("%s: no storage commitment; it was asked what it holds instead", node.name)
    if held is None:
        raise Trouble(Problem.NOT_CONFIRMED, f"{node.name}: it cannot be asked which objects it holds")
    return frozenset(uids) - held.keys()


class Report:
    """What a node says at last about objects that it was asked to keep.

    Args:
        transaction: UID of the question.

    Attributes:
        kept: SOP instance UIDs that it keeps.
    """

    def __init__(self, transaction: str) -> None:
        self.transaction = transaction
        self.kept: frozenset[str] = frozenset()
        self.came = threading.Event()

    def take(self, event: Any) -> tuple[int, None]:
        """Answer an N-EVENT-REPORT request.

        Args:
            event: of pynetdicom.

        Returns:
            The status, and no attributes.
        """
        try:
            said: Dataset = event.event_information
            transaction = str(said.get("TransactionUID"))
            kept = frozenset(str(one.ReferencedSOPInstanceUID) for one in said.get("ReferencedSOPSequence") or [])
        except Exception:  # noqa: BLE001  damaged reports raise nearly everything; the peer is told
            return 0x0110, None
        if transaction == self.transaction:
            self.kept = kept
            self.came.set()
        return 0x0000, None


def committed(node: Node, objects: Mapping[str, str]) -> frozenset[str] | None:
    """Ask a node to keep objects, and wait for its report: over the same association, or one that it opens.

    Args:
        node: of a site; with a ``receive_port`` it can open one.
        objects: SOP instance UID -> SOP class UID.

    Returns:
        Those that it keeps; None where it offers no storage commitment.

    Raises:
        Trouble: it fails, or no report comes in time.
    """
    from pydicom.uid import generate_uid
    from pynetdicom import build_context, evt

    if not objects:
        return frozenset()
    report = Report(str(generate_uid(prefix=None)))
    handlers = [(evt.EVT_N_EVENT_REPORT, report.take)]
    with ExitStack() as open_ones:
        if node.receive_port:
            offered = build_context(COMMITMENT, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
            offered.scu_role = offered.scp_role = True  # the peer is the one that serves, though it calls us
            open_ones.enter_context(receiving(node, [offered], handlers, lambda *_: None))
        try:
            talk = open_ones.enter_context(associate(node, [context(COMMITMENT)], (), handlers))
        except NotOffered:
            return None
        _ask(talk, report, objects)
        _wait(talk, report)
    return report.kept


def _ask(talk: Talk, report: Report, objects: Mapping[str, str]) -> None:
    from pydicom import Dataset

    question = Dataset()
    question.TransactionUID = report.transaction
    question.ReferencedSOPSequence = []
    for uid, sop_class in objects.items():
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = sop_class, uid
        question.ReferencedSOPSequence.append(one)
    status, _ = talk.association.send_n_action(question, 1, COMMITMENT, INSTANCE, talk.message())
    code = status.get("Status")
    if code is None:
        raise talk.lost()
    problem = of_status(code)
    if problem is not None:
        raise Trouble(problem, f"{talk.node.name}: storage commitment: 0x{code:04X}")


def _wait(talk: Talk, report: Report) -> None:
    end = time.monotonic() + talk.node.timeout
    while not report.came.wait(0.05):
        if not (talk.open or talk.node.receive_port):
            raise talk.lost()
        if time.monotonic() > end:
            raise Trouble(Problem.TIMEOUT, f"{talk.node.name}: no report of storage commitment")
    time.sleep(_GRACE)
