"""Files of patients, written piece by piece: on the disk, and closed to others, before they get a name."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from medsal.pacs.troubles import Problem, Trouble


@contextlib.contextmanager
def disk_trouble() -> Iterator[None]:
    """Turn errors of the disk into a `Trouble` that may be gone later.

    Yields:
        Nothing.

    Raises:
        Trouble: ``disk_full``, with what the system says.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        return
    raise Trouble(Problem.DISK_FULL, why)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may look into, where it is missing.

    Args:
        folder: its path.

    Returns:
        The path.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def settle(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk.

    Args:
        path: of either.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_into(path: Path, place: Path) -> None:
    """Give a file its place, and have the name on the disk; its folder is made, again if somebody removes it meanwhile.

    Args:
        path: where it lies, on the same disk.
        place: where it shall lie; a file that lies there is replaced.

    Raises:
        FileNotFoundError: it is gone, or its folder is taken away again and again.
    """
    for _ in range(3):
        private_folder(place.parent)
        with contextlib.suppress(FileNotFoundError):  # the folder was taken away just now
            path.replace(place)
            settle(place.parent)
            return
    raise FileNotFoundError(errno.ENOENT, "the file or its folder is removed")


class Part:
    """A file that is being written under a hidden name, mode 0600.

    Args:
        folder: for the time until it gets its place; made where it is missing.

    Attributes:
        path: of the part.
        size: bytes written so far.
    """

    def __init__(self, folder: Path) -> None:
        self.path = private_folder(folder) / f".{uuid.uuid4().hex[:12]}.part"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(handle, "wb")
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add to it.

        Args:
            data: the next bytes.

        Raises:
            Trouble: ``disk_full``.
        """
        with disk_trouble():
            self._file.write(data)
        self.size += len(data)

    def close(self) -> Path:
        """End it, with all bytes on the disk.

        Returns:
            Its path.

        Raises:
            Trouble: ``disk_full``.
        """
        with disk_trouble():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self.path

    def discard(self) -> None:
        """Remove it, unless it has its place already."""
        with contextlib.suppress(OSError):  # what cannot be written out is not wanted any more
            self._file.close()
        self.path.unlink(missing_ok=True)
