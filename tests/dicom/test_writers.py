"""Results: whose they are, where they lie, what other readers make of them."""

from __future__ import annotations

import copy

import numpy as np
import pydicom
import pytest
import torch

from medsal.dicom import NativeGrid, Provenance, Reason, Refusal, is_own, read_film, read_series, scan_folder
from medsal.dicom.checks import ResultError, check_result, dciodvfy
from medsal.dicom.save import FILM_KINDS, SERIES_KINDS, Findings, results, save_results
from medsal.dicom.segmentation import segmentation, top_share
from medsal.dicom.sources import NOTICE, SERIES_NUMBERS, open_study
from medsal.errors import UsageError
from medsal.geometry import placed
from tests.dicom.builders import (
    AXIAL,
    CANARY,
    CORONAL,
    SAGITTAL,
    enhanced_of,
    film,
    oblique,
    save,
    save_all,
    slices_of,
)
from tests.dicom.maps_made import PEAK, blob, frames_of, lps, peak_by_dcmqi, peak_by_pydicom
from tests.dicom.tools import program

PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": oblique()}
MADE = Provenance(bundle="demo", bundle_version="0.1", model_sha256="ab" * 32, method="gradcam", target="1")
SAID = Findings(prediction="TLE left", probabilities={"HC": 0.13, "TLE left": 0.87}, scores={"average precision": 0.4})


def volume_study(tmp_path, plane=AXIAL, made=None):
    image = read_series(save_all(made or slices_of(9, plane), tmp_path / "source"))
    return image, open_study(NativeGrid.of(image), MADE)


def film_study(tmp_path, **values):
    image = read_film(save(film(**values), tmp_path / "source" / "film.dcm"))
    return image, open_study(NativeGrid.of(image), MADE)


def written(tmp_path, study, image, kinds=None):
    return save_results(results(study, image, blob(image), SAID, kinds), tmp_path / "results")


def relevance_slice(values, place):
    return np.asarray(values)[0, :, :, place].T


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("kind", ["seg", "pm"])
def test_the_peak_is_at_its_place_for_pydicom_and_for_dcmqi(name, kind, tmp_path):
    image, study = volume_study(tmp_path, PLANES[name])
    (path,) = written(tmp_path, study, image, [kind])
    positions, _ = frames_of(pydicom.dcmread(path))
    normal = np.cross(PLANES[name][:3], PLANES[name][3:])
    assert kind == "seg" or (np.diff(positions @ normal) > 0).all()
    assert np.linalg.norm(peak_by_pydicom(path) - lps(image)) < 0.5
    assert np.linalg.norm(peak_by_dcmqi(path, kind, tmp_path) - lps(image)) < 0.5


@pytest.mark.parametrize(("rows", "columns"), [(12, 16), (10, 10), (9, 10), (9, 11), (11, 12)])
def test_bits_of_a_region_fill_whole_pairs_of_bytes(rows, columns, tmp_path):
    """OHIF's adapter refuses, or misreads, what ends within a pair of bytes."""
    image, study = volume_study(tmp_path, made=slices_of(20, rows=rows, columns=columns))
    (path,) = written(tmp_path, study, image, ["seg"])
    result = pydicom.dcmread(path)
    positions, pixels = frames_of(result)
    assert len(pixels) * rows * columns % 16 == 0
    assert np.linalg.norm(peak_by_pydicom(path) - lps(image)) < 0.5
    assert len(np.unique(positions, axis=0)) == len(positions)
    assert pixels.sum() == top_share(blob(image)[0].numpy(), 0.05).sum()
    assert not dciodvfy(path)


def test_enhanced_sources_with_shuffled_frames(tmp_path):
    single = slices_of(9, oblique())
    order = np.random.default_rng(2).permutation(9)
    made = [enhanced_of([single[index] for index in order])]
    image, study = volume_study(tmp_path, made=made)
    relevance = blob(image)
    for kind in ("seg", "pm", "sc"):
        for path in written(tmp_path, study, image, [kind]):
            result = pydicom.dcmread(path)
            if kind == "sc":
                number = result.SourceImageSequence[0].ReferencedFrameNumber
                place = NativeGrid.of(image).frames.index(number)
                assert f"slice {place + 1} of 9" in result.DerivationDescription
                continue
            frames = result.PerFrameFunctionalGroupsSequence
            pixels = result.pixel_array.reshape(len(frames), result.Rows, result.Columns)
            expected = relevance if kind == "pm" else top_share(relevance.numpy(), 0.05)
            seen = set()
            for frame, values in zip(frames, pixels, strict=True):
                position = np.array([float(n) for n in frame.PlanePositionSequence[0].ImagePositionPatient])
                place = int(np.argmin([np.linalg.norm(position - lps(image, (0, 0, k))) for k in range(9)]))
                np.testing.assert_allclose(position, lps(image, (0, 0, place)), atol=1e-4)
                np.testing.assert_array_equal(values, relevance_slice(expected, place))
                seen.add(place)
            assert PEAK[2] in seen


def test_all_values_of_a_parametric_map(tmp_path):
    image, study = volume_study(tmp_path)
    (path,) = written(tmp_path, study, image, ["pm"])
    result = pydicom.dcmread(path)
    np.testing.assert_array_equal(result.pixel_array, blob(image)[0].numpy().transpose(2, 1, 0))
    mapping = result.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
    mapping = mapping or result.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping[0].RealWorldValueSlope, mapping[0].RealWorldValueIntercept) == (1, 0)


@pytest.mark.parametrize("source", ["series", "film"])
def test_the_validator_finds_no_error(source, tmp_path):
    image, study = volume_study(tmp_path) if source == "series" else film_study(tmp_path)
    kinds = tuple(SERIES_NUMBERS) if source == "series" else ("sc", "seg", "sr")
    program("dciodvfy", "Debian package dicom3tools")
    for path in written(tmp_path, study, image, kinds):
        assert not dciodvfy(path), path.name


def test_defaults_identity_and_provenance(tmp_path):
    for number, (image, study) in enumerate((volume_study(tmp_path / "v"), film_study(tmp_path / "f"))):
        files = written(tmp_path / str(number), study, image)
        assert {path.name.split("-")[0] for path in files} == set(SERIES_KINDS if number == 0 else FILM_KINDS)
        for path in files:
            result = pydicom.dcmread(path)
            assert result.StudyInstanceUID == study.grid.study_uid
            assert result.SeriesInstanceUID != study.grid.series_uid
            assert {keyword: str(result[keyword].value) for keyword in CANARY} == CANARY
            assert result.SeriesDescription.startswith("medsal gradcam")
            assert result.SeriesDescription.endswith("(research)")
            assert is_own(result)
            text = str(result)
            assert "ab" * 32 in text
            assert not any(value in path.name for value in CANARY.values())
        found = scan_folder(tmp_path / str(number) / "results")
        assert not found.refused
        for series in found.series:
            with pytest.raises(Refusal) as caught:
                read_series(series.files)
            assert caught.value.reason is Reason.OWN_RESULT


def test_names_that_are_longer_than_their_attributes(tmp_path):
    image, study = film_study(tmp_path)
    long = Provenance(
        bundle="b" * 90, bundle_version="v" * 90, method="integrated gradients of all sorts " * 3, target="x" * 90
    )
    said = Findings(prediction="p" * 90, probabilities={"q" * 90: 0.5, "ü" * 20: 0.5})
    for path in save_results(
        results(open_study(study.grid, long), image, blob(image), said, ["sc", "seg", "sr"]), tmp_path / "long"
    ):
        assert pydicom.dcmread(path).SeriesDescription.endswith("(research)")
        assert not dciodvfy(path)


def test_uids_follow_from_images_and_provenance(tmp_path):
    image, study = volume_study(tmp_path)
    first = [result.SOPInstanceUID for result in results(study, image, blob(image), SAID)]
    again = [result.SOPInstanceUID for result in results(study, image, blob(image), SAID)]
    other = open_study(study.grid, Provenance(bundle="demo", model_sha256="cd" * 32, method="gradcam"))
    changed = [result.SOPInstanceUID for result in results(other, image, blob(image), SAID)]
    assert first == again
    assert len(set(first)) == len(first)
    assert not set(first) & set(changed)


NAMES = {
    "ISO_IR 100": "Müller^Jérôme",
    "ISO_IR 192": "王^小东=王^小东=",
    "GB18030": "Wang^XiaoDong=王^小东=",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
}


@pytest.mark.parametrize("characters", NAMES)
@pytest.mark.parametrize("source", ["series", "film"])
def test_names_in_any_script_survive(characters, source, tmp_path):
    def named(dataset):
        dataset.SpecificCharacterSet = characters.split("\\") if "\\" in characters else characters
        dataset.PatientName = NAMES[characters]
        return dataset

    if source == "series":
        image, study = volume_study(tmp_path, made=[named(one) for one in slices_of()])
    else:
        image = read_film(save(named(film()), tmp_path / "film.dcm"))
        study = open_study(NativeGrid.of(image), MADE)
    files = written(tmp_path, study, image, tuple(SERIES_NUMBERS) if source == "series" else ("sc", "seg", "sr"))
    assert len(files) >= 3
    for path in files:
        result = pydicom.dcmread(path)
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert str(result.PatientName) == NAMES[characters].rstrip("=")


def test_a_region_of_a_film_has_a_plane_of_its_own(tmp_path):
    image, study = film_study(tmp_path)
    result = segmentation(study, blob(image))
    groups = result.SharedFunctionalGroupsSequence[0]
    assert list(groups.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(groups.PixelMeasuresSequence[0].PixelSpacing) == [0.2, 0.15]
    assert result.FrameOfReferenceUID.startswith("2.25.")
    assert "FrameOfReferenceUID" not in study.first
    np.testing.assert_array_equal(
        result.pixel_array.reshape(20, 30).astype(bool), top_share(blob(image)[0].numpy(), 0.05)
    )


def test_polarity_twins_give_equal_overlays(tmp_path):
    ramp = np.arange(600).reshape(20, 30) * 6 % 4096
    one, two = film(4095 - ramp, PhotometricInterpretation="MONOCHROME1"), film(ramp)
    pictures = []
    for name, made in (("one", one), ("two", two)):
        image = read_film(save(made, tmp_path / f"{name}.dcm"))
        study = open_study(NativeGrid.of(image), MADE)
        pictures.append(results(study, image, blob(image), SAID, ["sc"])[0].pixel_array)
    np.testing.assert_array_equal(*pictures)
    assert max(pictures[0].shape) <= 1280


def test_a_report_says_what_was_found(tmp_path):
    image, study = volume_study(tmp_path)
    (path,) = written(tmp_path, study, image, ["sr"])
    result = pydicom.dcmread(path)
    assert result.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert result.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (result.PreliminaryFlag, result.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    text = str(result)
    for said in ("TLE left", "0.87", "0.13", "0.4", "Research only", "demo", NOTICE, "method=gradcam"):
        assert said in text, said
    referenced = {
        item.ReferencedSOPInstanceUID
        for study_item in result.CurrentRequestedProcedureEvidenceSequence
        for series in study_item.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert referenced == set(study.grid.instances)


def test_what_cannot_be_written(tmp_path):
    image, study = film_study(tmp_path)
    blank = placed(torch.zeros_like(image.as_tensor()), image.affine)
    with pytest.raises(Refusal) as caught:
        segmentation(study, blank)
    assert caught.value.reason is Reason.BLANK_MAP
    with pytest.raises(Refusal) as caught:
        results(study, image, blob(image), SAID, ["pm"])
    assert caught.value.reason is Reason.NOT_NATIVE
    with pytest.raises(UsageError, match="got png"):
        results(study, image, blob(image), SAID, ["png"])
    assert results(study, image, blank, SAID, ["sc"])[0].Rows > 100


def test_results_of_other_patients_places_or_orders_are_stopped(tmp_path):
    image, study = volume_study(tmp_path)
    good = results(study, image, blob(image), SAID, ["pm"])[0]
    wrong = {}
    wrong["PatientID"] = copy.deepcopy(good)
    wrong["PatientID"].PatientID = "OTHER"
    wrong["order of frames"] = copy.deepcopy(good)
    wrong["order of frames"].PerFrameFunctionalGroupsSequence = list(good.PerFrameFunctionalGroupsSequence)[::-1]
    wrong["position of frames"] = copy.deepcopy(good)
    for frame in wrong["position of frames"].PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[1] += 5
    wrong["UIDs of the images"] = copy.deepcopy(good)
    wrong["UIDs of the images"].SOPInstanceUID = study.grid.instances[0]
    wrong["Manufacturer"] = copy.deepcopy(good)
    wrong["Manufacturer"].SeriesDescription = "T1"
    check_result(good, study)
    for says, result in wrong.items():
        with pytest.raises(ResultError, match=says) as caught:
            check_result(result, study)
        assert "OTHER" not in str(caught.value)


def test_files_that_changed_since_they_were_read(tmp_path):
    image, study = volume_study(tmp_path)
    save(slices_of(series="other")[0], tmp_path / "source" / "IM0000.dcm")
    with pytest.raises(Refusal) as caught:
        open_study(NativeGrid.of(image), MADE)
    assert caught.value.reason is Reason.NOT_NATIVE
    assert study.headers[0].SeriesInstanceUID == study.grid.series_uid
