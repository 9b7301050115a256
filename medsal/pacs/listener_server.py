"""The server of a listener: who may connect, how much may come, and what becomes of an object."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import ssl
import threading
import time
from collections import Counter
from typing import Any

from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from medsal.dicom.reasons import Refusal
from medsal.dicom.safe import Opened
from medsal.pacs.listener_messages import Bounds, Incoming, Landing
from medsal.pacs.listener_sockets import Guarded, Waiting, read_exactly, shut
from medsal.pacs.settings import Listening
from medsal.pacs.spool import Spool
from medsal.pacs.troubles import Problem, Trouble

SYNTAXES = [
    "1.2.840.10008.1.2.1",  # explicit, little endian
    "1.2.840.10008.1.2",  # implicit
    "1.2.840.10008.1.2.2",  # big endian
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.50",  # JPEG, 8 bits
    "1.2.840.10008.1.2.4.51",  # JPEG, 12 bits
    "1.2.840.10008.1.2.5",  # RLE
]
"""Transfer syntaxes that are taken as they come, the first that a peer offers of them; deflated is not among them."""

SUCCESS, NO_ROOM, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
_REQUEST_BYTES = 2**18  # 128 presentation contexts with all their syntaxes need less
_SILENT_SECONDS = 10.0  # for an association request to come
_LAST_SECONDS = 3.0  # for a peer to hang up
_REJECTED = b"\x03\x00\x00\x00\x00\x04\x00"
_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"
_FULL, _NO_CALLER, _NO_CALLED = b"\x02\x03\x02", b"\x01\x01\x03", b"\x01\x01\x07"


class Mismatch(Exception):  # noqa: N818  (it says what happened)
    """A data set is not the object that it was announced as."""


class Reception(RequestHandler):
    """One connection, from the first byte to the last; pynetdicom sees it when a valid request was read."""

    server: Server

    def handle(self) -> None:
        """Greet the peer, and serve it where it may enter."""
        connection = self.request
        try:
            request = self._greet()
        except (OSError, ValueError) as error:
            self.server.count("tls" if isinstance(error, ssl.SSLError) else "silent")
            request = b""
        finally:
            self.server.waiting.remove(connection)
        try:
            if request:
                self._enter(request)
        finally:
            shut(self.request)
            self.request.close()

    def _enter(self, request: bytes) -> None:
        if not self.server.enter():
            self._say(_REJECTED + _FULL, "busy")
            return
        try:
            self._serve(request)
        finally:
            self.server.leave()

    def _greet(self) -> bytes:
        """Read the association request; empty where there is none that is accepted."""
        seconds = min(_SILENT_SECONDS, self.server.listening.idle_seconds)
        until = time.monotonic() + seconds
        self.request.settimeout(seconds)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.tls is not None:
            plain = self.request
            self.request = self.server.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self.server.waiting.swap(plain, self.request)
            self.request.do_handshake()
        header = read_exactly(self.request, 6, until)
        if len(header) < 6:
            return b""
        length = int.from_bytes(header[2:6], "big")
        if header[0] != 1 or length > _REQUEST_BYTES:
            self._say(_ABORT, "no_request")
            return b""
        request = bytes(header + read_exactly(self.request, length, until))
        if len(request) < 6 + length:
            return b""
        refused = self._refused(request)
        if refused:
            self._say(*refused)
        return b"" if refused else request

    def _refused(self, request: bytes) -> tuple[bytes, str] | None:
        """What to answer to a request that is not accepted, and why."""
        try:
            asked = A_ASSOCIATE_RQ()
            asked.decode(request)
            primitive: Any = asked.to_primitive()
            calling, called = (str(primitive.calling_ae_title).strip(), str(primitive.called_ae_title).strip())
        except Exception:  # noqa: BLE001  (anybody's bytes are decoded here)
            return _ABORT, "no_request"
        if self.server.listening.callers and calling not in self.server.listening.callers:
            return _REJECTED + _NO_CALLER, "caller"
        if called != self.server.listening.ae_title.strip():
            return _REJECTED + _NO_CALLED, "called"
        return None

    def _say(self, last: bytes, why: str) -> None:
        self.server.count(why)
        self.request.sendall(last)

    def _serve(self, request: bytes) -> None:
        server, listening = self.server, self.server.listening
        self.request.settimeout(listening.idle_seconds)
        association = self._create_association()
        bounds = Bounds(int(listening.object_mib * 2**20), 4 * listening.idle_seconds)
        incoming = Incoming(association, server.spool, bounds, server.count)
        association.dimse = incoming
        association.dul.event_queue.queue.clear()  # it was told of a socket that is replaced
        association.dul.socket = Guarded(
            association, self.request, request, listening.pdu_kib * 1024, listening.idle_seconds
        )
        server.count("associations")
        try:
            association.start()
            association.join()
        finally:
            incoming.abandon()


class Server(ThreadedAssociationServer):
    """A C-STORE and C-ECHO SCP with limits.

    Args:
        listening: its limits.
        spool: that gets the objects.
        tls: of the server, or None.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listening: Listening, spool: Spool, tls: ssl.SSLContext | None = None) -> None:
        self.listening, self.spool, self.tls = listening, spool, tls
        self.networks = [ipaddress.ip_network(one, strict=False) for one in listening.hosts]
        self.counts: Counter[str] = Counter()
        self.waiting = Waiting(4 * listening.max_associations + 16)
        self._inside, self._lock = 0, threading.Lock()
        ae = AE(listening.ae_title)
        ae.maximum_pdu_size = listening.pdu_kib * 1024
        ae.network_timeout = ae.dimse_timeout = listening.idle_seconds
        ae.acse_timeout = min(_LAST_SECONDS, listening.idle_seconds)
        ae.maximum_associations = 10**6  # counted here, where those that have not spoken do not count
        for context in StoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), SYNTAXES)
        ae.add_supported_context("1.2.840.10008.1.1")  # verification
        handlers: Any = [(evt.EVT_C_STORE, self.store)]
        super().__init__(
            ae,
            (listening.host, listening.port),
            listening.ae_title,
            ae.supported_contexts,
            evt_handlers=handlers,
            request_handler=Reception,
        )

    def count(self, what: str) -> None:
        """Note something that happened.

        Args:
            what: a code.
        """
        with self._lock:
            self.counts[what] += 1

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a peer may connect; called before anything is read.

        Args:
            request: its socket.
            client_address: its address and port.

        Returns:
            True or False.
        """
        address = ipaddress.ip_address(client_address[0].split("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if not any((mapped or address) in network for network in self.networks):
            self.count("address")
            return False
        if self.waiting.add(request, str(address)):
            self.count("crowded")
        return True

    def shutdown(self) -> None:
        """Let nobody in any more; those who are inside go on."""
        socketserver.BaseServer.shutdown(self)  # pynetdicom's wants to be its AE's
        self.server_close()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is not served.

        Args:
            request: the socket.
        """
        self.waiting.remove(request)
        super().shutdown_request(request)

    def enter(self) -> bool:
        """Take one of the places.

        Returns:
            Whether there was one.
        """
        with self._lock:
            free = self._inside < self.listening.max_associations
            self._inside += free
        return free

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._inside -= 1

    @property
    def inside(self) -> int:
        """Number of associations."""
        return self._inside

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (the base's signature)
        """Count what went wrong with a connection; its text may quote anything.

        Args:
            request: the socket.
            client_address: of the peer.
        """
        self.count("error")

    def store(self, event: Any) -> int:
        """Answer a C-STORE.

        Args:
            event: of pynetdicom.

        Returns:
            0x0000 when the object is on the disk under its name; 0xA700, 0xA900 or 0xC000.
        """
        landing = event.request.DataSet
        try:
            status = self._store(event.request, landing)
        except Trouble as trouble:
            self.count(trouble.problem.value)
            return NO_ROOM if trouble.problem is Problem.DISK_FULL else CANNOT_UNDERSTAND
        except Exception as error:  # noqa: BLE001  (of one object; the others go on)
            self.count(type(error).__name__)
            return CANNOT_UNDERSTAND
        finally:
            if isinstance(landing, Landing):
                landing.discard()
        return status

    def _store(self, request: Any, landing: Landing) -> int:
        said = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)

        def check(opened: Opened) -> None:
            if (opened.text("SOPClassUID"), opened.uid) != said:
                raise Mismatch

        path = landing.whole()
        try:
            self.spool.take(path, check)
        except Refusal as refusal:
            self.count(refusal.reason.value)
            self.spool.reject(path, refusal.reason.value)
            return CANNOT_UNDERSTAND
        except Mismatch:
            self.count("mismatch")
            return MISMATCH
        self.count("stored")
        return SUCCESS
