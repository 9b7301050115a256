"""DICOMweb against Orthanc, and against servers that fail in every way that a test can make."""

from __future__ import annotations

import dataclasses
import json
import logging
import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medsal.dicom import scan_folder
from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs import Node, Problem, Sent, Study, Tls, Trouble, Wanted, WebClient, object_name
from medsal.pacs.web_parts import Multipart
from medsal.pacs.web_session import Session
from tests.dicom.builders import CANARY, film, save, save_all, slices_of
from tests.pacs.servers import HOST, free_port


@pytest.fixture
def web(orthanc) -> WebClient:
    orthanc.clear()
    return WebClient(orthanc.node)


def study(folder: Path, count: int = 6, name: str = "series") -> list[Path]:
    save_all(slices_of(count, series=name), folder)
    return sorted(folder.iterdir())


STUDY = derived_uid("study")


def uids(files) -> set[str]:
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}


def test_ask_fetch_send_confirm(web, orthanc, tmp_path):
    web.echo()
    files = study(tmp_path / "in")
    assert web.find(Wanted(study_uids=(STUDY,))) == []
    assert web.instances(STUDY) == frozenset()
    seen: list[Sent] = []
    sent = web.store(files, seen.append)
    assert [one.problem for one in sent] == [None] * 6
    assert seen == sent
    assert orthanc.instances() == uids(files) == web.instances(STUDY)
    assert web.patient(STUDY) == CANARY["PatientID"]
    assert web.patient("1.2.3.4") is None
    assert web.confirm(STUDY, sorted(uids(files))) == frozenset()
    assert web.confirm(STUDY, [*uids(files), "1.2.3"]) == {"1.2.3"}
    web.echo()

    orthanc.upload(
        [save(film(StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.8", PatientID="OTHER"), tmp_path / "film.dcm")]
    )
    (found,) = web.find(Wanted(patient_id=CANARY["PatientID"], date="20251231-20260102"))
    assert found == Study(STUDY, 6, ("MR",), "20260101")
    assert {one.uid for one in web.find(Wanted())} == {STUDY, "1.2.7"}
    assert [one.uid for one in web.find(Wanted(study_uids=("1.2.7", "1.2.8")))] == ["1.2.7"]
    assert [one.uid for one in web.find(Wanted(modality="DX"))] == ["1.2.7"]
    assert web.find(Wanted(accession="NOBODY")) == []

    out = tmp_path / "out"
    assert web.fetch(STUDY, out) == 6
    assert {path.name for path in out.iterdir()} == {object_name(uid) for uid in uids(files)}
    (series,) = scan_folder(out).series
    assert len(series.files) == 6
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / object_name(min(uids(files)))).unlink()
    assert web.fetch(STUDY, out) == 6  # what was missing, by its series
    assert {path.name for path in before} == {path.name for path in out.iterdir()}
    with pytest.raises(Trouble) as caught:
        web.fetch("1.2.3.4", tmp_path / "none")
    assert caught.value.problem is Problem.NOTHING_RECEIVED


def test_pages_are_all_asked_for(web, orthanc, tmp_path, monkeypatch):
    monkeypatch.setattr("medsal.pacs.web._ONE_PAGE", 4)
    files = study(tmp_path, 10)
    orthanc.upload(files)
    assert web.instances(STUDY) == uids(files)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_compressed_objects_come_uncompressed(syntax, web, orthanc, tmp_path):
    made = film(np.arange(64 * 64).reshape(64, 64) % 4096)
    made.compress(syntax)
    orthanc.upload([save(made, tmp_path / "film.dcm")])
    assert web.fetch(str(made.StudyInstanceUID), tmp_path / "out") == 1
    (path,) = (tmp_path / "out").iterdir()
    back = pydicom.dcmread(path)
    assert not back.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(back.pixel_array, np.arange(64 * 64).reshape(64, 64) % 4096)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(patient_id="MEDSAL*"),
        Wanted(patient_id="a b"),
        Wanted(description="brain"),
        Wanted(accession="12?"),
        Wanted(patient_id="Doe^Jane"),
    ],
)
def test_what_servers_read_differently_is_refused(wanted):
    """Orthanc finds nothing for ``MEDSAL%2A`` and says 200; nobody may take that for an answer."""
    client = WebClient(Node(name="n", host=HOST, port=1, ae_title="A", web_url=f"http://{HOST}:1/dicom-web"))
    with pytest.raises(UsageError) as caught:
        client.find(wanted)
    assert "MEDSAL" not in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_one_bad_object_stops_no_other(web, orthanc, tmp_path):
    files = study(tmp_path / "in", 4)
    (tmp_path / "in" / "junk").write_bytes(b"junk")
    patientless = slices_of(1)[0]
    patientless.SOPInstanceUID = patientless.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    for keyword in ("PatientID", "PatientName"):
        del patientless[keyword]
    files = [files[0], tmp_path / "in" / "junk", *files[1:]]
    sent = web.store(files)
    assert [one.problem for one in sent] == [None, Problem.BAD_OBJECT, None, None, None]
    assert len(orthanc.instances()) == 4
    assert [one.problem for one in web.store(files[:1])] == [None]  # again: it has it already
    assert len(orthanc.instances()) == 4


def test_sending_has_to_be_allowed(orthanc, tmp_path):
    client = WebClient(dataclasses.replace(orthanc.node, write=False))
    with pytest.raises(Trouble) as caught:
        client.store(study(tmp_path, 1))
    assert caught.value.problem is Problem.NOT_ALLOWED


class Answers:
    """A server that answers what it is told: path -> (status, type, body) or a function of the request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.answer = lambda _: (404, "text/plain", b"")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                length = int(self.headers.get("Content-Length") or 0)
                outer.bodies.append(self.rfile.read(length))
                said = outer.answer(self)
                if said is None:
                    self.close_connection = True
                    return
                status, kind, body = said
                self.send_response(status)
                if kind.startswith("->"):
                    self.send_header("Location", kind[2:])
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  (as above)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # peers that hang up are what is tested
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        url = f"http://{HOST}:{self.server.server_address[1]}/dicom-web"
        node = Node(name="fake", host=HOST, port=1, ae_title="A", web_url=url, write=True, timeout=0.5)
        self.client = WebClient(node)


@pytest.fixture
def fake() -> Iterator[Answers]:
    answers = Answers()
    yield answers
    answers.server.shutdown()
    answers.server.server_close()
    answers.client._session.close()


def entry(**values: str) -> dict[str, object]:
    tags = {"study": "0020000D", "series": "0020000E", "object": "00080018"}
    return {tags[name]: {"vr": "UI", "Value": [value]} for name, value in values.items()}


def page(*entries: object) -> tuple[int, str, bytes]:
    return 200, "application/dicom+json", json.dumps(entries).encode()


@pytest.mark.parametrize(
    ("status", "problem", "times"),
    [
        (401, Problem.NOT_ACCEPTED, 1),
        (403, Problem.NOT_ACCEPTED, 1),
        (404, Problem.REJECTED, 1),
        (500, Problem.REJECTED, 1),
        (503, Problem.BUSY, 2),
        (429, Problem.BUSY, 2),
        (504, Problem.TIMEOUT, 2),
        (507, Problem.OUT_OF_RESOURCES, 1),
    ],
)
def test_statuses_of_http(status, problem, times, fake):
    fake.answer = lambda _: (status, "text/plain", b"no, Canarybird^Planted")
    with pytest.raises(Trouble) as caught:
        fake.client.find(Wanted(patient_id="CANARY-4711"))
    assert caught.value.problem is problem
    assert "anary" not in str(caught.value).lower()
    assert len(fake.asked) == times  # what only asks is asked again where that helps


def test_answers_that_are_none(fake):
    for body, problem in (
        (b"<html>", Problem.UNREADABLE),
        (b'["x"]', Problem.UNREADABLE),
        (b'[{"0020000D": 7}]', Problem.UNREADABLE),
        (b"\xff\xfe", Problem.UNREADABLE),
    ):
        fake.answer = lambda _, body=body: (200, "application/dicom+json", body)
        with pytest.raises(Trouble) as caught:
            fake.client.find(Wanted())
        assert caught.value.problem is problem
    fake.answer = lambda _: (302, "->http://127.0.0.1:9/", b"")
    with pytest.raises(Trouble) as caught:
        fake.client.find(Wanted())
    assert caught.value.problem is Problem.REJECTED
    fake.answer = lambda _: page(entry(study="../../x"), entry(study="1.2.3"))
    assert [one.uid for one in fake.client.find(Wanted())] == ["1.2.3"]
    assert len([one for one in fake.asked if "studies" in one]) < 12  # a server that cannot page is not asked forever


def test_a_node_that_ignores_what_it_is_asked(fake):
    fake.answer = lambda _: page(entry(study="1.2.3"), entry(study="1.2.4"))
    with pytest.raises(Trouble) as caught:
        fake.client.echo()
    assert caught.value.problem is Problem.UNREADABLE
    assert fake.client.find(Wanted(study_uids=("1.2.4",))) == [Study("1.2.4")]


def test_nobody_there_silence_and_hanging_up(fake, monkeypatch):
    nobody = WebClient(dataclasses.replace(fake.client.node, web_url=f"http://{HOST}:{free_port()}/x"))
    cases = [(nobody, None, Problem.UNREACHABLE), (fake.client, lambda _: time.sleep(1.5), Problem.TIMEOUT)]
    cases += [(fake.client, lambda _: None, Problem.NO_STATUS)]
    for client, answer, problem in cases:
        fake.answer = answer
        with pytest.raises(Trouble) as caught:
            client.echo()
        assert caught.value.problem is problem
    monkeypatch.setenv("http_proxy", f"http://{HOST}:{free_port()}")
    monkeypatch.setenv("HTTP_PROXY", f"http://{HOST}:{free_port()}")
    fake.answer = lambda _: page()
    fake.client.echo()  # the environment has no say


def test_an_answer_that_trickles_or_never_ends(fake, monkeypatch):
    def trickle(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/dicom+json")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    fake.answer = trickle
    start = time.monotonic()
    with pytest.raises(Trouble) as caught:
        fake.client.find(Wanted())
    assert caught.value.problem is Problem.TIMEOUT
    assert time.monotonic() - start < 5
    monkeypatch.setattr("medsal.pacs.web_session.JSON_BYTES", 1000)
    fake.answer = lambda _: (200, "application/dicom+json", b" " * 5000)
    with pytest.raises(Trouble) as caught:
        fake.client.find(Wanted())
    assert caught.value.problem is Problem.UNREADABLE


def multipart(*bodies: bytes, end: bytes = b"\r\n--cut--") -> bytes:
    return b"".join(b"\r\n--cut\r\nContent-Type: application/dicom\r\n\r\n" + body for body in bodies) + end


def test_parts_are_the_same_however_they_are_cut():
    bodies = [b"first\r\n--cu", b"", b"\r\n\r\nthird", bytes(range(256)) * 3]
    for message in (multipart(*bodies), multipart(*bodies)[2:], b"preamble" + multipart(*bodies, end=b"\r\n--cut--x")):
        for size in (1, 2, 3, 7, 64, 10_000):
            cut = (message[start : start + size] for start in range(0, len(message), size))
            assert [b"".join(part) for part in Multipart(cut, b"cut")] == bodies
    assert [b"".join(part) for part in Multipart([b"--cut\r\n\r\nbare\r\n--cut--"], b"cut")] == [b"bare"]
    cut_off = Multipart([multipart(b"whole", b"cut off", end=b"")], b"cut")
    with pytest.raises(Trouble) as caught:
        [b"".join(part) for part in cut_off]
    assert caught.value.problem is Problem.INCOMPLETE
    with pytest.raises(Trouble):
        list(Multipart([b"--cut\r\n" + b"x" * 20_000], b"cut"))


def test_what_arrived_before_a_break_stays_and_strangers_do_not(fake, tmp_path):
    files = [path.read_bytes() for path in study(tmp_path / "in", 4)]
    other = slices_of(1, series="other")[0]
    other.StudyInstanceUID = "1.2.99"
    stranger = save(other, tmp_path / "other.dcm").read_bytes()
    deflated = save(film(), tmp_path / "film.dcm", DeflatedExplicitVRLittleEndian).read_bytes()
    objects = [entry(object=uid, series=derived_uid("study", "series")) for uid in uids((tmp_path / "in").iterdir())]
    body = multipart(*files[:3], stranger, deflated, b"junk", files[3][:500], end=b"")
    accepted = []

    def answer(handler):
        if "instances" in handler.path:
            return page(*objects)
        accepted.append(handler.headers["Accept"])
        if "*" not in accepted[-1]:
            return 406, "text/plain", b""
        return 200, 'multipart/related; type="application/dicom"; boundary=cut', body

    fake.answer = answer
    with pytest.raises(Trouble) as caught:
        fake.client.fetch(STUDY, tmp_path / "out")
    assert caught.value.problem is Problem.INCOMPLETE
    assert len(list((tmp_path / "out").iterdir())) == 3  # no parts, no strangers
    assert len(accepted) == 2  # uncompressed, then as it is
    body = multipart(files[3])
    assert fake.client.fetch(STUDY, tmp_path / "out") == 4
    assert "/series/" in fake.asked[-1]


def test_failures_of_single_objects(fake, tmp_path):
    files = study(tmp_path, 3)
    names = [str(pydicom.dcmread(path).SOPInstanceUID) for path in files]

    def item(uid: str, reason: int | None = None) -> dict[str, object]:
        said: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is not None:
            said["00081197"] = {"vr": "US", "Value": [reason]}
        return said

    for status in (200, 202, 409):
        answer = {
            "00081198": {"vr": "SQ", "Value": [item(names[1], 0xA700)]},
            "00081199": {"vr": "SQ", "Value": [item(names[0])]},
        }
        fake.answer = lambda _, status=status, answer=answer: (
            status,
            "application/dicom+json",
            json.dumps(answer).encode(),
        )
        sent = fake.client.store(files)
        assert [one.problem for one in sent] == [None, Problem.OUT_OF_RESOURCES, Problem.NO_STATUS]
        assert [one.uid for one in sent] == names

    def one_by_one(handler):
        body = fake.bodies[-1]
        if sum(name.encode() in body for name in names) > 1 or names[2].encode() in body:
            return 400, "text/plain", b""
        uid = next(name for name in names if name.encode() in body)
        return 200, "application/dicom+json", json.dumps({"00081199": {"vr": "SQ", "Value": [item(uid)]}}).encode()

    fake.answer = one_by_one
    assert [one.problem for one in fake.client.store(files)] == [None, None, Problem.REJECTED]
    fake.asked.clear()
    fake.answer = lambda _: (503, "text/plain", b"")
    assert [one.problem for one in fake.client.store(files)] == [Problem.BUSY] * 3
    assert len(fake.asked) == 1  # no request that changes something is sent again by itself


def test_nothing_of_the_patient_is_logged(fake, caplog):
    caplog.set_level(logging.DEBUG)
    fake.answer = lambda _: None
    with pytest.raises(Trouble) as caught:
        fake.client.find(Wanted(patient_id="CANARY-4711", accession="ACCCANARY99"))
    assert "CANARY" not in caplog.text + repr(caught.value) + repr(caught.value.__context__)


@contextmanager
def tls_proxy(authority, target: int, certificate=None) -> Iterator[int]:
    """Speaks TLS, asks for a certificate, and passes everything on to a port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine = certificate or authority.server
    context.load_cert_chain(mine.certificate, mine.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                with context.wrap_socket(self.request, server_side=True) as near:
                    self._pass(near)
            except OSError:
                return  # a peer that is refused is what is tested

        def _pass(self, near: ssl.SSLSocket) -> None:
            with socket.create_connection((HOST, target)) as far:
                while True:
                    ready = [near] if near.pending() else select.select([near, far], [], [], 5)[0]
                    for one in ready:
                        data = one.recv(65536)
                        if not data:
                            return
                        (far if one is near else near).sendall(data)
                    if not ready:
                        return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def test_tls(orthanc, authority, tmp_path, monkeypatch):
    orthanc.clear()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.stranger_ca))  # has no say
    files = study(tmp_path / "in", 3)
    ours = authority.client.tls(authority.ca)

    def client(port: int, tls: Tls | None, scheme: str = "https", host: str = "localhost") -> WebClient:
        url = f"{scheme}://{host}:{port}/dicom-web"
        return WebClient(dataclasses.replace(orthanc.node, web_url=url, tls=tls, timeout=5.0))

    with tls_proxy(authority, orthanc.http_port) as port:
        good = client(port, ours)
        good.echo()
        assert [one.problem for one in good.store(files)] == [None] * 3
        assert good.fetch(STUDY, tmp_path / "out") == 3
        refused = {
            "no certificate": client(port, Tls(ca=authority.ca)),
            "a stranger's certificate": client(port, authority.rogue.tls(authority.ca)),
            "an authority that did not issue the server's": client(port, authority.client.tls(authority.stranger_ca)),
            "http to https": client(port, None, "http"),
            "https to http": client(orthanc.http_port, ours),
            "no authority of ours": client(port, None),
        }
        with tls_proxy(authority, orthanc.http_port, authority.elsewhere) as other:
            refused["another host"] = client(other, ours)
            relaxed = dataclasses.replace(ours, check_host=False)
            client(other, relaxed).echo()
            for name, one in refused.items():
                with pytest.raises(Trouble) as caught:
                    one.echo()
                assert caught.value.problem is Problem.TLS, (name, caught.value)
                assert str(tmp_path.parent.parent) not in str(caught.value)


def test_settings_of_the_session(orthanc):
    assert Session(orthanc.node).trust_env is False
    with pytest.raises(UsageError, match="web_url"):
        WebClient(dataclasses.replace(orthanc.node, web_url=""))
