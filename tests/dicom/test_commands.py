"""`medsal dicom inspect|select|deid|check`: what they say, their exit codes, and that no patient shows."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

from medsal.cli import main
from medsal.dicom import read_series
from medsal.dicom.units import Shard, find
from medsal.errors import UsageError
from tests.dicom.builders import AXIAL, CORONAL, CT, base, film, save, save_all, slices_of
from tests.dicom.tools import program


@pytest.fixture
def inbox(tmp_path):
    """Two studies of films, one of series, a gap, a file of text, all mixed and nested."""
    folder = tmp_path / "Canarybird_Planted"
    for index, one in enumerate([*slices_of(12, AXIAL, series="axial"), *slices_of(11, CORONAL, series="gap")]):
        if index != 15:
            save(one, folder / f"flat/Canarybird{index}.dcm")
    for number, view in enumerate(("PA", "LL")):
        one = film(ViewPosition=view, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1")
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{number}"
        save(one, folder / f"films/deep/{number}")
    (folder / "notes.txt").write_text("Canarybird")
    return folder


def said(capsys, *words):
    code = main(["dicom", *map(str, words)])
    text = capsys.readouterr()
    assert "anary" not in (text.out + text.err).replace("Canarybird_Planted/none", "")
    return code, text.out, text.err


def test_inspect_names_every_series_and_why_one_cannot_be_used(inbox, capsys):
    code, out, err = said(capsys, "inspect", inbox, "--log-level", "debug")
    assert code == 0
    rows = [line.split("  ") for line in out.splitlines()]
    assert len(rows) == 1 + 4 + 1
    assert rows[-1] == ["files that cannot be read: 1 not_dicom"]
    found = json.loads(said(capsys, "inspect", inbox, "--json")[1])
    by_status = {row["status"]: row for row in found["series"]}
    assert by_status["missing_slices"]["shape"] == []
    volume = next(row for row in found["series"] if len(row["shape"]) == 3)
    image = read_series([path for path in (inbox / "flat").iterdir() if int(path.stem[10:]) < 12])
    assert volume["shape"] == list(image.shape[1:])
    np.testing.assert_allclose(volume["spacing"], image.affine[:3, :3].norm(dim=0).tolist(), atol=1e-4)
    films = [row for row in found["series"] if row["series"].startswith("film-")]
    assert len({row["series"] for row in films}) == 2  # two films of one series
    assert err.count(" left\n") == 4


def test_paths_are_named_only_where_they_are_asked_for(inbox, capsys):
    main(["dicom", "inspect", str(inbox), "--identified"])
    assert f"{inbox}/films/deep/0" in capsys.readouterr().out


def test_nothing_there(tmp_path, capsys):
    assert said(capsys, "inspect", tmp_path)[0] == 3
    assert said(capsys, "check", tmp_path)[0] == 3
    assert said(capsys, "select", tmp_path, "--rules", "mr_volume")[0] == 3
    code, _, err = said(capsys, "inspect", tmp_path / "none")
    assert code == 2
    assert "no folder or file" in err


def test_select_says_what_is_taken_and_why_not(inbox, capsys):
    code, out, _ = said(capsys, "select", inbox, "--rules", "chest_film")
    assert code == 0
    assert out.count(" taken (1 slices)") == 1
    assert "rule: a condition of the selection rules is not met (view)" in out
    found = json.loads(said(capsys, "select", inbox, "--rules", "mr_volume", "--json")[1])
    assert len(found["taken"]) == 1
    assert {"missing_slices", "rule", "no_match"} == {one["reason"] for one in found["not_taken"]}
    assert said(capsys, "select", inbox)[0] == 2
    assert said(capsys, "select", inbox, "--rules", "mr_volumes")[0] == 2


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_shards_cover_everything_exactly_once(tmp_path, parts):
    for number in range(12):
        save(film(StudyInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.2.{number}.1"), tmp_path / f"{number}.dcm")
        (tmp_path / f"{number}.txt").write_text("no DICOM")
    shards = [find(tmp_path, Shard(number + 1, parts)) for number in range(parts)]
    studies = [one.study_uid for found in shards for one in found.series]
    assert sorted(studies) == sorted(f"1.2.{number}" for number in range(12))
    refused = [one.path for found in shards for one in found.refused]
    assert sorted(refused) == sorted(tmp_path.glob("*.txt"))
    if parts > 1:
        assert max(len(found.series) for found in shards) < 12


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none(text):
    with pytest.raises(UsageError, match="i from 1 to n"):
        Shard.parse(text)


def test_the_same_shards_wherever_the_folder_is_mounted(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for number in range(9):
            (tmp_path / place / f"{number}.txt").write_text("no DICOM")
    kept = [{one.path.name for one in find(tmp_path / place, Shard(1, 3)).refused} for place in ("here", "there")]
    assert kept[0] == kept[1]


def test_copies_that_are_not_the_same_stay_together(tmp_path):
    save(film(), tmp_path / "a.dcm")
    save(film(), tmp_path / "copy.dcm")
    assert [len(one.files) for one in find(tmp_path).series] == [1]
    save(film(np.zeros((20, 30), int)), tmp_path / "other.dcm")
    assert [len(one.files) for one in find(tmp_path).series] == [2]


def test_an_unreadable_series_is_told_by_its_code(tmp_path, capsys):
    save(film(), tmp_path / "a.dcm")
    save(film(np.zeros((20, 30), int)), tmp_path / "other.dcm")
    assert "duplicate_instances" in said(capsys, "inspect", tmp_path)[1]


class TestDeid:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("dicomanonymizer", reason="needs dicom-anonymizer: pip install 'medsal[deid]'")

    @pytest.fixture
    def key(self, tmp_path):
        path = tmp_path / "key"
        path.write_bytes(b"a secret of the test")
        return path

    def test_copies_hold_nothing_of_the_patient_and_the_same_pixels(self, inbox, key, tmp_path, capsys):
        out = tmp_path / "out"
        words = ("deid", inbox, out, "--key-file", key, "--log-level", "debug")
        assert said(capsys, *words, "--dry-run")[0] == 0
        assert not out.exists()
        code, text, _ = said(capsys, *words)
        assert code == 0
        assert text.startswith("medsal dicom deid: 24 images copied\n")
        files = [path for path in out.rglob("*") if path.is_file()]
        assert len(files) == 24
        assert not [path for path in files if b"anary" in path.read_bytes() or "anary" in str(path.relative_to(out))]
        first = {path.name for path in files}
        assert said(capsys, *words)[0] == 0
        assert {path.name for path in out.rglob("*.dcm")} == first  # again: the same files
        whole = [one for one in out.iterdir() if len(list(one.iterdir())) == 12]
        image = read_series(whole[0])
        np.testing.assert_array_equal(
            image.numpy(),
            read_series([path for path in (inbox / "flat").iterdir() if int(path.stem[10:]) < 12]).numpy(),
        )

    def test_what_shows_names_is_not_copied(self, tmp_path, key, capsys):
        save(film(BurnedInAnnotation="YES"), tmp_path / "in/a.dcm")
        words = ("deid", tmp_path / "in", tmp_path / "out", "--key-file", key)
        for extra in ((), ("--dry-run",)):
            code, out, _ = said(capsys, *words, *extra)
            assert code == 5
            assert "1 burned_in" in out
        save(film(SOPInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3"), tmp_path / "in/b.dcm")
        assert said(capsys, *words)[0] == 4

    def test_the_key(self, tmp_path, key, capsys):
        save(film(), tmp_path / "in/a.dcm")
        code, _, err = said(capsys, "deid", tmp_path / "in", tmp_path / "out", "--key-file", tmp_path / "absent")
        assert code == 2
        assert "urandom" in err
        key.write_bytes(b"short\n")
        assert said(capsys, "deid", tmp_path / "in", tmp_path / "out", "--key-file", key)[0] == 2


class TestCheck:
    def test_another_file_is_only_shown_to_dciodvfy(self, tmp_path, capsys):
        program("dciodvfy", "Debian package dicom3tools")
        path = save(film(), tmp_path / "Canarybird.dcm")
        code, out, _ = said(capsys, "check", path)
        assert code == 6
        assert "dciodvfy: Error" in out
        assert "(with dciodvfy)" in out

    def test_without_dciodvfy_it_says_so(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        save(film(), tmp_path / "a.dcm")
        code, out, _ = said(capsys, "check", tmp_path)
        assert code == 0
        assert "no of 1 files with problems (without dciodvfy, which is not installed)" in out

    def test_a_broken_file_and_a_file_of_text(self, tmp_path, capsys):
        path = save(film(), tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes()[:300])
        (tmp_path / "Canarybird.txt").write_text("x")
        code, out, _ = said(capsys, "check", tmp_path)
        assert code == 6
        assert "of 1 files" in out  # in a folder other files are passed over, named they are not
        assert "not_dicom" in said(capsys, "check", tmp_path / "Canarybird.txt")[1]

    def test_an_object_that_says_it_is_ours_and_is_not_as_ours_are(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        one = base("1.2.840.10008.5.1.4.1.1.7")
        one.Manufacturer = "medsal"
        code, out, _ = said(capsys, "check", save(one, tmp_path / "a.dcm"))
        assert code == 6
        assert "does not say (research)" in out
        assert "names no images" in out


def test_the_real_slices(real_data, capsys):
    folder = real_data / "mri_t1_structural" / "dicoms_subset"
    found = json.loads(said(capsys, "inspect", folder, "--json")[1])
    (row,) = found["series"]
    assert (row["status"], row["files"], row["modality"]) == ("usable", 24, "MR")
    first = pydicom.dcmread(next(iter(sorted(folder.iterdir()))), stop_before_pixels=True)
    assert row["shape"] == [first.Columns, first.Rows, 24]


def test_an_error_that_is_no_error_of_ours_keeps_its_text_to_itself(tmp_path, capsys, monkeypatch):
    def bad(*_args, **_kwargs):
        raise KeyError("Canarybird^Planted")

    monkeypatch.setattr("medsal.dicom.units.scan_folder", bad)
    code, _, err = said(capsys, "inspect", tmp_path, "--log-level", "debug")
    assert code == 1
    assert "medsal: error: KeyError" in err
    assert "Traceback" in err


def test_a_ct_is_no_mr(tmp_path, capsys):
    save_all(slices_of(12, sop_class=CT), tmp_path)
    assert said(capsys, "select", tmp_path, "--rules", "mr_volume")[0] == 3
