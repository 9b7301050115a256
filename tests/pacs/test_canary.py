"""Planted identifiers, also Japanese ones, stay in the archive, the images and the results: nowhere else, ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medsal.dicom import is_own
from medsal.dicom.uids import derived_uid
from tests.dicom.builders import CORONAL, save_all, slices_of
from tests.dicom.bundles_made import volume_bundle
from tests.pacs.servers import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
JAPANESE = {
    "PatientName": "Kanariya^Tarou=金糸雀^太郎=かなりや^たろう",
    "PatientID": "CANARY-4711",
    "AccessionNumber": "ACCCANARY99",
    "PatientBirthDate": "19370417",
    "ReferringPhysicianName": "Doktorvogel^Rita=小鳥^医師=ことり^いし",
    "PatientComments": "Freetextvogel wohnt im Käfig 7",
    "StudyDescription": "Kopf von Freetextvogel",
    "SeriesDescription": "T1 Freetextvogel 小鳥",
    "InstitutionName": "Vogelklinik",
}
WORDS = (
    "kanariya", "金糸雀", "太郎", "かなりや", "tarou", "canary-4711", "acccanary99", "19370417", "doktorvogel", "小鳥",
    "医師", "ことり", "freetextvogel", "käfig", "vogelklinik",
)  # fmt: skip


def named(made, study, identity=None):
    for one in made:
        one.SpecificCharacterSet = ["", "ISO 2022 IR 87"] if study % 2 else "ISO_IR 192"
        for keyword, value in (identity or JAPANESE).items():
            ascii_only = study % 2 and not value.isascii() and keyword in {"PatientComments"}
            setattr(one, keyword, value.encode("ascii", "ignore").decode() if ascii_only else value)
        one.StudyInstanceUID = derived_uid("canary", study)
        one.SeriesInstanceUID = derived_uid("canary", study, one.SeriesInstanceUID)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid("canary", study, one.SOPInstanceUID)
    return made


def spellings(word):
    """A word as it may stand in bytes: the encodings of DICOM, JSON and URLs."""
    from urllib.parse import quote

    found = {word, word.upper(), word.title(), quote(word), word.encode("unicode_escape").decode()}
    encoded = {text.encode(code) for text in found for code in ("utf-8", "utf-16-le")}
    for code in ("iso2022_jp", "shift_jis", "latin-1"):
        try:
            encoded.add(word.encode(code))
        except UnicodeEncodeError:
            continue
    return encoded


SPELLINGS = {word: spellings(word) for word in WORDS}


def planted(content: bytes):
    """The planted words in some bytes, however they are written."""
    lowered = content.lower()
    return [
        word for word, forms in SPELLINGS.items() if any(form in content or form.lower() in lowered for form in forms)
    ]


def test_the_search_finds_what_is_planted(tmp_path):
    for number in (0, 1):
        made = named(slices_of(1), number)
        content = (save_all(made, tmp_path / str(number)) / "IM0000.dcm").read_bytes()
        assert set(WORDS) - set(planted(content)) <= {"käfig"}
    assert planted(b'"\\u91d1\\u7cf8\\u96c0" %E9%87%91%E7%B3%B8%E9%9B%80') == ["金糸雀"]


@pytest.fixture(scope="module")
def archive(orthanc_factory, tmp_path_factory):
    """Good, gappy, damaged and foreign studies of the same patient."""
    archive, folder = orthanc_factory(), tmp_path_factory.mktemp("canary")
    good = named(slices_of(12, rows=14, columns=16), 0)
    japanese = named(slices_of(12, rows=14, columns=16), 1)
    gap = named([one for number, one in enumerate(slices_of(12)) if number != 4], 2)
    cut = named(slices_of(12, rows=14, columns=16), 3)
    cut[5].PixelData = cut[5].PixelData[:-100]
    slopes = named(slices_of(12, CORONAL, rows=14, columns=16), 4)
    for one in slopes:
        one.RescaleSlope = "12345678"
    for number, made in enumerate((good, japanese, gap, cut, slopes)):
        files = sorted(save_all(made, folder / str(number)).iterdir())
        if made is slopes:  # a damaged number that quotes the name, as the errors of the libraries do then
            for path in files:
                path.write_bytes(path.read_bytes().replace(b"12345678", b"Kanariya"))
        archive.upload(files)
    return archive


def site_file(folder, archive, bundle, name="site", **changes):
    node = archive.node
    values = {"host": node.host, "port": node.port, "ae_title": node.ae_title, "write": True, "timeout": 10, **changes}
    lines = ["[site]", 'folder = "work"', f'bundle = "{bundle}"', 'kinds = ["sc", "seg", "sr", "pm"]']
    lines += ["[explain]", 'methods = "gradcam"', 'device = "cpu"', "[work]", "tries = 2", "backoff = 0.01"]
    lines += ["[nodes.archive]", 'send = ["sc", "seg", "sr", "pm"]']
    lines += [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in values.items()
    ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines).replace("'", '"'))
    return path


COMMANDS = """
    good echo archive
    good find archive --patient-id CANARY-4711
    good find archive --description *Freetextvogel* --json
    good find archive --accession ACCCANARY99
    away find archive
    away run archive
    away push archive
    stranger run archive
    good run archive --dry-run
    good pull archive --patient-id CANARY-4711
    good explain archive --dry-run
    good explain archive --json
    good push archive
    good run archive
    good status --all
    good status --json --all
    good quarantine
    good retry
    good run archive --json
"""
"""Everything that can be said, with errors on the way."""

DRIVER = """
import sys
from medsal.cli import main
if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            site, *words = line.split()
            code = main(["pacs", *words, "--site", f"{site}.toml", "--log-level", "debug"])
            print(f"\\nended {code}", flush=True)
"""


def test_no_planted_word_is_left_anywhere_but_in_images_and_results(archive, tmp_path):
    bundle = volume_bundle(tmp_path / "bundle")
    for name, changes in {"good": {}, "away": {"port": free_port()}, "stranger": {"own_title": "STRANGER"}}.items():
        site_file(tmp_path, archive, bundle, name, **changes)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "commands.toml").write_text("\n".join(line.strip() for line in COMMANDS.strip().splitlines()))
    done = subprocess.run(
        [sys.executable, "driver.py", "commands.toml"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
        timeout=280,
        cwd=tmp_path,
    )
    codes = [int(line.split()[1]) for line in done.stdout.decode().splitlines() if line.startswith("ended ")]
    assert codes == [0, 0, 0, 0, 7, 7, 3, 7, 0, 0, 0, 4, 0, 4, 4, 4, 4, 0, 4], done.stderr.decode()[-3000:]
    said = {"stdout": done.stdout, "stderr": done.stderr}
    assert sum(map(len, said.values())) > 10000  # there was something to search
    for stream, content in said.items():
        assert not planted(content), (stream, planted(content))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and bundle not in path.parents]
    results = [
        path for path in files if path.suffix == ".dcm" and is_own(pydicom.dcmread(path, stop_before_pixels=True))
    ]
    assert len(results) >= 2 * (8 + 3)
    assert any(path.name.startswith("ledger") for path in files)
    for path in files:
        assert not planted(str(path.relative_to(tmp_path)).encode()), path.name
        if path.suffix not in {".dcm", ".toml"}:
            assert not planted(path.read_bytes()), path.name
    for path in results:  # the results are the patient's
        assert str(pydicom.dcmread(path, stop_before_pixels=True).PatientID) == "CANARY-4711"


def test_pictures_are_the_same_whoever_the_patient_is(tmp_path):
    """No name is drawn into pictures: they are equal for two patients with the same images."""
    from medsal.dicom import Provenance, read_series, write_dicom
    from tests.dicom.maps_made import blob

    others = {
        **JAPANESE,
        "PatientName": "Other^Person",
        "PatientID": "0",
        "AccessionNumber": "1",
        "SeriesDescription": "T1",
    }
    pictures = []
    for name, identity in (("one", JAPANESE), ("two", others)):
        image = read_series(save_all(named(slices_of(9), 0, identity), tmp_path / name))
        files = write_dicom(blob(image), tmp_path / f"{name}-results", Provenance(method="gradcam"), kinds=["sc"])
        made = [pydicom.dcmread(path) for path in files]
        pictures.append(np.stack([one.pixel_array for one in sorted(made, key=lambda one: int(one.InstanceNumber))]))
    np.testing.assert_array_equal(*pictures)
