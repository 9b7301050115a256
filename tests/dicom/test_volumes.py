"""The 26 volume cases: right in every voxel, or refused with the expected code; never wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its own name for itself)
from pydicom.dataset import FileDataset

from medsal.dicom import Reason, Refusal, read_series
from medsal.dicom.grid import NativeGrid
from tests.dicom.builders import (
    AXIAL,
    CORONAL,
    CT,
    SAGITTAL,
    enhanced_of,
    oblique,
    save,
    save_all,
    slices_of,
    value_at,
)

LPS = np.diag([-1.0, -1, 1, 1])


def assert_right(image, tolerance: float = 0.51) -> None:
    """Every voxel holds the value of the place that the affine says."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape[1:]], indexing="ij"), -1)
    lps = (LPS @ image.affine.numpy())[:3]
    world = index @ lps[:, :3].T + lps[:, 3]
    assert np.abs(image[0].numpy() - value_at(world)).max() <= tolerance


def shuffled(made: list[FileDataset]) -> list[FileDataset]:
    return [made[index] for index in np.random.default_rng(0).permutation(len(made))]


def numbered_backwards() -> list[FileDataset]:
    made = slices_of()
    for one in made:
        one.InstanceNumber = 9 - one.InstanceNumber
    return made


def rescaled_each() -> list[FileDataset]:
    made = slices_of()
    for index, one in enumerate(made):
        slope, intercept = 1 + 0.1 * index, -10.0 * index
        stored = np.frombuffer(one.PixelData, "<u2").astype(float)
        one.PixelData = np.rint((stored - intercept) / slope).astype("<u2").tobytes()
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
    return made


def without(*missing: int) -> list[FileDataset]:
    return [one for index, one in enumerate(slices_of()) if index not in missing]


def echoes() -> list[FileDataset]:
    first, second = slices_of(), slices_of()
    for one in second:
        one.SOPInstanceUID += "9"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.EchoNumbers = 2
    return first + second


def doubled() -> list[FileDataset]:
    made = slices_of()
    other = copy.deepcopy(made[3])
    other.SOPInstanceUID += "9"
    return [*made, other]


def localizer() -> list[FileDataset]:
    made = [one for plane in (AXIAL, SAGITTAL, CORONAL) for one in slices_of(3, plane)]
    for index, one in enumerate(made):
        one.SOPInstanceUID += str(index)
    return made


def one_localizer() -> list[FileDataset]:
    made = slices_of()
    other = slices_of(1, CORONAL)[0]
    other.SOPInstanceUID += "9"
    return [*made, other]


def odd_size() -> list[FileDataset]:
    made = slices_of()
    made[4] = slices_of(rows=16, columns=16)[4]
    return made


def placeless(*which: int) -> list[FileDataset]:
    made = slices_of()
    for index in which or range(len(made)):
        del made[index].ImagePositionPatient
        del made[index].ImageOrientationPatient
    return made


def enhanced(order: str = "", **options) -> list[FileDataset]:
    made = slices_of(orientation=options.pop("orientation", AXIAL))
    made = {"": made, "reversed": made[::-1], "shuffled": shuffled(made)}[order]
    return [enhanced_of(made, **options)]


CASES: dict[str, tuple[Callable[[], list[FileDataset]], Reason | None]] = {
    "axial": (slices_of, None),
    "sagittal": (lambda: slices_of(orientation=SAGITTAL), None),
    "coronal": (lambda: slices_of(orientation=CORONAL), None),
    "oblique": (lambda: slices_of(orientation=oblique()), None),
    "shuffled names": (lambda: shuffled(slices_of()), None),
    "reversed instance numbers": (numbered_backwards, None),
    "descending": (lambda: slices_of()[::-1], None),
    "single slice": (lambda: slices_of(1), None),
    "rescale of every slice": (rescaled_each, None),
    "missing in the middle": (lambda: without(4), Reason.MISSING_SLICES),
    "missing near the end": (lambda: without(6), Reason.MISSING_SLICES),
    "spacing 3 to 6 mm": (lambda: slices_of(heights=[0, 3, 6, 9, 15, 21, 27]), Reason.MISSING_SLICES),
    "two echoes": (echoes, Reason.DUPLICATE_POSITIONS),
    "one slice doubled under a new UID": (doubled, Reason.DUPLICATE_POSITIONS),
    "three-plane localizer": (localizer, Reason.MIXED_ORIENTATIONS),
    "one localizer slice": (one_localizer, Reason.MIXED_ORIENTATIONS),
    "one slice of another size": (odd_size, Reason.MIXED_SIZES),
    "gantry tilt": (lambda: slices_of(sop_class=CT, tilt=20), Reason.GANTRY_TILT),
    "two series in one folder": (lambda: slices_of(4) + slices_of(4, series="other"), Reason.MIXED_SERIES),
    "no geometry": (placeless, Reason.NO_GEOMETRY),
    "one slice without geometry": (lambda: placeless(3), Reason.NO_GEOMETRY),
    "enhanced": (enhanced, None),
    "enhanced, reversed": (lambda: enhanced("reversed"), None),
    "enhanced, slope 2": (lambda: enhanced(slope=2.0), None),
    "enhanced, oblique": (lambda: enhanced(orientation=oblique()), None),
    "enhanced, shuffled": (lambda: enhanced("shuffled"), None),
    # beyond the 26
    "irregular": (lambda: slices_of(heights=[0, 3, 6, 9.4, 12, 15]), Reason.IRREGULAR_SPACING),
    "tilt of one degree": (lambda: slices_of(20, tilt=1), Reason.GANTRY_TILT),
}


@pytest.mark.parametrize("name", CASES)
def test_right_or_refused_with_its_code(name, tmp_path):
    build, expected = CASES[name]
    folder = save_all(build(), tmp_path)
    if expected is None:
        image = read_series(folder)
        assert image.dtype.is_floating_point
        assert_right(image, tolerance=1.5 if "slope" in name or "rescale" in name else 0.51)
        assert np.linalg.det(image.affine.numpy()[:3, :3]) > 0
    else:
        with pytest.raises(Refusal) as caught:
            read_series(folder)
        assert caught.value.reason is expected


def test_there_are_26_volume_cases():
    assert len(CASES) - 2 == 26
    assert {expected for _, expected in CASES.values()} >= {None, Reason.GANTRY_TILT, Reason.MISSING_SLICES}


def _mixed(keyword, value, index=2):
    def build() -> list[FileDataset]:
        made = slices_of()
        setattr(made[index], keyword, value)
        return made

    return build


def unscaled(dataset: FileDataset) -> FileDataset:
    del dataset.RescaleSlope
    del dataset.RescaleIntercept
    return dataset


MORE = {
    "another patient": (_mixed("PatientID", "OTHER"), Reason.MIXED_SERIES),
    "another frame of reference": (_mixed("FrameOfReferenceUID", "1.2.3.4.5"), Reason.MIXED_FRAMES_OF_REFERENCE),
    "another spacing": (_mixed("PixelSpacing", [1.5, 1.3]), Reason.MIXED_SIZES),
    "echoes one after the other": (_mixed("EchoNumbers", 2), Reason.MIXED_CONTRASTS),
    "a phase image between": (_mixed("ImageType", ["ORIGINAL", "PRIMARY", "P"]), Reason.MIXED_CONTRASTS),
    "monochrome 1": (_mixed("PhotometricInterpretation", "MONOCHROME1"), Reason.PHOTOMETRIC),
    "slope 0": (_mixed("RescaleSlope", 0), Reason.RESCALE),
    "own result": (_mixed("Manufacturer", "medsal"), Reason.OWN_RESULT),
    "a mosaic": (
        lambda: [_mixed("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], 0)()[0]],
        Reason.UNSUPPORTED_CLASS,
    ),
    "a CT without rescale": (lambda: [unscaled(one) for one in slices_of(sop_class=CT)], Reason.RESCALE),
    "secondary capture": (_mixed("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), Reason.UNSUPPORTED_CLASS),
    "orientation that is none": (_mixed("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], 0), Reason.NO_GEOMETRY),
    "shifted in its plane": (_mixed("ImagePositionPatient", [-3.0, -7.0, -5.0]), Reason.IRREGULAR_SPACING),
}


@pytest.mark.parametrize("name", MORE)
def test_other_mixtures_are_refused(name, tmp_path):
    build, expected = MORE[name]
    with pytest.raises(Refusal) as caught:
        read_series(save_all(build(), tmp_path))
    assert caught.value.reason is expected


def test_copies_of_files_are_left_out_and_noted(tmp_path):
    made = slices_of()
    save_all(made, tmp_path)
    save(made[2], tmp_path / "copies" / "again.dcm")
    (tmp_path / "readme.txt").write_text("no DICOM")
    image = read_series(tmp_path)
    assert_right(image)
    notes = NativeGrid.of(image).notes
    assert notes == ("1 files that are no DICOM were left out", "1 copies of files were left out")
    changed = copy.deepcopy(made[2])
    changed.PixelData = bytes(len(changed.PixelData))
    save(changed, tmp_path / "copies" / "again.dcm")
    with pytest.raises(Refusal) as caught:
        read_series(tmp_path)
    assert caught.value.reason is Reason.DUPLICATE_INSTANCES


def test_several_multiframe_objects_and_functional_groups_that_are_missing(tmp_path):
    one, other = enhanced()[0], enhanced()[0]
    other.SOPInstanceUID += "9"
    with pytest.raises(Refusal) as caught:
        read_series(save_all([one, other], tmp_path / "two"))
    assert caught.value.reason is Reason.SEVERAL_MULTIFRAME
    one.PerFrameFunctionalGroupsSequence = one.PerFrameFunctionalGroupsSequence[:-1]
    with pytest.raises(Refusal) as caught:
        read_series(save_all([one], tmp_path / "one"))
    assert caught.value.reason is Reason.NO_GEOMETRY


def test_the_grid_names_the_object_of_every_slice(tmp_path):
    made = slices_of()
    grid = NativeGrid.of(read_series(save_all(shuffled(made), tmp_path)))
    assert grid.instances == tuple(str(one.SOPInstanceUID) for one in made)
    assert grid.shape == (12, 10, 8)
    assert grid.facts["modality"] == "MR"
    shuffled_frames = NativeGrid.of(read_series(save_all(enhanced("shuffled"), tmp_path / "enhanced")))
    order = np.random.default_rng(0).permutation(8)
    assert shuffled_frames.frames == tuple(int(np.flatnonzero(order == index)[0]) + 1 for index in range(8))


@pytest.mark.parametrize(
    "plane", [AXIAL, SAGITTAL, CORONAL, oblique()], ids=["axial", "sagittal", "coronal", "oblique"]
)
def test_simpleitk_and_highdicom_agree(plane, tmp_path):
    import highdicom

    made = slices_of(orientation=plane)
    image = read_series(save_all(shuffled(made), tmp_path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    other = reader.Execute()
    values = sitk.GetArrayFromImage(other).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(other.GetDirection(), (3, 3)) * other.GetSpacing()
    affine[:3, 3] = other.GetOrigin()
    np.testing.assert_allclose(image.affine.numpy(), LPS @ affine, atol=1e-5)
    np.testing.assert_array_equal(image[0].numpy(), values)
    volume = highdicom.get_volume_from_series(made)
    turned = volume.flip_spatial(0)  # highdicom indexes slice, row, column, the slices against rows x columns
    np.testing.assert_allclose(image.affine.numpy(), LPS @ turned.affine[:, [2, 1, 0, 3]], atol=1e-5)
    np.testing.assert_array_equal(image[0].numpy(), turned.array.transpose(2, 1, 0))


def test_real_oblique_slices_lie_where_simpleitk_says(real_data):
    folder = real_data / "mri_t1_structural" / "dicoms_subset"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    image = read_series(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    other = reader.Execute()
    for index in ((0, 0, 0), (273, 383, 23), (17, 201, 11)):
        place = LPS[:3, :3] @ np.array(other.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((image.affine.numpy() @ [*index, 1])[:3], place, atol=2e-3)
    np.testing.assert_array_equal(image[0].numpy(), sitk.GetArrayFromImage(other).transpose(2, 1, 0))
    assert image.shape == (1, 274, 384, 24)
