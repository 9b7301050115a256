"""DICOM's upper layer by hand, for what no honest sender does."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.utils import set_ae

from tests.dicom.builders import MR
from tests.pacs.servers import HOST

ECHO = "1.2.840.10008.1.1"
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7


def request(contexts: Sequence[PresentationContext] = (), called: str = "MEDSAL", calling: str = "SENDER") -> bytes:
    """An association request; by default for MR images, uncompressed, as context 1."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = set_ae(calling, "calling"), set_ae(called, "called")
    chosen = list(contexts) or [build_context(MR, ExplicitVRLittleEndian)]
    for number, context in enumerate(chosen):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = chosen
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    primitive.user_information = [length]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Any PDU; the length that it announces may be a lie."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def fragment(flags: int, data: bytes, context: int = 1) -> bytes:
    """A P-DATA of one value: flags 1 command, 2 last."""
    return pdu(P_DATA, struct.pack(">LBB", len(data) + 2, context, flags) + data)


def command(uid: str, sop_class: str = MR, field: int = 1, data: int = 1) -> bytes:
    """The command set of a C-STORE request, or of another, whatever the UIDs are."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = element(0x0002, sop_class.encode()) + element(0x0100, struct.pack("<H", field))
    body += element(0x0110, b"\1\0") + element(0x0700, b"\0\0") + element(0x0800, struct.pack("<H", data))
    body += element(0x1000, uid.encode("latin-1"))
    return element(0x0000, struct.pack("<L", len(body))) + body


def data_set(path: Path) -> bytes:
    """What follows the meta information of a file."""
    with path.open("rb") as file:
        file.seek(140)
        (length,) = struct.unpack("<L", file.read(4))  # of the meta information, from here on
        file.seek(length, 1)
        return file.read()


class Peer:
    """A connection whose bytes are ours to choose."""

    def __init__(self, port: int, timeout: float = 20.0, source: str = HOST, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection((HOST, port), timeout, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            plain = self.socket
            try:
                self.socket = tls.wrap_socket(plain, server_hostname="localhost")
            except BaseException:
                plain.close()
                raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def exactly(self, number: int) -> bytes:
        """So many bytes, fewer where the other side closes."""
        data = b""
        while len(data) < number:
            try:
                piece = self.socket.recv(number - len(data))
            except (ConnectionError, ssl.SSLError):
                break
            if not piece:
                break
            data += piece
        return data

    def receive(self) -> tuple[int, bytes]:
        """A PDU: its type and its body; type 0 where the other side closed."""
        header = self.exactly(6)
        if len(header) < 6:
            return 0, b""
        return header[0], self.exactly(int.from_bytes(header[2:6], "big"))

    def associate(self, **options: object) -> int:
        self.send(request(**options))  # type: ignore[arg-type]  (passed on)
        return self.receive()[0]

    def store(self, uid: str, data: bytes, sop_class: str = MR, piece: int = 16_000) -> int:
        """Send an object, and return the status; -1 where the association ends instead."""
        self.send(fragment(3, command(uid, sop_class)))
        pieces = [data[start : start + piece] for start in range(0, len(data), piece)] or [b""]
        try:
            for number, one in enumerate(pieces):
                self.send(fragment(2 if number == len(pieces) - 1 else 0, one))
        except ConnectionError:
            return -1
        return self.status()

    def status(self) -> int:
        """Of a response."""
        kind, body = self.receive()
        if kind != P_DATA:
            return -1
        place = body.find(struct.pack("<HHL", 0, 0x0900, 2))
        return int(struct.unpack_from("<H", body, place + 8)[0])

    def ended(self) -> bool:
        """Whether the other side ends it: an abort, a rejection, or it just closes."""
        kind, _ = self.receive()
        return kind in {0, ABORT, ASSOCIATE_RJ}
