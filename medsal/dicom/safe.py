"""Opening DICOM files from anybody: sizes are checked before anything is parsed, and no error says more than why."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.dicom.phi import sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.structure import Bounds, Structure, walk
from medsal.dicom.uids import valid_uid

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read; everything beyond is refused before it costs memory or time.

    Attributes:
        file_bytes: of one file.
        elements: of one header, those in sequences too.
        depth: of sequences in one another.
        voxels: rows x columns x frames x samples, of a file and of a series.
        files: of a folder.
    """

    file_bytes: int = 2**31
    elements: int = 500_000
    depth: int = 32
    voxels: int = 2**29
    files: int = 50_000


LIMITS = Limits()
"""The limits that hold where no others are given."""

_DEFERRED = 2**16  # bytes; a longer value is read when somebody asks for it


@dataclass(frozen=True, eq=False)
class Opened:
    """A file whose header was read.

    Attributes:
        path: where it lies.
        header: everything before the pixels; long values are read when they are asked for.
        structure: what the file is made of.
    """

    path: Path
    header: Dataset
    structure: Structure

    def number(self, keyword: str, default: int = 0) -> int:
        """A whole number of the header.

        Args:
            keyword: of the attribute.
            default: where it is missing or empty.

        Returns:
            The number.
        """
        value = self.header.get(keyword)
        return default if value is None or value == "" else int(value)

    def text(self, keyword: str) -> str:
        """A text of the header.

        Args:
            keyword: of the attribute.

        Returns:
            It, its values joined by a backslash; empty where it is missing.
        """
        value = self.header.get(keyword)
        many = type(value).__name__ == "MultiValue" or isinstance(value, list | tuple)
        return "\\".join(map(str, value or ())) if many else str(value if value is not None else "").strip()

    @property
    def frames(self) -> int:
        """Number of frames; 1 where the attribute is missing or empty."""
        return self.number("NumberOfFrames", 1)

    @property
    def series_uid(self) -> str:
        """The series instance UID."""
        return self.text("SeriesInstanceUID")

    @property
    def uid(self) -> str:
        """The SOP instance UID."""
        return self.text("SOPInstanceUID")

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@sealed
def open_file(path: str | Path, limits: Limits = LIMITS) -> Opened:
    """Read the header of a file that may come from anybody.

    Args:
        path: of a DICOM file with its 128-byte preamble.
        limits: what is read.

    Returns:
        The header.

    Raises:
        Refusal: ``not_dicom``, ``broken``, ``missing``, ``too_large``, ``too_deep``, ``too_many_elements``, ``syntax``
            (deflated), or ``invalid_uid``.
    """
    import pydicom

    place = Path(path)
    if not place.is_file():
        raise Refusal(Reason.MISSING, path=place)
    size = place.stat().st_size
    if size > limits.file_bytes:
        raise Refusal(Reason.TOO_LARGE, f"{size} bytes, at most {limits.file_bytes}", place)
    with place.open("rb") as file:
        structure = walk(file, size, Bounds(limits.elements, limits.depth))
    header = pydicom.dcmread(place, defer_size=_DEFERRED, stop_before_pixels=True)
    opened = Opened(place, header, structure)
    if opened.text("SOPClassUID") == _DICOMDIR or str(header.file_meta.get("MediaStorageSOPClassUID")) == _DICOMDIR:
        return opened
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"):
        if not valid_uid(header.get(keyword)):
            raise Refusal(Reason.INVALID_UID, keyword, place)
    samples = opened.number("Rows") * opened.number("Columns") * opened.frames * opened.number("SamplesPerPixel", 1)
    if samples > limits.voxels:
        raise Refusal(Reason.TOO_LARGE, f"{samples} pixels, at most {limits.voxels}", place)
    return opened


_DICOMDIR = "1.2.840.10008.1.3.10"


def inside(path: Path, root: Path) -> bool:
    """Whether a path, with all its links followed, lies in a folder.

    Args:
        path: of a file.
        root: the folder.

    Returns:
        True or False.
    """
    return path.resolve().is_relative_to(root.resolve())


def files_below(folder: str | Path, limits: Limits = LIMITS) -> tuple[list[Path], list[Refusal]]:
    """All files in a folder and below, by name; links that lead out of it are refused, links to folders not followed.

    A DICOMDIR is an index, no image, and is left out; given itself, only the files that it names are listed.

    Args:
        folder: a folder, a DICOMDIR, or one file.
        limits: how many files are listed.

    Returns:
        The files, and what was refused with its reason.

    Raises:
        Refusal: ``missing`` or ``too_many_files``.
    """
    root = Path(folder)
    if root.is_file():
        return _named_by(root, limits) if root.name.upper() == "DICOMDIR" else ([root], [])
    if not root.is_dir():
        raise Refusal(Reason.MISSING, path=root)
    found: list[Path] = []
    refused: list[Refusal] = []
    for place, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if name.upper() == "DICOMDIR":
                continue
            if inside(path, root):
                found.append(path)
            else:
                refused.append(Refusal(Reason.OUTSIDE, path=path))
            if len(found) > limits.files:
                raise Refusal(Reason.TOO_MANY_FILES, f"more than {limits.files}", root)
    return found, refused


@sealed
def _named_by(index: Path, limits: Limits) -> tuple[list[Path], list[Refusal]]:
    """The files that a DICOMDIR names, each inside its folder."""
    records: Any = open_file(index, limits).header.get("DirectoryRecordSequence") or []
    found: list[Path] = []
    refused: list[Refusal] = []
    for record in records:
        parts = record.get("ReferencedFileID")
        if not parts:
            continue
        path = index.parent.joinpath(*([parts] if isinstance(parts, str) else [str(part) for part in parts]))
        if not inside(path, index.parent):
            refused.append(Refusal(Reason.OUTSIDE, path=path))
        elif not path.is_file():
            refused.append(Refusal(Reason.MISSING, path=path))
        else:
            found.append(path)
    if len(found) > limits.files:
        raise Refusal(Reason.TOO_MANY_FILES, f"more than {limits.files}", index)
    return found, refused
