"""How many bytes of files folders hold, asked often and counted seldom."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path


class Usage:
    """Bytes in folders: counted again after a while, which costs a twentieth of the time, and added up meanwhile.

    Args:
        folders: whose files, with all below, count.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders, self._lock = folders, threading.Lock()
        self._bytes, self._next = 0, 0.0

    def bytes(self) -> int:
        """How much they hold.

        Returns:
            Bytes; what other processes put there is seen some seconds later.
        """
        with self._lock:
            begin = time.monotonic()
            if begin >= self._next:
                self._bytes = sum(_size(folder) for folder in self._folders)
                self._next = begin + max(2.0, 20 * (time.monotonic() - begin))
            return self._bytes

    def add(self, size: int) -> None:
        """Note what was put there.

        Args:
            size: bytes.
        """
        with self._lock:
            self._bytes += size

    def forget(self) -> None:
        """Have them counted anew when they are asked for."""
        with self._lock:
            self._next = 0.0


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it got its name, or was removed, just now
                total += Path(place, name).lstat().st_size
    return total
