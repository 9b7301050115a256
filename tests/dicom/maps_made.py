"""Maps with their peak in one voxel, and where readers of DICOM results find it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  (its own name for itself)
import torch

from medsal.geometry import placed
from tests.dicom.tools import program

PEAK = (7, 3, 5)  # column, row, slice


def blob(image):
    """A map with its peak in one voxel that no flip maps to itself."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape[1:]], indexing="ij"), -1)
    away = ((index - np.array(PEAK[: image.ndim - 1])) ** 2).sum(-1)
    return placed(torch.from_numpy(np.exp(-away / 3)).float()[None], image.affine, image.meta)


def lps(image, index=PEAK):
    """Where a voxel lies in DICOM's world, mm."""
    return (np.diag([-1.0, -1, 1, 1]) @ image.affine.numpy() @ [*index, 1])[:3]


def frames_of(result):
    """Position of every frame, and their pixels."""
    positions = [
        [float(n) for n in frame.PlanePositionSequence[0].ImagePositionPatient]
        for frame in result.PerFrameFunctionalGroupsSequence
    ]
    return np.array(positions), result.pixel_array.reshape(len(positions), result.Rows, result.Columns)


def peak_by_pydicom(path: Path):
    """The middle of the highest values of a SEG or a Parametric Map, by its functional groups."""
    result = pydicom.dcmread(path)
    positions, pixels = frames_of(result)
    middle = np.argwhere(pixels == pixels.max()).mean(0)
    shared = result.SharedFunctionalGroupsSequence[0]
    cosines = np.array([float(n) for n in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    spacing = [float(n) for n in shared.PixelMeasuresSequence[0].PixelSpacing]
    frame = np.array([np.interp(middle[0], range(len(positions)), positions[:, axis]) for axis in range(3)])
    return frame + middle[2] * spacing[1] * cosines[:3] + middle[1] * spacing[0] * cosines[3:]


def peak_by_dcmqi(path: Path, kind: str, folder: Path):
    """The same by the converter that 3D Slicer uses."""
    tool = program("segimage2itkimage" if kind == "seg" else "paramap2itkimage", "pip install dcmqi")
    arguments = [tool, "--inputDICOM", str(path), "--outputDirectory", str(folder), "--prefix", kind, "-t", "nrrd"]
    subprocess.run(arguments, check=True, capture_output=True)
    read = sitk.ReadImage(str(next(folder.glob(f"{kind}-*.nrrd"))))
    values = sitk.GetArrayFromImage(read)
    middle = np.argwhere(values == values.max()).mean(0)[::-1]
    return np.array(read.TransformContinuousIndexToPhysicalPoint([float(n) for n in middle]))
