"""The loop is killed at random moments; in the end Orthanc has one set of results of every good study, and no other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medsal.pacs.jobs import State
from medsal.pacs.ledger import FILE, Ledger
from tests.pacs.archive import study_files, study_uid, trapped_bundle
from tests.pacs.servers import Orthanc
from tests.pacs.traps import CRASHES, HANGS

BAD = {
    "crashing": (State.QUARANTINE, "crashed", "SIGSEGV"),
    "hanging": (State.QUARANTINE, "too_slow", "3 s"),
    "gappy": (State.QUARANTINE, "unreadable", "1 of 1 series: missing_slices (1 missing)"),
    "incomplete": (State.NOTHING, "no_match", "1 rule"),
}


def upload(orthanc: Orthanc, folder: Path, good: int) -> list[str]:
    """Good studies of several sizes between bad ones."""
    orthanc.clear()
    names = [f"good {number}" for number in range(good)]
    for number, name in enumerate(names):
        orthanc.upload(study_files(folder, name, (6, 7, 8, 12)[number % 4]))
    orthanc.upload(study_files(folder, "crashing", CRASHES))
    orthanc.upload(study_files(folder, "hanging", HANGS))
    orthanc.upload(study_files(folder, "incomplete", 3))
    orthanc.upload(study_files(folder, "gappy", heights=[0, 3, 6, 12, 15, 18, 21]))
    return names


class Loops:
    """Loops one after another, each in a process of its own, fresh or forked from one that is warm."""

    def __init__(self, folder: Path, bundle: Path, orthanc: Orthanc, *, warm: bool) -> None:
        self.mark = uuid.uuid4().hex
        node = json.dumps(dataclasses.asdict(orthanc.node))
        words = [sys.executable, "-m", "tests.pacs.loop_process", str(folder), str(bundle), node]
        self.words, self.warm = [*words, *(["warm"] if warm else [])], warm
        self.process = self._start() if warm else None
        if warm:
            assert self._line() == "warm"

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "LOOP_MARK": self.mark},
        )

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def loop(self, kill_after: float | None = None) -> int:
        """Run the loop, and kill it some seconds after it began; its exit code, -9 where it was killed in time."""
        if self.warm:
            self.process.stdin.write("go\n")
        else:
            self.process = self._start()
        pid = int(self._line().removeprefix("pid "))
        assert self._line() == "ready"
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.warm:
            return int(self._line().removeprefix("end "))
        code = self.process.wait()
        self.process.communicate()
        return code

    def left(self) -> list[int]:
        """Processes that a loop has left behind."""
        server = self.process.pid if self.warm else 0
        return [pid for pid in _marked(self.mark) if pid != server]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def _marked(mark: str) -> Iterator[int]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if f"LOOP_MARK={mark}".encode() in (place / "environ").read_bytes():
                    yield int(place.name)


def survive(orthanc: Orthanc, folder: Path, *, good: int, kills: int, warm: bool, longest: float) -> None:
    names = upload(orthanc, folder / "made", good)
    images = orthanc.instances()
    loops = Loops(folder / "site", trapped_bundle(folder / "bundle"), orthanc, warm=warm)
    draw = random.Random(7)
    try:
        killed = [loops.loop(draw.uniform(0.05, longest)) for _ in range(kills)]
        assert killed.count(-signal.SIGKILL) >= kills // 2, killed
        with Ledger(folder / "site" / FILE) as ledger:
            middle = ledger.counts()
        code = loops.loop()
        ends = time.monotonic() + 60
        while loops.left() and time.monotonic() < ends:
            time.sleep(0.1)
        assert loops.left() == []
        assert middle["done"] < good, "it was killed too late to show anything"
        assert code == 4
        check(orthanc, folder / "site", names, images)
        before = orthanc.get("/changes?last")["Last"]
        assert loops.loop() == 4
        assert orthanc.get("/changes?last")["Last"] == before
    finally:
        loops.close()


def check(orthanc: Orthanc, site: Path, names: list[str], images: frozenset[str]) -> None:
    with Ledger(site / FILE) as ledger:
        assert ledger.check() == "ok"
        jobs = {job.study: job for job in ledger.rows()}
        own = {job.study: ledger.own(job.study) for job in jobs.values()}
    assert len(jobs) == len(names) + len(BAD)
    found = {
        name: (jobs[study_uid(name)].state, jobs[study_uid(name)].reason, jobs[study_uid(name)].detail) for name in BAD
    }
    assert found == BAD
    assert {jobs[study_uid(name)].state for name in names} == {State.DONE}
    results = orthanc.instances() - images
    assert results == frozenset().union(*own.values())
    assert set(own) - {study for study, uids in own.items() if uids} == {study_uid(name) for name in BAD}
    for number, name in enumerate(names):
        (study,) = orthanc.lookup(study_uid(name))
        kinds = Counter(
            one["MainDicomTags"]["Modality"]
            for one in orthanc.get(f"/studies/{study}/series")
            if one["MainDicomTags"].get("Manufacturer") == "medsal"
        )
        assert kinds == {"OT": 1, "SEG": 1, "SR": 1}, name
        assert len(own[study_uid(name)]) == min((6, 7, 8, 12)[number % 4], 8) + 2
    assert not list((site / "spool").rglob("*.dcm"))
    assert not list((site / "results").rglob("*.dcm"))


def test_three_kills(orthanc, tmp_path):
    survive(orthanc, tmp_path, good=4, kills=3, warm=True, longest=1.5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twelve_kills(orthanc, tmp_path):
    survive(orthanc, tmp_path, good=16, kills=12, warm=False, longest=6.0)
