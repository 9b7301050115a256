"""Results through a real archive and back: where they lie, whose they are, and that the archive survives them."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from monai.transforms import Resize
from PIL import Image

from medsal.dicom import NativeGrid, Provenance, dciodvfy, read_film, read_series, write_dicom
from medsal.dicom.model import load_model
from medsal.dicom.save import results
from medsal.dicom.sources import SERIES_NUMBERS, open_study
from medsal.dicom.uids import derived_uid
from medsal.dicom.units import find
from medsal.pacs import Wanted, connect
from tests.dicom.builders import AXIAL, CORONAL, DX, SAGITTAL, film, oblique, save, save_all, slices_of
from tests.dicom.bundles_made import film_bundle
from tests.dicom.maps_made import blob, frames_of, lps, peak_by_dcmqi, peak_by_pydicom
from tests.dicom.tools import program

pytestmark = pytest.mark.filterwarnings(
    # MONAI warns of every configuration that it may run code; these are our own
    r"ignore:.*_target_.*:UserWarning",
)
FEET_FIRST = (-1.0, 0, 0, 0, 1, 0)
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": oblique(), "turned": FEET_FIRST}
MADE = Provenance(bundle="demo", bundle_version="0.1", model_sha256="ab" * 32, method="gradcam", target="1")
KINDS = tuple(SERIES_NUMBERS)


def own_study(made, name):
    """Objects in a study of their own."""
    for one in made:
        one.StudyInstanceUID, one.SeriesInstanceUID = derived_uid(name), derived_uid(name, "images")
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, one.InstanceNumber)
        if "FrameOfReferenceUID" in one:
            one.FrameOfReferenceUID = derived_uid(name, "frame")
    return made


def series_in(archive, name, folder, made):
    """Put slices into the archive, fetch them, and read them."""
    archive.upload(sorted(save_all(own_study(made, name), folder / "source").iterdir()))
    count = connect(archive.node).fetch(derived_uid(name), folder / "fetched")
    assert count == len(made)
    return read_series(folder / "fetched")


def film_in(archive, name, folder, made):
    archive.upload([save(own_study([made], name)[0], folder / "source" / "film.dcm")])
    connect(archive.node).fetch(derived_uid(name), folder / "fetched")
    (path,) = (folder / "fetched").rglob("*.dcm")
    return read_film(path)


def there_and_back(archive, files, folder):
    """Store results, fetch their study, and give the results as they came back, by SOP instance UID."""
    sent = connect(archive.node).store(files)
    assert [one.problem for one in sent] == [None] * len(files)
    (study,) = {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in files}
    assert not connect(archive.node).confirm(study, [one.uid for one in sent])
    connect(archive.node).fetch(study, folder)
    back = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in folder.rglob("*.dcm")}
    return {one.uid: back[one.uid] for one in sent}


def kind_of(path):
    number = int(pydicom.dcmread(path, stop_before_pixels=True).SeriesNumber)
    return next(kind for kind, known in SERIES_NUMBERS.items() if known == number)


def asked(archive, path):
    """What the archive answers: bytes, or the number of its error."""
    try:
        with urllib.request.urlopen(f"{archive.url}{path}", timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def maps(orthanc, tmp_path_factory):
    """SEG and Parametric Map of a map of another grid than its series, in five orientations, back from the archive."""
    orthanc.clear()
    found = {}
    for name, plane in PLANES.items():
        folder = tmp_path_factory.mktemp(name)
        image = series_in(orthanc, name, folder, slices_of(9, plane, rows=12, columns=16))
        finer = Resize(tuple(2 * size + 1 for size in image.shape[1:]), mode="trilinear")(blob(image))
        files = write_dicom(finer, folder / "results", MADE, kinds=["seg", "pm"])
        back = there_and_back(orthanc, files, folder / "fetched")
        found[name] = (image, {kind_of(path): path for path in files}, {kind_of(path): path for path in back.values()})
    return found


@pytest.mark.parametrize("kind", ["seg", "pm"])
@pytest.mark.parametrize("name", PLANES)
def test_the_peak_lies_where_it_was_planted_for_two_readers(maps, name, kind, tmp_path):
    image, written, back = maps[name]
    half = 0.5 * min(np.linalg.norm(image.affine.numpy()[:3, :3], axis=0))
    assert np.linalg.norm(peak_by_pydicom(back[kind]) - lps(image)) < half
    assert np.linalg.norm(peak_by_dcmqi(back[kind], kind, tmp_path) - lps(image)) < half
    before, after = pydicom.dcmread(written[kind]), pydicom.dcmread(back[kind])
    np.testing.assert_array_equal(before.pixel_array, after.pixel_array)


@pytest.mark.parametrize("name", PLANES)
def test_what_viewers_need_of_a_map_is_in_it(maps, name):
    result = pydicom.dcmread(maps[name][2]["pm"])
    positions, _ = frames_of(result)
    cosines = [float(n) for n in result.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0][0x0020, 0x0037]]
    assert (np.diff(positions @ np.cross(cosines[:3], cosines[3:])) > 0).all()
    groups = [result.SharedFunctionalGroupsSequence[0], result.PerFrameFunctionalGroupsSequence[0]]
    assert any("FrameAnatomySequence" in group for group in groups)


def every_default_object(archive, tmp_path):
    """Results as they are written where nobody chooses, and all others that can be asked for."""
    files = {}
    for name, columns in (("even", 16), ("odd", 274)):
        image = series_in(archive, name, tmp_path / name, slices_of(9, rows=12, columns=columns))
        files[name] = write_dicom(blob(image), tmp_path / name / "results", MADE, kinds=KINDS)
    for number, size in enumerate(((20, 32), (21, 31))):
        name = f"film {number}"
        image = film_in(archive, name, tmp_path / name, film(np.arange(size[0] * size[1]).reshape(size)))
        files[name] = write_dicom(blob(image), tmp_path / name / "results", MADE, kinds=["sc", "seg", "sr"])
    return files


def test_the_archive_survives_a_preview_of_every_object_and_the_validator_finds_no_error(orthanc, tmp_path):
    """Orthanc shows 1-bit pictures where the number of columns is a multiple of 8, and says 415 where it is not."""
    program("dciodvfy", "Debian package dicom3tools")
    orthanc.clear()
    assert "gdcm" in json.loads(asked(orthanc, "/plugins"))
    shown = {}
    for name, files in every_default_object(orthanc, tmp_path).items():
        for uid, path in there_and_back(orthanc, files, tmp_path / name / "back").items():
            result, place = pydicom.dcmread(path), f"/instances/{orthanc.lookup(uid)[0]}"
            kind = kind_of(path)
            assert not dciodvfy(path), (name, kind)
            for way in ("preview", "image-uint8", "image-uint16", "rendered", "matlab"):
                asked(orthanc, f"{place}/{way}")
            web = f"/dicom-web/studies/{result.StudyInstanceUID}/series/{result.SeriesInstanceUID}/instances/{uid}"
            asked(orthanc, f"{web}/rendered")
            asked(orthanc, f"{web}/metadata")
            frames = [
                asked(orthanc, f"{place}/frames/{number}/preview")
                for number in range(int(result.get("NumberOfFrames", 1)))
            ]
            shown.setdefault((kind, name), []).append((result, frames))
            assert json.loads(asked(orthanc, "/system"))["Version"], (name, kind)
    for (kind, name), found in shown.items():
        for result, frames in found:
            if kind in {"pm", "sr"} or (kind == "seg" and result.Columns % 8):
                assert set(frames) == {415}, (kind, name)
                continue
            pictures = [np.asarray(Image.open(io.BytesIO(frame))) for frame in frames]
            pixels = result.pixel_array if kind == "sc" else result.pixel_array.reshape(-1, result.Rows, result.Columns)
            assert len(pictures) == len(pixels) if kind == "seg" else len(pictures) == 1
            np.testing.assert_array_equal(
                pictures[0] if kind == "sc" else np.array(pictures) > 0, pixels if kind == "sc" else pixels > 0
            )
    seen = {(kind, result.get("Columns", 0) % 8 == 0) for (kind, _), every in shown.items() for result, _ in every}
    assert seen >= {("seg", True), ("seg", False), ("pm", True), ("pm", False), ("sc", True), ("sr", True)}


def test_a_region_of_a_film_comes_back_with_its_plane(orthanc, tmp_path):
    orthanc.clear()
    image = film_in(orthanc, "plane", tmp_path, film(sop_class=DX))
    files = write_dicom(blob(image), tmp_path / "results", MADE, kinds=["seg"])
    (path,) = there_and_back(orthanc, files, tmp_path / "back").values()
    groups = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0]
    assert list(groups.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("way", ["get", "web"])
def test_polarity_twins_are_one_film_to_a_model_and_in_its_overlay(orthanc, way, tmp_path):
    orthanc.clear()
    model = load_model(film_bundle(tmp_path / "bundle"), methods=["gradcam"], device="cpu")
    ramp = np.arange(600).reshape(20, 30) * 6 % 4096
    twins = {"one": film(4095 - ramp, PhotometricInterpretation="MONOCHROME1"), "two": film(ramp)}
    inputs, pictures = [], []
    node = replace(orthanc.node, retrieve=way, web_url=f"{orthanc.url}/dicom-web")
    for name, made in twins.items():
        orthanc.upload([save(own_study([made], name)[0], tmp_path / name / "film.dcm")])
        connect(node).fetch(derived_uid(name), tmp_path / name / "fetched")
        (path,) = (tmp_path / name / "fetched").rglob("*.dcm")
        assert pydicom.dcmread(path).PhotometricInterpretation == made.PhotometricInterpretation
        (series,) = find(path).series
        image = model.loader.read(series)
        inputs.append(model.prepared(image).numpy())
        said = model.explain(image)
        study = open_study(NativeGrid.of(image), said.provenance["gradcam"])
        pictures.append(results(study, image, said.maps["gradcam"], said.findings, ["sc"])[0].pixel_array)
    np.testing.assert_array_equal(*inputs)
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].std() > 1


NAMES = {
    "ISO_IR 100": "Müller^Jérôme",
    "ISO_IR 192": "王^小东=王^小东=",
    "GB18030": "Wang^XiaoDong=王^小东=",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
}
GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@pytest.mark.parametrize("characters", NAMES)
def test_names_in_any_script_are_what_the_archive_shows_with_the_results(orthanc, characters, tmp_path):
    orthanc.clear()
    made = slices_of(9, rows=12, columns=16)
    for one in made:
        one.SpecificCharacterSet = characters.split("\\") if "\\" in characters else characters
        one.PatientName = NAMES[characters]
    image = series_in(orthanc, "names", tmp_path, made)
    files = write_dicom(blob(image), tmp_path / "results", MADE)
    assert {kind_of(path) for path in files} == {"sc", "seg", "sr"}
    name = NAMES[characters].rstrip("=")
    wanted = {group: part for group, part in zip(GROUPS, name.split("="), strict=False) if part}
    for uid, path in there_and_back(orthanc, files, tmp_path / "back").items():
        result = pydicom.dcmread(path)
        assert str(result.PatientName) == name
        web = f"/dicom-web/studies/{result.StudyInstanceUID}/series/{result.SeriesInstanceUID}/instances/{uid}/metadata"
        (shown,) = json.loads(asked(orthanc, web))
        assert shown["00100010"]["Value"][0] == wanted


def test_the_archive_knows_a_study_with_results_as_before(orthanc, tmp_path):
    orthanc.clear()
    image = series_in(orthanc, "counts", tmp_path, slices_of(9, rows=12, columns=16))
    client = connect(orthanc.node)
    (before,) = client.find(Wanted(study_uids=(derived_uid("counts"),)))
    files = write_dicom(blob(image), tmp_path / "results", MADE)
    there_and_back(orthanc, files, tmp_path / "back")
    there_and_back(orthanc, files, tmp_path / "back")  # a second time: nothing new
    (after,) = client.find(Wanted(study_uids=(derived_uid("counts"),)))
    assert (before.instances, after.instances) == (9, 9 + len(files))
    assert set(after.modalities) == {"MR", "OT", "SEG", "SR"}
