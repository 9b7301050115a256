"""Objects that arrive over a network: checked before anything is written, and there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.dicom.phi import pseudonym
from medsal.dicom.uids import valid_uid

if TYPE_CHECKING:
    from pynetdicom.events import Event

TAKEN, NO_ROOM, WRONG, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""What the sender is told."""


def file_name(sop_uid: str) -> str:
    """Name of the file of an object; it says nothing about the patient.

    Args:
        sop_uid: SOP instance UID.

    Returns:
        A name.

    Example:
        >>> file_name("1.2.3")
        'object-c47f5b18b8a4.dcm'
    """
    return f"{pseudonym(sop_uid, 'object')}.dcm"


def write_object(path: Path, content: bytes) -> None:
    """Write a file that only we can read, in one step that outlasts a loss of power.

    Args:
        path: where it shall lie, in a folder that exists.
        content: its bytes.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is the first error that counts
            part.unlink()


def clear_parts(folder: Path) -> None:
    """Remove what a process that was killed left unfinished.

    Args:
        folder: of objects, that nobody else writes to.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


class Inbox:
    """Where the objects of one study are put as they arrive.

    Args:
        folder: that they are written to; made where it is missing.
        study_uid: of the study; objects of others are refused.
        beat: called for each that arrives.

    Attributes:
        refused: number of objects that were refused.
        full: whether the disk was.
        classes: SOP instance UID -> SOP class UID of what was written.
        unsent: SOP instance UIDs of what the archive says that it could not send; an empty one where it names none.
    """

    def __init__(self, folder: Path, study_uid: str, beat: Callable[[], None] = lambda: None) -> None:
        self.folder, self.study_uid, self._beat = folder, study_uid, beat
        self.refused = 0
        self.full = False
        self.classes: dict[str, str] = {}
        self.unsent: set[str] = set()
        self._make()

    def _make(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            clear_parts(self.folder)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self.full = True

    def take(self, event: Event) -> int:
        """Answer a C-STORE request.

        Args:
            event: of pynetdicom.

        Returns:
            The status.
        """
        self._beat()
        status = self._take(event)
        self.refused += status in {WRONG, NOT_UNDERSTOOD}
        return status

    def _take(self, event: Event) -> int:
        request: Any = event.request
        uid, sop_class = str(request.AffectedSOPInstanceUID or ""), str(request.AffectedSOPClassUID or "")
        if not valid_uid(uid) or not valid_uid(sop_class):
            return NOT_UNDERSTOOD
        status = self._belongs(event, uid, sop_class)
        if status != TAKEN:
            return status
        try:
            write_object(self.folder / file_name(uid), event.encoded_dataset())
        except OSError as error:
            self.full = self.full or error.errno in _NO_ROOM
            return NO_ROOM
        self.classes[uid] = sop_class
        return TAKEN

    def _belongs(self, event: Event, uid: str, sop_class: str) -> int:
        """Whether the header says what the request says: a mix-up of patients must not pass."""
        from pydicom.filereader import read_dataset
        from pydicom.tag import Tag
        from pydicom.uid import UID

        tags: list[Any] = [Tag(tag) for tag in _CHECKED]
        syntax = UID(event.context.transfer_syntax)
        data: Any = event.request.DataSet  # type: ignore[union-attr]  # that of a C-STORE has one
        try:
            data.seek(0)
            header = read_dataset(
                data, syntax.is_implicit_VR, syntax.is_little_endian, None, _pixels, specific_tags=tags
            )
            said = tuple(str(header[tag].value) for tag in _CHECKED)
        except Exception:  # noqa: BLE001  damaged objects raise nearly everything; this one is refused
            return NOT_UNDERSTOOD
        return TAKEN if said == (sop_class, uid, self.study_uid) else WRONG


def _pixels(tag: Any, vr: str | None, length: int) -> bool:  # noqa: ARG001  (the signature is pydicom's)
    """Where a header has been read far enough."""
    return bool(tag > _STUDY_UID)


_STUDY_UID = 0x0020000D
_CHECKED = (0x00080016, 0x00080018, _STUDY_UID)  # SOP class, SOP instance, study
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
