"""Storage commitment: reports over the same association, over one that the peer opens, and peers that do not report."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt

from medsal.dicom.uids import derived_uid
from medsal.pacs import commitment
from medsal.pacs.commitment import COMMITMENT, INSTANCE
from medsal.pacs.dimse import DimseClient
from medsal.pacs.nodes import Node
from medsal.pacs.query import FIND
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import clean, study_files
from tests.pacs.peers import MR, peer
from tests.pacs.servers import HOST, free_port

STUDY = derived_uid("study")
UIDS = [derived_uid("study", "series", number) for number in (1, 2, 3)]


def trouble(node: Node) -> Trouble:
    with pytest.raises(Trouble) as caught:
        client(node).confirm(STUDY, UIDS)
    clean(caught.value)
    return caught.value


def client(node: Node) -> DimseClient:
    made = DimseClient(replace(node, commit=True))
    made._classes.update(dict.fromkeys(UIDS, MR))  # as after sending
    return made


@pytest.fixture
def archive(orthanc, tmp_path):
    orthanc.clear()
    orthanc.upload(study_files(tmp_path, 3))
    return orthanc


def test_orthanc_reports_over_an_association_of_its_own(archive) -> None:
    assert client(archive.node).confirm(STUDY, UIDS) == frozenset()
    assert client(archive.node).confirm(STUDY, [*UIDS[:2], "1.2.3"]) == {"1.2.3"}


def test_what_was_stored_before_counts_too(archive) -> None:
    """After a restart nobody remembers the SOP classes: they are asked for."""
    fresh = DimseClient(replace(archive.node, commit=True))
    assert fresh.confirm(STUDY, [*UIDS, "1.2.3"]) == {"1.2.3"}


def test_an_object_that_was_lost_is_not_kept(archive) -> None:
    (lost,) = archive.lookup(UIDS[1])
    archive.ask("DELETE", f"/instances/{lost}")
    assert client(archive.node).confirm(STUDY, UIDS) == {UIDS[1]}


def test_the_port_for_reports_is_taken(archive) -> None:
    with socket.create_server((HOST, archive.receive_port)):
        assert trouble(archive.node).problem is Problem.BUSY


def report_on(asked: Dataset, kept: int, transaction: str | None = None) -> tuple[Dataset, int]:
    """A report that keeps the first of what was asked for, and the type of the event."""
    said = Dataset()
    said.TransactionUID = transaction or asked.TransactionUID
    said.ReferencedSOPSequence = list(asked.ReferencedSOPSequence)[:kept]
    failed = list(asked.ReferencedSOPSequence)[kept:]
    for one in failed:
        one.FailureReason = 0x0112
    if failed:
        said.FailedSOPSequence = failed
    return said, 2 if failed else 1


def archive_that(report=None, status: int = 0x0000):
    """Handlers of a node that knows no studies, takes the request, and then does something in a thread of its own."""

    def act(event):
        if report is not None and status == 0x0000:
            asked = event.action_information
            threading.Thread(target=report, args=(event.assoc, asked), daemon=True).start()
        return status, None

    return [(evt.EVT_N_ACTION, act), (evt.EVT_C_FIND, lambda event: iter(()))]


def over_the_same(kept: int, transaction: str | None = None):
    def report(association, asked):
        time.sleep(0.1)
        said, kind = report_on(asked, kept, transaction)
        association.send_n_event_report(said, kind, COMMITMENT, INSTANCE)

    return report


@pytest.mark.parametrize("kept", [0, 2, 3])
def test_a_report_over_the_same_association(kept) -> None:
    with peer(archive_that(over_the_same(kept))) as node:
        assert client(node).confirm(STUDY, UIDS) == frozenset(UIDS[kept:])


@pytest.mark.parametrize("with_role", [True, False])
def test_a_report_over_an_association_of_the_peer(with_role) -> None:
    port = free_port()
    statuses, roles_taken = [], []

    def report(_, asked):
        roles = [build_role(COMMITMENT, scp_role=True)] if with_role else []
        said, kind = report_on(asked, 2)
        association = AE(ae_title="PEER").associate(
            HOST, port, [build_context(COMMITMENT)], ae_title="MEDSAL", ext_neg=roles
        )
        assert association.is_established
        (offered,) = association.accepted_contexts
        roles_taken.append(offered.as_scp)  # some archives never ask for the role, others do not report without it
        statuses.append(association.send_n_event_report(said, kind, COMMITMENT, INSTANCE)[0].Status)
        association.release()

    with peer(archive_that(report)) as node:
        assert client(replace(node, receive_port=port)).confirm(STUDY, UIDS) == {UIDS[2]}
    assert roles_taken == [with_role]
    assert statuses == [0x0000], "the peer was told that its report came"


def test_no_report_in_time() -> None:
    with peer(archive_that()) as node:
        began = time.monotonic()
        said = trouble(replace(node, timeout=0.5))
        assert (said.problem, said.transient) == (Problem.TIMEOUT, True)
        assert time.monotonic() - began < 3


def test_a_report_on_something_else_does_not_count() -> None:
    with peer(archive_that(over_the_same(3, "1.2.3.4"))) as node:
        assert trouble(node).problem is Problem.TIMEOUT


def test_a_request_that_is_refused() -> None:
    with peer(archive_that(status=0x0213)) as node:
        assert trouble(node).problem is Problem.OUT_OF_RESOURCES
    with peer(archive_that(status=0x0110)) as node:
        assert trouble(node).problem is Problem.REJECTED


def test_a_peer_that_leaves_before_it_reports() -> None:
    def leave(association, asked):
        time.sleep(0.2)
        association.abort()

    with peer(archive_that(leave)) as node:
        began = time.monotonic()
        assert trouble(replace(node, timeout=10)).problem is Problem.NO_STATUS
        assert time.monotonic() - began < 5, "with no port for reports nothing can come any more"


def test_an_archive_without_commitment_is_asked_what_it_holds(caplog) -> None:
    def holds_two(event):
        for uid in UIDS[:2] if event.identifier.QueryRetrieveLevel == "IMAGE" else UIDS[:1]:
            answer = Dataset()
            answer.SeriesInstanceUID, answer.SOPInstanceUID = "1.2.3", uid
            yield 0xFF00, answer

    with peer([(evt.EVT_C_FIND, holds_two)], [build_context(FIND)]) as node:
        assert client(node).confirm(STUDY, UIDS) == {UIDS[2]}
    assert "no storage commitment" in caplog.text


def test_an_archive_that_cannot_be_asked_at_all() -> None:
    with peer([(evt.EVT_C_FIND, lambda event: iter([(0xA900, None)]))], [build_context(FIND)]) as node:
        assert trouble(node).problem is Problem.NOT_CONFIRMED


def test_damaged_reports_are_answered_with_a_failure() -> None:
    class Event:
        @property
        def event_information(self):
            raise ValueError("Plantagenet^Canary")

    report = commitment.Report("1.2.3")
    assert report.take(Event()) == (0x0110, None)
    assert not report.came.is_set()
