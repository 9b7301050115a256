"""`medsal pacs`: its words, what it prints, and its exit codes, with a real archive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pydicom
import pytest

from medsal.cli import main
from medsal.dicom import is_own, pseudonym
from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs.jobs import State
from medsal.pacs.ledger import FILE, Ledger
from medsal.pacs.troubles import PROBLEMS, Problem, Trouble
from tests.dicom.builders import CANARY, CORONAL, save_all, slices_of
from tests.dicom.bundles_made import volume_bundle
from tests.pacs.servers import free_port, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD, GAP, CUT = "good", "gap", "cut"
UID = re.compile(r"\d+(\.\d+){4,}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return volume_bundle(tmp_path_factory.mktemp("volumes") / "bundle")


def put(archive, folder, name, made):
    """A study of the archive."""
    for one in made:
        one.StudyInstanceUID = derived_uid(name)
        one.SeriesInstanceUID = derived_uid(name, one.SeriesInstanceUID)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, one.SOPInstanceUID)
    archive.upload(sorted(save_all(made, folder / name).iterdir()))


@pytest.fixture(scope="module")
def archive(orthanc, tmp_path_factory):
    """Three studies: a good one with a localizer, one with a gap, one whose pixels are cut off."""
    orthanc.clear()
    folder = tmp_path_factory.mktemp("made")
    good = slices_of(12, rows=14, columns=16)
    put(orthanc, folder, GOOD, [*good, *slices_of(3, CORONAL, series="localizer")])
    put(orthanc, folder, GAP, [one for number, one in enumerate(slices_of(12)) if number != 4])
    cut = slices_of(12, rows=14, columns=16)
    cut[5].PixelData = cut[5].PixelData[:-100]
    put(orthanc, folder, CUT, cut)
    return orthanc


@pytest.fixture
def site(archive, bundle, tmp_path):
    """Writes the configuration; sending is off unless asked for."""

    def written(**node):
        values = {
            "host": archive.node.host,
            "port": archive.node.port,
            "ae_title": archive.node.ae_title,
            "receive_port": archive.node.receive_port,
            **node,
        }
        lines = [
            "[site]",
            f'folder = "{tmp_path / "work"}"',
            f'bundle = "{bundle}"',
            "[explain]",
            'methods = "gradcam"',
        ]
        lines += ['device = "cpu"', "[work]", "tries = 2", "backoff = 0.01", "quiet_seconds = 0"]
        lines += ["[nodes.archive]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        path = tmp_path / "site.toml"
        path.write_text("\n".join(lines))
        return path

    return written


def pacs(site, *words):
    return main(["pacs", *words, "--site", str(site)])


def said(capsys):
    """Standard output and standard error; neither names anybody or holds a UID."""
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not UID.search(text), text
        assert not any(value in text for value in CANARY.values()), text
    return out, err


def test_echo(site, archive, capsys):
    assert pacs(site(), "echo", "archive") == 0
    assert "ORTHANC answers in" in (out := said(capsys)[0])
    assert "write is not true" in out
    assert pacs(site(write=True), "echo", "archive", "--json") == 0
    assert json.loads(said(capsys)[0])["write"] is True


def test_without_the_extra_it_says_what_to_install(site, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "pynetdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    assert pacs(site(), "echo", "archive") == 2
    assert "pip install 'medsal[pacs]'" in said(capsys)[1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"port": None}, PROBLEMS[Problem.UNREACHABLE]),
        ({"ae_title": "SOMEBODY"}, PROBLEMS[Problem.NOT_ACCEPTED]),
    ],
)
def test_a_node_that_does_not_answer(site, change, says, capsys):
    values = {name: free_port() if value is None else value for name, value in change.items()}
    for command in ("echo", "find", "run", "pull"):
        assert pacs(site(**values, timeout=5), command, "archive") == 7, command
    assert says in said(capsys)[1]


@pytest.mark.parametrize("problem", ["crashed", "too_slow", "too_much_memory"])
def test_what_goes_wrong_here_is_not_the_node(problem, site, monkeypatch):
    monkeypatch.setattr("medsal.pacs.worker._ask", Mock(side_effect=Trouble(Problem(problem))))
    assert pacs(site(), "run", "archive") == 1


def test_find_counts_and_names_nobody(site, archive, capsys):
    assert pacs(site(), "find", "archive", "--modality", "MR") == 0
    out, _ = said(capsys)
    assert "3 studies" in out
    assert re.search(rf"{pseudonym(derived_uid(GOOD), 'study')} +20260101 +MR +15$", out, re.MULTILINE)
    assert pacs(site(), "find", "archive", "--study", derived_uid(GAP), "--json") == 0
    (found,) = json.loads(said(capsys)[0])["studies"]
    assert found == {
        "study": pseudonym(derived_uid(GAP), "study"),
        "date": "20260101",
        "modalities": ["MR"],
        "instances": 11,
    }
    assert pacs(site(), "find", "archive", "--identified") == 0
    assert derived_uid(GOOD) in capsys.readouterr().out
    assert pacs(site(), "find", "archive", "--patient-id", "NOBODY") == 3
    assert pacs(site(), "find", "archive", "--study", "../up") == 2
    assert pacs(site(), "find", "nowhere") == 2


def test_configurations_that_are_not_there(site, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDSAL_PACS", raising=False)
    assert main(["pacs", "status"]) == 2
    assert "medsal-pacs.toml" in capsys.readouterr().err
    monkeypatch.setenv("MEDSAL_PACS", str(site()))
    assert [main(["pacs", one]) for one in ("status", "retry", "quarantine")] == [3, 3, 0]
    assert "no jobs yet" in capsys.readouterr().out
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / FILE).touch()
    assert main(["pacs", "status"]) == 3


def test_nothing_is_sent_where_sending_is_not_allowed(site, archive, capsys):
    before = archive.instances()
    assert pacs(site(), "push", "archive") == 2
    assert "write = true" in said(capsys)[1]
    assert archive.instances() == before


def results_in(archive):
    found = []
    for uid in archive.instances():
        header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(archive.file(uid)), stop_before_pixels=True)
        found += [header] if is_own(header) else []
    return found


def test_step_by_step_then_again(site, archive, capsys):
    names = {name: pseudonym(derived_uid(name), "study") for name in (GOOD, GAP, CUT)}
    assert pacs(site(), "run", "archive", "--dry-run") == 0
    out, _ = said(capsys)
    assert len(re.findall(r"study-\w+ .* fetch$", out, re.MULTILINE)) == 3
    assert not (site().parent / "work").exists()

    assert pacs(site(), "pull", "archive") == 0
    assert "archive: 3 fetched" in said(capsys)[1]
    assert len(list((site().parent / "work").rglob("*.dcm"))) == 15 + 11 + 12
    assert pacs(site(), "explain", "archive", "--dry-run") == 0
    out, _ = said(capsys)
    assert re.search(rf"{names[GOOD]}: .* taken \(12 slices\)", out)
    assert re.search(rf"{names[GOOD]}: .* not taken: ", out)
    assert re.search(rf"{names[GAP]}: .* not taken: missing_slices", out)

    assert pacs(site(), "explain", "archive") == 4
    assert "1 computed, 1 quarantine, 1 nothing" in said(capsys)[1]
    assert not results_in(archive)
    assert pacs(site(), "push", "archive", "--dry-run") == 0
    assert "results of 1 studies would not be sent" in said(capsys)[0]

    assert pacs(site(write=True), "push", "archive") == 0
    assert "1 done" in said(capsys)[1]
    sent = results_in(archive)
    assert {one.Modality for one in sent} == {"OT", "SEG", "SR"}
    assert {str(one.StudyInstanceUID) for one in sent} == {derived_uid(GOOD)}
    assert pacs(site(write=True), "run", "archive") in {0, 4}
    assert len(results_in(archive)) == len(sent)
    capsys.readouterr()

    assert pacs(site(), "status") == 4
    out, _ = said(capsys)
    assert re.search(r"^done +1 ", out, re.MULTILINE)
    assert re.search(r"^quarantine +1 ", out, re.MULTILINE)
    assert "pixel_length" in out
    assert pacs(site(), "status", "--json", "--all") == 4
    content = json.loads(said(capsys)[0])
    assert {state: number for state, number in content["counts"].items() if number} == {
        "done": 1, "quarantine": 1, "nothing": 1,
    }  # fmt: skip
    assert {job["study"] for job in content["jobs"]} == set(names.values())

    assert pacs(site(), "quarantine", "archive") == 4
    out, _ = said(capsys)
    assert names[CUT] in out
    assert names[GOOD] not in out
    assert "pixel_length (348 bytes, wanted 448)" in out
    assert f"unreadable: {PROBLEMS[Problem.UNREADABLE]}" in out
    assert pacs(site(), "retry", "--reason", "too_slow") == 3
    assert pacs(site(), "retry", "--job", "nothing-like-it") == 2
    capsys.readouterr()
    assert pacs(site(), "retry", "--job", names[CUT]) == 0
    assert "1 jobs go on" in said(capsys)[0]
    assert pacs(site(), "status", "--json") == 0
    assert json.loads(said(capsys)[0])["counts"]["quarantine"] == 0
    assert pacs(site(), "explain", "archive") == 5  # its images are not here any more
    assert pacs(site(), "run", "archive", "--json") == 4
    content = json.loads(said(capsys)[0])
    assert {job["study"]: job["reason"] for job in content["jobs"] if job["reason"] == "unreadable"} == {
        names[CUT]: "unreadable"
    }
    assert pacs(site(), "quarantine") == 4


def test_what_status_says_of_jobs_that_wait(site, capsys):
    folder = site().parent / "work"
    with Ledger(folder / FILE) as ledger:
        ledger.add("1.2.3.4.5.6.7", "archive", "setup")
        job = ledger.claim("archive", "setup", [State.NEW])
        ledger.wait(job, Trouble(Problem.TIMEOUT, "archive"), job.changed + 5000)
    assert pacs(site(), "status") == 4
    out, _ = said(capsys)
    assert "waiting (new)" in out
    assert re.search(r"in (83 min|1\.4 h)", out)
    assert PROBLEMS[Problem.TIMEOUT] in out
    assert pacs(site(), "retry", "archive", "--reason", "timeout") == 0
    assert pacs(site(), "status") == 0


def test_a_second_worker_says_so(site, capsys):
    folder = site().parent / "work"
    with Ledger(folder / FILE) as ledger, ledger.alone():
        assert pacs(site(), "run", "archive") == 2
    assert "another process works" in said(capsys)[1]


def computed(path):
    try:
        with Ledger(path, read_only=True) as ledger:
            return ledger.counts()["computed"]
    except UsageError:  # it is not there yet
        return 0


def test_watch_works_until_it_is_told_to_stop(site, tmp_path):
    words = [sys.executable, "-m", "medsal", "pacs", "watch", "archive", "--study", derived_uid(GOOD), "--every", "0.5"]
    process = subprocess.Popen(
        [*words, "--site", site(), "--log-level", "info"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: process.poll() is not None or computed(tmp_path / "work" / FILE), 120, 0.2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert pseudonym(derived_uid(GOOD), "study") in err
    assert not UID.search(err)
    assert not list((tmp_path / "work").rglob("*.part"))
