"""Archives of other people, started for tests: on loopback, on free ports, in a folder of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medsal.pacs.nodes import Node
from tests.dicom.tools import program
from tests.pacs.certificates import HOST, Authority

__all__ = ["HOST", "Authority", "Dcmqrscp", "Orthanc", "Server", "free_port", "listens", "wait_for"]

PLUGINS = [Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def wait_for(what, seconds: float = 20.0, every: float = 0.02):
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (said := what()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(every)
    return said


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


class Server:
    """A program that can be started, stopped and killed, again and again, on the same ports and files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return listens(self.port)

    def start(self):
        for _ in range(3):
            with (self.folder / "server.log").open("ab") as log:
                self.process = subprocess.Popen(
                    self.command(),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "TCP_NODELAY": "1"},
                    cwd=self.folder,
                    start_new_session=True,
                )
            wait_for(lambda: self.process.poll() is not None or self.ready(), 60)
            if self.process.poll() is None:
                return self
            self.moved()  # somebody took the port in between
        raise AssertionError(f"{self.command()[0]} does not start:\n{self.log()[-2000:]}")

    def moved(self) -> None:
        self.port = free_port()

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """End it and its children, who are in a group of their own."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")


class Orthanc(Server):
    """Debian's Orthanc with DICOMweb and GDCM; ``options`` are added to its configuration."""

    title = "ORTHANC"

    def __init__(self, folder: Path, tls: Authority | None = None, **options: Any) -> None:
        super().__init__(folder)
        self.http_port, self.receive_port, self.tls, self.options = free_port(), free_port(), tls, options

    def moved(self) -> None:
        self.port, self.http_port = free_port(), free_port()

    def ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/system") is not None and listens(self.port)
        return False

    def plugins(self) -> list[str]:
        names = ["libOrthancDicomWeb.so", "libOrthancGdcm.so"]
        found = {
            name: next((str(place / name) for place in PLUGINS if (place / name).exists()), None) for name in names
        }
        missing = [name for name, path in found.items() if path is None]
        if missing:
            program(missing[0], "Debian packages orthanc-dicomweb orthanc-gdcm")
        return list(filter(None, found.values()))

    def configuration(self) -> dict[str, Any]:
        peer = {
            "AET": "MEDSAL",
            "Host": HOST,
            "Port": self.receive_port,
            "UseDicomTls": self.tls is not None,
            **{
                f"Allow{what}": True
                for what in ("Echo", "Find", "Get", "Move", "Store", "StorageCommitment", "Transcoding")
            },
        }
        secure: dict[str, Any] = {}
        if self.tls is not None:
            secure = {
                "DicomTlsEnabled": True,
                "DicomTlsCertificate": str(self.tls.server.certificate),
                "DicomTlsPrivateKey": str(self.tls.server.key),
                "DicomTlsTrustedCertificates": str(self.tls.ca),
                "DicomTlsRemoteCertificateRequired": True,
            }
        return {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": self.title,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {"MEDSAL": peer},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": 1,
            "Plugins": self.plugins(),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **secure,
            **self.options,
        }

    def command(self) -> Sequence[str]:
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration()))
        return [program("Orthanc", "Debian packages orthanc orthanc-dicomweb orthanc-gdcm"), str(path)]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def node(self) -> Node:
        """As medsal knows it; sending is allowed."""
        return Node(
            name="orthanc",
            host="localhost" if self.tls else HOST,
            port=self.port,
            ae_title=self.title,
            web_url=f"{self.url}/dicom-web",
            write=True,
            timeout=20.0,
            receive_port=self.receive_port,
            tls=self.tls.client.tls(self.tls.ca) if self.tls else None,
        )

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise http.client.HTTPException(f"{method} {path}: {answer.status} {said[:500]!r}")
        return said

    def get(self, path: str) -> Any:
        return json.loads(self.ask("GET", path))

    def post(self, path: str, content: Any) -> Any:
        return json.loads(self.ask("POST", path, json.dumps(content).encode()) or b"null")

    def upload(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self.ask("POST", "/instances", Path(path).read_bytes())

    def clear(self) -> None:
        for patient in self.get("/patients"):
            self.ask("DELETE", f"/patients/{patient}")

    def instances(self) -> frozenset[str]:
        """The SOP instance UIDs of everything that it has."""
        return frozenset(one["MainDicomTags"]["SOPInstanceUID"] for one in self.get("/instances?expand"))

    def file(self, sop_uid: str) -> bytes:
        """An object as it is stored."""
        (found,) = self.lookup(sop_uid)
        return self.ask("GET", f"/instances/{found}/file")

    def lookup(self, uid: str) -> list[str]:
        return [one["ID"] for one in json.loads(self.ask("POST", "/tools/lookup", uid.encode()))]

    def know(self, name: str, title: str, port: int, **options: Any) -> None:
        """Tell it of a peer, such as a listener of ours; ``POST /modalities/NAME/store`` then sends there."""
        peer = {"AET": title, "Host": HOST, "Port": port, **options}
        self.ask("PUT", f"/modalities/{name}", json.dumps(peer).encode())


class Dcmqrscp(Server):
    """DCMTK's archive, which behaves otherwise: no counts, success for what it does not know, no commitment."""

    title = "DCMQR"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.receive_port, self.options = free_port(), options

    def command(self) -> Sequence[str]:
        (self.folder / "db").mkdir(exist_ok=True)
        path = self.folder / "dcmqrscp.cfg"
        path.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\nmedsal = (MEDSAL, {HOST}, {self.receive_port})\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.title} {self.folder / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
        )
        return [program("dcmqrscp", "Debian package dcmtk"), *self.options, "-c", str(path)]

    @property
    def node(self) -> Node:
        return Node(
            name="dcmqrscp",
            host=HOST,
            port=self.port,
            ae_title=self.title,
            write=True,
            timeout=20.0,
            receive_port=self.receive_port,
        )
