"""What a listener receives: messages that are bounded, and data sets that go to the disk as they come."""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage

from medsal.dicom.phi import quiet
from medsal.dicom.uids import valid_uid
from medsal.pacs.listener_sockets import Guarded
from medsal.pacs.parts import Part
from medsal.pacs.spool import Spool
from medsal.pacs.troubles import Problem, Trouble

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.pdu_primitives import P_DATA

_COMMAND_BYTES = 2**16
_IDENTIFIER_BYTES = 2**16
_WAITING_MESSAGES = 16
_SLOWEST = 8192  # bytes per second, over a whole message
_ROOM_EVERY = 2**26


class Overflow(Exception):  # noqa: N818  (it says what happened)
    """A peer sends more than it may, or longer, or out of order: the association ends."""


@dataclass(frozen=True)
class Bounds:
    """What a peer may send.

    Attributes:
        object_bytes: of one data set.
        seconds: for a message, beside the time that its bytes need on a slow line.
    """

    object_bytes: int
    seconds: float


def file_head(sop_class: str, sop_uid: str, syntax: str) -> bytes:
    """What stands before the data set in a file.

    Args:
        sop_class: SOP class UID.
        sop_uid: SOP instance UID.
        syntax: transfer syntax UID.

    Returns:
        Preamble and meta information.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_uid)
    meta.TransferSyntaxUID = UID(syntax)
    head = DicomBytesIO()
    with quiet():
        write_file_meta_info(head, meta, enforce_standard=True)
    return b"\0" * 128 + b"DICM" + head.getvalue()


class Landing(io.BytesIO):
    """Takes the place of the memory that pynetdicom collects a data set in.

    Args:
        spool: that gets it.
        bounds: of its size.
        head: what the file begins with, asked for when the first piece comes.

    Attributes:
        trouble: why it is not kept; the rest is read all the same, so that the peer gets an answer.
        size: bytes received.
    """

    def __init__(self, spool: Spool, bounds: Bounds, head: Callable[[], bytes]) -> None:
        super().__init__()
        self._spool, self._bounds, self._head = spool, bounds, head
        self._part: Part | None = None
        self.trouble: Trouble | None = None
        self.size = 0

    def write(self, data: Any) -> int:
        """Take the next piece.

        Args:
            data: bytes.

        Returns:
            Their number.

        Raises:
            Overflow: twice as much came as an object may have.
        """
        before, self.size = self.size, self.size + len(data)
        if self.size > 2 * self._bounds.object_bytes + _IDENTIFIER_BYTES:
            raise Overflow
        try:
            if self.trouble is None:
                self._keep(data, self._part is None or before // _ROOM_EVERY != self.size // _ROOM_EVERY)
        except Trouble as trouble:
            self.trouble = trouble
            self.discard()
        return len(data)

    def _keep(self, data: Any, ask: bool) -> None:
        if self.size > self._bounds.object_bytes:
            raise Trouble(Problem.BAD_OBJECT, f"more than {self._bounds.object_bytes} bytes")
        if ask and (full := self._spool.room(len(data))):
            raise full
        if self._part is None:
            head = self._head()
            self._part = self._spool.part()
            self._part.write(head)
        self._part.write(data)

    def whole(self) -> Path:
        """End it.

        Returns:
            The file, on the disk, for `medsal.pacs.spool.Spool.take`.

        Raises:
            Trouble: why it was not kept.
        """
        if self.trouble is not None:
            raise self.trouble
        if self._part is None:
            raise Trouble(Problem.BAD_OBJECT, "no data set")
        return self._part.close()

    def discard(self) -> None:
        """Remove what was received, unless the spool has taken it."""
        if self._part is not None:
            self._part.discard()

    def getvalue(self) -> bytes:
        """Nothing: it lies on the disk.

        Returns:
            No bytes.
        """
        return b""


class _Command(io.BytesIO):
    """A command set, of bounded size."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _COMMAND_BYTES:
            raise Overflow
        return super().write(data)


class _Requests(queue.Queue[Any]):
    """The messages that wait for an answer: few, and none that would never get one."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        _, message = item
        if message is not None and (not message.is_valid_request or self.qsize() >= _WAITING_MESSAGES):
            raise Overflow
        super().put(item, block, timeout)


class Incoming(DIMSEServiceProvider):
    """The messages of one association.

    Args:
        association: that they come over.
        spool: that gets the objects.
        bounds: of a message.
        ended: told the class of what ended the association.
    """

    def __init__(self, association: Association, spool: Spool, bounds: Bounds, ended: Callable[[str], None]) -> None:
        super().__init__(association)
        self._spool, self._bounds, self._ended = spool, bounds, ended
        self.msg_queue = _Requests()
        self._began = 0.0
        self._landing: Landing | None = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a piece of a message; one that is none, or too much, ends the association.

        Args:
            primitive: from the network.
        """
        try:
            self._check(primitive)
            super().receive_primitive(primitive)
            if self.message is None:
                self._landing = None  # it is whole, and belongs to the message in the queue
        except Exception as error:  # noqa: BLE001  (anybody's bytes are decoded here)
            self._ended(type(error).__name__)
            self.abandon()
            self.dul.event_queue.put("Evt19")  # an abort, and then the end
            if isinstance(self.dul.socket, Guarded):
                self.dul.socket.refused = True

    def _check(self, primitive: P_DATA) -> None:
        if self.message is None:
            self._begin()
        received = self._landing.size if self._landing else 0
        if time.monotonic() - self._began > self._bounds.seconds + received / _SLOWEST:
            raise Overflow
        known = set(self.assoc._accepted_cx)
        for context, data in primitive.presentation_data_value_list:
            if context not in known or (received and data[0] & 1):  # a command after its data
                raise Overflow

    def _begin(self) -> None:
        message = DIMSEMessage()
        self._began = time.monotonic()
        self._landing = Landing(self._spool, self._bounds, lambda: self._head(message))
        message.encoded_command_set, message.data_set = _Command(), self._landing
        self.message = message

    def _head(self, message: Any) -> bytes:
        """What the file of a message begins with, for those that are to be stored."""
        if not isinstance(message, C_STORE_RQ):
            raise Trouble(Problem.BAD_OBJECT, "no C-STORE")
        sop_class, sop_uid = (message.command_set.get(f"AffectedSOP{end}UID") for end in ("Class", "Instance"))
        if not (valid_uid(sop_class) and valid_uid(sop_uid)):
            raise Trouble(Problem.BAD_OBJECT, "AffectedSOPInstanceUID")
        context = self.assoc._accepted_cx[message.context_id or 0]
        return file_head(str(sop_class), str(sop_uid), str(context.transfer_syntax[0]))

    def abandon(self) -> None:
        """Remove what came of a message that does not end, and those that nobody answered."""
        if self._landing is not None:
            self._landing.discard()
        while not self.msg_queue.empty():
            _, left = self.msg_queue.get_nowait()
            landing = getattr(left, "DataSet", None)
            if isinstance(landing, Landing):
                landing.discard()
