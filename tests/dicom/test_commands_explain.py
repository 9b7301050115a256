"""`medsal dicom explain`: a folder in, a folder out; every series has its end, and nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from medsal.cli import main
from medsal.dicom import NativeGrid, is_own, map_to_native, read_film, read_series
from medsal.dicom.model import load_model, rules_of
from medsal.dicom.units import find, unit_name
from medsal.errors import UsageError
from tests.dicom.builders import AXIAL, CORONAL, MR, enhanced_of, film, oblique, save, save_all, slices_of
from tests.dicom.bundles_made import dicom_of, film_bundle, volume_bundle
from tests.dicom.tools import program

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings(
    # MONAI warns of every configuration that it may run code; these are our own
    r"ignore:.*_target_.*:UserWarning",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return volume_bundle(tmp_path_factory.mktemp("volumes") / "bundle")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return film_bundle(tmp_path_factory.mktemp("films") / "bundle")


def study(number, made, folder):
    """Put slices into a study of their own."""
    for one in made:
        one.StudyInstanceUID = f"1.2.826.{number}"
        one.SeriesInstanceUID += f".{number}"
        one.SOPInstanceUID += f".{number}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return save_all(made, folder)


@pytest.fixture
def inbox(tmp_path):
    """Three studies: a good one with a localizer and a film, a good nested one, and one with a gap."""
    folder = tmp_path / "Canarybird_Planted"
    study(1, slices_of(12, AXIAL, rows=14, columns=16), folder / "a")
    study(1, slices_of(3, CORONAL, series="localizer"), folder / "a/loc")
    save(film(StudyInstanceUID="1.2.826.1"), folder / "a/film.dcm")
    study(2, slices_of(13, CORONAL, rows=14, columns=16), folder / "b/deep/T1 of Canarybird")
    study(3, [one for n, one in enumerate(slices_of(12)) if n != 4], folder / "gap")
    (folder / "notes.txt").write_text("Canarybird")
    return folder


def run(*words, methods="gradcam"):
    return main(["dicom", "explain", *map(str, words), "--methods", methods, "--device", "cpu"])


def ends(out, name="run.json"):
    record = json.loads((out / name).read_text())
    return record, {end["series"]: end for end in record["series"]}


def objects(out):
    return [pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))]


def test_every_series_has_its_end_and_good_ones_their_results(inbox, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(inbox, out, "--bundle", bundle, "--kinds", "sc,seg,pm,sr") == 0
    record, found = ends(out)
    assert record["exit_code"] == 0
    assert record["counts"] == {
        "done": 2, "refused": 3, "failed": 0, "pending": 0, "selected": 2, "finished_before": 0, "total": 5,
    }  # fmt: skip
    reasons = sorted(end["reason"] for end in found.values() if end["status"] == "refused")
    assert reasons == ["missing_slices", "rule", "rule"]
    assert record["refused_files"] == {"not_dicom": 1}
    done = [end for end in found.values() if end["status"] == "done"]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {end["series"] for end in done}
    for end in done:
        made = [pydicom.dcmread(out / file) for file in end["files"]]
        assert {one.SeriesNumber for one in made} == {9001, 9002, 9003, 9004}
        assert all(is_own(one) for one in made)
        known = json.loads((out / end["series"] / "result.json").read_text())
        assert known["provenance"]["gradcam"]["bundle"] == "bundle"
        assert len(known["provenance"]["gradcam"]["model_sha256"]) == 64
        assert end["prediction"] in {"HC", "TLE"}
    err = capsys.readouterr().err
    assert err.count(" left\n") == 2
    assert "2 of 2 selected series done, 3 refused (1 missing_slices, 2 rule)" in err.splitlines()[-1]


def test_the_map_that_is_written_is_the_map_of_the_bundle_on_the_slices(bundle, tmp_path):
    folder = study(1, slices_of(12, CORONAL, rows=14, columns=16), tmp_path / "in")
    out = tmp_path / "out"
    assert run(folder, out, "--bundle", bundle, "--kinds", "pm", methods="saliency") == 0
    (written,) = objects(out)
    image = read_series(folder)
    model = load_model(bundle, methods=["saliency"], device="cpu")
    voxels = image.as_tensor()[0].numpy()  # the bundle's chain, written out
    plain = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None, None]
    plain = torch.nn.functional.interpolate(plain, (16, 16, 16), mode="area")
    plain.requires_grad_()
    logits = model.evaluator.network(plain)
    (slope,) = torch.autograd.grad(logits[0, logits.argmax()], plain)
    relevance = model.prepared(image).clone()
    relevance[:] = slope[0].abs()
    native = map_to_native(relevance, NativeGrid.of(image))
    np.testing.assert_allclose(written.pixel_array, native[0].numpy().transpose(2, 1, 0), rtol=1e-4, atol=1e-7)


def test_a_second_run_does_nothing_a_changed_one_what_it_must(inbox, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    words = (inbox, out, "--bundle", bundle)
    assert run(*words) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    assert run(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")} == before
    assert ends(out)[0]["counts"]["finished_before"] == 2
    assert "done before" in capsys.readouterr().err
    lost = next(iter(before))
    lost.unlink()  # a file of a result is missing: that series alone is made again
    assert run(*words) == 0
    assert ends(out)[0]["counts"]["finished_before"] == 1
    assert lost.exists()
    assert run(*words, methods="saliency") == 0  # another method: other results in place of these, not beside them
    assert ends(out)[0]["counts"]["finished_before"] == 0
    assert {one.SeriesDescription.split()[1] for one in objects(out)} == {"saliency"}
    slices = sorted((inbox / "a").glob("*.dcm"))
    changed = pydicom.dcmread(slices[1])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(slices[1])
    assert run(*words, methods="saliency") == 0
    assert ends(out)[0]["counts"]["finished_before"] == 1


def test_results_are_never_explained_wherever_they_lie(inbox, films, bundle, tmp_path):
    out = inbox / "results"  # below what is looked at
    assert run(inbox, out, "--bundle", bundle) == 0
    assert run(inbox, out, "--bundle", bundle) == 0
    record, _ = ends(out)
    assert record["counts"]["total"] == 5
    shutil.copytree(out, inbox / "sent back")
    assert run(inbox, tmp_path / "other", "--bundle", bundle) == 0
    record, found = ends(tmp_path / "other")
    assert record["counts"]["done"] == 2
    assert sum(end["reason"] == "own_result" for end in found.values()) == 6  # sc, seg and sr of two series
    assert (
        run(
            inbox / "sent back",
            tmp_path / "third",
            "--bundle",
            films,
            "--rules",
            '{"selections":[{"require":{"min_slices":1}}]}',
        )
        == 3
    )


def test_dry_run_says_what_would_be_taken_and_writes_nothing(inbox, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(inbox, out, "--bundle", bundle, "--dry-run") == 0
    assert not out.exists()
    text = capsys.readouterr().out
    assert text.count(" taken (") == 2
    assert "missing_slices" in text
    assert "1 not_dicom" in text


def test_shards_share_the_work(inbox, bundle, tmp_path):
    out, names = tmp_path / "out", []
    for number in (1, 2, 3):
        run(inbox, out, "--bundle", bundle, "--shard", f"{number}/3")
        record, found = ends(out, f"run-{number}-of-3.json")
        assert record["shard"] == f"{number}/3"
        names += found
    assert sorted(names) == sorted(unit_name(one) for one in find(inbox).series)
    assert len(objects(out)) == 2 * (8 + 1 + 1)
    assert run(inbox, out, "--bundle", bundle) == 0
    assert ends(out)[0]["counts"]["finished_before"] == 2  # one run over all finds what the parts have made


def test_a_series_that_fails_stops_no_other(inbox, bundle, tmp_path, monkeypatch):
    good = load_model(bundle, methods=["gradcam"], device="cpu")
    real = type(good).explain

    def explain(self, image):
        if image.shape[-1] == 13:
            raise RuntimeError("no slice of Canarybird^Planted, CANARY-4711")
        return real(self, image)

    monkeypatch.setattr("medsal.dicom.model.Model.explain", explain)
    out = tmp_path / "out"
    assert run(inbox, out, "--bundle", bundle) == 4
    _, found = ends(out)
    (failed,) = [end for end in found.values() if end["status"] == "failed"]
    assert (failed["reason"], failed["detail"]) == ("RuntimeError", "")
    shutil.rmtree(inbox / "a")
    assert run(inbox, out, "--bundle", bundle) == 5
    monkeypatch.setattr("medsal.dicom.model.Model.explain", real)
    assert run(inbox, out, "--bundle", bundle) == 0


def test_a_blank_map_has_no_region_and_says_so(bundle, tmp_path, monkeypatch):
    real = type(load_model(bundle, device="cpu")).explain

    def explain(self, image):
        said = real(self, image)
        said.maps["gradcam"].zero_()
        return said

    monkeypatch.setattr("medsal.dicom.model.Model.explain", explain)
    study(1, slices_of(12), tmp_path / "in")
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, "--bundle", bundle, methods="gradcam,saliency") == 0
    (end,) = ends(out)[1].values()
    notes = json.loads((out / end["series"] / "result.json").read_text())["notes"]
    assert notes == ["gradcam: the map is 0 everywhere; no region was written"]
    kinds = [(one.SeriesDescription.split()[1], one.Modality) for one in objects(out)]
    assert ("saliency", "SEG") in kinds
    assert ("gradcam", "SR") in kinds
    assert ("gradcam", "SEG") not in kinds
    assert run(tmp_path / "in", tmp_path / "other", "--bundle", bundle, "--kinds", "seg") == 5
    assert ends(tmp_path / "other")[0]["series"][0]["reason"] == "blank_map"


def test_pixels_that_cannot_be_read_are_a_refusal(bundle, tmp_path):
    made = slices_of(12)
    made[3].PixelData = made[3].PixelData[:-10]
    study(1, made, tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 5
    (end,) = ends(tmp_path / "out")[1].values()
    assert (end["status"], end["reason"], end["selected"]) == ("refused", "pixel_length", True)
    assert not list((tmp_path / "out").glob("series-*"))


def test_no_patient_in_anything_but_the_results(inbox, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    words = (inbox, out, "--bundle", bundle, "--log-level", "debug")
    assert run(*words) == 0
    assert run(*words, "--dry-run") == 0
    first = capsys.readouterr()
    assert run(*words, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["counts"]["finished_before"] == 2  # nobody else writes to standard output
    whole = (first.out + first.err + said.out + said.err).lower()
    for path in out.rglob("*"):
        assert "canary" not in str(path.relative_to(out)).lower()
        if path.is_file() and path.suffix != ".dcm":
            whole += path.read_text().lower()
    assert "canary" not in whole
    uids = {str(one.header.get(name)) for series in find(inbox).series for one in series.files
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}  # fmt: skip
    assert not [uid for uid in uids if uid in whole]
    assert {str(one.PatientName) for one in objects(out)} == {"Canarybird^Planted"}  # for the PACS they keep it


def test_a_film_folder(films, tmp_path):
    save(film(WindowCenter=2000, WindowWidth=1000), tmp_path / "in/x/film.dcm")
    inverse = film(PhotometricInterpretation="MONOCHROME1", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    inverse.SOPInstanceUID = inverse.file_meta.MediaStorageSOPInstanceUID = "1.2.4.1.1"
    save(inverse, tmp_path / "in/inverse.dcm")
    side = film(ViewPosition="LL", SOPInstanceUID="1.2.5")
    side.file_meta.MediaStorageSOPInstanceUID = "1.2.5"
    save(side, tmp_path / "in/side.dcm")
    study(7, slices_of(12), tmp_path / "in/series")
    out = tmp_path / "out"
    assert rules_of(films) == "chest_film"
    assert run(tmp_path / "in", out, "--bundle", films, methods="gradcam,saliency") == 0
    record, _ = ends(out)
    assert record["counts"]["done"] == 2
    assert record["counts"]["refused"] == 2
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert all(path.name.startswith("film-") for path in folders)
    assert sorted(one.SeriesNumber for one in objects(folders[0])) == [9001, 9001, 9004, 9004]
    model = load_model(films, methods=["saliency"], device="cpu")
    from medsal.data import LoadFilm
    from medsal.data.films.chain import FitFilmd

    for path in (tmp_path / "in/x/film.dcm", tmp_path / "in/inverse.dcm"):
        ours = model.prepared(model.loader.read(find(path).series[0]))
        bundles_own = FitFilmd("image", size=24)({"image": LoadFilm()(path)})["image"]
        np.testing.assert_allclose(ours.numpy(), bundles_own.numpy(), atol=2e-4)


def test_a_bundle_that_names_a_loader_of_dicom_is_asked_how(tmp_path):
    loader = {"_target_": "medsal.dicom.transforms.LoadDicomFilmd", "keys": "image", "voi": 0}
    model = load_model(film_bundle(tmp_path / "bundle", loader), methods=["saliency"], device="cpu")
    path = save(film(WindowCenter=2000, WindowWidth=1000), tmp_path / "film.dcm")
    found = model.loader.read(find(path).series[0])
    np.testing.assert_array_equal(found.numpy(), read_film(path, voi=0).numpy())


def test_bundles_whose_loader_cannot_be_replaced(tmp_path):
    with pytest.raises(UsageError, match="LoadFilmd"):
        load_model(film_bundle(tmp_path / "a", {"_target_": "LoadImaged", "keys": "image"}), device="cpu")
    with pytest.raises(UsageError, match="wanted one loader"):
        load_model(film_bundle(tmp_path / "b", {"_target_": "FlipD", "keys": "image"}), device="cpu")
    with pytest.raises(UsageError, match=r"metadata\.json"):
        load_model(tmp_path)


def test_the_rules_of_a_bundle(inbox, bundle, tmp_path, capsys):
    own = shutil.copytree(bundle, tmp_path / "bundle")
    rules = {
        "selections": [
            {"name": "mine", "conditions": {"Modality": "MR"}, "require": {"max_slices": 12, "min_slices": 12}}
        ]
    }
    (own / "configs/dicom.json").write_text(json.dumps(rules))
    assert run(inbox, tmp_path / "out", "--bundle", own, "--dry-run") == 0
    assert capsys.readouterr().out.count("mine: series-") == 4
    assert run(inbox, tmp_path / "out", "--bundle", own, "--dry-run", "--rules", "chest_film") == 0
    assert "chest film: film-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kinds", "sc,nonsense"), "nonsense"),
        (("--target", "label"), "label"),
        (("--set", "layot=1"), "layout"),
        (("--set", "layout"), "ID=VALUE"),
        (("--shard", "0/2"), "shard"),
        (("--rules", "absent.json"), "selection rules"),
    ],
)
def test_wrong_options(inbox, bundle, tmp_path, words, says, capsys):
    assert run(inbox, tmp_path / "out", "--bundle", bundle, *words) == 2
    assert says in capsys.readouterr().err


def test_two_runs_at_once(inbox, bundle, tmp_path, capsys):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(inbox, out, "--bundle", bundle) == 2
    assert "another run" in capsys.readouterr().err
    assert run(inbox, out, "--bundle", bundle) == 0


def test_a_full_disk_ends_the_run_at_once_and_keeps_what_is_done(inbox, bundle, tmp_path, monkeypatch, capsys):
    out, real, count = tmp_path / "out", os.fsync, []

    def full(handle):
        count.append(handle)
        if len(count) > 15:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("os.fsync", full)
    assert run(inbox, out, "--bundle", bundle) == 1
    assert "No space left" in capsys.readouterr().err
    assert len(list(out.glob("series-*"))) == 1
    assert not [path for path in out.iterdir() if path.name.endswith((".part", ".old"))]
    record, _ = ends(out)
    assert (record["exit_code"], record["counts"]["done"], record["counts"]["pending"]) == (1, 1, 1)
    monkeypatch.setattr("os.fsync", real)
    assert run(inbox, out, "--bundle", bundle) == 0


def test_an_interrupt_is_written_down(inbox, bundle, tmp_path, monkeypatch, capsys):
    real, seen = type(load_model(bundle, device="cpu")).explain, []

    def explain(self, image):
        seen.append(image)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)  # as a scheduler ends a job
        return real(self, image)

    monkeypatch.setattr("medsal.dicom.model.Model.explain", explain)
    out = tmp_path / "out"
    assert run(inbox, out, "--bundle", bundle) == 130
    record, _ = ends(out)
    assert (record["interrupted"], record["exit_code"]) == (True, 130)
    assert (record["counts"]["done"], record["counts"]["pending"]) == (1, 1)
    assert "1 of 2 selected series done" in capsys.readouterr().err
    monkeypatch.setattr("medsal.dicom.model.Model.explain", real)
    assert run(inbox, out, "--bundle", bundle) == 0
    assert ends(out)[0]["counts"]["finished_before"] == 1


def test_kill_9_at_any_time_leaves_whole_results_and_the_next_run_ends_the_work(bundle, tmp_path):
    for number in range(6):
        study(number + 1, slices_of(12, rows=14, columns=16, series=str(number)), tmp_path / f"in/{number}")
    out = tmp_path / "out"
    words = [sys.executable, "-m", "medsal", "dicom", "explain", tmp_path / "in", out, "--bundle", bundle,
             "--methods", "gradcam", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (0, 1, 3):
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            working = out.is_dir() and any(path.name.endswith(".part") for path in out.iterdir())
            if process.poll() is not None or (working and len(list(out.glob("series-*"))) >= wanted):
                break
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        for folder in out.glob("series-*"):
            record = json.loads((folder / "result.json").read_text())
            assert {path.name for path in folder.iterdir()} == {entry["file"] for entry in record["files"]} | {
                "result.json"
            }
    assert kills == 3
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record, _ = ends(out)
    assert record["counts"]["done"] == 6
    assert record["counts"]["finished_before"] >= 3
    made = objects(out)
    assert len(made) == 6 * (8 + 1 + 1)
    assert len({one.SOPInstanceUID for one in made}) == len(made)
    assert not [path for path in out.iterdir() if path.name.startswith(".series")]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A head of the shipped bundle's embedded set: as NIfTI and as slices of DICOM."""
    from medsal.data import mri_cases, write_planted_set
    from medsal.transforms import LoadVolume

    folder = tmp_path_factory.mktemp("planted")
    case = mri_cases(write_planted_set(folder / "nifti", cases=2, spacing=2.0))[1]
    image = LoadVolume()(case["image"])
    made, values = dicom_of(image)
    save_all(made, folder / "dicom")
    return folder / "dicom", image, values


def test_the_shipped_mri_bundle_explains_slices_as_it_explains_nifti(planted, tmp_path):
    folder, image, values = planted
    read = read_series(folder)
    np.testing.assert_allclose(np.sort(read.numpy().ravel()), np.sort(values.ravel()), rtol=1e-4, atol=1e-2)
    bundle = REPOSITORY / "bundles/mri_tle_efficientnet"
    model = load_model(bundle, methods=["gradcam"], device="cpu")
    ours, nifti = model.prepared(read), model.prepared(image)
    np.testing.assert_allclose(ours.numpy(), nifti.numpy(), atol=0.01)
    np.testing.assert_allclose(ours.affine.numpy(), nifti.affine.numpy(), atol=1e-6)
    out = tmp_path / "out"
    assert run(folder, out, "--bundle", bundle, "--kinds", "pm") == 0
    (written,) = objects(out)
    said = model.explain(image)
    native = map_to_native(said.maps["gradcam"], NativeGrid.of(read))
    top = float(native.max())
    np.testing.assert_allclose(written.pixel_array / top, native[0].numpy().transpose(2, 1, 0) / top, atol=0.02)
    assert ends(out)[0]["series"][0]["prediction"] == said.findings.prediction == "TLE"
    assert said.provenance["gradcam"].target == "TLE"
    assert [model.target_name(side, 1) for side in (0, 1)] == ["no TLE", "TLE"]


def test_the_real_slices_are_explained_or_refused(real_data, bundle, tmp_path):
    folder = real_data / "mri_t1_structural" / "dicoms_subset"
    assert run(folder, tmp_path / "out", "--bundle", bundle) == 0
    (end,) = ends(tmp_path / "out")[1].values()
    assert (end["status"], len(end["files"])) == ("done", 10)
    assert main(["dicom", "check", str(tmp_path / "out")]) == 0
    shipped = REPOSITORY / "bundles/mri_tle_efficientnet"  # a slab that holds little of what its network looks at
    assert run(folder, tmp_path / "other", "--bundle", shipped) in {0, 5}
    (end,) = ends(tmp_path / "other")[1].values()
    assert end["status"] == "done" or "network" in end["detail"]


def test_an_enhanced_object_and_every_kind_of_result(bundle, tmp_path, capsys):
    program("dciodvfy", "Debian package dicom3tools")
    save(enhanced_of(slices_of(14, oblique(), rows=14, columns=16)), tmp_path / "in/one")
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, "--bundle", bundle, "--kinds", "sc,seg,pm,sr") == 0
    capsys.readouterr()
    assert main(["dicom", "check", str(out)]) == 0, capsys.readouterr().out
    assert "no of 11 files" in capsys.readouterr().out


def test_two_films_under_one_uid_in_two_series_are_two(films, tmp_path):
    for number in (1, 2):
        save(film(SeriesInstanceUID=f"1.2.{number}", StudyInstanceUID=f"1.2.{number}.1"), tmp_path / f"in/{number}")
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, "--bundle", films) == 0
    assert ends(out)[0]["counts"]["done"] == len(list(out.glob("film-*"))) == 2
    assert len({one.SOPInstanceUID for one in objects(out)}) == 4


def test_a_dicomdir_is_taken(bundle, tmp_path):
    from pydicom.fileset import FileSet

    files = FileSet()
    for one in slices_of(12, rows=14, columns=16, sop_class=MR):
        one.SeriesDate, one.SeriesTime = "20260101", "101010"
        files.add(one)
    files.write(tmp_path / "disc")
    files._stage["t"].cleanup()
    assert run(tmp_path / "disc/DICOMDIR", tmp_path / "out", "--bundle", bundle) == 0
    assert ends(tmp_path / "out")[0]["counts"]["done"] == 1


def test_the_shipped_bundle_of_films_says_of_dicom_what_it_says_of_png(tmp_path):
    from medsal.data import LoadFilm, write_planted_films
    from medsal.data.films.loading import picture

    made = write_planted_films(tmp_path / "png", finding="pneumothorax", cases=4, seed=100000, size=128)
    pictures = sorted((made if made.is_dir() else made.parent).glob("images/*.png"))
    bundle = REPOSITORY / "bundles/cxr_pneumothorax"
    model = load_model(bundle, methods=["gradcam"], device="cpu")
    wanted = {}
    for number, path in enumerate(pictures):
        levels = np.rint(picture(path) * 4095).astype(int)
        uid = f"1.2.9.{number}"
        kind = "MONOCHROME1" if number % 2 else "MONOCHROME2"
        one = film(
            4095 - levels if number % 2 else levels,
            PhotometricInterpretation=kind,
            StudyInstanceUID=uid,
            SeriesInstanceUID=f"{uid}.1",
            SOPInstanceUID=f"{uid}.1.1",
        )
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        (series,) = find(save(one, tmp_path / f"in/{number}.dcm")).series
        ours = model.prepared(model.loader.read(series)).numpy()
        np.testing.assert_allclose(ours, model.prepared(LoadFilm()(path)).numpy(), atol=1e-3)
        wanted[unit_name(series)] = model.explain(LoadFilm()(path)).findings.prediction
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, "--bundle", bundle) == 0
    assert {end["series"]: end["prediction"] for end in ends(out)[1].values()} == wanted
    assert set(wanted.values()) == {"pneumothorax", "no pneumothorax"}
