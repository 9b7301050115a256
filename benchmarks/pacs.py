"""Images per second between medsal and an archive beside DCMTK's own tools, and studies per hour of a whole run.

    python -m benchmarks.pacs --runs 3

A private Orthanc on loopback. 160 MR slices of 131 KB, and films of 10 MB; each in turn, medians. DCMTK's tools are
processes of their own, whose start (20 to 50 ms) is counted; medsal's client is called in this process. Everything that
arrives is written to disk. Then whole runs with the shipped MRI bundle: fetch, explain, send, confirm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.pacs_batch import film, head, save
from benchmarks.pacs_tour import ROOT, Archive
from medsal.dicom.uids import derived_uid
from medsal.pacs.client import Wanted
from medsal.pacs.connecting import connect
from medsal.pacs.nodes import Node, Site
from medsal.pacs.running import Run

MR, FILMS = 1, 2
"""Numbers of the two studies."""


def dcmtk(name: str) -> str | None:
    """DCMTK's tool, and not that of the same name which pynetdicom installs beside Python."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = shutil.which(name, path=folder)
        if path and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout:
            return path
    return None


def tool(name: str, *words: object) -> None:
    path = dcmtk(name)
    if path is None:
        raise SystemExit(f"{name} of DCMTK is not installed: Debian package dcmtk")
    done = subprocess.run(
        [path, *map(str, words)], capture_output=True, text=True, check=False, env={**os.environ, "TCP_NODELAY": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-1000:]}")


class Bench:
    def __init__(self, folder: Path, archive: Archive, films: int) -> None:
        self.folder, self.archive = folder, archive
        pixels = {"size": (160, 256, 256)}
        self.files = {
            MR: save(head(MR, **pixels), folder / "made" / "mr"),
            FILMS: save(self._films(films), folder / "made" / "films"),
        }
        self.node = Node(
            name="archive",
            host="127.0.0.1",
            port=archive.port,
            ae_title="ARCHIVE",
            web_url=f"{archive.url}/dicom-web",
            receive_port=archive.peers["MEDSAL"],
            write=True,
        )
        self.peer = ("-aec", "ARCHIVE", "-aet", "DCMTK")
        self.address = ("127.0.0.1", archive.port)

    @staticmethod
    def _films(count: int):
        for number in range(count):
            made = film(FILMS, size=2240, seed=100_000 + FILMS)
            made.InstanceNumber = number + 1
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = derived_uid("tour", "film", number)
            yield made

    def store_medsal(self, study: int, _: Path) -> None:
        sent = connect(self.node).store(self.files[study])
        assert all(one.problem is None for one in sent)

    def store_dcmtk(self, study: int, _: Path) -> None:
        tool("storescu", *self.peer, "-xe", *self.address, "+sd", self.files[study][0].parent)

    def get_medsal(self, study: int, out: Path) -> None:
        connect(self.node).fetch(derived_uid("tour", study), out)

    def move_medsal(self, study: int, out: Path) -> None:
        connect(replace(self.node, retrieve="move")).fetch(derived_uid("tour", study), out)

    def wado_medsal(self, study: int, out: Path) -> None:
        connect(replace(self.node, retrieve="web", query="web")).fetch(derived_uid("tour", study), out)

    def _keys(self, study: int) -> tuple[str, ...]:
        return ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={derived_uid('tour', study)}")

    def get_dcmtk(self, study: int, out: Path) -> None:
        tool("getscu", *self.peer, *self._keys(study), "-od", out, *self.address)

    def move_dcmtk(self, study: int, out: Path) -> None:
        port = self.archive.peers["DCMTK"]
        tool("movescu", *self.peer, "-aem", "DCMTK", "+P", port, *self._keys(study), "-od", out, *self.address)

    def rate(self, way: Callable[[int, Path], None], study: int) -> float:
        """Objects per second; all of them must have arrived."""
        count = len(self.files[study])
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        storing = way.__name__.startswith("store")
        if storing:
            self.archive.clear()
        began = time.perf_counter()
        way(study, out)
        seconds = time.perf_counter() - began
        there = len(self.archive.get("/instances")) if storing else sum(path.is_file() for path in out.rglob("*"))
        assert there >= count, f"{way.__name__}: {there} of {count}"
        return count / seconds

    def table(self, runs: int) -> list[str]:
        rows = {
            "C-STORE": (self.store_medsal, self.store_dcmtk, "storescu"),
            "C-GET": (self.get_medsal, self.get_dcmtk, "getscu"),
            "C-MOVE to a port of ours": (self.move_medsal, self.move_dcmtk, "movescu"),
            "WADO-RS, whole study": (self.wado_medsal, None, ""),
        }
        lines = [
            "| | MR: medsal | MR: DCMTK | films: medsal | films: DCMTK | DCMTK's tool |",
            "|---|---|---|---|---|---|",
        ]
        found: dict[tuple[str, int, int], list[float]] = {}
        for study in (MR, FILMS):
            for _ in range(runs):
                for name, ways in rows.items():
                    for which in (1, 0) if name == "C-STORE" else (0, 1):
                        if ways[which] is not None:
                            found.setdefault((name, study, which), []).append(self.rate(ways[which], study))
        for name, (*_, said) in rows.items():
            cells = [found.get((name, study, which)) for study in (MR, FILMS) for which in (0, 1)]
            numbers = [f"{statistics.median(cell):.3g}" if cell else "-" for cell in cells]
            lines.append(f"| {name} | {' | '.join(numbers)} | {said or '-'} |")
        return lines

    def whole(self, studies: int) -> list[str]:
        """Whole runs, step by step."""
        self.archive.clear()
        for study in range(10, 10 + studies):
            for path in save(head(study, size=(160, 256, 256)), self.folder / "made" / str(study)):
                self.archive.ask("/instances", path.read_bytes())
        site = Site(
            folder=self.folder / "work",
            nodes={"archive": self.node},
            bundle=ROOT / "bundles" / "mri_tle_efficientnet",
            explain={"methods": "gradcam", "device": "cpu"},
        )
        seconds = {}
        with contextlib.closing(Run(site, "archive")) as run:
            began = time.perf_counter()
            assert run.setup
            seconds["start (once)"] = time.perf_counter() - began
            steps = {"fetch": lambda: run.pull(Wanted()), "explain": run.explain, "send and confirm": run.push}
            for name, step in steps.items():
                began = time.perf_counter()
                code = step()
                assert code == 0, f"{name}: exit code {code}"
                seconds[name] = time.perf_counter() - began
        each = {name: value / studies for name, value in seconds.items() if name != "start (once)"}
        total = sum(each.values())
        lines = ["| step | s a study | share |", "|---|---|---|"]
        lines += [f"| {name} | {value:.2f} | {value / total:.0%} |" for name, value in each.items()]
        lines.append(f"| all | {total:.2f} | {3600 / total:.0f} studies/hour |")
        share = (total - each["explain"]) / total
        return [*lines, "", f"Start, once: {seconds['start (once)']:.1f} s. Speaking with the archive: {share:.0%}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--studies", type=int, default=4, help="of whole runs; 0: none")
    parser.add_argument("--stock", action="store_true", help="without TCP_NODELAY at the archive, as Debian starts it")
    asked = parser.parse_args()
    os.environ.setdefault("MEDSAL_PROGRESS", "off")
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "orthanc", nodelay=not asked.stock)
        try:
            bench = Bench(Path(folder), archive, asked.films)
            said = f"Orthanc {archive.get('/system')['Version']}{', stock' if asked.stock else ', TCP_NODELAY=1'}"
            print(f"{said}, pynetdicom {version('pynetdicom')}, Python {platform.python_version()},", end=" ")
            print(
                f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; images/s, medians of {asked.runs}.\n"
            )
            print("\n".join(bench.table(asked.runs)))
            if asked.studies:
                print("\n160-slice MR, shipped MRI bundle, Grad-CAM, one thread:\n")
                print("\n".join(bench.whole(asked.studies)))
        finally:
            archive.end()


if __name__ == "__main__":
    main()
