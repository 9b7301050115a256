"""Small objects to send around."""

from __future__ import annotations

import io
from pathlib import Path

from pydicom import Dataset, dcmread

from medsal.dicom.uids import derived_uid
from tests.dicom.builders import slices_of

PLANTED = ("Plantagenet^Canary", "CANARY-0042", "ACC-CANARY", "19010203")


def slices(count: int, study: str = "study", series: str = "series") -> list[Dataset]:
    """A small series, with a patient who must not be found in any log."""
    made = slices_of(count)
    for number, one in enumerate(made, 1):
        one.PatientName, one.PatientID, one.AccessionNumber, one.PatientBirthDate = PLANTED
        one.StudyInstanceUID, one.SeriesInstanceUID = derived_uid(study), derived_uid(study, series)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid(study, series, number)
        one.InstanceNumber = number
    return [_read_back(one) for one in made]


def _read_back(dataset: Dataset) -> Dataset:
    """As it comes from a file, with its encoding known."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def saved(objects: list[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.dcm" for number in range(len(objects))]
    for path, one in zip(paths, objects, strict=True):
        one.save_as(path, enforce_file_format=True)
    return paths


def study_files(folder: Path, count: int, study: str = "study", series: str = "series") -> list[Path]:
    return saved(slices(count, study, series), folder)


def clean(text: object) -> None:
    """Fail where a text holds anything of the planted patient."""
    said = str(text)
    assert not [one for one in (*PLANTED, "Plantagenet", "Canary") if one.lower() in said.lower()], said
