"""Files in the spool that nobody of ours put there, and what becomes of those that cannot be used."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from medsal.pacs.parts import move_into

ARRIVED = ".arrived"
"""In the folder of a study: its time is that of the last arrival."""
MOST_FILES, MOST_BYTES = 200, 2**30
"""What is kept of files that cannot be used."""


def reject(path: Path, folder: Path, reason: str) -> None:
    """Put a file that cannot be used aside, under the hash of its content; links and very large files are removed.

    Args:
        path: of it.
        folder: of what was rejected, on the same disk; the oldest there go where it gets too many.
        reason: a code.
    """
    if path.is_symlink() or path.stat().st_size > MOST_BYTES // 4:
        path.unlink()
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path.chmod(0o600)
    move_into(path, folder / f"{reason}-{digest[:16]}")
    _keep_newest(folder)


def strays(root: Path) -> Iterator[Path]:
    """Files that do not lie where `medsal.pacs.spool.Spool.take` puts them, or do but do not begin as DICOM.

    Args:
        root: of the spool.

    Yields:
        Their paths, and those of links.
    """
    for place, folders, names in os.walk(root, followlinks=False):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in [*names, *links]:
            path = Path(place, name)
            ours = path.parent.parent == root and path.parent.name.startswith("study-") and not path.is_symlink()
            named = ours and not path.parent.suffix and name.startswith("object-") and name.endswith(".dcm")
            if not (ours and name == ARRIVED) and not (named and _begins(path)):
                yield path


def _begins(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def remove_empty(root: Path) -> None:
    """Remove the folders below that hold no file; one that gets a file just now stays.

    Args:
        root: of the spool.
    """
    for place, _, names in os.walk(root, topdown=False):
        folder = Path(place)
        if folder != root and set(names) <= {ARRIVED}:
            (folder / ARRIVED).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty any more
                folder.rmdir()


def _keep_newest(folder: Path) -> None:
    """Keep a folder of files within its bounds."""
    size = 0
    entries = sorted(((entry.stat(), entry.path) for entry in os.scandir(folder)), key=lambda one: -one[0].st_mtime_ns)
    for number, (about, path) in enumerate(entries):
        size += about.st_size
        if number >= MOST_FILES or size > MOST_BYTES:
            Path(path).unlink(missing_ok=True)
