"""No answer of a peer gets lost between two calls: the reactor's gap, by itself and under load."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pynetdicom
import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_OPEN

from medsal.dicom.uids import derived_uid
from medsal.pacs import associations, reactor
from medsal.pacs.nodes import Node
from medsal.pacs.reactor import Checkpoint, affected
from tests.dicom.tools import program
from tests.pacs.made import study_files
from tests.pacs.servers import HOST, Server


class Storescp(Server):
    """DCMTK's receiver; it keeps nothing."""

    def command(self) -> list[str]:
        return [program("storescp", "Debian package dcmtk"), "--ignore", "-aet", "STORE", str(self.port)]


@pytest.fixture(scope="module")
def storescp(tmp_path_factory) -> Iterator[Storescp]:
    server = Storescp(tmp_path_factory.mktemp("storescp"))
    yield server.start()
    server.kill()


@contextlib.contextmanager
def load(processes: int = 2) -> Iterator[None]:
    """Keep the cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def tiny(folder: Path, count: int) -> list[Path]:
    """Many small files from one."""
    (first,) = study_files(folder / "first", 1)
    dataset = dcmread(first)
    paths = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = derived_uid("race", number)
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1])
    return paths


def empty_answers(node: Node, files: list[Path]) -> int:
    """Send files, and count the answers without a status."""
    lost = 0
    waiting = list(files)
    while waiting:
        with associations.associate(
            node, [associations.context("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")]
        ) as talk:
            while waiting and talk.open:
                status = talk.association.send_c_store(waiting.pop(), talk.message())
                lost += "Status" not in status
    return lost


def test_woken_is_not_passed() -> None:
    """`clear` right after `set` leaves a `Checkpoint` closed; Python's own event lets its waiter through."""
    passed = {}
    for kind in (threading.Event, Checkpoint):
        passed[kind] = 0
        for _ in range(50):
            thread = threading.Thread(daemon=True)  # stands for an association
            thread._kill = False
            gate = kind() if kind is threading.Event else kind(thread)
            gate.clear()
            through = threading.Event()

            def park(gate=gate, through=through) -> None:
                gate.wait()
                through.set()

            thread.run = park
            thread.start()
            gate.clear()
            time.sleep(0.001)
            gate.set()
            gate.clear()
            passed[kind] += through.wait(0.005)
            gate.set()
            thread.join()
    assert passed[threading.Event] > 0
    assert passed[Checkpoint] == 0


def test_clear_waits_until_the_reactor_stands_still() -> None:
    """Whoever has passed the gate finishes what it does before the other side goes on."""
    thread = threading.Thread(daemon=True)
    thread._kill = False
    gate = Checkpoint(thread)
    doing, done = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        doing.set()
        time.sleep(0.1)
        done.set()
        gate.wait()

    thread.run = work
    thread.start()
    doing.wait()
    gate.clear()
    assert done.is_set()
    gate.set()
    thread.join()


def reactor_of(guarded: bool) -> Association:
    """A real association whose reactor runs, with nothing behind it."""
    association = Association(AE(), "requestor")
    if guarded:
        association._reactor_checkpoint = Checkpoint(association)
    association.dul = SimpleNamespace(is_alive=lambda: True, idle_timer_expired=lambda: False, stop_dul=lambda: True)
    association.acse = SimpleNamespace(is_aborted=lambda *_: False, is_release_requested=lambda: False)
    association._started_dul, association.is_established = True, True
    association._serve_request = lambda *_: None
    association.start()
    return association


def stolen(association: Association, calls: int = 300) -> int:
    """Call as ``send_c_store`` does, and count the answers that the reactor took."""
    lost = 0
    for _ in range(calls):
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            time.sleep(0.0001)
        association.dimse.msg_queue.put((1, SimpleNamespace()))
        time.sleep(0.0005)  # the peer's answer is there before anybody asks for it
        lost += association.dimse.get_msg(block=False)[1] is None
        association._reactor_checkpoint.set()
    association._kill = True
    association._reactor_checkpoint.set()
    association.join(5)
    return lost


def test_the_reactor_takes_no_answers() -> None:
    assert stolen(reactor_of(guarded=False)) > 0, "the gap of pynetdicom is closed: is the guard still needed?"
    assert stolen(reactor_of(guarded=True)) == 0


def test_clear_does_not_wait_for_a_reactor_that_has_ended() -> None:
    association = reactor_of(guarded=True)
    association._kill = True
    association._reactor_checkpoint.set()
    association.join(5)
    began = time.monotonic()
    association._reactor_checkpoint.clear()
    assert time.monotonic() - began < 1


def test_the_guard_is_in_place_for_this_version(storescp) -> None:
    """Every association of ours has the checkpoint, small pieces go out at once, and nothing waits for ever."""
    import socket

    assert affected(pynetdicom.__version__)
    seen = []
    node = Node(name="s", host=HOST, port=storescp.port, ae_title="STORE", timeout=7)
    look = [(EVT_CONN_OPEN, lambda event: seen.append(event.assoc.dul.socket.socket))]
    with associations.associate(node, [associations.context("1.2.840.10008.1.1")], (), look) as talk:
        assert isinstance(talk.association._reactor_checkpoint, Checkpoint)
        (connection,) = seen
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.gettimeout() == 7


def test_600_stores_under_load_all_have_a_status(storescp, tmp_path) -> None:
    node = Node(name="s", host=HOST, port=storescp.port, ae_title="STORE", timeout=5)
    files = tiny(tmp_path, 600)
    with load():
        assert empty_answers(node, files) == 0


@pytest.mark.slow
def test_5000_stores_under_load_all_have_a_status(storescp, tmp_path) -> None:
    node = Node(name="s", host=HOST, port=storescp.port, ae_title="STORE", timeout=5)
    files = tiny(tmp_path, 5000)
    with load():
        assert empty_answers(node, files) == 0


@pytest.mark.slow
def test_stores_without_the_guard_lose_answers(storescp, tmp_path, monkeypatch) -> None:
    """What the guard is for; it may take some thousands of stores, so up to 20,000 are sent."""
    monkeypatch.setattr(reactor, "affected", lambda version: False)
    node = Node(name="s", host=HOST, port=storescp.port, ae_title="STORE", timeout=1)
    files = tiny(tmp_path, 1000)
    with load():
        assert any(empty_answers(node, files) for _ in range(20))
