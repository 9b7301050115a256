"""Speaking DIMSE with Orthanc, and with peers that break, hang and lie."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import threading
import time
from dataclasses import replace

import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pynetdicom import AE, build_context, evt

from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs import objects, query
from medsal.pacs.associations import associate, context
from medsal.pacs.client import Wanted
from medsal.pacs.dimse import DimseClient, answered
from medsal.pacs.nodes import Node
from medsal.pacs.objects import file_name
from medsal.pacs.query import VERIFICATION
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import PLANTED, clean, study_files
from tests.pacs.peers import STUDY, found, gives, peer, trouble
from tests.pacs.servers import HOST, free_port, wait_for


@pytest.fixture
def archive(orthanc):
    orthanc.clear()
    return orthanc


def silent_server(answer: bytes = b"", close: bool = False) -> tuple[socket.socket, int]:
    """A port that takes connections, perhaps says something, and then nothing."""
    server = socket.create_server((HOST, 0))
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                kept.append(connection)
                connection.recv(65536)
                connection.sendall(answer)
                if close:
                    connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return server, server.getsockname()[1]


# Echo and association


def test_echo(archive) -> None:
    DimseClient(archive.node).echo()


@pytest.mark.parametrize("change", [{"ae_title": "NOBODY"}, {"own_title": "STRANGER"}])
def test_wrong_titles_are_not_accepted(archive, change) -> None:
    said = trouble(DimseClient(replace(archive.node, **change)).echo)
    assert said.problem is Problem.NOT_ACCEPTED
    assert "AE title" in said.detail


def test_a_refusal_is_heard_where_the_door_is_shut_at_once(archive, monkeypatch) -> None:
    """pynetdicom does not look for an answer once the connection is closed; a slow start of ours shows it."""
    from pynetdicom.transport import AssociationSocket

    class Late(threading.Event):
        def wait(self, timeout=None):
            super().wait(timeout)
            time.sleep(0.2)
            return True

    make = AssociationSocket.__init__

    def late(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self._ready = Late()

    monkeypatch.setattr(AssociationSocket, "__init__", late)
    said = trouble(DimseClient(replace(archive.node, ae_title="NOBODY")).echo)
    assert (said.problem, "AE title" in said.detail) == (Problem.NOT_ACCEPTED, True)


def test_what_cannot_be_asked_is_none_and_a_wrong_title_is_a_trouble(archive) -> None:
    with peer(contexts=[build_context(VERIFICATION)]) as node:
        assert DimseClient(node).instances(STUDY) is None
    said = trouble(DimseClient(replace(archive.node, ae_title="NOBODY")).instances, STUDY)
    assert said.problem is Problem.NOT_ACCEPTED
    assert trouble(DimseClient(archive.node).instances, "../x").problem is Problem.BAD_OBJECT


def test_nobody_there(archive) -> None:
    for change in ({"port": free_port()}, {"host": "no-such-host.invalid"}):
        assert trouble(DimseClient(replace(archive.node, **change)).echo).problem is Problem.UNREACHABLE


def test_peers_that_are_no_archive_do_not_hang_us() -> None:
    """Silence, another protocol, half a message, and a closed door."""
    half = b"\x02\x00\x00\x00\x10\x00" + b"x" * 100
    cases = [
        (b"", False, {Problem.TIMEOUT}),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, {Problem.UNREACHABLE}),
        (half, False, {Problem.TIMEOUT, Problem.UNREACHABLE}),  # two clocks of the same length
        (b"", True, {Problem.UNREACHABLE}),
    ]
    for answer, close, problems in cases:
        server, port = silent_server(answer, close)
        with contextlib.closing(server):
            began = time.monotonic()
            said = trouble(DimseClient(Node(name="n", host=HOST, port=port, ae_title="X", timeout=0.5)).echo)
            assert said.problem in problems, said
            assert time.monotonic() - began < 4


def test_a_node_that_is_full_is_busy() -> None:
    with peer(maximum_associations=1) as node:
        holder = AE().associate(HOST, node.port, [build_context(VERIFICATION)], ae_title="PEER")
        assert trouble(DimseClient(node).echo).problem is Problem.BUSY
        holder.release()


def test_a_node_that_takes_nothing_of_what_we_want() -> None:
    with peer(contexts=[build_context(VERIFICATION)]) as node:
        DimseClient(node).echo()
        assert trouble(DimseClient(node).find, Wanted()).problem is Problem.NOT_ACCEPTED


def test_an_echo_that_fails_or_never_comes() -> None:
    with peer([(evt.EVT_C_ECHO, lambda event: 0x0211)]) as node:
        assert trouble(DimseClient(node).echo).problem is Problem.REJECTED

    def hang(event):
        time.sleep(2.5)
        return 0x0000

    with peer([(evt.EVT_C_ECHO, hang)]) as node:
        began = time.monotonic()
        assert trouble(DimseClient(node).echo).problem is Problem.TIMEOUT
        assert time.monotonic() - began < 3

    def leave(event):
        event.assoc.abort()
        return 0x0000

    with peer([(evt.EVT_C_ECHO, leave)]) as node:
        assert trouble(DimseClient(node).echo).problem is Problem.NO_STATUS


def test_no_thread_is_left_behind(archive) -> None:
    before = set(threading.enumerate())
    client = DimseClient(archive.node)
    client.echo()
    with contextlib.suppress(Trouble):
        DimseClient(replace(archive.node, ae_title="NOBODY")).echo()
    with contextlib.suppress(Trouble):
        client.fetch("1.2.3", objects.Path("/nowhere"))
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.02)
    assert set(threading.enumerate()) - before == set()


def test_an_error_ends_the_association_at_once() -> None:
    aborted = []
    with peer([(evt.EVT_ABORTED, aborted.append)]) as node:
        before = set(threading.enumerate())
        began = time.monotonic()
        with pytest.raises(KeyError), associate(node, [context(VERIFICATION)]):
            raise KeyError
        assert time.monotonic() - began < 0.9, "the timeout of the node"
        wait_for(lambda: aborted, 5)
        wait_for(lambda: not {one for one in set(threading.enumerate()) - before if "Requestor" in one.name}, 5)


# Queries


def test_find_by_every_key(archive, tmp_path) -> None:
    archive.upload(study_files(tmp_path / "a", 3))
    archive.upload([get_testdata_file("CT_small.dcm")])
    client = DimseClient(archive.node)
    (one,) = client.find(Wanted(patient_id=PLANTED[1]))
    assert (one.uid, one.instances, one.modalities, one.date) == (STUDY, 3, ("MR",), "20260101")
    for wanted in (
        Wanted(study_uids=(STUDY, "1.2.3.4")),
        Wanted(accession=PLANTED[2]),
        Wanted(date="20251231-20260102"),
        Wanted(date="20260101", modality="MR"),
        Wanted(patient_id="CANARY*"),
    ):
        assert [found.uid for found in client.find(wanted)] == [STUDY], wanted
    assert client.find(Wanted(patient_id="NOBODY")) == []
    assert {one.modalities for one in client.find(Wanted())} == {("MR",), ("CT",)}
    assert client.patient(STUDY) == PLANTED[1]
    assert client.patient("1.2.3.4") is None
    assert client.instances(STUDY) == {derived_uid("study", "series", number) for number in (1, 2, 3)}
    assert client.instances("1.2.3.4") == frozenset()


@pytest.mark.parametrize("value", ["CANARY-0042\\x", "CANARY-0042\n", "CANARY-0042" * 10])
@pytest.mark.parametrize("key", ["patient_id", "accession", "description"])
def test_values_that_dicom_does_not_allow_are_not_repeated(key, value) -> None:
    with pytest.raises(UsageError) as caught:
        Wanted(**{key: value})
    clean(caught.value)
    assert key in str(caught.value)


def test_answers_that_are_broken_are_counted_and_the_others_kept(caplog) -> None:
    def answers(event):
        good, no_uid, bad_uid = Dataset(), Dataset(), Dataset()
        good.StudyInstanceUID, good.StudyDate = STUDY, "20260101"
        good.PatientName = PLANTED[0]
        no_uid.PatientName = PLANTED[0]
        bad_uid.add_new("StudyInstanceUID", "LO", "../../etc/passwd")
        yield from ((0xFF00, one) for one in (good, no_uid, bad_uid))

    with caplog.at_level(logging.DEBUG), peer([(evt.EVT_C_FIND, answers)]) as node:
        (one,) = DimseClient(node).find(Wanted())
        assert (one.uid, one.instances, one.modalities) == (STUDY, None, ())
    assert "cannot be understood" in caplog.text
    clean(caplog.text)


def test_a_value_that_cannot_be_decoded_does_not_cost_the_study() -> None:
    answer = Dataset()
    answer.StudyInstanceUID = STUDY
    tag = Tag("NumberOfStudyRelatedInstances")
    answer[tag] = RawDataElement(tag, "US", 3, b"abc", 0, True, True)  # three bytes are no number: reading it raises
    one = query._study(answer)
    assert one is not None
    assert (one.uid, one.instances) == (STUDY, None)


@pytest.mark.parametrize(
    ("statuses", "problem"),
    [([0xA700], Problem.OUT_OF_RESOURCES), ([0xA900], Problem.REJECTED), ([0xC001], Problem.REJECTED)],
)
def test_queries_that_fail(statuses, problem) -> None:
    with peer([(evt.EVT_C_FIND, lambda event: ((status, None) for status in statuses))]) as node:
        assert trouble(DimseClient(node).find, Wanted()).problem is problem


def test_a_query_that_stops_half_way() -> None:
    def answers(event):
        yield from found(event)
        time.sleep(2.5)

    with peer([(evt.EVT_C_FIND, answers)]) as node:
        assert trouble(DimseClient(node).find, Wanted()).problem is Problem.TIMEOUT

    def leave(event):
        yield from found(event)
        event.assoc.abort()

    with peer([(evt.EVT_C_FIND, leave)]) as node:
        assert trouble(DimseClient(node).find, Wanted()).problem is Problem.NO_STATUS


# Nothing of the patient


def test_nobody_is_named_anywhere(archive, tmp_path, caplog, capfd) -> None:
    """At every level, whether it goes well or not: logs, output, file names."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("pynetdicom").setLevel(logging.DEBUG)
        client = DimseClient(archive.node)
        client.store(study_files(tmp_path / "sent", 3))
        client.find(Wanted(patient_id=PLANTED[1], accession=PLANTED[2]))
        client.fetch(STUDY, tmp_path / "got")
        client.confirm(STUDY, ["1.2.3"])
        with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, gives(1, lambda event: 1 / 0))]) as node:
            trouble(DimseClient(node).fetch, STUDY, tmp_path / "half")
    out = capfd.readouterr()
    clean(caplog.text + out.out + out.err)
    clean([path.name for path in tmp_path.rglob("*")])
    assert STUDY not in caplog.text + out.out + out.err


def test_whatever_a_library_raises_is_a_trouble_without_its_text() -> None:
    def broken():
        raise ValueError(PLANTED[0])

    said = trouble(answered(broken))
    assert (said.problem, said.detail) == (Problem.UNREADABLE, "ValueError")


def test_names_of_files_are_hashes() -> None:
    assert file_name("1.2.3") == f"object-{hashlib.sha256(b'1.2.3').hexdigest()[:12]}.dcm"
