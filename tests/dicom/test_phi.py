"""Planted identifiers never come out: not in logs at any level, warnings, errors, tracebacks, names or meta."""

from __future__ import annotations

import logging
import pickle
import traceback

import pydicom
import pytest

from medsal.dicom import (
    NativeGrid,
    PhiFilter,
    Provenance,
    Reason,
    Refusal,
    derived_uid,
    pseudonym,
    read_film,
    read_series,
    scan_folder,
    select_series,
    valid_uid,
)
from medsal.dicom.phi import WARNINGS, sealed
from medsal.errors import UsageError
from tests.dicom.builders import CANARY, film, save, save_all, slices_of

PLANTED = [*CANARY.values(), "Canarybird", "CANARY", "Planted"]


def assert_clean(text: str) -> None:
    assert not [value for value in PLANTED if value.casefold() in text.casefold()]


def canary_files(tmp_path):
    """Files whose identifiers stand where errors and warnings quote them."""
    number = slices_of()
    for one in number:
        one.PatientWeight = "70"
    folder = save_all(number, tmp_path / "Canarybird^Planted")
    for index, path in enumerate(sorted(folder.iterdir())):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.5\\1.25", b"CANARY\\1") if index == 2 else content)
    yield folder, read_series
    path = save(film(WindowCenter=1, WindowWidth=1), tmp_path / "CANARY-4711.dcm")
    yield path, lambda path: read_film(path, voi=7)
    yield tmp_path / "Canarybird" / "absent.dcm", read_film
    made = film()
    made.add_new("StudyDate", "DA", "CANARY-4711")
    yield save(made, tmp_path / "CANARY-dates.dcm"), lambda path: read_film(path).numel()
    yield save(film(RescaleSlope=0, RescaleIntercept=0), tmp_path / "CANARY-slope.dcm"), read_film


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_nothing_of_the_patient_in_errors_logs_and_warnings(tmp_path, caplog, recwarn):
    cases = list(canary_files(tmp_path))
    recwarn.clear()
    caplog.clear()
    refused = 0
    with caplog.at_level(1):
        for path, reader in cases:
            try:
                reader(path)
            except Refusal as refusal:
                refused += 1
                assert_clean("".join(traceback.format_exception(refusal)))
                assert_clean(repr(refusal))
        found = scan_folder(tmp_path)
        selection = select_series(found.series, "mr_volume")
        assert_clean("\n".join(selection.lines()))
        assert_clean(" ".join(map(str, found.refused)))
    assert refused == 4
    assert_clean(caplog.text)
    assert not recwarn.list


def test_file_names_and_meta_say_nothing(tmp_path):
    folder = save_all(slices_of(), tmp_path / "CANARY-4711")
    image = read_series(folder)
    assert image.meta["filename_or_obj"] == pseudonym(NativeGrid.of(image).series_uid)
    shown = {key: value for key, value in image.meta.items() if key != "dicom"}
    assert_clean(str(shown))
    grid = NativeGrid.of(image)
    assert_clean(str([grid.instances, grid.facts, grid.notes]))  # its files are where the user put them


def test_sealed_functions_carry_no_context():
    @sealed
    def read() -> None:
        try:
            int("CANARY inner")
        except ValueError as error:
            raise KeyError("CANARY outer") from error

    with pytest.raises(Refusal) as caught:
        read()
    assert caught.value.reason is Reason.BROKEN
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert_clean("".join(traceback.format_exception(caught.value)))


def test_memory_errors_are_a_reason():
    @sealed
    def read() -> None:
        raise MemoryError

    with pytest.raises(Refusal) as caught:
        read()
    assert caught.value.reason is Reason.TOO_LARGE


def test_warnings_are_counted(tmp_path):
    before = WARNINGS.total()

    @sealed
    def read() -> str:
        return str(pydicom.dataelem.DataElement("PatientID", "DA", "CANARY-4711").value)

    assert read() == "CANARY-4711"
    assert WARNINGS.total() == before + 1


def test_the_log_filter(caplog, capsys):
    cleaner = PhiFilter()
    made = film()
    made.OtherPatientIDs = ["AB-1", "Q7"]
    cleaner.learn(made)
    logger = logging.getLogger("tests.phi")
    handler = logging.StreamHandler()
    handler.addFilter(cleaner)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("patient %s, id %s", made.PatientName, made.PatientID)
        logger.warning("CANARYBIRD planted; canarybird_planted; AB-1 and q7; ACCCANARY99")
        logger.warning("unknown Doe^Jane^^Dr= in 1.2.840.113619.2.55.3")
        logger.warning("cannot %d", "Canarybird")
        try:
            int(made.PatientID)
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    shown = capsys.readouterr().err
    assert_clean(shown)
    for gone in ("AB-1", "q7", "Doe", "Jane", "113619"):
        assert gone not in shown
    assert "ValueError" in shown
    assert "uid-" in shown
    assert "patient [removed], id [removed]" in shown


def test_refusals_survive_processes():
    refusal = Refusal(Reason.GANTRY_TILT, "20.00 degrees")
    again = pickle.loads(pickle.dumps(refusal))  # a round trip of our own bytes
    assert (again.reason, again.detail, str(again)) == (refusal.reason, refusal.detail, str(refusal))


def test_uids():
    uid = derived_uid("1.2.3", "sc", 0)
    assert uid == derived_uid("1.2.3", "sc", 0)
    assert valid_uid(uid)
    assert len({derived_uid("1.2.3", "sc", 1), derived_uid("1.2.31", "sc", ""), derived_uid("1.2.3", "1sc"), uid}) == 4
    assert not any(map(valid_uid, ["", None, "1..2", ".1", "1.2 ", "1.2\n", "../1", "1" * 65]))
    one, other = Provenance(bundle="a", model_sha256="b"), Provenance(bundle="ab")
    assert one.digest != other.digest
    assert one.digest == Provenance(bundle="a", model_sha256="b").digest
    assert "bundle=a" in one.parameters
    assert not any(text.startswith("layer") for text in one.parameters)


def test_a_missing_library_is_no_broken_file():
    @sealed
    def read() -> None:
        raise ImportError("no module", name="pydicom")

    with pytest.raises(UsageError, match=r"no pydicom; install it with: pip install 'medsal\[dicom\]'"):
        read()


def test_a_name_of_which_a_part_is_known_goes_whole():
    cleaner = PhiFilter()
    patient = pydicom.Dataset()
    patient.PatientName = "Planted"
    cleaner.learn(patient)
    assert cleaner.clean("no place for Planted^Canary, Doe^Planted^J. or planted") == (
        "no place for [removed], [removed] or [removed]"
    )
