"""Watching: quiet studies, late slices, what was sent to us, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs.jobs import State, digest_of
from medsal.pacs.ledger import FILE, Ledger
from medsal.pacs.nodes import Listening
from medsal.pacs.spool import object_name
from medsal.pacs.strays import ARRIVED
from medsal.pacs.troubles import Problem
from medsal.pacs.watching import Watch
from tests.dicom.tools import program
from tests.pacs.archive import QUICK, Archive, Remembered, site_of, study_files, study_uid, trapped_bundle
from tests.pacs.servers import HOST, free_port, wait_for
from tests.pacs.traps import CRASHES


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return trapped_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    return Remembered(tmp_path_factory.mktemp("remembered"))


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Eye:
    """A watch whose turns are taken by hand, over an archive in memory."""

    def __init__(self, watch: Watch, archive: Archive, clock: Clock, folder: Path) -> None:
        self.watch, self.archive, self.clock, self.folder = watch, archive, clock, folder

    def turns(self, seconds: float) -> None:
        """Let time pass, and do everything that is due then."""
        self.clock.now += seconds
        self.archive.asked.clear()
        for _ in range(12):
            self.watch.turn()

    def send(self, *files: Path) -> None:
        """What a listener does."""
        for path in files:
            copy = self.folder / path.name
            shutil.copy(path, copy)
            held = self.watch.spool.take(copy)
            os.utime(held.folder / ARRIVED, (self.clock.now, self.clock.now))

    def job(self, name: str):
        (found,) = self.watch.ledger.rows(study=study_uid(name))
        return found

    @property
    def spooled(self) -> list[Path]:
        return list(self.watch.spool.root.rglob("*.dcm"))


@pytest.fixture
def eye(tmp_path, bundle, remembered, monkeypatch):
    monkeypatch.setattr("medsal.pacs.steps.explain_study", remembered.explain)
    monkeypatch.setattr("medsal.pacs.working.setup_of", remembered.setup)
    archive, clock = Archive(tmp_path / "archive"), Clock()
    monkeypatch.setattr("medsal.pacs.spool.time.time", clock)
    work = dataclasses.replace(QUICK, quiet_seconds=60.0)
    site = site_of(tmp_path / "site", bundle, archive.node, work)
    with Watch(site, "memory", archive, every=30.0, clock=clock) as watch, watch.opened():
        monkeypatch.setattr(watch, "sleep", lambda seconds: None)
        yield Eye(watch, archive, clock, tmp_path)


def test_a_study_at_the_node_is_begun_when_it_no_longer_grows(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.archive.put(*files[:3])
    eye.turns(0)
    assert eye.job("good").state is State.NEW
    eye.turns(50)
    eye.archive.put(*files[3:])
    eye.turns(30)
    assert "fetch" not in eye.archive.asked  # 80 s after the first, but it has grown
    eye.turns(31)
    assert "fetch" not in eye.archive.asked
    eye.turns(31)
    assert eye.job("good").state is State.DONE
    assert eye.job("good").counts["results"] == 10
    eye.turns(31)
    assert "fetch" not in eye.archive.asked
    assert "store" not in eye.archive.asked


def test_late_slices_at_the_node_open_it_again_when_they_are_quiet(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.archive.put(*files[:6])
    eye.turns(0)
    eye.turns(61)
    assert eye.job("good").counts["results"] == 8
    eye.turns(31)
    eye.archive.put(*files[6:])
    eye.turns(31)
    assert eye.job("good").state is State.NEW
    eye.turns(61)
    assert eye.job("good").state is State.DONE
    assert eye.job("good").counts["results"] == 10


def test_what_is_sent_to_us_is_begun_when_it_is_quiet_and_done_once(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.send(*files)
    eye.turns(31)
    assert eye.watch.ledger.rows() == []
    eye.turns(31)
    job = eye.job("good")
    assert (job.state, job.source) == (State.DONE, "listener")
    assert eye.spooled == []
    assert len(eye.archive.results("good")) == 10
    assert "fetch" not in eye.archive.asked

    eye.send(*files)  # all of it once more
    eye.turns(61)
    assert eye.spooled == []
    assert (eye.job("good").state, eye.job("good").counts) == (State.DONE, job.counts)
    assert not {"fetch", "store"} & set(eye.archive.asked)


def test_what_is_sent_to_us_is_completed_from_the_node(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.archive.put(*files)
    eye.watch.poll = False
    eye.send(*files[:6])
    eye.turns(61)
    assert eye.job("good").counts["results"] == 10


def test_a_late_slice_that_is_sent_to_us_is_explained_with_the_others_of_the_node(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.watch.poll = False
    eye.archive.put(*files[:7])
    eye.send(*files[:7])
    eye.turns(61)
    assert eye.job("good").counts["results"] == 9
    eye.archive.put(files[7])
    eye.send(files[7])
    eye.turns(61)
    assert eye.job("good").state is State.DONE
    assert eye.job("good").counts["results"] == 10


def test_a_late_slice_without_the_others_is_not_explained_alone(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.watch.poll = False
    eye.send(*files[:7])
    eye.turns(61)
    assert eye.job("good").state is State.DONE
    eye.send(files[7])
    eye.turns(61)
    job = eye.job("good")
    assert (job.state, job.reason) == (State.QUARANTINE, "incomplete")
    assert len(eye.spooled) == 1
    eye.turns(61)
    assert eye.job("good").changed == job.changed


def test_late_slices_without_the_others_are_not_explained_alone_when_somebody_tries_again(eye, tmp_path):
    files = study_files(tmp_path / "made", "good", 15)
    eye.watch.poll = False
    eye.send(*files[:7])
    eye.turns(61)
    eye.send(*files[7:])
    eye.turns(61)
    eye.watch.ledger.retry()
    eye.turns(0)
    assert eye.job("good").state is State.QUARANTINE
    assert len(eye.spooled) == 8
    eye.archive.put(*files)
    eye.watch.ledger.retry()
    eye.turns(0)
    assert eye.job("good").state is State.DONE
    assert eye.job("good").inputs == digest_of(object_name(derived_uid("good", "object", one)) for one in range(1, 16))


def test_slices_that_arrive_while_a_study_is_explained_are_not_lost(eye, tmp_path, remembered, monkeypatch):
    files = study_files(tmp_path / "made", "good")
    eye.watch.poll = False

    def slow(source, results, site, setup):
        outcome = remembered.explain(source, results, site)
        eye.send(*files[6:])
        return outcome

    monkeypatch.setattr("medsal.pacs.steps.explain_study", slow)
    eye.send(*files[:6])
    eye.turns(61)
    monkeypatch.setattr("medsal.pacs.steps.explain_study", remembered.explain)
    assert eye.job("good").state is State.FETCHED
    assert eye.job("good").due > eye.clock.now
    eye.turns(61)
    job = eye.job("good")
    assert (job.state, job.counts["results"]) == (State.DONE, 10)
    assert len(eye.archive.results("good")) == 8 + 10


def test_what_was_sent_to_us_and_cannot_be_explained_stays_and_is_left_alone(eye, tmp_path):
    eye.send(*study_files(tmp_path / "made", "crashing", CRASHES))
    eye.turns(61)
    job = eye.job("crashing")
    assert (job.state, job.reason) == (State.QUARANTINE, "crashed")
    assert len(eye.spooled) == CRASHES
    eye.turns(61)
    assert eye.job("crashing") == job
    eye.watch.ledger.retry()
    eye.turns(0)
    assert (eye.job("crashing").state, eye.job("crashing").starts) == (State.QUARANTINE, 0)


def test_what_cannot_be_completed_stays_and_is_left_alone(eye, tmp_path):
    files = study_files(tmp_path / "made", "good")
    eye.watch.poll = False
    eye.archive.put(*files)
    eye.archive.fails["fetch"] = [Problem.REJECTED]
    eye.send(*files[:6])
    eye.turns(61)
    assert (eye.job("good").state, eye.job("good").reason) == (State.QUARANTINE, "rejected")
    eye.turns(61)
    assert "fetch" not in eye.archive.asked
    assert len(eye.spooled) == 6


def test_what_was_fetched_from_another_node_is_not_sent_to_this_one(eye, tmp_path):
    eye.watch.poll = False
    eye.watch.ledger.add(study_uid("good"), "another", "setup", source="listener")
    eye.send(*study_files(tmp_path / "made", "good"))
    eye.turns(61)
    assert [job.node for job in eye.watch.ledger.rows()] == ["another"]


def test_our_own_results_sent_back_to_us_open_nothing(eye, tmp_path):
    eye.watch.poll = False
    eye.send(*study_files(tmp_path / "made", "good"))
    eye.turns(61)
    job = eye.job("good")
    results = sorted((eye.watch.site.folder / "results").rglob("*.dcm"))
    eye.send(*results)
    eye.turns(61)
    assert eye.spooled == []
    assert (eye.job("good").state, eye.job("good").counts) == (State.DONE, job.counts)
    assert not {"fetch", "store"} & set(eye.archive.asked)


def test_a_node_that_is_down_is_asked_seldom_and_what_was_sent_is_explained(eye, tmp_path):
    eye.archive.down = Problem.UNREACHABLE
    eye.send(*study_files(tmp_path / "made", "good"))
    eye.turns(61)
    assert eye.job("good").stage is State.COMPUTED
    assert eye.job("good").tries == 0
    for _ in range(3):
        eye.turns(31)
        assert len(eye.archive.asked) <= 4
    eye.archive.down = None
    eye.turns(31)
    assert eye.job("good").state is State.DONE


@pytest.mark.parametrize("options", [{"days": 0}, {"days": -1}, {"every": 0.0}, {"every": float("nan")}])
def test_it_neither_looks_into_the_future_nor_asks_without_a_pause(eye, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Watch(eye.watch.site, "memory", eye.archive, **options)


def test_it_looks_on_when_the_clock_is_set_back(eye):
    eye.turns(0)
    eye.turns(-1e6)
    assert eye.archive.asked == ["find"]


def test_it_looks_as_many_days_back_as_it_is_told(eye):
    today = time.strftime("%Y%m%d", time.localtime(eye.clock.now))
    yesterday = time.strftime("%Y%m%d", time.localtime(eye.clock.now - 86400))
    assert eye.watch._now_wanted().date == f"{yesterday}-"
    eye.watch.days = 1
    assert eye.watch._now_wanted().date == f"{today}-"


def test_a_real_watch_takes_what_orthanc_has_and_sends_and_ends_when_told(orthanc, tmp_path, bundle):
    """Two studies: one that Orthanc has, one that is sent to the listener; then SIGTERM."""
    orthanc.clear()
    orthanc.upload(study_files(tmp_path / "made", "asked for"))
    listening, folder = Listening(port=free_port()), tmp_path / "site"
    site = site_of(folder, bundle, orthanc.node, dataclasses.replace(QUICK, quiet_seconds=1.5), listener=listening)

    def hand() -> None:
        try:
            wait_for(lambda: done(folder) == 1, 120)
            sent = map(str, study_files(tmp_path / "made", "sent"))
            words = [program("storescu", "Debian package dcmtk"), "-aec", "MEDSAL", HOST, str(listening.port), *sent]
            subprocess.run(words, check=True)
            wait_for(lambda: done(folder) == 2, 120)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with Watch(site, "orthanc", every=0.5, days=40000) as watch, ThreadPoolExecutor(1) as hands:
        handed = hands.submit(hand)
        assert watch.watch() == 0
        handed.result()
        jobs = {job.study: job.source for job in watch.ledger.rows()}
        own = watch.ledger.own(study_uid("asked for")) | watch.ledger.own(study_uid("sent"))
    assert jobs == {study_uid("asked for"): "node", study_uid("sent"): "listener"}
    images = {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / "made" / "asked for").iterdir()}
    assert orthanc.instances() == own | images
    assert len(own) == 20


def done(folder: Path) -> int:
    if not (folder / FILE).exists():
        return 0
    with Ledger(folder / FILE, read_only=True) as ledger:
        return ledger.counts()["done"]


def test_a_second_signal_ends_it_at_once_and_an_interrupt_says_so(eye):
    eye.watch._signalled(signal.SIGINT, None)
    assert eye.watch.stopping
    assert eye.watch.interrupted
    with pytest.raises(KeyboardInterrupt):
        eye.watch._signalled(signal.SIGTERM, None)
