"""What pynetdicom 3 needs before it can be relied upon: no lost answers, no needless waits, no values in logs.

An association of pynetdicom has a thread, its reactor, that looks for messages of the peer whenever nobody else does. A
``send_*`` method stops it with an event and a flag. Between two calls in quick succession the reactor may have been
woken and not yet run: the second call sees the flag of before, goes on, and the reactor takes its answer off the queue.
The call then waits until its timeout and returns an empty status. `Checkpoint` closes that gap.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pynetdicom.association import Association

_SLICE = 0.25  # seconds between two looks at whether anything still moves


class Checkpoint(threading.Event):
    """The event that a reactor stops at: it passes only while it is set, and `clear` returns once it has stopped.

    Args:
        association: whose reactor it stops.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._gate = threading.Condition(threading.Lock())
        self._open = True
        self._parked = False
        self._association = association

    def is_set(self) -> bool:
        """Whether the reactor may pass."""
        return self._open

    def set(self) -> None:
        """Let the reactor pass."""
        with self._gate:
            self._open = True
            self._gate.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Stop the reactor here until it may pass; to be woken is not enough.

        Args:
            timeout: seconds; None for as long as it takes.

        Returns:
            Whether it may pass.
        """
        with self._gate:
            self._parked = not self._open
            self._gate.notify_all()
            self._gate.wait_for(lambda: self._open, timeout)
            self._parked = False
            return self._open

    def clear(self) -> None:
        """Stop the reactor, and wait until it has stopped (or ended)."""
        with self._gate:
            self._open = False
            while not self._parked and self._runs():
                self._gate.wait(0.05)

    def _runs(self) -> bool:
        reactor = self._association
        return reactor.is_alive() and not reactor._kill and threading.current_thread() is not reactor


def affected(version: str) -> bool:
    """Whether a version of pynetdicom needs `Checkpoint`.

    Args:
        version: its ``__version__``.

    Returns:
        True for 3.x: seen in 3.0.4, the newest when this was written; harmless where the gap is closed.

    Example:
        >>> affected("3.0.4"), affected("4.0.0")
        (True, False)
    """
    return version.split(".", maxsplit=1)[0] == "3"


def prepare() -> None:
    """Set pynetdicom up for this process: files are sent as they are, and its log keeps quiet.

    At ERROR it writes texts of exceptions, which quote values of headers; every failure comes as a `Trouble` here.
    """
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


class Pulse:
    """When anything last moved on a connection; a long message is no silence."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.stopped = False

    def beat(self, *_: object) -> None:
        """Something moved."""
        self.last = time.monotonic()

    def silent(self, since: float) -> float:
        """How long it has been quiet.

        Args:
            since: when somebody began to wait, on the monotonic clock.

        Returns:
            Seconds.
        """
        return time.monotonic() - max(self.last, since)


def guard(association: Association, pulse: Pulse, timeout: float) -> None:
    """Take the place of two parts of an association before its reactor starts.

    Args:
        association: that is being requested.
        pulse: of its connection.
        timeout: seconds of silence after which an answer is given up.
    """
    from pynetdicom import __version__

    if affected(__version__):
        association._reactor_checkpoint = Checkpoint(association)
    look = association.dimse.get_msg
    messages = association.dimse.msg_queue

    def get_msg(block: bool = False) -> Any:
        if not block:
            return look(block=False)
        began = time.monotonic()
        while pulse.silent(began) < timeout:
            try:
                return messages.get(timeout=min(_SLICE, timeout))
            except queue.Empty:
                continue
        pulse.stopped = True
        return None, None

    association.dimse.get_msg = get_msg  # type: ignore[method-assign]  # its own knows no silence, only one limit


def at_once(connection: socket.socket, timeout: float) -> None:
    """Send small pieces at once instead of gathering them, and never wait for ever.

    Args:
        connection: to a peer.
        timeout: seconds.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout)


def acknowledge(connection: socket.socket | None) -> None:
    """Acknowledge the next piece at once: peers that send an answer in two pieces wait for that. Linux only.

    Args:
        connection: to a peer; the system forgets this after a while, so it is asked for again and again.
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    if connection is not None and option is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.IPPROTO_TCP, option, 1)
