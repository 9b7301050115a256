"""What a folder holds: its series, and every file that was refused, with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medsal.dicom.enhanced import ENHANCED, frames_of, planes_of_frames
from medsal.dicom.phi import pseudonym, sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened, files_below, open_file
from medsal.dicom.series import planes_of
from medsal.dicom.stack import Planes


@dataclass(frozen=True, eq=False)
class Series:
    """The files of one series instance UID.

    Attributes:
        uid: series instance UID.
        study_uid: study instance UID of the first file.
        files: their headers, in the order of the files' names, copies left out by who reads them.
    """

    uid: str
    study_uid: str
    files: tuple[Opened, ...]

    @property
    def name(self) -> str:
        """A name for logs that says nothing about the patient."""
        return pseudonym(self.uid)

    @property
    def first(self) -> Opened:
        """Its first file."""
        return self.files[0]

    @property
    def multiframe(self) -> bool:
        """Whether it is an enhanced multi-frame object."""
        return self.first.text("SOPClassUID") in ENHANCED

    @property
    def slices(self) -> int:
        """Number of files, or of frames."""
        return sum(one.frames for one in self.files)

    def planes(self) -> Planes:
        """Where its slices lie.

        Returns:
            Their planes.

        Raises:
            Refusal: ``no_geometry``, or ``several_multiframe``.
        """
        if not self.multiframe:
            return planes_of(self.files)
        if len(self.files) > 1:
            raise Refusal(Reason.SEVERAL_MULTIFRAME, f"{len(self.files)} files")
        return planes_of_frames(frames_of(self.first))


@dataclass(frozen=True, eq=False)
class Scan:
    """What a folder holds.

    Attributes:
        series: in the order of their first files.
        refused: files that cannot be read, with the reason of each.
    """

    series: tuple[Series, ...]
    refused: tuple[Refusal, ...]

    def counts(self) -> dict[str, int]:
        """How many files were refused for which reason.

        Returns:
            Code -> number.
        """
        return dict(Counter(refusal.reason.value for refusal in self.refused))


@sealed
def scan_folder(source: str | Path, limits: Limits = LIMITS) -> Scan:
    """Open the headers of all files and sort them into series.

    Args:
        source: a folder (with everything below), a DICOMDIR, or one file.
        limits: what is read.

    Returns:
        The series, and what was refused. No file stops the others.

    Raises:
        Refusal: ``missing`` or ``too_many_files``.
    """
    paths, refused = files_below(source, limits)
    found: dict[str, list[Opened]] = {}
    for path in paths:
        try:
            opened = open_file(path, limits)
        except Refusal as refusal:
            refused.append(Refusal(refusal.reason, refusal.detail, path))
            continue
        if opened.text("SeriesInstanceUID"):  # a DICOMDIR under another name has none
            found.setdefault(opened.series_uid, []).append(opened)
    series = tuple(Series(uid, files[0].text("StudyInstanceUID"), tuple(files)) for uid, files in found.items())
    return Scan(series, tuple(refused))
