"""No planted identifier survives in a research copy; pixels, geometry and the ties between objects do."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medsal.dicom import Reason, Refusal, read_film, read_series
from medsal.errors import UsageError
from tests.dicom.builders import SC, film, save, save_all, slices_of

pytest.importorskip("dicomanonymizer", reason="needs dicom-anonymizer: pip install 'medsal[deid]'")

from medsal.dicom.deid import deidentify

KEY = b"a secret of the test"
PLANTED = {
    "PatientName": "Canarybird^Planted",
    "PatientID": "CANARY-4711",
    "OtherPatientIDs": "CANARY-4712",
    "PatientBirthDate": "19610411",
    "PatientAddress": "Canary Road 1",
    "PatientTelephoneNumbers": "555-CANARY",
    "PatientMotherBirthName": "Canarymother",
    "AccessionNumber": "ACCCANARY",
    "InstitutionName": "Canary Hospital",
    "InstitutionAddress": "Canary Street",
    "ReferringPhysicianName": "Canarydoctor^A",
    "OperatorsName": "Canaryoperator",
    "StudyID": "CANARYSTUDY",
    "StationName": "CANARYSTATION",
    "DeviceSerialNumber": "CANARYSERIAL",
    "StudyDate": "20250411",
    "ImageComments": "seen with Canarybird",
    "PatientComments": "aunt of Canary",
    "AdditionalPatientHistory": "canary history",
    "RequestedProcedureDescription": "for Canarybird",
    "StudyDescription": "Chest of Canarybird",
    "ProtocolName": "Canarybird protocol",
}


def full(dataset):
    for keyword, value in PLANTED.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x00091010, "LO", "CANARY private")
    dataset.add_new(0x00090010, "LO", "CANARY MAKER")
    dataset.add_new(0x60000010, "US", 2)
    dataset.add_new(0x60000022, "LO", "overlay of her left hand")
    dataset.file_meta.SourceApplicationEntityTitle = "CANARYAE"
    dataset.preamble = b"CANARY".ljust(128)
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "1", "99X", "lungs of Canarybird"
    dataset.AnatomicRegionSequence = Sequence([region])
    inner = Dataset()
    inner.PatientID, inner.CodeMeaning, inner.CodeValue = "CANARY-4711", "x-ray of Canarybird", "1"
    inner.add_new(0x00091010, "LO", "CANARY private")
    inner.ReferencedSOPInstanceUID = "1.2.3.4711"
    inner.ReferencedSOPClassUID = SC
    dataset.ReferencedImageSequence = Sequence([inner])
    return dataset


def test_no_planted_value_is_left(tmp_path):
    path = deidentify(save(full(film()), tmp_path / "film.dcm"), tmp_path / "out", KEY)
    content = path.read_bytes()
    assert b"canary" not in content.lower()
    for gone in (b"19610411", b"20250411", b"555-", b"1.2.3.4711", b"left hand"):
        assert gone not in content
    copy = pydicom.dcmread(path)
    assert copy.AnatomicRegionSequence[0].CodeValue == "1"
    assert copy.ViewPosition == "PA"
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert copy.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID
    assert "canary" not in path.name


def test_pixels_and_geometry_stay_and_series_stay_together(tmp_path):
    made = [full(one) for one in slices_of(3)]
    source = save_all(made, tmp_path / "source")
    for path in sorted(source.iterdir()):
        deidentify(path, tmp_path / "out", KEY)
    before, after = read_series(source), read_series(tmp_path / "out")
    np.testing.assert_array_equal(after.numpy(), before.numpy())
    np.testing.assert_allclose(after.affine.numpy(), before.affine.numpy())
    picture = save(full(film()), tmp_path / "film.dcm")
    first, again = (deidentify(picture, tmp_path / name, KEY) for name in ("a", "b"))
    other = deidentify(picture, tmp_path / "c", KEY[::-1])
    assert first.name == again.name != other.name
    assert pydicom.dcmread(first).PatientID == pydicom.dcmread(again).PatientID != pydicom.dcmread(other).PatientID
    np.testing.assert_array_equal(read_film(first).numpy(), read_film(picture).numpy())


def test_what_is_not_copied(tmp_path):
    for number, made in enumerate([film(BurnedInAnnotation="YES"), film(sop_class=SC)]):
        with pytest.raises(Refusal) as caught:
            deidentify(save(made, tmp_path / f"{number}.dcm"), tmp_path / "out", KEY)
        assert caught.value.reason is Reason.BURNED_IN
    with pytest.raises(UsageError, match="16 bytes"):
        deidentify(save(film(), tmp_path / "film.dcm"), tmp_path / "out", b"short")
    assert not (tmp_path / "out").exists()
