"""Small DICOM files whose every value says where it lies: value = f(position), so that a wrong geometry shows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medsal.dicom.uids import derived_uid

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
CR, DX, SC = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"
CANARY = {"PatientName": "Canarybird^Planted", "PatientID": "CANARY-4711", "AccessionNumber": "ACCCANARY99"}

AXIAL = (1.0, 0, 0, 0, 1, 0)
SAGITTAL = (0.0, 1, 0, 0, 0, -1)
CORONAL = (1.0, 0, 0, 0, 0, -1)


def oblique() -> tuple[float, ...]:
    """Axial planes turned about two axes."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", (20, -13, 8), degrees=True).as_matrix()
    return (*turn[:, 0], *turn[:, 1])


def value_at(world: np.ndarray) -> np.ndarray:
    """The planted value of a place in DICOM's world: linear, different along every direction, between 0 and 4000."""
    return 1500 + 6 * world[..., 0] + 9 * world[..., 1] + 13 * world[..., 2]


def base(sop_class: str, number: int = 1, series: str = "series", study: str = "study") -> FileDataset:
    """What every object needs."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = derived_uid(study, series, sop_class, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = derived_uid(study), derived_uid(study, series)
    dataset.Modality = {MR: "MR", CT: "CT", ENHANCED_MR: "MR", CR: "CR", DX: "DX"}.get(sop_class, "OT")
    dataset.StudyDate, dataset.StudyTime, dataset.PatientBirthDate, dataset.PatientSex = "20260101", "101010", "", "O"
    dataset.ReferringPhysicianName, dataset.StudyID, dataset.Manufacturer = "", "1", "Maker"
    dataset.SeriesNumber, dataset.InstanceNumber = 3, number
    for keyword, value in CANARY.items():
        setattr(dataset, keyword, value)
    return dataset


def set_pixels(dataset: Dataset, stored: np.ndarray, *, bits: int = 16, signed: bool = False) -> None:
    """Put grey pixels into an object."""
    allocated = 8 if bits <= 8 else 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    dataset["PixelData"].VR = "OW"


def slices_of(
    count: int = 8,
    orientation: Sequence[float] = AXIAL,
    *,
    rows: int = 10,
    columns: int = 12,
    spacing: tuple[float, float] = (1.5, 1.25),
    step: float = 3.0,
    origin: Sequence[float] = (-8.0, -7.0, -11.0),
    sop_class: str = MR,
    heights: Sequence[float] | None = None,
    tilt: float = 0.0,
    series: str = "series",
) -> list[FileDataset]:
    """A series of single slices; ``heights`` are their places along the normal in mm, ``tilt`` in degrees."""
    right, down = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(right, down)
    made = []
    for index, height in enumerate(heights if heights is not None else step * np.arange(count)):
        position = np.array(origin) + height * (normal + np.tan(np.radians(tilt)) * down)
        dataset = base(sop_class, index + 1, series)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M" if sop_class == MR else "AXIAL"]
        dataset.FrameOfReferenceUID = derived_uid("frame")
        dataset.ImageOrientationPatient = [f"{number:.10g}" for number in orientation]
        dataset.ImagePositionPatient = [f"{number:.10g}" for number in position]
        dataset.PixelSpacing, dataset.SliceThickness = list(spacing), step
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        world = position + column[..., None] * right * spacing[1] + row[..., None] * down * spacing[0]
        set_pixels(dataset, np.rint(value_at(world)))
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        if sop_class == MR:
            dataset.EchoNumbers, dataset.ScanningSequence, dataset.SequenceVariant = 1, "SE", "NONE"
        made.append(dataset)
    return made


def enhanced_of(single: Sequence[Dataset], *, slope: float = 1.0) -> FileDataset:
    """The same slices as one enhanced MR object, frames in the given order."""
    dataset = base(ENHANCED_MR, 1)
    first = single[0]
    pixels = np.stack([np.frombuffer(one.PixelData, "<u2").reshape(first.Rows, first.Columns) for one in single])
    set_pixels(dataset, np.rint(pixels / slope))
    dataset.NumberOfFrames, dataset.FrameOfReferenceUID = len(single), first.FrameOfReferenceUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]

    def item(**values: Any) -> Items:
        inside = Dataset()
        for keyword, value in values.items():
            setattr(inside, keyword, value)
        return Items([inside])

    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    shared.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for one in single:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    return dataset


def film(stored: np.ndarray | None = None, *, bits: int = 12, sop_class: str = DX, **values: Any) -> FileDataset:
    """A film whose stored values are a ramp unless given."""
    dataset = base(sop_class)
    ramp = np.arange(20 * 30).reshape(20, 30) * 6 % 2**bits
    set_pixels(dataset, ramp if stored is None else stored, bits=bits, signed=bool(values.pop("signed", False)))
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.ViewPosition, dataset.BodyPartExamined, dataset.BurnedInAnnotation = "PA", "CHEST", "NO"
    dataset.PixelSpacing = [0.2, 0.15]
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: FileDataset, path: Path, syntax: str | None = None) -> Path:
    """Write one object as it is, also where it is wrong on purpose."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = copy.deepcopy(dataset)
    wanted = pydicom.uid.UID(syntax or dataset.file_meta.TransferSyntaxUID)
    if wanted == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = wanted
    pydicom.dcmwrite(
        path,
        dataset,
        implicit_vr=wanted == ImplicitVRLittleEndian,
        little_endian=wanted != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return path


def save_all(datasets: Sequence[FileDataset], folder: Path) -> Path:
    """Write a series into a folder."""
    for index, dataset in enumerate(datasets):
        save(dataset, folder / f"IM{index:04d}.dcm")
    return folder
