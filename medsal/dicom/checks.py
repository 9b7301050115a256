"""What must be true of a result before it leaves: whose it is, where it lies, and that it is known for what it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.dicom.uids import is_own, valid_uid
from medsal.errors import MedsalError

if TYPE_CHECKING:
    from pydicom import Dataset

    from medsal.dicom.sources import Study

_SAME = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
)
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID")


class ResultError(MedsalError):
    """A result that contradicts the images that it was made for: a fault of medsal, never to be sent."""


def check_result(result: Dataset, study: Study) -> None:
    """Compare a result with its images.

    Args:
        result: any object that medsal writes.
        study: the images.

    Raises:
        ResultError: where something is not as it must be; names attributes, not their values.
    """
    wrong = [keyword for keyword in _SAME if _text(result, keyword) != _text(study.first, keyword)]
    wrong += [keyword for keyword in _UIDS if not valid_uid(result.get(keyword))]
    if result.SeriesInstanceUID == study.grid.series_uid or result.SOPInstanceUID in study.grid.instances:
        wrong.append("UIDs of the images themselves")
    if not is_own(result) or "(research)" not in _text(result, "SeriesDescription"):
        wrong.append("Manufacturer or SeriesDescription")
    if "PerFrameFunctionalGroupsSequence" in result:
        wrong += _frames_wrong(result, study)
    if wrong:
        raise ResultError(f"a DICOM result does not fit its images: {', '.join(wrong)}")


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "")


def _frames_wrong(result: Dataset, study: Study) -> list[str]:
    """Frames of maps ascend along rows x columns, and all lie on slices of the images."""
    frames: list[Any] = list(result.PerFrameFunctionalGroupsSequence)
    shared = result.SharedFunctionalGroupsSequence[0]
    if "PlaneOrientationSequence" not in shared:
        return ["PlaneOrientationSequence"]
    cosines = [float(number) for number in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    positions = np.array(
        [[float(number) for number in frame.PlanePositionSequence[0].ImagePositionPatient] for frame in frames]
    )
    wrong = []
    heights = positions @ np.cross(cosines[:3], cosines[3:])
    if "FloatPixelData" in result and (np.diff(heights) <= 0).any():  # viewers look at positions of SEG only
        wrong.append("order of frames")
    if len(study.grid.shape) == 3:
        affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(study.grid.affine)
        slices = affine[:3, 3] + np.arange(study.grid.shape[2])[:, None] * affine[:3, 2]
        away = np.linalg.norm(positions[:, None] - slices, axis=2).min(1)
        if away.max() > 0.5 * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
            wrong.append("position of frames")
    return wrong


def dciodvfy(path: Path) -> list[str] | None:
    """What David Clunie's validator says.

    Args:
        path: of an object.

    Returns:
        Its errors; None where it is not installed (Debian: dicom3tools).
    """
    tool = shutil.which("dciodvfy")
    if tool is None:
        return None
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, errors="replace", check=False, timeout=120)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
