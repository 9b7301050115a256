"""A tour of `medsal pacs` that needs nothing but this machine: an archive, a mixed day, a kill, and what comes back.

    python -m benchmarks.pacs_tour --output tour_out

Starts an Orthanc of its own on free ports of loopback. What is said also goes to ``tour_out/tour.txt``, and
pictures of results as Orthanc draws them to ``tour_out/*.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

from benchmarks.pacs_batch import mixed

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = [Path("/usr/share/orthanc/plugins") / f"libOrthanc{name}.so" for name in ("DicomWeb", "Gdcm")]
PACKAGES = "Debian packages orthanc orthanc-dicomweb orthanc-gdcm; `make servers` installs them"


class Archive:
    """A private Orthanc."""

    def __init__(self, folder: Path, *, nodelay: bool = True) -> None:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if program is None or not all(path.exists() for path in PLUGINS):
            raise SystemExit(f"the tour needs Orthanc: {PACKAGES}")
        self.web, self.port = free_port(), free_port()
        self.peers = {"MEDSAL": free_port(), "DCMTK": free_port()}
        folder.mkdir(parents=True)
        may = {f"Allow{what}": True for what in ("Echo", "Find", "Get", "Move", "Store", "StorageCommitment")}
        peers = {name: {"AET": name, "Host": "127.0.0.1", "Port": port, **may} for name, port in self.peers.items()}
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.web,
            "DicomPort": self.port,
            "DicomAet": "ARCHIVE",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": peers,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(path) for path in PLUGINS],
            "StableAge": 1,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with (folder / "orthanc.log").open("w") as log:
            self.process = subprocess.Popen(
                [program, folder / "orthanc.json"],
                stdout=log,
                stderr=log,
                env={**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})},
            )
        for _ in range(300):
            try:
                self.get("/system")
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise SystemExit(f"Orthanc does not start; see {folder / 'orthanc.log'}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}"

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url + path, data=body, timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.ask(path))

    def clear(self) -> None:
        for patient in self.get("/patients"):
            request = urllib.request.Request(f"{self.url}/patients/{patient}", method="DELETE")
            urllib.request.urlopen(request, timeout=60).close()

    def find(self, level: str, **query: str) -> list[dict[str, Any]]:
        content = json.dumps({"Level": level, "Query": query, "Expand": True}).encode()
        found: list[dict[str, Any]] = json.loads(self.ask("/tools/find", content))
        return found

    def results(self) -> dict[str, int]:
        """Modality -> number of objects that medsal has sent."""
        series = self.find("Series", SeriesDescription="medsal*")
        found: dict[str, int] = {}
        for one in series:
            modality = one["MainDicomTags"]["Modality"]
            found[modality] = found.get(modality, 0) + len(one["Instances"])
        return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Tour:
    def __init__(self, folder: Path, archive: Archive, record: IO[str]) -> None:
        self.folder, self.archive, self.record = folder, archive, record

    def say(self, text: str) -> None:
        for stream in (sys.stdout, self.record):
            stream.write(f"{text}\n")
            stream.flush()

    def site(self, name: str, bundle: str, **node: Any) -> None:
        """Write the configuration of a site."""
        values = {"host": "127.0.0.1", "port": self.archive.port, "ae_title": "ARCHIVE", **node}
        lines = ["[site]", f'folder = "{name}"', f"bundle = {json.dumps(str(ROOT / 'bundles' / bundle))}", "[explain]"]
        lines += ['methods = "gradcam"', 'device = "cpu"', "[nodes.archive]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        (self.folder / f"{name}.toml").write_text("\n".join(lines) + "\n")

    def medsal(self, words: str, *, kill_after: int = 0) -> int:
        """Run a command, and kill it when results of so many studies have arrived at the archive."""
        self.say(f"$ medsal pacs {words}")
        process = subprocess.Popen(
            [sys.executable, "-m", "medsal", "pacs", *words.split()],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )  # fmt: skip
        while kill_after and process.poll() is None:
            if self.archive.results().get("SR", 0) >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        said, _ = process.communicate()
        self.say(said.rstrip())
        self.say(
            "(killed with SIGKILL)\n"
            if process.returncode == -signal.SIGKILL
            else f"(exit code {process.returncode})\n"
        )
        return process.returncode

    def pictures(self) -> list[Path]:
        """What Orthanc draws of the results: one picture of each study, the one with the most attribution first."""
        made = []
        for series in self.archive.find("Series", SeriesDescription="medsal*overlay*"):
            objects = [self.archive.get(f"/instances/{one}") for one in series["Instances"]]
            first = min(objects, key=lambda one: int(one["MainDicomTags"].get("InstanceNumber") or 0))
            study = self.archive.get(f"/series/{series['ID']}/study")["PatientMainDicomTags"]["PatientID"]
            made.append(self.folder / f"{study.lower()}.png")
            made[-1].write_bytes(self.archive.ask(f"/instances/{first['ID']}/preview"))
        return sorted(made)

    def page(self) -> Path | None:
        """The page of a study in Orthanc's explorer, as Chromium shows it."""
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        found = self.archive.find("Series", SeriesDescription="medsal*", PatientID="TOUR0001")
        if browser is None or not found:
            return None
        path = self.folder / "explorer.png"
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,760",
                f"--user-data-dir={self.folder / 'browser'}", "--virtual-time-budget=8000", f"--screenshot={path}",
                f"{self.archive.url}/app/explorer.html#study?uuid={found[0]['ParentStudy']}",
            ],
            check=False, capture_output=True, timeout=120,
        )  # fmt: skip
        shutil.rmtree(self.folder / "browser", ignore_errors=True)
        return path if path.exists() else None

    def walk(self) -> None:
        batch = mixed(self.folder / "batch")
        for path in batch:
            self.archive.ask("/instances", path.read_bytes())
        self.say(
            f"An archive with {len(batch)} objects in 8 studies: heads with localizers, films, two that are damaged.\n"
        )
        self.site("heads", "mri_tle_efficientnet")
        self.medsal("echo archive --site heads.toml")
        self.medsal("find archive --site heads.toml")
        self.medsal("run archive --modality MR --dry-run --site heads.toml")
        self.medsal("pull archive --modality MR --site heads.toml")
        self.medsal("explain archive --dry-run --site heads.toml")
        self.say("Sending is off until the node allows it:\n")
        self.medsal("push archive --site heads.toml")
        self.site("heads", "mri_tle_efficientnet", write=True)
        self.say("write = true. The first run is killed when the first results arrive at the archive.\n")
        self.medsal("run archive --modality MR --site heads.toml", kill_after=1)
        self.medsal("status --site heads.toml")
        self.say("Run again: it goes on where it was.\n")
        self.medsal("run archive --modality MR --site heads.toml")
        self.medsal("status --all --site heads.toml")
        self.say("And again: there is nothing left to do, and nothing is sent twice.\n")
        before = self.archive.results()
        self.medsal("run archive --modality MR --site heads.toml")
        self.say(f"Results at the archive: {before}; after the last run: {self.archive.results()}\n")
        self.say("Films are for another bundle, so for another site:\n")
        self.site("films", "cxr_pneumothorax", write=True)
        self.medsal("run archive --modality DX --site films.toml")
        self.medsal("quarantine --site films.toml")
        self.say(f"Results at the archive: {self.archive.results()}")
        self.say(f"Pictures: {', '.join(str(path) for path in [*self.pictures(), self.page()] if path)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("tour_out"), help="folder; what is in it is removed first")
    parser.add_argument(
        "--stay", action="store_true", help="keep Orthanc running at the end, to look around; Ctrl-C ends it"
    )
    asked = parser.parse_args()
    folder = asked.output.resolve()
    if folder.exists() and not (folder / "tour.txt").exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty, and not of a tour: wanted another")
    shutil.rmtree(folder, ignore_errors=True)
    archive = Archive(folder / "orthanc")
    try:
        with (folder / "tour.txt").open("w", encoding="utf-8") as record:
            Tour(folder, archive, record).walk()
        while asked.stay:
            print(f"Orthanc: {archive.url}/app/explorer.html (Ctrl-C ends it)")
            signal.pause()
    except KeyboardInterrupt:
        pass  # asked for
    finally:
        archive.end()


if __name__ == "__main__":
    main()
