"""Speaking DIMSE with Orthanc, and with peers that break, hang and lie."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt

from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs import objects, query, retrieve
from medsal.pacs.associations import associate, context
from medsal.pacs.client import Sent, Wanted
from medsal.pacs.dimse import DimseClient, contained
from medsal.pacs.nodes import Node
from medsal.pacs.objects import file_name
from medsal.pacs.query import VERIFICATION
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import PLANTED, clean, saved, slices, study_files
from tests.pacs.peers import MR, peer
from tests.pacs.servers import HOST, free_port, wait_for

STUDY = derived_uid("study")


def trouble(call, *args) -> Trouble:
    """The trouble that a call ends in, which names nobody."""
    with pytest.raises(Trouble) as caught:
        call(*args)
    clean(f"{caught.value}{caught.value.__context__ or ''}{caught.value.__cause__ or ''}")
    assert STUDY not in str(caught.value)
    return caught.value


@pytest.fixture
def archive(orthanc):
    orthanc.clear()
    return orthanc


def found(event):
    """Answers to any C-FIND: a study of four slices in one series."""
    level = event.identifier.QueryRetrieveLevel
    for number in range(4 if level == "IMAGE" else 1):
        answer = Dataset()
        answer.QueryRetrieveLevel, answer.StudyInstanceUID = level, STUDY
        answer.SeriesInstanceUID = derived_uid("study", "series")
        if level == "IMAGE":
            answer.SOPInstanceUID, answer.SOPClassUID = derived_uid("study", "series", number + 1), MR
        yield 0xFF00, answer


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


# Retrieval


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_study_comes_whole(archive, tmp_path, way) -> None:
    sent = study_files(tmp_path / "sent", 12)
    archive.upload(sent)
    client = DimseClient(replace(archive.node, retrieve=way))
    folder = tmp_path / "got"
    assert client.fetch(STUDY, folder) == 12
    names = {path.name for path in folder.iterdir()}
    assert names == {file_name(derived_uid("study", "series", number)) for number in range(1, 13)}
    for path in sent:
        first = dcmread(path)
        again = dcmread(folder / file_name(first.SOPInstanceUID))
        assert again == first
        assert (folder / file_name(first.SOPInstanceUID)).stat().st_mode & 0o077 == 0
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    assert client.fetch(STUDY, folder) == 12
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before, "what is there is not fetched again"


@pytest.mark.parametrize("way", ["get", "move"])
def test_an_unknown_study_is_nothing_received(archive, tmp_path, way, monkeypatch) -> None:
    client = DimseClient(replace(archive.node, retrieve=way))
    assert trouble(client.fetch, "1.2.3.4", tmp_path / "no").problem is Problem.NOTHING_RECEIVED
    monkeypatch.setattr(retrieve, "holdings", lambda *_: None)  # an archive that cannot be asked
    assert trouble(client.fetch, "1.2.3.4", tmp_path / "no").problem is Problem.NOTHING_RECEIVED
    assert list((tmp_path / "no").iterdir()) == []


def test_move_to_a_port_that_is_taken_or_unknown(archive, tmp_path) -> None:
    archive.upload(study_files(tmp_path / "sent", 1))
    node = replace(archive.node, retrieve="move")
    with socket.create_server((HOST, node.receive_port)):
        assert trouble(DimseClient(node).fetch, STUDY, tmp_path / "got").problem is Problem.BUSY
    other = replace(node, receive_port=free_port())  # the archive sends to the port that it knows
    assert not trouble(DimseClient(other).fetch, STUDY, tmp_path / "got").problem.startswith("incomplete")
    assert list((tmp_path / "got").iterdir()) == []


def test_move_is_taken_from_the_node_only(archive, tmp_path) -> None:
    archive.upload(study_files(tmp_path / "sent", 1))
    node = replace(archive.node, retrieve="move", receive_from=("192.0.2.0/24",))
    trouble(DimseClient(node).fetch, STUDY, tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def gives(count: int, then=None):
    """A C-GET handler that hands out some of four slices, and then does something else."""

    def handle(event):
        yield 4
        for one in slices(4)[:count]:
            yield 0xFF00, one
        if then is not None:
            then(event)

    return handle


@pytest.mark.parametrize("end", ["hangs", "aborts", "stops"])
def test_a_part_is_incomplete_and_completed_the_next_time(tmp_path, end) -> None:
    ends = {"hangs": lambda event: time.sleep(2.5), "aborts": lambda event: event.assoc.abort(), "stops": None}
    folder = tmp_path / "got"
    with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, gives(2, ends[end]))]) as node:
        said = trouble(DimseClient(node).fetch, STUDY, folder)
        assert said.problem is Problem.INCOMPLETE
        assert "2 of 4" in said.detail
        assert said.transient
    assert len(list(folder.iterdir())) == 2
    (folder / ".0123456789ab.part").write_bytes(b"left behind by a process that was killed")
    with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, gives(4))]) as node:
        assert DimseClient(node).fetch(STUDY, folder) == 4
    assert len(list(folder.iterdir())) == 4


def test_a_peer_that_hangs_before_anything_came(tmp_path) -> None:
    with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, gives(0, lambda event: time.sleep(2.5)))]) as node:
        assert trouble(DimseClient(node).fetch, STUDY, tmp_path / "got").problem is Problem.TIMEOUT


@pytest.mark.parametrize("uid", ["../escaped", "/abs/path", "1.2.3/../../x", "1..2"])
def test_uids_that_lead_elsewhere_are_refused(tmp_path, uid, monkeypatch) -> None:
    def handle(event):
        yield 1
        one = slices(1)[0]
        one.add_new("SOPInstanceUID", "LO", uid)
        one.file_meta.add_new("MediaStorageSOPInstanceUID", "LO", uid)
        yield 0xFF00, one

    monkeypatch.setattr("pynetdicom._config.ENFORCE_UID_CONFORMANCE", False)
    folder = tmp_path / "spool" / "got"
    with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, handle)]) as node:
        said = trouble(DimseClient(node).fetch, STUDY, folder)
    assert said.problem is Problem.NOTHING_RECEIVED
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_objects_of_another_study_are_refused(tmp_path) -> None:
    """A mix-up of patients by the archive must not go on."""

    def handle(event):
        yield 4
        yield from ((0xFF00, one) for one in [*slices(3), *slices(1, "another")])

    with peer([(evt.EVT_C_FIND, found), (evt.EVT_C_GET, handle)]) as node:
        said = trouble(DimseClient(node).fetch, STUDY, tmp_path / "got")
    assert said.problem is Problem.INCOMPLETE
    assert "of another study" in said.detail
    assert len(list((tmp_path / "got").iterdir())) == 3


def test_a_full_disk_stops_the_retrieval(archive, tmp_path, monkeypatch) -> None:
    archive.upload(study_files(tmp_path / "sent", 6))
    written = []

    def write(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        objects_write(path, content)

    objects_write = objects.write_object
    monkeypatch.setattr(objects, "write_object", write)
    for way in ("get", "move"):
        written.clear()
        node = replace(archive.node, retrieve=way)
        said = trouble(DimseClient(node).fetch, STUDY, tmp_path / way)
        assert said.problem is Problem.DISK_FULL
        assert len(list((tmp_path / way).iterdir())) == 2
    monkeypatch.setattr(objects, "write_object", objects_write)
    assert DimseClient(archive.node).fetch(STUDY, tmp_path / "get") == 6


def test_a_long_message_is_no_silence(archive, tmp_path) -> None:
    """An object that takes longer than the timeout arrives, as long as it moves."""
    (path,) = study_files(tmp_path / "sent", 1)
    big = dcmread(path)
    big.Rows, big.Columns = 2000, 4000
    big.PixelData = b"\1\2" * 2000 * 4000
    saved([big], tmp_path / "big")
    archive.upload([tmp_path / "big" / "0000.dcm"])
    with slow(archive.port, 9e6) as port:
        node = replace(archive.node, port=port, timeout=1.2)
        began = time.monotonic()
        assert DimseClient(node).fetch(STUDY, tmp_path / "got") == 1
        assert time.monotonic() - began > 1.2
        archive.clear()
        (end,) = DimseClient(node).store([tmp_path / "big" / "0000.dcm"])
        assert end.problem is None


@contextlib.contextmanager
def slow(port: int, rate: float) -> Iterator[int]:
    """A way to a port that lets through so many bytes in a second."""
    server = socket.create_server((HOST, 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                time.sleep(len(data) / rate)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection((HOST, port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with contextlib.closing(server):
        yield server.getsockname()[1]


# Sending


def test_what_is_sent_arrives_as_it_is(archive, tmp_path) -> None:
    names = ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "reportsi.dcm"]
    files = [objects.Path(get_testdata_file(name)) for name in names]
    told: list[Sent] = []
    ends = DimseClient(archive.node).store(files, told.append)
    assert [end.problem for end in ends] == [None] * 5
    assert sorted(told, key=str) == sorted(ends, key=str)
    assert archive.instances() == {end.uid for end in ends}
    for path, end in zip(files, ends, strict=True):
        stored = tmp_path / "back.dcm"
        stored.write_bytes(archive.file(end.uid))
        first, again = dcmread(path), dcmread(stored)
        assert again.file_meta.TransferSyntaxUID == first.file_meta.TransferSyntaxUID
        assert first.get("PixelData") == again.get("PixelData")


def test_sending_needs_leave(archive, tmp_path) -> None:
    node = replace(archive.node, write=False)
    assert trouble(DimseClient(node).store, study_files(tmp_path, 1)).problem is Problem.NOT_ALLOWED
    assert archive.instances() == frozenset()


def test_one_bad_object_does_not_stop_the_others(archive, tmp_path) -> None:
    files = study_files(tmp_path, 4)
    files[0].write_bytes(b"no DICOM")
    files[2].write_bytes(files[2].read_bytes()[:-50])
    torn = dcmread(files[1])
    torn.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    torn.save_as(files[1])
    ends = DimseClient(archive.node).store([*files, tmp_path / "none.dcm"])
    bad = Problem.BAD_OBJECT
    assert [end.problem for end in ends] == [bad, bad, bad, None, bad]
    assert archive.instances() == {derived_uid("study", "series", 4)}


def test_sending_again_changes_nothing(archive, tmp_path) -> None:
    files = study_files(tmp_path, 3)
    client = DimseClient(archive.node)
    for _ in range(2):
        assert [end.problem for end in client.store(files)] == [None] * 3
    assert len(archive.instances()) == 3


def storing(answer):
    """A peer's C-STORE handler that is told the number of the call."""
    calls: list[str] = []

    def handle(event):
        calls.append(str(event.request.AffectedSOPInstanceUID))
        return answer(len(calls), event)

    return calls, [(evt.EVT_C_STORE, handle)]


def test_an_abort_is_followed_by_another_association(tmp_path) -> None:
    def answer(number, event):
        if number == 2:
            event.assoc.abort()
        return 0x0000

    files = study_files(tmp_path, 4)
    calls, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None] * 4
    assert len(calls) == 5, "the one whose answer did not come was sent again"
    assert calls[1] == calls[2]


def test_the_object_that_a_peer_stumbles_over_is_left_out(tmp_path) -> None:
    files = study_files(tmp_path, 4)
    poison = derived_uid("study", "series", 2)

    def answer(number, event):
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0x0000

    calls, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, Problem.NO_STATUS, None, None]
    assert calls.count(poison) == 2


def test_two_bad_objects_in_a_row_are_left_out(tmp_path) -> None:
    files = study_files(tmp_path, 6)
    poison = {derived_uid("study", "series", number) for number in (3, 4)}

    def answer(number, event):
        if event.request.AffectedSOPInstanceUID in poison:
            event.assoc.abort()
        return 0x0000

    _, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert {end.uid for end in ends if end.problem} == poison


def test_a_peer_that_aborts_always_is_not_asked_for_ever(tmp_path) -> None:
    files = study_files(tmp_path, 30)
    calls, handlers = storing(lambda number, event: event.assoc.abort() or 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert {end.problem for end in ends} == {Problem.NO_STATUS}
    assert len(ends) == 30
    assert len(calls) <= 6


@pytest.mark.parametrize(
    ("status", "problem"),
    [(0xA700, Problem.OUT_OF_RESOURCES), (0xA900, Problem.REJECTED), (0xC000, Problem.REJECTED), (0xB000, None)],
)
def test_a_status_belongs_to_its_object(tmp_path, status, problem) -> None:
    files = study_files(tmp_path, 3)
    _, handlers = storing(lambda number, event: status if number == 2 else 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, problem, None]
    assert ends[1].detail == f"0x{status:04X}"


def test_a_peer_that_never_answers_a_store(tmp_path) -> None:
    _, handlers = storing(lambda number, event: time.sleep(2.5) or 0x0000)
    with peer(handlers) as node:
        (end,) = DimseClient(replace(node, timeout=0.5)).store(study_files(tmp_path, 1))
    assert (end.problem, end.detail) == (Problem.TIMEOUT, "2 times")


def test_a_class_that_is_not_taken(tmp_path) -> None:
    files = [*study_files(tmp_path, 1), objects.Path(get_testdata_file("CT_small.dcm"))]
    _, handlers = storing(lambda number, event: 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, Problem.NOT_ACCEPTED]


def test_a_peer_of_implicit_little_endian_only(tmp_path) -> None:
    got = []

    def answer(number, event):
        got.append((event.context.transfer_syntax, event.dataset.PixelData))
        return 0x0000

    (path,) = study_files(tmp_path, 1)
    _, handlers = storing(answer)
    with peer(handlers, [build_context(MR, "1.2.840.10008.1.2")]) as node:
        (end,) = DimseClient(node).store([path])
    assert end.problem is None
    assert got == [("1.2.840.10008.1.2", dcmread(path).PixelData)]


def test_more_kinds_than_an_association_holds(tmp_path) -> None:
    """150 SOP classes need 300 presentation contexts: three associations."""
    classes = [str(one.abstract_syntax) for one in AllStoragePresentationContexts][:150]
    made = slices(1) * len(classes)
    paths = []
    for number, sop_class in enumerate(classes):
        one = made[number]
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = sop_class
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid("kinds", number)
        paths += saved([one], tmp_path / str(number))
    associated = []
    calls, handlers = storing(lambda number, event: 0x0000)
    handlers.append((evt.EVT_ACCEPTED, associated.append))
    with peer(handlers, [build_context(one) for one in classes]) as node:
        ends = DimseClient(node).store(paths)
    assert [end.problem for end in ends] == [None] * 150
    assert [end.uid for end in ends] == [derived_uid("kinds", number) for number in range(150)]
    assert len(associated) == 3
    assert len(set(calls)) == 150


def test_retrieval_of_more_kinds_than_an_association_holds() -> None:
    classes = [f"1.2.3.{number}" for number in range(300)]
    parts = list(retrieve.groups(classes, 1))
    assert [len(part) for part in parts] == [127, 127, 46]
    assert {one for part in parts for one in part} == set(classes)
    (unknown,) = retrieve.groups([], 1)
    assert len(unknown) == 127
    assert set(retrieve.IMAGES) < set(unknown)
    assert max(len(part) for part in retrieve.groups([""], 13)) * 13 < 128


def test_confirm_says_what_is_missing(archive, tmp_path) -> None:
    client = DimseClient(archive.node)
    ends = client.store(study_files(tmp_path, 3))
    uids = [end.uid for end in ends]
    assert client.confirm(STUDY, uids) == frozenset()
    assert client.confirm(STUDY, [*uids, "1.2.3"]) == {"1.2.3"}
    assert client.confirm(STUDY, []) == frozenset()


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

    said = trouble(contained(broken))
    assert (said.problem, said.detail) == (Problem.UNREADABLE, "ValueError")


def test_names_of_files_are_hashes() -> None:
    assert file_name("1.2.3") == f"object-{hashlib.sha256(b'1.2.3').hexdigest()[:12]}.dcm"
