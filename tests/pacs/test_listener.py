"""A listener with DCMTK, Orthanc and pynetdicom as senders: what arrives is whole, what may not enter stays out."""

from __future__ import annotations

import dataclasses
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.presentation import build_context

from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs import Listener, Listening, Problem, Site, Trouble, Work, object_name
from medsal.pacs.tls import client_context
from tests.dicom.builders import CANARY, DX, MR, film, save, save_all, slices_of
from tests.dicom.tools import program
from tests.pacs import listeners
from tests.pacs.listeners import alive, files_in, parts_in, site_of, spool_of
from tests.pacs.servers import HOST, free_port, wait_for
from tests.pacs.wire import ASSOCIATE_AC, ASSOCIATE_RJ, Peer, command, data_set, fragment, request

STUDY = derived_uid("study")
listening = listeners.listening


def dcmtk(name: str) -> str:
    """DCMTK's program, not pynetdicom's of the same name beside Python."""
    found = f"/usr/bin/{name}"
    return found if Path(found).exists() else program(f"dcmtk-{name}", "Debian package dcmtk")


def storescu(port: int, *paths: Path, called: str = "MEDSAL", calling: str = "SENDER") -> subprocess.CompletedProcess:
    asked = [dcmtk("storescu"), "-aec", called, "-aet", calling, "-v", "+sd", HOST, str(port)]
    return subprocess.run([*asked, *map(str, paths)], capture_output=True, text=True, timeout=60, check=False)


def send(port: int, datasets, syntaxes=(ExplicitVRLittleEndian,), called="MEDSAL", calling="SENDER", **options):
    """pynetdicom as a sender: the statuses, None for an object without one."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    contexts = [build_context(one, list(syntaxes)) for one in {str(each.SOPClassUID) for each in datasets}]
    association = ae.associate(HOST, port, contexts, called, **options)
    if not association.is_established:
        return None
    try:
        return [association.is_established and association.send_c_store(one).get("Status") for one in datasets]
    finally:
        association.release()


def serves(port: int) -> bool:
    try:
        with Peer(port) as peer:
            return peer.associate() == ASSOCIATE_AC
    except OSError:
        return False


def test_a_series_by_dcmtk(listening, tmp_path):
    listener = listening()
    made = slices_of(12, rows=64, columns=64)
    sent = storescu(listener.listening.port, save_all(made, tmp_path / "in"))
    assert sent.returncode == 0, sent.stderr
    spool = spool_of(listener)
    (held,) = spool.studies()
    assert (held.uid, held.files) == (STUDY, 12)
    assert spool.instances(STUDY) == {str(one.SOPInstanceUID) for one in made}
    for one in made:
        path = held.folder / object_name(str(one.SOPInstanceUID))
        back = pydicom.dcmread(path)
        np.testing.assert_array_equal(back.pixel_array, one.pixel_array)
        assert back.PatientName == one.PatientName
        assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert path.stat().st_mode & 0o777 == 0o600
    assert held.folder.stat().st_mode & 0o777 == 0o700
    assert not parts_in(listener)
    wait_for(lambda: [one.uid for one in spool.quiet()] == [STUDY], 5)
    wait_for(lambda: listener.counts.get("stored") == 12, 5)
    echo = [dcmtk("echoscu"), "-aec", "MEDSAL", HOST, str(listener.listening.port)]
    assert subprocess.run(echo, timeout=20, check=False).returncode == 0


def test_a_study_by_orthanc(orthanc, listening, tmp_path):
    listener = listening()
    orthanc.clear()
    orthanc.upload(sorted(save_all(slices_of(5), tmp_path / "in").iterdir()))
    orthanc.know("medsal-listener", "MEDSAL", listener.listening.port)
    said = orthanc.post("/modalities/medsal-listener/store", {"Resources": orthanc.get("/studies")})
    assert said["FailedInstancesCount"] == 0
    assert spool_of(listener).instances(STUDY) == orthanc.instances()


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless, RLELossless], ids=lambda one: one.keyword
)
def test_transfer_syntaxes_stay_as_they_are(syntax, listening, tmp_path):
    listener = listening()
    made = film(np.arange(64 * 64).reshape(64, 64) % 4096)
    if syntax.is_compressed:
        made.compress(syntax, generate_instance_uid=False)
    made = pydicom.dcmread(save(made, tmp_path / "film.dcm", syntax))
    assert send(listener.listening.port, [made], [syntax]) == [0x0000]
    (path,) = files_in(listener)
    back = pydicom.dcmread(path)
    assert back.file_meta.TransferSyntaxUID == syntax
    assert back.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    np.testing.assert_array_equal(back.pixel_array, np.arange(64 * 64).reshape(64, 64) % 4096)


def test_deflated_objects_are_not_accepted(listening):
    listener = listening()
    assert send(listener.listening.port, [film()], [DeflatedExplicitVRLittleEndian]) is None
    with Peer(listener.listening.port) as peer:
        peer.send(request([build_context(MR, ["1.2.3.4"])]))
        kind, body = peer.receive()
        assert kind == ASSOCIATE_AC
        assert body[body.index(b"\x21\x00") + 6] == 4  # its only context: transfer syntaxes not supported
    assert files_in(listener) == []


def test_who_may_not_enter(listening, tmp_path):
    path = save(film(), tmp_path / "film.dcm")
    listener = listening(callers=("SENDER", "OTHER"))
    port = listener.listening.port
    wrong = storescu(port, path, called="SOMEBODY")
    assert wrong.returncode != 0
    assert "Called AE Title Not Recognized" in wrong.stderr
    wrong = storescu(port, path, calling="STRANGER")
    assert "Calling AE Title Not Recognized" in wrong.stderr
    assert files_in(listener) == []
    assert storescu(port, path, calling="OTHER").returncode == 0
    assert len(files_in(listener)) == 1

    far = listening(hosts=("10.1.2.0/24", "192.0.2.7"))
    with Peer(far.listening.port) as peer:
        assert peer.receive() == (0, b"")  # closed, before a word is read
    assert storescu(far.listening.port, path).returncode != 0
    assert files_in(far) == []
    wait_for(lambda: far.counts.get("address", 0) >= 2, 5)
    near = listening(hosts=("127.0.0.0/8",))
    with Peer(near.listening.port, source="127.0.0.9") as peer:
        assert peer.associate() == ASSOCIATE_AC


def test_places_are_limited_and_given_back(listening):
    listener = listening(max_associations=2)
    port = listener.listening.port
    with Peer(port) as first, Peer(port) as second, Peer(port) as third:
        assert first.associate() == second.associate() == ASSOCIATE_AC
        assert third.associate() == ASSOCIATE_RJ
    wait_for(lambda: send(port, [film()]) == [0], 10)


def test_no_room_is_said_and_nothing_is_left(listening):
    listener = listening(work={"spool_gib": 0.0001})  # 107 kB
    made = slices_of(8, rows=128, columns=128)  # 33 kB each
    statuses = send(listener.listening.port, made)
    assert statuses[:2] == [0, 0]
    assert statuses[-1] == 0xA700
    assert set(statuses) == {0, 0xA700}
    assert len(files_in(listener)) == statuses.count(0)
    assert not parts_in(listener)
    poor = listening(work={"free_gib": 10**6})
    assert send(poor.listening.port, made[:1]) == [0xA700]
    assert files_in(poor) == []


def test_objects_that_are_not_what_they_say(listening, tmp_path):
    listener = listening(object_mib=0.1)
    made = slices_of(1)[0]
    data = data_set(save(made, tmp_path / "slice.dcm"))
    uid = str(made.SOPInstanceUID)
    with Peer(listener.listening.port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        assert peer.store("1.2.3", data) == 0xA900  # another object's data
        assert peer.store(uid, data, sop_class=DX) == 0xA900
        assert peer.store(uid, data[:-100]) == 0xC000
        assert peer.store(uid, b"") == 0xC000
        assert peer.store(uid, b"\0" * 5000) == 0xC000
        assert peer.store(uid, data + b"\0" * 110_000) == 0xC000  # too large
        assert peer.store(uid, data) == 0x0000  # and goes on all the same
    spool = spool_of(listener)
    assert spool.instances(STUDY) == {uid}
    kept = sorted(path.name.rsplit("-", 1)[0] for path in spool.rejected.iterdir())
    assert kept
    assert set(kept) <= {"broken", "not_dicom", "invalid_uid"}
    assert not parts_in(listener)


def test_sent_twice_is_there_once_and_corrected_is_replaced(listening):
    listener = listening()
    made = slices_of(4)
    for _ in range(2):
        assert send(listener.listening.port, made) == [0] * 4
    assert len(files_in(listener)) == 4
    stamps = {path: path.stat().st_ino for path in files_in(listener)}
    made[2].PatientID = "CORRECTED"
    assert send(listener.listening.port, made) == [0] * 4
    changed = [path for path in files_in(listener) if path.stat().st_ino != stamps[path]]
    assert [pydicom.dcmread(path).PatientID for path in changed] == ["CORRECTED"]


def pour(port: int, objects: dict[str, bytes]) -> list[int]:
    """Send objects one after the other, until the association ends."""
    statuses = []
    with Peer(port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        for uid, data in objects.items():
            statuses.append(peer.store(uid, data))
            if statuses[-1] < 0:
                break
    return statuses


def test_killed_in_the_middle_and_sent_again(listening, tmp_path):
    listener = listening()
    port, made = listener.listening.port, slices_of(60, rows=64, columns=64)
    objects = {str(one.SOPInstanceUID): data_set(save(one, tmp_path / "slice.dcm")) for one in made}

    def kill() -> None:
        wait_for(lambda: len(files_in(listener)) >= 10, 20, 0.002)
        (listener.site.folder / "incoming" / ".dead.part").write_bytes(b"x")
        os.kill(listener.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    statuses = pour(port, objects)
    killing.join(20)
    stored = statuses.count(0)
    assert 0 < stored < 60
    assert statuses[-1] == -1
    assert stored <= len(files_in(listener)) <= stored + 1  # what was answered is there
    wait_for(lambda: listener.starts == 2 and serves(port), 20, 0.1)
    assert not parts_in(listener)
    assert pour(port, objects) == [0] * 60
    spool = spool_of(listener)
    assert spool.adopt() == {}
    assert len(files_in(listener)) == 60
    assert spool.instances(STUDY) == set(objects)
    for one in made:
        back = pydicom.dcmread(spool.study(STUDY) / object_name(str(one.SOPInstanceUID)))
        np.testing.assert_array_equal(back.pixel_array, one.pixel_array)
    wait_for(lambda: listener.counts.get("stored", 0) >= 60, 30)


def test_stop_lets_those_inside_finish(listening, tmp_path):
    listener = listening()
    made = slices_of(1)[0]
    data = data_set(save(made, tmp_path / "slice.dcm"))
    with Peer(listener.listening.port) as peer:
        assert peer.associate() == ASSOCIATE_AC
        peer.send(fragment(3, command(str(made.SOPInstanceUID))), fragment(0, data[:100]))
        wait_for(lambda: parts_in(listener), 5)
        pid = listener.pid
        ending = threading.Thread(target=listener.stop)
        ending.start()
        wait_for(lambda: not _connects(listener.listening.port), 5)
        peer.send(fragment(2, data[100:]))
        assert peer.status() == 0
        peer.send(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        assert peer.receive()[0] == 6  # released
    ending.join(20)
    assert not alive(pid)
    assert len(files_in(listener)) == 1


def _connects(port: int) -> bool:
    try:
        Peer(port).socket.close()
    except OSError:
        return False
    return True


def test_what_keeps_it_from_starting(listening, tmp_path):
    listener = listening()
    for site in (
        site_of(tmp_path / "else", port=listener.listening.port),
        dataclasses.replace(site_of(listener.site.folder)),
    ):
        with pytest.raises(Trouble) as caught:
            Listener(site).start()
        assert caught.value.problem is Problem.BUSY
    with pytest.raises(UsageError, match=r"\[listener\]"):
        Listener(Site(folder=tmp_path))
    assert send(listener.listening.port, [film()]) == [0]


def test_it_ends_with_its_parent(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from tests.pacs.listeners import site_of;"
        "from medsal.pacs import Listener; one = Listener(site_of(Path(sys.argv[1]))).start();"
        "print(one.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        parent.wait()
    wait_for(lambda: not alive(pid), 10)


def test_nothing_of_the_patient_is_said(listening, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    listener = listening()
    port = listener.listening.port
    made = slices_of(2)
    path = save(made[0], tmp_path / "slice.dcm")
    assert send(port, made) == [0, 0]
    with Peer(port) as peer:
        peer.associate(calling="CANARYBIRD")
        peer.store("1.2.3", data_set(path))
        peer.store("1.2.Canarybird", data_set(path)[:-50])
        peer.send(fragment(3, b"Canarybird^Planted"))
        peer.ended()
    os.kill(listener.pid, signal.SIGKILL)
    wait_for(lambda: listener.starts == 2 and serves(port), 20, 0.1)
    assert send(port, made) == [0, 0]
    listener.stop()
    out, err = capfd.readouterr()
    names = "".join(str(one) for one in listener.site.folder.rglob("*"))
    said = (out + err + names + caplog.text + str(dict(listener.counts))).lower()
    for value in CANARY.values():
        assert value.lower() not in said
    assert "canarybird" not in said
    assert str(made[0].SOPInstanceUID) not in said


def test_tls(listening, authority, tmp_path):
    listener = listening(tls=authority.server.tls(authority.ca))
    port, made = listener.listening.port, slices_of(2)

    def enters(certificate=None, ca=None, **options) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca or authority.ca)
        for name, value in options.items():
            setattr(context, name, value)
        if certificate is not None:
            context.load_cert_chain(certificate.certificate, certificate.key)
        try:
            with Peer(port, tls=context) as peer:
                return peer.associate() == ASSOCIATE_AC
        except OSError:
            return False

    context = client_context(authority.client.tls(authority.ca))
    assert send(port, made, tls_args=(context, "localhost")) == [0, 0]
    by_dcmtk = [dcmtk("storescu"), "-aec", "MEDSAL", "+tls", authority.client.key, authority.client.certificate]
    by_dcmtk += ["+cf", authority.ca, HOST, str(port), save(film(), tmp_path / "film.dcm")]
    assert subprocess.run(by_dcmtk, timeout=20, check=False).returncode == 0
    assert enters(authority.client)
    assert enters(authority.client, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert not enters()  # no certificate
    assert not enters(authority.rogue)  # of another authority
    assert not enters(authority.client, authority.stranger_ca)  # the sender does not trust us
    with Peer(port) as peer:
        peer.send(request())
        assert peer.receive()[0] != ASSOCIATE_AC  # plain
    with Peer(port) as silent:
        silent.send(b"\x16\x03\x01\x00")  # begins, and says no more
        assert enters(authority.client)
    plain = listening()
    with pytest.raises(OSError):  # noqa: PT011  (any: TLS to plain)
        Peer(plain.listening.port, tls=context)
    assert send(plain.listening.port, made) == [0, 0]
    assert len(files_in(listener)) == 3
    wait_for(lambda: listener.counts.get("tls", 0) >= 3, 5)
    with pytest.raises(UsageError, match="cannot load"):
        Listener(
            Site(
                folder=listener.site.folder / "other",
                work=Work(),
                listener=Listening(
                    port=free_port(), tls=dataclasses.replace(authority.server.tls(authority.ca), key=authority.ca)
                ),
            )
        )


def test_it_needs_little_memory(listening):
    """The process loads no torch: its limit is for what peers send."""
    listener = listening(memory_gib=0.25)
    start = time.monotonic()
    assert send(listener.listening.port, slices_of(1)) == [0]
    assert time.monotonic() - start < 20
    with Path(f"/proc/{listener.pid}/maps").open() as file:
        assert "libtorch" not in file.read()
