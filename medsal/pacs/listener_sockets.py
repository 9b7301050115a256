"""Connections of a listener: no piece that is too long or too slow, and no crowd of silent peers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from pynetdicom.association import Association

_P_DATA = 4
_OTHER_BYTES = 1024  # of a PDU that is no P-DATA, once there is an association


class Guarded(AssociationSocket):
    """The socket of an association: no piece is read that is too long, and none that takes too long.

    Args:
        association: that it belongs to.
        connection: that the peer opened.
        request: the bytes of its association request, already read.
        pdu_bytes: most of one P-DATA.
        seconds: for one piece.
    """

    def __init__(
        self, association: Association, connection: socket.socket, request: bytes, pdu_bytes: int, seconds: float
    ) -> None:
        super().__init__(association, client_socket=connection)
        self._ahead, self._pdu_bytes, self._seconds = request, pdu_bytes, seconds
        self._body, self._until = False, 0.0
        self.refused = False  # set where nothing more is to be read

    @property
    def ready(self) -> bool:
        """Whether there is something to read."""
        return bool(self._ahead) or super().ready

    def recv(self, nr_bytes: int) -> bytearray:
        """Read the header of a PDU, or the rest of it.

        Args:
            nr_bytes: how much.

        Returns:
            The bytes.

        Raises:
            ConnectionAbortedError: it is no header, or announces more than is taken, or nothing more is.
        """
        if self.refused:
            raise ConnectionAbortedError("refused")
        if self._ahead:
            data, self._ahead = bytearray(self._ahead[:nr_bytes]), self._ahead[nr_bytes:]
            return data
        if self._body:
            self._body = False
            return read_exactly(self.socket, nr_bytes, self._until)
        self._until = time.monotonic() + self._seconds
        data = read_exactly(self.socket, nr_bytes, self._until)
        if len(data) == nr_bytes:
            most = self._pdu_bytes if data[0] == _P_DATA else _OTHER_BYTES
            if not 1 <= data[0] <= 7 or int.from_bytes(data[2:6], "big") > most:
                raise ConnectionAbortedError("PDU")
            self._body = True
        return data


def read_exactly(connection: Any, number: int, until: float) -> bytearray:
    """Read from a socket.

    Args:
        connection: the socket; its time-out is changed meanwhile.
        number: of bytes.
        until: by the monotonic clock; after that it is given up, however much came.

    Returns:
        The bytes, fewer where the peer closes.

    Raises:
        TimeoutError: it takes too long.
    """
    usual = connection.gettimeout()
    data = bytearray()
    try:
        while len(data) < number:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            piece = connection.recv(min(number - len(data), 2**16))
            if not piece:
                break
            data += piece
    finally:
        connection.settimeout(usual)
    return data


class Waiting:
    """Connections that have not said yet who they are; when there are too many, the one that waits longest goes.

    So many silent peers cannot lock out one that speaks.

    Args:
        most: at a time.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._open: OrderedDict[int, tuple[str, socket.socket]] = OrderedDict()

    def add(self, connection: socket.socket, address: str) -> bool:
        """Note a connection.

        Args:
            connection: just opened.
            address: of the peer.

        Returns:
            Whether another was closed for it: the oldest of the address that has most.
        """
        with self._lock:
            full = len(self._open) >= self._most
            if full:
                ((crowd, _),) = Counter(one for one, _ in self._open.values()).most_common(1)
                key = next(key for key, (one, _) in self._open.items() if one == crowd)
                shut(self._open.pop(key)[1])
            self._open[id(connection)] = address, connection
        return full

    def swap(self, connection: socket.socket, wrapped: socket.socket) -> None:
        """Note that a connection goes by another object now.

        Args:
            connection: of `add`.
            wrapped: in its place.
        """
        with self._lock:
            if id(connection) in self._open:
                self._open[id(connection)] = self._open[id(connection)][0], wrapped

    def remove(self, connection: socket.socket) -> None:
        """Note that a connection has said who it is, or is closed.

        Args:
            connection: of `add`.
        """
        with self._lock:
            self._open.pop(id(connection), None)


def shut(connection: socket.socket) -> None:
    """End a connection, so that the thread that waits for it wakes up and closes it.

    Args:
        connection: the socket.
    """
    with contextlib.suppress(OSError):  # the peer ended it first
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
