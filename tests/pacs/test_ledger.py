"""The books: what survives, what is refused, what is claimed when."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys

import pytest

from medsal.errors import UsageError
from medsal.pacs.jobs import DOING, STAGES, Job, Result, State, digest_of, job_id
from medsal.pacs.ledger import Ledger
from medsal.pacs.nodes import Work
from medsal.pacs.settling import Pause, backoff
from medsal.pacs.troubles import Problem, Trouble


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger(tmp_path / "site" / "ledger.sqlite", clock=clock) as made:
        yield made


def claim(ledger: Ledger, *stages: State) -> Job | None:
    return ledger.claim("node", "setup", stages or STAGES)


def test_a_job_goes_its_way_and_is_one_job_however_often_it_comes(ledger):
    first = ledger.add("1.2.3", "node", "setup", seen=7)
    assert (first.state, first.stage, first.seen) == (State.NEW, State.NEW, 7)
    assert ledger.add("1.2.3", "node", "setup", seen=9) == first
    for stage, after in zip(STAGES, (State.FETCHED, State.COMPUTED, State.DONE), strict=True):
        job = claim(ledger)
        assert job is not None
        assert job.state is DOING[stage]
        assert job.stage is stage
        assert claim(ledger) is None
        assert ledger.advance(job, after).state is after
    assert claim(ledger) is None
    assert ledger.counts()["done"] == 1
    assert sum(ledger.counts("node").values()) == 1
    assert sum(ledger.counts("other").values()) == 0


def test_study_node_and_setup_make_a_job():
    others = {
        job_id(*key) for key in (("a", "n", "s"), ("b", "n", "s"), ("a", "m", "s"), ("a", "n", "t"), ("an", "", "s"))
    }
    assert len(others) == 5
    assert digest_of(()) == ""


def test_the_job_nearest_to_its_end_comes_first_and_those_that_runs_died_on_last(ledger):
    names = [ledger.add(f"1.2.{number}", "node", "setup").id for number in range(4)]
    for name, state in ((names[1], State.COMPUTED), (names[2], State.FETCHED), (names[3], State.FETCHED)):
        ledger.advance(ledger.job(name), state)
    killed = claim(ledger, State.FETCHED)
    assert ledger.recover("node") == 1
    assert ledger.job(killed.id).state is State.FETCHED
    assert ledger.job(killed.id).starts == 1
    order = [claim(ledger).id for _ in range(4)]
    assert order == [names[1], names[3], names[2], names[0]]
    assert ledger.job(killed.id).starts == 2


def test_what_waits_is_not_claimed_before_its_time(ledger, clock):
    ledger.add("1.2.3", "node", "setup")
    job = ledger.wait(claim(ledger), Trouble(Problem.TIMEOUT, "0 of 3"), clock.now + 10)
    assert (job.state, job.stage, job.tries, job.reason) == (State.WAITING, State.NEW, 1, "timeout")
    assert claim(ledger) is None
    clock.now += 10
    again = claim(ledger)
    assert again is not None
    assert again.state is State.FETCHING
    assert ledger.wait(again, Trouble(Problem.UNREACHABLE), 0.0, counts=False).tries == 1
    done = ledger.advance(claim(ledger), State.FETCHED)
    assert (done.tries, done.reason, done.detail) == (0, "", "")


def test_a_clock_that_is_set_back_makes_nothing_wait_for_years(ledger, clock):
    clock.now += 1e8
    ledger.add("1.2.3", "node", "setup")
    ledger.wait(claim(ledger), Trouble(Problem.TIMEOUT), clock.now + 10)
    pause = Pause(Work(), clock)
    pause.failed()
    clock.now -= 1e8
    assert pause.over
    assert claim(ledger) is not None


def test_a_step_that_ended_badly_is_no_start_that_a_run_died_on(ledger):
    ledger.advance(ledger.add("1.2.3", "node", "setup"), State.FETCHED)
    for _ in range(3):
        ledger.wait(claim(ledger), Trouble(Problem.DISK_FULL), 0.0)
    assert ledger.rows()[0].starts == 0
    assert ledger.rows()[0].tries == 3


def test_quarantine_holds_until_somebody_asks(ledger):
    ledger.advance(ledger.add("1.2.3", "node", "setup"), State.FETCHED)
    job = ledger.quarantine(claim(ledger), "crashed", "SIGSEGV")
    assert claim(ledger) is None
    assert (job.reason, job.detail) == ("crashed", "SIGSEGV")
    (again,) = ledger.retry()
    assert (again.state, again.tries, again.reason) == (State.FETCHED, 0, "")
    assert ledger.retry() == []


def test_results_that_are_there_are_sent_whatever_made_them(ledger):
    old = ledger.add("1.2.3", "node", "old setup")
    assert claim(ledger) is None
    ledger.advance(old, State.COMPUTED)
    assert claim(ledger).id == old.id


def test_jobs_without_results_go_over_to_the_setup_of_today(ledger):
    moved = ledger.add("1.2.3", "node", "old", source="listener")
    ledger.add("1.2.4", "node", "old")
    ledger.add("1.2.4", "node", "setup")
    ended = ledger.advance(ledger.add("1.2.5", "node", "old"), State.DONE)
    assert ledger.adopt("node", "setup") == 2
    assert {job.study: job.setup for job in ledger.rows()} == {"1.2.3": "setup", "1.2.4": "setup", "1.2.5": "old"}
    assert len(ledger.rows()) == 3
    assert ledger.job(ended.id).state is State.DONE
    new = ledger.job(job_id("1.2.3", "node", "setup"))
    assert new.source == "listener"
    assert new.stage is State.FETCHED
    assert new.id != moved.id


def test_results_belong_to_the_images_that_they_were_made_of(ledger):
    job = ledger.note(ledger.add("1.2.3", "node", "setup"), inputs="first")
    ledger.put_results(job, [Result("2.25.1", "sc", "a.dcm"), Result("2.25.2", "sr", "b.dcm")])
    ledger.put_results(job, [Result("2.25.1", "sc", "a.dcm")])
    later = ledger.note(job, inputs="second")
    assert ledger.results(later) == []
    ledger.put_results(later, [Result("2.25.3", "sc", "a.dcm")])
    assert [one.uid for one in ledger.results(later)] == ["2.25.3"]
    assert ledger.own("1.2.3") == {"2.25.1", "2.25.3"}
    assert ledger.own("1.2.4") == frozenset()


def test_a_job_is_named_by_its_study_or_the_beginning_of_its_id(ledger):
    job = ledger.add("1.2.3", "node", "setup")
    ledger.add("1.2.4", "node", "setup")
    assert ledger.job(job.id[:8]) == ledger.job(job.name) == job
    for wrong in ("", "study-000000000000"):
        with pytest.raises(UsageError, match="0 jobs"):
            ledger.job(wrong)


def test_nothing_of_the_patient_is_kept_or_shown(ledger, tmp_path):
    job = ledger.add("1.2.840.113619.2.5.1", "node", "setup")
    kept = ledger.quarantine(job, "rejected", "no place for Planted^Canary in 1.2.840.113619.2.5.1")
    assert "Canary" not in kept.detail
    assert "113619" not in kept.detail
    assert "113619" not in str(kept.as_dict())
    assert b"Canary" not in b"".join(path.read_bytes() for path in (tmp_path / "site").glob("ledger.sqlite*"))


def test_only_the_owner_may_look(ledger, tmp_path):
    ledger.add("1.2.3", "node", "setup")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "site").glob("ledger.sqlite*")}
    assert set(modes) >= {"ledger.sqlite", "ledger.sqlite-wal"}
    assert set(modes.values()) == {0o600}


def test_one_works_and_the_others_look(ledger):
    script = (
        "import sys; from medsal.pacs.ledger import Ledger; from medsal.errors import UsageError\n"
        "print(Ledger(sys.argv[1], read_only=True).counts()['new'])\n"
        "try:\n    with Ledger(sys.argv[1]).alone(): print('alone')\n"
        "except UsageError as error: print(error)\n"
    )
    ledger.add("1.2.3", "node", "setup")
    with ledger.alone():
        said = subprocess.run([sys.executable, "-c", script, ledger.path], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("1\nanother process works on the jobs")
    said = subprocess.run([sys.executable, "-c", script, ledger.path], capture_output=True, text=True, check=True)
    assert said.stdout == "1\nalone\n"


def test_a_ledger_that_is_none_says_so(tmp_path):
    with pytest.raises(UsageError, match="nothing has run"):
        Ledger(tmp_path / "none.sqlite", read_only=True)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(UsageError, match="newer medsal"):
        Ledger(newer)
    text = tmp_path / "text.sqlite"
    text.write_bytes(b"no database, but long enough to be read as one" * 40)
    with pytest.raises(UsageError, match="damaged"):
        Ledger(text)


def test_a_damaged_ledger_says_so(ledger, tmp_path):
    for number in range(300):
        ledger.add(f"1.2.{number}", "node", "setup")
    ledger.close()
    content = bytearray(ledger.path.read_bytes())
    content[8192:24576] = os.urandom(16384)
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        Ledger(copy)


def test_a_transaction_is_whole_or_not_at_all(ledger):
    job = ledger.add("1.2.3", "node", "setup")
    ledger.put_results(job, [Result("2.25.1", "sc", "a")])
    with pytest.raises(sqlite3.IntegrityError):
        ledger.put_results(job, [Result("2.25.2", "sc", "a"), Result("2.25.3", None, "b")])
    assert [one.uid for one in ledger.results(job)] == ["2.25.1"]
    assert ledger.check() == "ok"


def test_waiting_doubles_up_to_a_bound_and_differs(clock):
    work = Work(backoff=10, backoff_max=100)
    assert [backoff(work, tries, lambda: 1.0) for tries in range(1, 7)] == [10, 20, 40, 80, 100, 100]
    assert [backoff(work, 1, lambda: 0.0), backoff(work, 9999, lambda: 0.0)] == [5, 50]
    drawn = {backoff(work, 3, random.Random(seed).random) for seed in range(9)}
    assert len(drawn) == 9
    assert all(20 <= one <= 40 for one in drawn)
    pause = Pause(work, clock)
    assert pause.over
    assert pause.failed() > clock.now
    assert not pause.over
    clock.now += 10
    assert pause.over
    pause.failed()
    pause.worked()
    assert pause.over
    assert pause.failures == 0
