"""A process for each study: what comes back, and what becomes of those that crash, hang or eat memory."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from medsal.dicom.uids import is_own
from medsal.errors import UsageError
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.worker import explain_study, resident, select_study, setup_of
from tests.pacs.archive import QUICK, site_of, study_files, trapped_bundle
from tests.pacs.servers import wait_for
from tests.pacs.traps import CRASHES, EATS, ENDS, GRABS, HANGS, MARKED

NODE = Node(name="nowhere", host="127.0.0.1", port=104, ae_title="NOWHERE")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def bundle(place):
    return trapped_bundle(place / "bundle")


@pytest.fixture(scope="module")
def site(place, bundle):
    return site_of(place / "site", bundle, NODE, dataclasses.replace(QUICK, memory_gib=1.5))


@pytest.fixture(scope="module")
def first(place, site):
    """A study that was explained."""
    study_files(place, "good")
    return explain_study(place / "good", place / "results", site)


def children(of: int | None = None) -> set[int]:
    """Processes below this one, and below the server that forks, which leads no group of workers."""
    found, todo = set(), [of or os.getpid()]
    while todo:
        for thread in Path(f"/proc/{todo.pop()}/task").iterdir():
            new = {int(one) for one in (thread / "children").read_text().split()}
            found |= new
            todo += new
    return found


def test_a_study_is_explained(place, first):
    assert (first.selected, first.counts["done"], first.failed) == (1, 1, ())
    assert {one.kind for one in first.results} == {"sc", "seg", "sr"}
    for one in first.results:
        header = pydicom.dcmread(place / "results" / one.file, stop_before_pixels=True)
        assert str(header.SOPInstanceUID) == one.uid
        assert is_own(header)


def test_a_second_time_gives_the_same_and_keeps_what_is_there(place, site, first):
    before = {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*.dcm")}
    assert explain_study(place / "good", place / "results", site).results == first.results
    assert {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*.dcm")} == before
    elsewhere = explain_study(place / "good", place / "results elsewhere", site)
    assert elsewhere.results == first.results


@pytest.mark.parametrize(
    ("slices", "problem", "detail"),
    [
        (CRASHES, Problem.CRASHED, "SIGSEGV"),
        (ENDS, Problem.CRASHED, "exit code 3"),
        (EATS, Problem.TOO_MUCH_MEMORY, "1.5 GiB"),
        (GRABS, Problem.TOO_MUCH_MEMORY, "MemoryError"),
    ],
)
def test_what_harms_its_process_harms_no_other(place, site, first, slices, problem, detail):
    study_files(place, f"{slices} slices", slices)
    before = children()
    with pytest.raises(Trouble) as trouble:
        explain_study(place / f"{slices} slices", place / f"results {slices}", site)
    assert (trouble.value.problem, trouble.value.detail, trouble.value.transient) == (problem, detail, False)
    assert children() <= before


def test_what_hangs_is_killed_with_all_that_it_started(place, site, first):
    study_files(place, "hanging", HANGS)
    quick = dataclasses.replace(site, work=dataclasses.replace(site.work, seconds=2.0))
    before, others, began = children(), sleeping(), time.monotonic()
    with pytest.raises(Trouble, match="too_slow"):
        explain_study(place / "hanging", place / "results hanging", quick)
    assert 2 <= time.monotonic() - began < 60
    assert children() <= before
    assert sleeping() <= others


def sleeping() -> set[int]:
    """Processes that studies which hang have started, also those of other tests on this machine."""
    numbers = {int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()}
    return {pid for pid in numbers if MARKED in _command(pid)}


def test_signals_to_all_processes_of_a_service_blame_no_study(place, site, first):
    """As systemd ends one: everybody is told, and the study at work goes on until who asked for it ends."""
    study_files(place, "told to stop", HANGS)
    quick = dataclasses.replace(site, work=dataclasses.replace(site.work, seconds=3.0))

    def tell() -> None:
        wait_for((place / "results told to stop" / "run.json").exists, 60)
        server = next(pid for pid in children() if "multiprocessing.forkserver" in _command(pid))
        for pid, one in itertools.product({server} | children(server), (signal.SIGTERM, signal.SIGINT)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, one)

    with ThreadPoolExecutor(1) as hands:
        told = hands.submit(tell)
        with pytest.raises(Trouble, match="too_slow"):
            explain_study(place / "told to stop", place / "results told to stop", quick)
        told.result()
    assert explain_study(place / "good", place / "results", site).results == first.results


def test_a_study_of_nothing_wanted_says_why(place, site, first):
    study_files(place, "small", 3)
    outcome = explain_study(place / "small", place / "results small", site)
    assert (outcome.selected, outcome.results, outcome.reasons) == (0, (), "1 rule")
    assert not (place / "results small").exists()
    assert "not taken: rule" in select_study(place / "small", site)[0]


def test_a_series_that_cannot_be_read_says_why(place, site, first):
    study_files(place, "gappy", heights=[0, 3, 6, 12, 15, 18, 21])
    outcome = explain_study(place / "gappy", place / "results gappy", site)
    assert (outcome.selected, outcome.results, outcome.failed) == (1, (), (("missing_slices", "1 missing"),))


def test_our_own_results_are_never_explained(place, site, first):
    outcome = explain_study(place / "results", place / "results of results", site)
    assert outcome.selected == 0
    assert set(outcome.counts["reasons"]) == {"own_result"}


def test_a_folder_without_images_is_unreadable(place, site, first):
    folder = place / "junk"
    folder.mkdir()
    (folder / "object.dcm").write_bytes(b"junk")
    with pytest.raises(Trouble) as trouble:
        explain_study(folder, place / "results junk", site)
    assert (trouble.value.problem, trouble.value.detail) == (Problem.UNREADABLE, "1 not_dicom")


def test_what_is_wrong_with_the_configuration_is_no_fault_of_a_study(place, site, first):
    wrong = dataclasses.replace(site, explain={"methods": ["saliencey"]})
    with pytest.raises(UsageError, match="saliencey"):
        explain_study(place / "good", place / "results wrong", wrong)
    with pytest.raises(UsageError, match="bundle"):
        setup_of(dataclasses.replace(site, bundle=place / "nowhere"))
    with pytest.raises(UsageError, match="bundle"):
        setup_of(dataclasses.replace(site, bundle=None))


def test_the_setup_is_all_that_results_depend_on(place, site, bundle, first):
    def changed(**values):
        return setup_of(dataclasses.replace(site, **values))

    rules = json.loads(site.rules)
    rules["selections"][0]["require"]["min_slices"] = 7
    found = [
        changed(),
        changed(explain={**site.explain, "methods": ["input_x_gradient"]}),
        changed(rules=json.dumps(rules)),
        changed(kinds=("sc",)),
    ]
    assert len(set(found)) == 4
    assert explain_study(place / "good", place / "results", site, found[0]).results == first.results
    with pytest.raises(UsageError, match="changed since"):
        explain_study(place / "good", place / "results", site, found[1])
    assert changed(folder=site.folder / "elsewhere") == found[0]


def test_a_full_disk_is_told_from_other_errors(place, site, first):
    folder = place / "results of nobody"
    folder.write_text("a file where a folder is wanted")
    with pytest.raises(Trouble) as trouble:
        explain_study(place / "good", folder, site)
    assert trouble.value.problem is Problem.CRASHED
    assert trouble.value.detail == "FileExistsError"


def test_only_the_log_comes_out_and_nothing_of_the_patient(place, site, first, capfd, caplog):
    logging.getLogger("medsal").setLevel(logging.DEBUG)
    try:
        explain_study(place / "good", place / "results logged", site)
        with pytest.raises(Trouble):
            explain_study(place / "junk", place / "results logged", site)
    finally:
        logging.getLogger("medsal").setLevel(logging.NOTSET)
    out, err = capfd.readouterr()
    assert out == ""
    assert "CANARY" not in err.upper()


@pytest.mark.slow
def test_a_worker_ends_with_who_asked(place, site, first):
    """The process that asks is killed while a study hangs: neither the worker nor its server stays behind."""
    study_files(place, "orphan", HANGS)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.pacs.archive import *\n"
        "from tests.pacs.test_worker import NODE\n"
        "from medsal.pacs.worker import explain_study\n"
        "explain_study(sys.argv[1], sys.argv[2], site_of(Path(sys.argv[3]), Path(sys.argv[4]), NODE))\n"
    )
    words = [place / "orphan", place / "results orphan", site.folder, site.bundle]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)])
    try:
        waits = time.monotonic() + 120
        while not (place / "results orphan" / "run.json").exists():
            assert process.poll() is None
            assert time.monotonic() < waits
            time.sleep(0.05)
        below = {one for one in children() if _command(one).count("orphan") or _parent(one) == process.pid}
        below |= {one for one in children() if _parent(one) in below}
        assert len(below) >= 2
    finally:
        process.kill()
        process.wait()
    waits = time.monotonic() + 20
    while any(_alive(one) for one in below):
        assert time.monotonic() < waits
        time.sleep(0.05)


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _parent(pid: int) -> int:
    return int(_status(pid).get("PPid", 0))


def _alive(pid: int) -> bool:
    return _status(pid).get("State", "Z")[0] not in "ZX"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_memory_in_use_counts_children():
    alone = resident(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(b'x' * 2**27); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.read(1) == b"1"
        assert resident(os.getpid()) > alone + 2**26
        child.communicate(b"\n")
    assert resident(None) == 0
    assert resident(2**22 + 1) == 0
