"""Planted heads and chest films as the DICOM of a hospital's day, with names, localizers and broken files among them.

    python -m benchmarks.pacs_batch FOLDER

For the tour of `medsal.pacs` and for its benchmark; nobody's data, and the same bytes every time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medsal.data.phantoms.heads import planted_case
from medsal.data.phantoms.thorax_film import planted_film
from medsal.dicom.uids import derived_uid

MR, DX = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1.1"
PEOPLE = (
    "Doe^Jane",
    "Müller^Jérôme",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Wang^XiaoDong=王^小东",
    "Roe^Richard",
)
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
AXIAL, CORONAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def base(sop_class: str, study: int, series: str, number: int) -> FileDataset:
    """What every object says."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = sop_class, derived_uid("tour", study, series, number)
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = derived_uid("tour", study), derived_uid("tour", study, series)
    made.Modality = {MR: "MR", DX: "DX"}[sop_class]
    made.PatientName, made.PatientID = PEOPLE[study % len(PEOPLE)], f"TOUR{study:04d}"
    made.PatientBirthDate, made.PatientSex, made.AccessionNumber = "19700101", "O", f"A{study:05d}"
    made.ReferringPhysicianName, made.StudyID, made.StudyDescription = "", str(study), "medsal tour"
    made.StudyDate, made.StudyTime = f"202601{study % 28 + 1:02d}", "081500"
    made.SeriesDescription, made.Manufacturer = series, "planted"
    made.InstanceNumber, made.SeriesNumber = number, 1 + (series != "LOCALIZER")
    return made


def with_pixels(made: FileDataset, stored: np.ndarray, bits: int = 12) -> FileDataset:
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, bits, bits - 1, 0
    made.PixelData = stored.astype("<u2").tobytes()
    return made


def head(
    study: int, *, plane=SAGITTAL, size=(160, 256, 256), step=1.0, series="T1 MPRAGE", seed=None
) -> Iterator[FileDataset]:
    """A planted head as slices: ``size`` slices, rows and columns, ``step`` mm a voxel; odd seeds have a lesion."""
    slices, rows, columns = size
    right, down = (np.array(cosine) for cosine in plane)
    normal = np.cross(right, down)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([right, down, normal], 1) * step
    lps[:3, 3] = np.array([0.0, 18.0, 10.0]) - lps[:3, :3] @ [(columns - 1) / 2, (rows - 1) / 2, (slices - 1) / 2]
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    image = planted_case(study if seed is None else seed).sample(ras, (columns, rows, slices)).image
    stored = np.clip(np.rint(np.asarray(image) * (3000 / float(np.max(image)))), 0, 4095)
    for index in range(slices):
        made = with_pixels(base(MR, study, series, index + 1), stored[..., index].T)
        made.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = derived_uid("tour", study, "frame"), ""
        made.ImageOrientationPatient = [*map(float, right), *map(float, down)]
        made.ImagePositionPatient = [round(float(n), 4) for n in (lps @ [0, 0, index, 1])[:3]]
        made.PixelSpacing, made.SliceThickness = [step, step], step
        made.ScanningSequence, made.SequenceVariant, made.ScanOptions, made.MRAcquisitionType = "GR", "MP", "", "3D"
        made.EchoTime, made.EchoTrainLength, made.RepetitionTime = 3, 1, 2000
        yield made


def localizer(study: int) -> list[FileDataset]:
    """Three planes through the head, as the scanner makes them first."""
    planes = [
        next(head(study, plane=plane, size=(1, 64, 64), step=4.0, series="LOCALIZER"))
        for plane in (AXIAL, CORONAL, SAGITTAL)
    ]
    for number, made in enumerate(planes, 1):
        made.InstanceNumber, made.SOPInstanceUID = number, derived_uid("tour", study, "LOCALIZER", number)
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return planes


def film(study: int, *, size: int = 512, inverted: bool = False, seed: int | None = None) -> FileDataset:
    """A planted chest film; odd seeds have a pneumothorax."""
    grey = np.asarray(planted_film(study if seed is None else seed).sample(min(size, 1024)).image).astype(float) / 255
    times = -(-size // grey.shape[0])
    stored = np.rint(np.kron(grey, np.ones((times, times)))[:size, :size] * 4095)
    made = with_pixels(base(DX, study, "CHEST PA", 1), 4095 - stored if inverted else stored)
    made.ImageType, made.ViewPosition, made.BodyPartExamined = ["ORIGINAL", "PRIMARY", ""], "PA", "CHEST"
    made.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    made.BurnedInAnnotation, made.ImageLaterality, made.PresentationIntentType = "NO", "U", "FOR PRESENTATION"
    made.PixelSpacing = made.ImagerPixelSpacing = [360 / size, 360 / size]
    made.PatientOrientation = ["L", "F"]
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, 0, "US"
    made.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    return made


def save(objects: Iterable[FileDataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for made in objects:
        series = made.SeriesDescription.split()[0].lower()
        files.append(folder / f"{series}-{int(made.InstanceNumber):04d}.dcm")
        made.save_as(files[-1], enforce_file_format=True)
    return files


def mixed(folder: Path) -> list[Path]:
    """A day: three heads with localizers, three films, a head with a gap, a film whose pixels are cut off."""
    small = {"size": (91, 109, 91), "step": 2.0, "plane": AXIAL}
    files = []
    for study in (1, 2, 3):
        files += save([*localizer(study), *head(study, **small)], folder / f"head-{study}")
    for study in (4, 5, 6):
        files += save([film(study, inverted=study == 5, seed=100_000 + study)], folder / f"film-{study}")
    gap = [made for number, made in enumerate(head(7, **small)) if number != 40]
    files += save(gap, folder / "head-with-a-gap")
    cut = film(8, seed=100_008)
    cut.PixelData = cut.PixelData[: len(cut.PixelData) // 2]
    return files + save([cut], folder / "film-cut-off")


if __name__ == "__main__":
    print(f"{len(mixed(Path(sys.argv[1])))} files in {sys.argv[1]}")
