"""Studies out of archives by C-GET and C-MOVE, and out of peers that break, hang and lie."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydicom import dcmread
from pynetdicom import evt

from medsal.dicom.uids import derived_uid
from medsal.pacs import objects, retrieve
from medsal.pacs.dimse import DimseClient
from medsal.pacs.objects import file_name
from medsal.pacs.troubles import Problem
from tests.pacs.made import saved, slices, study_files
from tests.pacs.peers import STUDY, found, gives, peer, trouble
from tests.pacs.servers import HOST, free_port


@pytest.fixture
def archive(orthanc):
    orthanc.clear()
    return orthanc


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


def test_a_part_is_incomplete_also_where_the_node_lists_nothing(tmp_path) -> None:
    """It says 0xB000, a warning, and which objects it could not send."""

    def handle(event):
        yield 4
        made = slices(4)
        made[3].SOPClassUID = made[3].file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # of no context
        yield from ((0xFF00, one) for one in made)

    with peer([(evt.EVT_C_FIND, lambda event: iter([(0xC000, None)])), (evt.EVT_C_GET, handle)]) as node:
        said = trouble(DimseClient(node).fetch, STUDY, tmp_path / "got")
    assert (said.problem, said.transient) == (Problem.INCOMPLETE, True)
    assert "3 of an unknown number" in said.detail
    assert len(list((tmp_path / "got").iterdir())) == 3


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
