"""The loop over jobs: with an archive in memory that fails as it is told to, and with Orthanc."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest

from medsal.errors import UsageError
from medsal.pacs.client import Sent, Wanted
from medsal.pacs.ends import UNREACHABLE
from medsal.pacs.jobs import State
from medsal.pacs.ledger import FILE, Ledger
from medsal.pacs.running import Run, explain_pulled
from medsal.pacs.spool import Spool
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.archive import QUICK, Archive, Remembered, site_of, study_files, study_uid, trapped_bundle
from tests.pacs.traps import CRASHES

ALL = Wanted()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return trapped_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    return Remembered(tmp_path_factory.mktemp("remembered"))


@pytest.fixture
def quick(remembered, monkeypatch):
    monkeypatch.setattr("medsal.pacs.steps.explain_study", remembered.explain)
    monkeypatch.setattr("medsal.pacs.working.setup_of", remembered.setup)


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "archive")


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


class Hand:
    """A site, and runs of it one after another."""

    def __init__(self, folder: Path, bundle: Path, archive: Archive) -> None:
        self.archive, self.clock = archive, Clock()
        self.folder, self.bundle, self.work = folder, bundle, QUICK
        self.values: dict = {}

    @property
    def site(self):
        return site_of(self.folder / "site", self.bundle, self.archive.node, self.work, **self.values)

    def made(self, name: str, *args, **values) -> list[Path]:
        files = study_files(self.folder / "made", name, *args, **values)
        self.archive.put(*files)
        return files

    def run(self, does="run", *args, **options):
        self.archive.asked.clear()
        with Run(self.site, "memory", self.archive, clock=self.clock, draw=random.Random(0).random) as run:
            return getattr(run, does)(*(args or (ALL,)) if does in {"run", "pull", "plan"} else args, **options)

    @property
    def jobs(self):
        with Ledger(self.folder / "site" / FILE, read_only=True) as ledger:
            return ledger.rows()

    def job(self, name: str):
        (found,) = [job for job in self.jobs if job.study == study_uid(name)]
        return found

    def states(self) -> dict[str, str]:
        return {job.study: job.state.value for job in self.jobs}

    def left(self) -> list[str]:
        """Images that lie in the spool."""
        return sorted(path.name for path in (self.folder / "site" / "spool").rglob("*.dcm"))


@pytest.fixture
def hand(tmp_path, bundle, archive, quick):
    return Hand(tmp_path, bundle, archive)


def corrected(path: Path, patient: str) -> Path:
    """The same object of another patient."""
    dataset = pydicom.dcmread(path)
    dataset.PatientID = patient
    dataset.save_as(path)
    return path


def test_a_patient_that_is_corrected_before_results_are_sent_gets_none_of_the_others(hand, archive):
    files = hand.made("good")
    hand.run("pull")
    hand.run("explain")
    archive.put(*(corrected(path, "OTHER") for path in files))
    assert hand.run() == 0
    assert hand.job("good").state is State.DONE
    assert archive.asked.count("fetch") == 1
    assert "changed" not in hand.job("good").counts


def test_results_of_images_that_are_gone_are_not_sent(hand, archive):
    hand.made("good")
    hand.run("pull")
    hand.run("explain")
    held = archive.held[study_uid("good")]
    del held[max(held, key=lambda uid: pydicom.dcmread(held[uid]).InstanceNumber)]
    hand.run("push")
    assert not archive.results("good")
    assert hand.job("good").state is State.NEW
    assert hand.run() == 0
    for one in archive.results("good"):
        named = {element.value for element in one.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
        assert named <= set(held)
    assert hand.job("good").counts["images"] == 7


def test_an_archive_that_names_another_patient_than_its_images_is_sent_nothing(hand, archive):
    hand.made("good")
    archive.corrected[study_uid("good")] = "OTHER"
    assert hand.run() == 5
    job = hand.job("good")
    assert (job.state, job.reason, job.stage) == (State.QUARANTINE, "changed", State.NEW)
    assert archive.asked.count("fetch") == 2
    assert not archive.results("good")
    assert b"OTHER" not in (hand.folder / "site" / FILE).read_bytes()
    archive.corrected.clear()
    with Ledger(hand.folder / "site" / FILE) as ledger:
        ledger.retry()
    assert hand.run() == 0
    assert len(archive.results("good")) == 10


def test_every_study_comes_to_its_end(hand, archive):
    hand.made("good")
    hand.made("small", 3)
    hand.made("crashing", CRASHES)
    hand.made("gappy", heights=[0, 3, 6, 12, 15, 18, 21])
    assert hand.run() == 4
    good, small, crashing, gappy = (hand.job(name) for name in ("good", "small", "crashing", "gappy"))
    assert (good.state, good.counts["sent"], good.reason) == (State.DONE, 10, "")
    assert (small.state, small.reason, small.detail) == (State.NOTHING, "no_match", "1 rule")
    assert (crashing.state, crashing.reason, crashing.detail) == (State.QUARANTINE, "crashed", "SIGSEGV")
    assert (gappy.state, gappy.reason) == (State.QUARANTINE, "unreadable")
    assert gappy.detail == "1 of 1 series: missing_slices (1 missing)"
    assert {len(archive.results(name)) for name in ("small", "crashing", "gappy")} == {0}
    assert len(archive.results("good")) == 10
    assert hand.left() == []
    assert len(list((hand.folder / "site/results").rglob("*.dcm"))) == 10

    assert hand.run() == 4
    assert "store" not in archive.asked
    assert "fetch" not in archive.asked

    archive.held.pop(study_uid("crashing"))
    archive.held.pop(study_uid("gappy"))
    assert hand.run() == 0
    archive.held.pop(study_uid("good"))
    assert hand.run() == 3


def test_our_own_series_are_never_explained(hand, archive):
    hand.made("good")
    assert hand.run() == 0
    results = {str(one.SOPInstanceUID) for one in archive.results("good")}
    shutil.rmtree(hand.folder / "site")  # another installation, which knows nothing of them
    assert hand.run() == 0
    job = hand.job("good")
    assert job.counts["selected"] == 1
    assert job.counts["reasons"]["own_result"] >= 3
    assert {str(one.SOPInstanceUID) for one in archive.results("good")} == results
    assert "stored" not in archive.asked

    images = [uid for uid in archive.held[study_uid("good")] if uid not in results]
    for uid in images:
        archive.held[study_uid("good")].pop(uid)
    shutil.rmtree(hand.folder / "site")
    assert hand.run() == 3
    assert hand.job("good").state is State.NOTHING


def test_a_changed_bundle_gives_new_results_beside_the_old(hand, archive, bundle, tmp_path):
    hand.made("good")
    assert hand.run() == 0
    before = {str(one.SOPInstanceUID) for one in archive.results("good")}
    hand.bundle = tmp_path / "other" / "bundle"
    shutil.copytree(bundle, hand.bundle)
    config = json.loads((hand.bundle / "configs/inference.json").read_text())
    config["preprocessing"]["transforms"].append({"_target_": "ScaleIntensityd", "keys": "image"})
    (hand.bundle / "configs/inference.json").write_text(json.dumps(config))
    assert hand.run() == 0
    after = {str(one.SOPInstanceUID) for one in archive.results("good")}
    assert (len(before), len(after)) == (10, 20)
    assert before < after
    assert len({job.setup for job in hand.jobs}) == 2
    assert hand.run() == 0
    assert "store" not in archive.asked


def test_late_slices_open_a_job_again_and_copies_do_not(hand, archive):
    files = hand.made("good")
    for path in files[6:]:
        archive.held[study_uid("good")].pop(str(pydicom.dcmread(path).SOPInstanceUID))
    assert hand.run() == 0
    first = hand.job("good")
    archive.put(files[0])
    assert hand.run() == 0
    assert "fetch" not in archive.asked
    archive.put(*files[6:])
    assert hand.run() == 0
    later = hand.job("good")
    assert later.id == first.id
    assert later.inputs != first.inputs
    assert (first.counts["results"], later.counts["results"]) == (8, 10)
    assert len(archive.results("good")) == 18
    assert hand.run() == 0
    assert "store" not in archive.asked


def test_without_lists_and_counts_a_study_is_still_done_once(hand, archive):
    archive.lists = archive.counts = False
    hand.made("good")
    assert hand.run() == 0
    assert len(archive.results("good")) == 10
    assert hand.run() == 0
    assert set(archive.asked) == {"find", "instances"}


def test_a_node_that_is_down_makes_jobs_wait_and_costs_no_tries(hand, archive):
    hand.made("good")
    archive.down = Problem.UNREACHABLE
    assert hand.run() == UNREACHABLE
    archive.down = None
    assert hand.run("pull") == 0
    archive.down = Problem.UNREACHABLE
    assert hand.run() == UNREACHABLE
    assert hand.job("good").state is State.COMPUTED  # it needs nobody for that
    for _ in range(5):
        assert hand.run("push") == UNREACHABLE
        assert (hand.job("good").state, hand.job("good").tries) == (State.WAITING, 0)
    assert len(archive.asked) == 2  # one try and an echo
    archive.down = None
    assert hand.run("push") == 0
    assert len(archive.results("good")) == 10


@pytest.mark.parametrize("problem", [Problem.NOT_ACCEPTED, Problem.TLS, Problem.TIMEOUT])
def test_what_an_echo_fails_on_too_is_the_node_and_not_the_job(hand, archive, problem):
    hand.made("good")
    assert hand.run("pull") == 0
    assert hand.run("explain") == 0
    archive.down = problem
    assert hand.run("push") == UNREACHABLE
    assert (hand.job("good").state, hand.job("good").reason) == (State.WAITING, problem.value)


def test_a_passing_trouble_is_tried_again_later_and_not_for_ever(hand, archive):
    hand.made("good")
    hand.work = dataclasses.replace(QUICK, backoff=100.0, backoff_max=1000.0)
    archive.fails["fetch"] = [Problem.INCOMPLETE] * 9
    assert hand.run() == 5
    job = hand.job("good")
    assert (job.state, job.tries, job.reason) == (State.WAITING, 1, "incomplete")
    assert 50 <= job.due - hand.clock.now <= 100
    assert hand.run() == 5
    assert archive.asked.count("fetch") == 0  # not yet
    hand.clock.now += 100
    assert hand.run() == 5
    assert 100 <= hand.job("good").due - hand.clock.now <= 200
    hand.clock.now += 200
    assert hand.run() == 5
    job = hand.job("good")
    assert (job.state, job.tries, job.reason) == (State.QUARANTINE, 3, "incomplete")
    hand.clock.now += 10000
    assert hand.run() == 5
    assert "fetch" not in archive.asked

    with Ledger(hand.folder / "site" / FILE) as ledger:
        ledger.retry()
    archive.fails.clear()
    assert hand.run() == 0


def test_a_run_may_stay_until_nothing_is_waiting(hand, archive, monkeypatch):
    def sleep(run, seconds):
        hand.clock.now += seconds

    monkeypatch.setattr(Run, "sleep", sleep)
    hand.made("good")
    hand.made("crashing", CRASHES)
    archive.fails = {"find": [Problem.UNREACHABLE] * 2, "fetch": [Problem.INCOMPLETE], "store": [Problem.TIMEOUT]}
    assert hand.run("run", ALL, once=False) == 4
    assert hand.states() == {study_uid("good"): "done", study_uid("crashing"): "quarantine"}


def test_a_lasting_trouble_goes_to_quarantine_at_once(hand, archive):
    hand.made("good")
    archive.fails["fetch"] = [Problem.REJECTED]
    assert hand.run() == 5
    assert (hand.job("good").state, hand.job("good").reason) == (State.QUARANTINE, "rejected")


def test_an_object_that_is_refused_is_told_and_the_others_are_sent(hand, archive):
    hand.made("good")
    assert hand.run("pull") == hand.run("explain") == 0
    with Ledger(hand.folder / "site" / FILE) as ledger:
        first, second, *_ = (one.uid for one in ledger.results(hand.job("good")))
    archive.refuses = {first: Problem.REJECTED, second: Problem.OUT_OF_RESOURCES}
    assert hand.run("push") == 5
    assert (hand.job("good").state, hand.job("good").reason) == (State.WAITING, "out_of_resources")
    assert len(archive.results("good")) == 8
    archive.refuses.pop(second)
    hand.clock.now += 10
    assert hand.run("push") == 5
    assert (hand.job("good").state, hand.job("good").reason) == (State.QUARANTINE, "rejected")
    assert archive.asked.count("stored") == 2  # only what was not there
    assert len(archive.results("good")) == 9


def test_a_full_archive_is_left_alone_and_costs_no_tries(hand, archive):
    for name in ("one", "two", "three"):
        hand.made(name)
    assert hand.run("pull") == hand.run("explain") == 0
    store = archive.store
    archive.store = lambda files, done=None: store([]) + [Sent("2.25.1", Problem.OUT_OF_RESOURCES) for _ in files]
    for _ in range(9):
        assert hand.run("push") == 5
        assert archive.asked.count("store") <= 2
        hand.clock.now += 10
    assert {job.state for job in hand.jobs} <= {State.WAITING, State.COMPUTED}
    assert sorted(job.tries for job in hand.jobs) == [0, 0, 1]
    archive.store = store
    assert hand.run("push") == 0


def test_done_means_confirmed(hand, archive):
    hand.made("good")
    assert hand.run("pull") == hand.run("explain") == 0
    with Ledger(hand.folder / "site" / FILE) as ledger:
        lost = ledger.results(hand.job("good"))[3].uid
    archive.forgets = {lost}
    assert hand.run("push") == 5
    job = hand.job("good")
    assert (job.state, job.reason, job.detail) == (State.WAITING, "not_confirmed", "1 of 10 results")
    archive.forgets.clear()
    hand.clock.now += 10
    assert hand.run("push") == 0
    assert archive.asked.count("stored") == 1


def test_a_run_that_ended_between_sending_and_confirming_sends_nothing_twice(hand, archive):
    hand.made("good")

    def ends(study, uids):
        raise KeyboardInterrupt

    confirm, archive.confirm = archive.confirm, ends
    with pytest.raises(KeyboardInterrupt):
        hand.run()
    assert hand.job("good").state is State.COMPUTED
    archive.confirm = confirm
    with Ledger(hand.folder / "site" / FILE) as ledger:  # as a kill leaves it
        assert ledger.claim("memory", "", (State.COMPUTED,)).state is State.SENDING
    assert hand.run() == 0
    assert "stored" not in archive.asked
    assert len(archive.results("good")) == 10


def test_results_that_are_gone_are_made_again_with_the_same_uids(hand, archive):
    hand.made("good")
    assert hand.run("pull") == hand.run("explain") == 0
    with Ledger(hand.folder / "site" / FILE) as ledger:
        before = ledger.results(hand.job("good"))
    shutil.rmtree(hand.folder / "site/results")
    shutil.rmtree(hand.folder / "site/spool")
    assert hand.run() == 0
    with Ledger(hand.folder / "site" / FILE) as ledger:
        assert ledger.results(hand.job("good")) == before
    assert {str(one.SOPInstanceUID) for one in archive.results("good")} == {one.uid for one in before}


def test_nothing_is_sent_before_the_node_allows_it(hand, archive):
    archive.node = dataclasses.replace(archive.node, write=False)
    hand.made("good")
    assert hand.run() == 0
    assert hand.job("good").state is State.COMPUTED
    assert "store" not in archive.asked
    assert hand.left() == []
    assert hand.run() == 0
    assert {"find", "instances"} >= set(archive.asked)
    with pytest.raises(Trouble, match="not_allowed"):
        hand.run("push")
    archive.node = dataclasses.replace(archive.node, write=True, send=("sr",))
    assert hand.run() == 0
    assert [one.Modality for one in archive.results("good")] == ["SR"]


def test_results_go_when_they_are_sent_unless_they_shall_stay(hand, archive):
    hand.work = dataclasses.replace(QUICK, keep_results=False)
    hand.made("good")
    assert hand.run() == 0
    assert list((hand.folder / "site/results").iterdir()) == []
    assert hand.run() == 0
    assert "store" not in archive.asked


def test_nothing_is_fetched_while_there_is_no_room(hand, archive, monkeypatch):
    hand.made("good")
    hand.made("more")
    assert hand.run("pull", Wanted(study_uids=(study_uid("good"),))) == 0
    full = Trouble(Problem.DISK_FULL, "no room")
    monkeypatch.setattr(Spool, "room", lambda self, coming=0: full)
    assert hand.run() == 4
    assert "fetch" not in archive.asked
    assert hand.states() == {study_uid("good"): "done", study_uid("more"): "new"}
    monkeypatch.undo()
    assert hand.run() == 0


def test_a_full_disk_costs_no_tries(hand, archive, monkeypatch):
    hand.made("good")
    rooms = [None, None, *[Trouble(Problem.DISK_FULL, "no room")] * 9]
    monkeypatch.setattr(Spool, "room", lambda self, coming=0: rooms.pop(0))
    archive.fails["fetch"] = [Problem.DISK_FULL]
    assert hand.run() == 5
    assert (hand.job("good").state, hand.job("good").tries) == (State.WAITING, 0)
    monkeypatch.undo()
    assert hand.run() == 0


def test_a_plan_enters_nothing(hand, archive):
    hand.made("good")
    (would,) = hand.run("plan")
    assert (would.state, would.would, would.instances) == ("", "fetch", 8)
    assert hand.jobs == []
    assert hand.run("pull") == 0
    assert hand.run("plan")[0].would == "explain"
    ((name, lines),) = hand.run("selections").items()
    assert (name, len(lines)) == (would.study, 1)
    assert "taken (8 slices)" in lines[0]
    assert explain_pulled(hand.site, archive.node) == 0
    assert hand.run("plan")[0].would == "send"
    assert hand.run("push") == 0
    assert hand.run("plan")[0].would == "leave"


def test_a_wrong_bundle_ends_the_run_and_blames_no_study(hand, archive):
    hand.made("good")
    assert hand.run("pull") == 0
    hand.bundle = hand.folder / "no bundle"
    with pytest.raises(UsageError, match="bundle"):
        hand.run()
    assert (hand.job("good").state, hand.job("good").tries) == (State.FETCHED, 0)


def test_an_error_that_nobody_thought_of_stops_one_study_only(hand, archive):
    hand.made("good")
    hand.made("bad")
    fetch = archive.fetch

    def odd(study, folder):
        if study == study_uid("bad"):
            raise RuntimeError("Planted^Canary")
        return fetch(study, folder)

    archive.fetch = odd
    assert hand.run() == 4
    job = hand.job("bad")
    assert (job.state, job.reason, job.detail) == (State.QUARANTINE, "crashed", "RuntimeError")
    assert hand.job("good").state is State.DONE


def test_a_study_that_every_run_dies_on_is_put_aside(hand, archive):
    hand.made("good")
    assert hand.run("pull") == 0
    with Ledger(hand.folder / "site" / FILE) as ledger:
        for _ in range(8):
            assert ledger.claim("memory", hand.job("good").setup, (State.FETCHED,))
            ledger.recover("memory")
    assert hand.run() == 5
    assert hand.job("good").detail == "the run ended 8 times while this was explained"


def test_nothing_of_the_patient_gets_out(hand, archive, capfd, caplog):
    caplog.set_level("DEBUG")
    hand.made("good")
    hand.made("gappy", heights=[0, 3, 6, 12, 15, 18, 21])
    hand.run()
    out, err = capfd.readouterr()
    shown = out + err + caplog.text
    files = [path for path in (hand.folder / "site").rglob("*") if path.is_file()]
    books = b"".join(path.read_bytes() for path in files if path.suffix != ".dcm")
    for secret in ("Canarybird", "CANARY-4711", "ACCCANARY99"):
        assert secret not in shown
        assert secret.encode() not in books
        assert not [path for path in files if secret in str(path)]
    assert "2/2 study-" in err
    assert study_uid("good") not in shown


@pytest.fixture(scope="module")
def sent(orthanc, tmp_path_factory, bundle):
    """A run over Orthanc: a good, a small and a crashing study; and the run again."""
    folder = tmp_path_factory.mktemp("orthanc run")
    orthanc.clear()
    for name, count in (("good", 8), ("small", 3), ("crashing", CRASHES)):
        orthanc.upload(study_files(folder / "made", name, count))
    site = site_of(folder / "site", bundle, orthanc.node)
    before = orthanc.instances()
    with Run(site, "orthanc") as run:
        code, made = run.run(ALL), orthanc.instances() - before
        changes = orthanc.get("/changes?last")["Last"]
        again = run.run(ALL), orthanc.get("/changes?last")["Last"] - changes
        jobs = {job.study: job for job in run.ledger.rows()}
        results = run.ledger.own(study_uid("good"))
    return code, again, jobs, made, results


def test_with_orthanc_every_study_comes_to_its_end(sent):
    code, _, jobs, made, results = sent
    assert code == 4
    states = [jobs[study_uid(name)].state for name in ("good", "small", "crashing")]
    assert states == [State.DONE, State.NOTHING, State.QUARANTINE]
    assert made == results
    assert len(made) == 10


def test_with_orthanc_a_second_run_sends_nothing(sent):
    _, again, _, _, _ = sent
    assert again == (4, 0)


def test_orthanc_down_then_up(orthanc_factory, tmp_path, bundle):
    orthanc = orthanc_factory()
    orthanc.upload(study_files(tmp_path / "made", "good"))
    site = site_of(tmp_path / "site", bundle, dataclasses.replace(orthanc.node, timeout=3.0))
    with Run(site, "orthanc") as run:
        assert run.pull(ALL) == 0
    orthanc.stop()
    with Run(site, "orthanc") as run:
        assert run.run(ALL) == UNREACHABLE
        (job,) = run.ledger.rows()
        assert (job.stage, job.tries) == (State.COMPUTED, 0)
        assert run.push() == UNREACHABLE
        assert run.ledger.rows()[0].tries == 0
    orthanc.start()
    with Run(site, "orthanc") as run:
        assert run.run(ALL) == 0
        assert run.ledger.own(study_uid("good")) <= orthanc.instances()
    orthanc.stop()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 96 MB, where this user may make one."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_and_then_is_not(small_disk, archive, bundle, tmp_path):
    hand = Hand(small_disk, bundle, archive)
    hand.work = dataclasses.replace(QUICK, free_gib=0.001)
    for name in ("one", "two"):
        archive.put(*study_files(tmp_path / "made", name))
    assert hand.run("pull") == 0
    for kept in (200_000, 0):  # enough for the ledger and not for results; and nothing at all
        fill(small_disk, kept)
        assert hand.run() == 5
        (small_disk / "filler").unlink()
        assert State.QUARANTINE not in {job.state for job in hand.jobs}
        assert {job.tries for job in hand.jobs} == {0}
        assert {job.reason for job in hand.jobs} <= {"disk_full", ""}
        assert not archive.results("one") + archive.results("two")
    assert hand.run() == 0
    assert [len(archive.results(name)) for name in ("one", "two")] == [10, 10]
    with Ledger(small_disk / "site" / FILE) as ledger:
        assert ledger.check() == "ok"


def fill(folder: Path, kept: int) -> None:
    """Take up a disk but for some bytes."""
    with (folder / "filler").open("wb") as file, contextlib.suppress(OSError):
        while shutil.disk_usage(folder).free > kept:
            file.write(bytes(min(65536, shutil.disk_usage(folder).free - kept)))
            file.flush()
