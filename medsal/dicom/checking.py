"""`medsal dicom check`: what is wrong with DICOM results, by medsal's own checks and by dciodvfy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsal.dicom.checks import dciodvfy
from medsal.dicom.phi import PhiFilter, pseudonym, sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import Opened, files_below, open_file
from medsal.dicom.sources import NOTICE, SERIES_NUMBERS
from medsal.dicom.uids import is_own
from medsal.errors import UsageError

_OURS = re.compile(rf"({'|'.join(SERIES_NUMBERS)})-[0-9a-f]{{12}}_\d{{3}}\.dcm")
_TITLES = ("ReferencedSeriesSequence", "ReferencedImageSequence", "SourceImageSequence",
           "CurrentRequestedProcedureEvidenceSequence")  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What was found of one file.

    Attributes:
        file: its name where medsal gave it, else a pseudonym; its path where that is asked for.
        own: whether it is a result of medsal.
        problems: what is wrong, nothing of it the patient's.
    """

    file: str
    own: bool
    problems: tuple[str, ...]


def check_files(sources: Iterable[str | Path], *, identified: bool = False) -> list[Verdict]:
    """Check files, and all files of folders.

    Args:
        sources: files or folders; other files of folders than DICOM are passed over.
        identified: name files by their paths, which may name the patient.

    Returns:
        What was found of each.

    Raises:
        UsageError: a source is not there.
    """
    found: list[Verdict] = []
    for source in sources:
        if not Path(source).exists():
            raise UsageError(f"no file or folder {source}; wanted DICOM files")
        paths, refused = files_below(source)
        found += [Verdict(_name(one.path or Path(source), identified), False, (str(one),)) for one in refused]
        for path in paths:
            verdict = _of_file(path, identified)
            if verdict.problems != (str(Refusal(Reason.NOT_DICOM)),) or not Path(source).is_dir():
                found.append(verdict)
    return found


def _name(path: Path, identified: bool) -> str:
    if identified:
        return str(path)
    return path.name if _OURS.fullmatch(path.name) else pseudonym(path.resolve(), "file")


def _of_file(path: Path, identified: bool) -> Verdict:
    name = _name(path, identified)
    try:
        opened = open_file(path)
        own = is_own(opened.header)
        problems = own_problems(opened) if own else []
    except Refusal as refusal:
        return Verdict(name, False, (str(refusal),))
    cleaner = PhiFilter()
    cleaner.learn(opened.header)
    said = [cleaner.clean(line) for line in dciodvfy(path) or ()]
    return Verdict(name, own, (*problems, *(f"dciodvfy: {line}" for line in said)))


@sealed
def own_problems(opened: Opened) -> list[str]:
    """What is wrong with a result of medsal as it lies there, without its images.

    Args:
        opened: its header.

    Returns:
        One line each.
    """
    header = opened.header
    wrong = []
    if "(research)" not in opened.text("SeriesDescription"):
        wrong.append("SeriesDescription does not say (research)")
    if not any(header.get(keyword) for keyword in _TITLES):
        wrong.append("names no images that it was made from")
    if opened.text("Modality") == "SR" and NOTICE not in str(header):
        wrong.append("the report does not say that it is for research")
    return wrong + _frame_problems(opened)


def _frame_problems(opened: Opened) -> list[str]:
    """Order and plane of the frames of SEG and Parametric Map."""
    frames: Sequence[Any] = opened.header.get("PerFrameFunctionalGroupsSequence") or ()
    if not frames:
        return []
    shared = opened.header.SharedFunctionalGroupsSequence[0]
    if "PlaneOrientationSequence" not in shared:
        return ["frames without a plane: viewers cannot place them, Orthanc with GDCM ends"]
    if opened.frames != len(frames):
        return [f"{opened.frames} frames, {len(frames)} places"]
    cosines = [float(number) for number in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    places = np.array([[float(n) for n in one.PlanePositionSequence[0].ImagePositionPatient] for one in frames])
    heights = places @ np.cross(cosines[:3], cosines[3:])
    if "FloatPixelData" in opened.header or opened.text("SOPClassUID") == "1.2.840.10008.5.1.4.1.1.30":
        return ["frames do not ascend: viewers show the map upside down"] if (np.diff(heights) <= 0).any() else []
    return []


def as_dict(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For a program.

    Args:
        verdicts: of `check_files`.

    Returns:
        Plain types.
    """
    bad = sum(bool(one.problems) for one in verdicts)
    return {"files": [asdict(one) for one in verdicts], "with_problems": bad, "dciodvfy": dciodvfy_there()}


def dciodvfy_there() -> bool:
    """Whether David Clunie's validator is installed.

    Returns:
        True or False.
    """
    import shutil

    return shutil.which("dciodvfy") is not None
