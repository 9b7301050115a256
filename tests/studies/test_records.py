"""The folder of a study: broken files, disks that refuse, and several processes that begin at once."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import shutil

import pytest

from medsal.errors import MedsalError, UsageError
from medsal.studies import Study
from medsal.studies.trust.records import Records
from medsal.studies.trust.steps import Step, do_steps
from tests.networks_for_studies import Matched, films

SETTINGS = {"resamples": 50, "null_shifts": 5, "figures": False, "random_pairs": 3, "parts": ["utility"]}


def study(folder):
    return Study({"a": Matched(0)}, films(3), ["saliency"], str(folder), SETTINGS)


def test_broken_files_of_a_study_are_named(tmp_path):
    whole = tmp_path / "whole"
    study(whole).run()
    for pattern, kept in (("study.json", 1), ("steps/trained/*.json", 20), ("maps/*.npz", 0), ("maps/*.npz", 500)):
        folder = tmp_path / f"{pattern[:4]}-{kept}"
        shutil.copytree(whole, folder)
        shutil.rmtree(folder / "steps" / "utility")
        (file,) = folder.glob(pattern)
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(MedsalError, match=f"{file} cannot be read"):
            study(folder).run()
    (whole / "study.json").write_text("[]")
    with pytest.raises(MedsalError, match="no mapping"):
        study(whole)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    found = study(tmp_path)
    (tmp_path / "steps" / "about").write_text("no folder")
    with pytest.raises(MedsalError, match=r"cannot write .*choose another output_dir"):
        found.run()


def test_a_disk_without_locks_is_used_by_one_process(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING, "medsal"):
        assert len(study(tmp_path).run()["verdicts"])
    assert "no locks (Function not implemented)" in caplog.text
    assert not list(tmp_path.rglob("*.lock"))


def test_of_two_studies_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    """Both have seen that the folder holds no study yet."""
    began = []
    claim = Records.claim

    def late(self, key, **wait):
        if key == "study" and not began:
            began.append(key)
            Records(tmp_path, {"settings": 2})
        return claim(self, key, **wait)

    monkeypatch.setattr(Records, "claim", late)
    with pytest.raises(UsageError, match="another study"):
        Records(tmp_path, {"settings": 1})
    assert json.loads((tmp_path / "study.json").read_text())["setup"] == {"settings": 2}


def test_waiting_for_another_process_is_said_once(tmp_path, monkeypatch, caplog):
    one, two = (Records(tmp_path, {}) for _ in range(2))
    left = iter(range(3))

    def pause(_):
        if next(left) == 1:
            one.write("kind/step", {})

    monkeypatch.setattr("medsal.studies.trust.steps.time.sleep", pause)
    with caplog.at_level(logging.INFO, "medsal"), one.claim("kind/step"):
        do_steps(two, [Step("kind/step", "words", dict)])
    assert caplog.text.count("waiting for 1 steps that other processes are doing, the first: words") == 1
