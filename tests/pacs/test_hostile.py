"""Peers that mean harm: the listener goes on, in bounded memory, and writes nothing outside of its spool."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.presentation import build_context

from medsal.dicom.uids import derived_uid
from medsal.pacs import Listener, object_name
from tests.dicom.builders import CT, DX, base, film, save, set_pixels, slices_of
from tests.pacs import listeners
from tests.pacs.listeners import files_in, memory, parts_in, spool_of
from tests.pacs.servers import wait_for
from tests.pacs.wire import ABORT, ASSOCIATE_AC, P_DATA, Peer, command, data_set, fragment, pdu, request

listening = listeners.listening
MIB = 2**20


@pytest.fixture
def honest(tmp_path) -> tuple[str, bytes]:
    """An object that is as it should be: its UID and data set."""
    made = slices_of(1)[0]
    return str(made.SOPInstanceUID), data_set(save(made, tmp_path.parent / f"{tmp_path.name}-in" / "slice.dcm"))


@pytest.fixture
def peers() -> Iterator[Callable[[int], Peer]]:
    """Makes peers that stay connected, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda port: stack.enter_context(Peer(port))


def pushed(peer: Peer, piece: bytes, most: int = 64 * MIB) -> int:
    """How much a peer takes of what is sent to it again and again before it hangs up; `most` where it never does."""
    sent = 0
    peer.socket.settimeout(10)
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < most:
            peer.send(piece)
            sent += len(piece)
    return sent


def finish(peer: Peer, data: bytes) -> None:
    """Send it, say no more, and wait for the end."""
    with contextlib.suppress(OSError):  # it may end while we still speak
        peer.send(data)
        peer.socket.shutdown(socket.SHUT_WR)
        while peer.receive()[0] not in {0, ABORT}:
            pass


def accepts(listener: Listener, honest: tuple[str, bytes]) -> float:
    """An honest sender gets in and is served; seconds that it took."""
    start = time.monotonic()
    with Peer(listener.listening.port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        assert peer.store(*honest) == 0
    return time.monotonic() - start


def unharmed(listener: Listener, honest: tuple[str, bytes], pid: int, most: int = 110 * MIB) -> None:
    """What must hold after every attack."""
    assert accepts(listener, honest) < 5
    assert (listener.pid, listener.starts) == (pid, 1)
    assert memory(pid) < most
    wait_for(lambda: not parts_in(listener), 10)
    spool = spool_of(listener)
    for path in files_in(listener):
        assert path.parent in {spool.study(held.uid) for held in spool.studies()} | {spool.rejected}
        assert not path.is_symlink()
    places = {path.name for path in listener.site.folder.parent.iterdir()}
    assert places <= {f"site{number}" for number in range(9)}  # nothing beside the sites
    assert {path.name for path in listener.site.folder.iterdir()} == {"spool", "incoming", "rejected"}


NO_UIDS = [
    "../x",
    "/abs/path",
    "1." * 32 + "1",
    "1.2\0.3",
    "..",
    "1.2.3/../../x",
    "1.2\n.3",
    "a",
    "1..2",
    "%2e%2e",
    " ",
]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
def test_uids_that_are_paths(listening, honest, tmp_path):
    listener = listening()
    pid = listener.pid
    for number, uid in enumerate(NO_UIDS):
        with Peer(listener.listening.port) as peer:
            assert peer.associate() == ASSOCIATE_AC
            assert peer.store(uid, honest[1]) in {0xC000, 0xA900, -1}
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            made = slices_of(1)[0]
            setattr(made, keyword, uid)
            made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
            data = data_set(save(made, tmp_path.parent / f"{tmp_path.name}-in" / f"{number}.dcm"))
            with Peer(listener.listening.port) as peer:
                assert peer.associate() == ASSOCIATE_AC
                said = [peer.store(honest[0], data)]
                said += [peer.store(uid, data)] if said[0] >= 0 else []
                assert set(said) <= {0xC000, 0xA900, -1}
    assert not any(spool_of(listener).root.iterdir())
    unharmed(listener, honest, pid)
    assert spool_of(listener).instances(derived_uid("study")) == {honest[0]}


def test_headers_that_announce_gigabytes(listening, honest):
    listener = listening()
    pid = listener.pid
    accepts(listener, honest)
    before = memory(pid, "VmRSS")
    for kind in (*range(9), 0x20, 0xFF):
        for established in (False, True):
            with Peer(listener.listening.port) as peer:
                if established:
                    assert peer.associate() == ASSOCIATE_AC
                peer.send(pdu(kind, b"", 2**31 - 1))
                assert pushed(peer, b"\0" * MIB) < 16 * MIB  # what the system's own buffers take
    with Peer(listener.listening.port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        peer.send(pdu(P_DATA, b"", listener.listening.pdu_kib * 1024 + 1))
        assert peer.ended()
    assert memory(pid) < before + 20 * MIB
    unharmed(listener, honest, pid)


def test_values_within_a_piece_that_lie(listening, honest):
    listener = listening()
    pid = listener.pid
    uid = honest[0]
    lies = [
        pdu(P_DATA, b""),
        pdu(P_DATA, struct.pack(">L", 0)),
        pdu(P_DATA, struct.pack(">L", 0) * 1000),
        pdu(P_DATA, struct.pack(">LBB", 2**32 - 1, 1, 3) + b"x" * 50),
        pdu(P_DATA, struct.pack(">LB", 1, 1)),
        pdu(P_DATA, struct.pack(">LBB", 2, 1, 0) * 2000),
        fragment(3, command(uid), context=99),
        fragment(0, b"data first"),
        fragment(2, b"data first"),
        fragment(3, b""),
        fragment(3, b"\0" * 40),
        fragment(3, command(uid, field=0x7777)),
        fragment(3, command(uid, data=0x0101)),
        fragment(1, b"\0" * 16_000) * 10,
        fragment(3, command(uid)) + fragment(0, b"data") + fragment(3, command("1.2.3")),
        fragment(3, command(uid)) + fragment(0, b"data") + fragment(2, b"", context=3),
        fragment(3, command(uid, field=0x0100)) * 300,
        fragment(3, command(uid, field=0x0030, data=0x0101)) * 300,
        fragment(3, command(uid, field=0x0FFF, data=0x0101)) * 300,
        fragment(3, command(uid, field=0x0020)) + fragment(2, b"\0" * 10_000),
        fragment(3, command(uid, field=0x8001)),
        (fragment(3, command(uid)) + fragment(2, b"xx")) * 200,
        request(),
        pdu(2, b"\0" * 100),
        pdu(5, b""),
        pdu(6, b"\0" * 4),
        pdu(7, b"\0" * 4),
    ]
    for lie in lies:
        with Peer(listener.listening.port, timeout=10) as peer:
            assert peer.associate() == ASSOCIATE_AC
            finish(peer, lie + fragment(3, command(uid)) + fragment(0, honest[1][:50]))
    wait_for(lambda: accepts(listener, honest) < 5, 20)
    unharmed(listener, honest, pid)


def test_garbage(listening, honest, authority):
    plain = listening()
    secure = listening(tls=authority.server.tls(authority.ca))
    chance = random.Random(5)
    greetings = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x01\x00\x00\x00\x00\x00"]
    greetings += [chance.randbytes(chance.randrange(1, 3000)) for _ in range(20)]
    greetings += [request()[:cut] for cut in range(1, len(request()), 29)]
    for _ in range(30):
        broken = bytearray(request())
        for _ in range(4):
            broken[chance.randrange(6, len(broken))] = chance.randrange(256)
        greetings.append(bytes(broken) + chance.randbytes(50))
    pids = plain.pid, secure.pid
    for listener in (plain, secure):
        for greeting in greetings:
            with Peer(listener.listening.port, timeout=10) as peer:
                finish(peer, greeting)
    for _ in range(20):
        with Peer(plain.listening.port) as peer:
            assert peer.associate() == ASSOCIATE_AC
            finish(peer, pdu(P_DATA, chance.randbytes(chance.randrange(5000))))
    unharmed(plain, honest, pids[0])
    assert (secure.pid, secure.starts) == (pids[1], 1)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_silent_peers_lock_nobody_out(secure, listening, honest, authority, peers):
    listener = listening(max_associations=4, tls=authority.server.tls(authority.ca) if secure else None)
    pid, port = listener.pid, listener.listening.port
    context = None
    if secure:
        context = ssl.create_default_context(cafile=authority.ca)
        context.load_cert_chain(authority.client.certificate, authority.client.key)

    def honest_sender() -> float:
        start = time.monotonic()
        with Peer(port, tls=context) as peer:
            assert peer.associate() == ASSOCIATE_AC
            assert peer.store(*honest) == 0
        return time.monotonic() - start

    silent = [peers(port) for _ in range(50)]
    assert len(silent) == 50
    assert honest_sender() < 3
    half = [peers(port) for _ in range(50)]
    for peer in half:
        peer.send(b"\x16\x03\x01" if secure else request()[:40])
    assert honest_sender() < 3
    assert memory(pid) < 110 * MIB
    with Path(f"/proc/{pid}/status").open() as file:
        threads = next(int(line.split()[1]) for line in file if line.startswith("Threads"))
    assert threads < 60
    assert (listener.pid, listener.starts) == (pid, 1)


def test_idle_and_slow_peers_are_let_go(listening, honest, peers):
    listener = listening(max_associations=4, idle_seconds=1.0)
    pid, port = listener.pid, listener.listening.port
    silent = peers(port)
    slow = peers(port)  # one byte of its request after the other
    inside = [peers(port) for _ in range(4)]
    for peer in inside:
        assert peer.associate() == ASSOCIATE_AC
    start = time.monotonic()
    inside[1].send(pdu(P_DATA, b"", 1000))
    inside[2].send(fragment(3, command(honest[0])))
    ended: dict[int, float] = {}

    def drip(number: int, peer: Peer, piece: bytes) -> None:
        with contextlib.suppress(OSError):
            for _ in range(100):
                peer.send(piece)
                time.sleep(0.15)
        ended[number] = time.monotonic() - start

    drops = [(0, slow, b"\x01"), (1, inside[1], b"x"), (2, inside[2], fragment(0, b"x"))]
    dripping = [threading.Thread(target=drip, args=drop) for drop in drops]
    for one in dripping:
        one.start()
    for peer in (silent, inside[0], inside[3]):
        assert peer.ended()
    assert time.monotonic() - start < 4
    for one in dripping:
        one.join(20)
    assert ended[0] < 4
    assert ended[1] < 4
    assert 3 < ended[2] < 8  # a message may take four times as long, and no longer
    unharmed(listener, honest, pid)


def test_an_object_without_end(listening, honest):
    listener = listening(object_mib=1)
    pid = listener.pid
    with Peer(listener.listening.port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        peer.send(fragment(3, command(honest[0])))
        assert pushed(peer, fragment(0, b"\0" * 60_000)) < 16 * MIB
    unharmed(listener, honest, pid)


def test_large_objects_do_not_go_through_memory(listening, honest):
    listener = listening(memory_gib=0.25)
    pid = listener.pid
    made = base(DX)
    set_pixels(made, np.zeros((5000, 5000), np.uint16))
    data = data_set(save(made, listener.site.folder.parent.parent / f"{pid}-in" / "large.dcm"))
    uid, statuses = str(made.SOPInstanceUID), []

    def store() -> None:
        with Peer(listener.listening.port, timeout=60) as peer:
            assert peer.associate(contexts=[build_context(DX, ExplicitVRLittleEndian)]) == ASSOCIATE_AC
            statuses.append(peer.store(uid, data, DX, 60_000))

    senders = [threading.Thread(target=store) for _ in range(4)]
    for one in senders:
        one.start()
    for one in senders:
        one.join(120)
    assert statuses == [0] * 4
    assert len(files_in(listener)) == 1
    unharmed(listener, honest, pid)


def limited(*words: object, gib: float = 6.0, seconds: float = 120.0) -> tuple[str, int]:
    """What Python says in a process of limited memory, and how much of it that took."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)

    asked = [sys.executable, *map(str, words)]
    peaks: list[int] = []
    with subprocess.Popen(asked, stdout=subprocess.PIPE, preexec_fn=limit) as process:  # noqa: PLW1509  (no threads)
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        watch = threading.Thread(target=lambda: peaks.extend(peaks_of(process.pid)))
        timer.start()
        watch.start()
        said = process.stdout.read()
        process.wait()
        timer.cancel()
        watch.join()
    assert process.returncode == 0, process.returncode
    return said.decode(), peaks[-1]


def peaks_of(pid: int) -> Iterator[int]:
    """Most memory of a process so far in bytes, again and again until it ends.

    What ``wait4`` tells is no use: it counts the memory of who forked the process too.
    """
    status = Path(f"/proc/{pid}/status")
    with contextlib.suppress(OSError):  # it has ended
        while found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):
            yield int(found[1]) * 1024
            time.sleep(0.01)


READ = """
import sys
from medsal.dicom import Refusal, find, read_film, read_series
for series in find(sys.argv[1]).series:
    try:
        read_film(series.first) if series.first.text("Modality") == "DX" else read_series(series.files)
        print("read")
    except Refusal as refusal:
        print(refusal.reason.value)
"""


def bombs() -> dict[str, pydicom.FileDataset]:
    """Small files that would fill the memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = film(SeriesInstanceUID="1.2.1", SOPInstanceUID="1.2.1.1")
    deflated.PixelData = packer.compress(b"\0" * 50 * MIB) + packer.flush()
    rle = film(SeriesInstanceUID="1.2.2", SOPInstanceUID="1.2.2.1")
    rle.file_meta.TransferSyntaxUID = RLELossless
    rle.PixelData = encapsulate([struct.pack("<16I", 2, 64, 70, *[0] * 13) + b"\x81\x00" * (3 * MIB)])
    wide = film(SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.1", Rows=65535, Columns=65535)
    j2k = film(SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.4.1")
    j2k.file_meta.TransferSyntaxUID = JPEG2000Lossless
    header = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 30_000, 30_000, 0, 0) + b"\0" * 40
    j2k.PixelData = encapsulate([header])
    for one in (rle, j2k):
        one["PixelData"].is_undefined_length = True
    for one in (deflated, rle, wide, j2k):
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return {"deflated": deflated, "rle": rle, "wide": wide, "j2k": j2k}


def test_bombs(listening, honest, tmp_path):
    listener = listening()
    pid = listener.pid
    statuses = {}
    for name, made in bombs().items():
        data = data_set(save(made, tmp_path.parent / f"{tmp_path.name}-in" / f"{name}.dcm"))
        with Peer(listener.listening.port) as peer:
            assert peer.associate(contexts=[build_context(DX, made.file_meta.TransferSyntaxUID)]) == ASSOCIATE_AC
            statuses[name] = peer.store(str(made.SOPInstanceUID), data, DX, 60_000)
    assert statuses["wide"] == 0xC000
    assert statuses["rle"] == statuses["j2k"] == 0  # nobody decodes them here
    unharmed(listener, honest, pid)
    root = spool_of(listener).root
    said, used = limited("-c", READ, root)
    assert Counter(said.split()) == {"pixel_length": 3, "read": 1}
    assert used < 1400 * MIB  # torch, MONAI and highdicom take 1050


def seeds(folder: Path) -> list[Path]:
    """Twelve kinds of files."""
    ramp = np.arange(64 * 64).reshape(64, 64) % 4096
    nested = film(ramp)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "planted"
    item.ConceptCodeSequence = Sequence([Dataset()])
    nested.ViewCodeSequence = Sequence([item])
    private = film(ramp)
    private.private_block(0x0009, "Maker", create=True).add_new(1, "UN", b"x" * 500)
    compressed = []
    for syntax in (RLELossless, JPEGLSLossless):
        one = film(ramp)
        one.compress(syntax, generate_instance_uid=False)
        compressed.append(one)
    made = [
        (film(ramp), None),
        (film(ramp), ImplicitVRLittleEndian),
        (film(ramp), ExplicitVRBigEndian),
        (nested, None),
        (nested, ImplicitVRLittleEndian),
        (private, None),
        (compressed[0], None),
        (compressed[1], None),
        (slices_of(1)[0], None),
        (slices_of(1, sop_class=CT)[0], None),
        (slices_of(1, rows=64, columns=64)[0], ImplicitVRLittleEndian),
        (film(ramp.astype(np.uint8), bits=8, PresentationLUTShape="IDENTITY"), None),
    ]
    paths = []
    for number, (dataset, syntax) in enumerate(made):
        dataset.SeriesInstanceUID = derived_uid("seed", number)
        uid = derived_uid("seed", number, "object")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        paths.append(save(dataset, folder / f"seed{number}.dcm", syntax))
    return paths


def several(data: bytearray, rng: random.Random, times: int, before: int) -> None:
    for _ in range(times):
        data[rng.randrange(min(before, len(data)))] = rng.randrange(256)


def length_of(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(min(600, len(data)) - 4)
    data[place : place + 4] = struct.pack("<I", rng.choice([0, 1, 2**31 - 1, 2**32 - 2, 65535]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) - 8) :]


def undefined(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) - 8)
    data[place : place + 4] = b"\xff\xff\xff\xff"


def doubled(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) - 8)
    data[place:place] = data[: rng.randrange(1, 60)]


def taken_out(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) - 8)
    del data[place : place + rng.randrange(1, 60)]


def zeroed(data: bytearray, rng: random.Random) -> None:
    place, length = rng.randrange(len(data) - 60), rng.randrange(1, 60)
    data[place : place + length] = b"\0" * length


MUTATORS: list[Callable[[bytearray, random.Random], None]] = [
    cut,
    lambda data, rng: several(data, rng, 8, len(data)),
    lambda data, rng: several(data, rng, 3, 600),
    undefined,
    doubled,
    taken_out,
    zeroed,
    lambda data, rng: data.extend(rng.randbytes(40)),
    length_of,
]


def test_three_hundred_damaged_files(listening, honest, tmp_path):
    listener = listening()
    pid = listener.pid
    rng = random.Random(6)
    paths = seeds(tmp_path.parent / f"{tmp_path.name}-in")
    contents = [data_set(path) for path in paths]
    metas = [pydicom.filereader.read_file_meta_info(path) for path in paths]
    classes = [str(meta.MediaStorageSOPClassUID) for meta in metas]
    contexts = {(sop, str(meta.TransferSyntaxUID)) for sop, meta in zip(classes, metas, strict=True)}
    offered = sorted(contexts)
    statuses: Counter[int] = Counter()
    peer: Peer | None = None
    for number in range(300):
        seed = number % 12
        if peer is None:
            peer = Peer(listener.listening.port)
            assert peer.associate(contexts=[build_context(sop, syntax) for sop, syntax in offered]) == ASSOCIATE_AC
        context = 2 * offered.index((classes[seed], str(metas[seed].TransferSyntaxUID))) + 1
        damaged = bytearray(contents[seed])
        MUTATORS[number // 12 % 9](damaged, rng)
        data = bytes(damaged)
        peer.send(fragment(3, command(str(metas[seed].MediaStorageSOPInstanceUID), classes[seed]), context))
        for start in range(0, len(data), 16_000):
            peer.send(fragment(2 if start + 16_000 >= len(data) else 0, data[start : start + 16_000], context))
        status = peer.status()
        statuses[status] += 1
        if status < 0:
            peer.socket.close()
            peer = None
    if peer is not None:
        peer.socket.close()
    assert set(statuses) <= {0x0000, 0xA900, 0xC000}
    assert statuses[0x0000] > 30
    assert statuses[0xC000] > 30
    assert statuses[0xA900] > 0
    unharmed(listener, honest, pid)
    spool = spool_of(listener)
    assert spool.adopt() == {}
    assert len(list(spool.rejected.iterdir())) <= statuses[0xC000]
    code = f"from medsal.dicom import find; print(len(find({str(spool.root)!r}).series))"
    said, used = limited("-c", code)
    assert int(said) > 10
    assert used < 1000 * MIB  # torch takes 550


def test_what_is_rejected_is_bounded(listening, monkeypatch):
    monkeypatch.setattr("medsal.pacs.strays.MOST_FILES", 5)
    monkeypatch.setattr("medsal.pacs.strays.MOST_BYTES", 20_000)
    spool = spool_of(listening())
    for number in range(20):
        path = spool.root / f"stray{number}"
        path.write_bytes(bytes([number]) * 5000)
        os.utime(path, (number, number))
    assert spool.adopt() == {"not_dicom": 20}
    kept = list(spool.rejected.iterdir())
    assert len(kept) == 4
    assert sum(path.stat().st_size for path in kept) <= 20_000
    (spool.root / "link").symlink_to("/etc/hostname")
    (spool.root / "folder").symlink_to("/etc", target_is_directory=True)
    made = slices_of(2)
    save(made[0], spool.root / "copied" / "by" / "hand.dcm")
    save(made[1], spool.root / "study-000000000000" / "object-000000000000.dcm")
    assert spool.adopt() == {"outside": 2}
    assert Path("/etc/hostname").exists()
    (held,) = spool.studies()
    assert held.files == 2
    assert (held.folder / object_name(str(made[0].SOPInstanceUID))).exists()
