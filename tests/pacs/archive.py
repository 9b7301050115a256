"""Studies, bundles and sites of the tests of the work on jobs; and an archive that lives in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pydicom

from medsal.dicom.uids import derived_uid
from medsal.pacs.client import Sent, Study, Wanted
from medsal.pacs.nodes import Node, Site, Work
from medsal.pacs.spool import object_name
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.worker import explain_study, setup_of
from tests.dicom.builders import save, slices_of
from tests.dicom.bundles_made import volume_bundle

QUICK = Work(seconds=60, memory_gib=4.0, tries=3, backoff=0.05, backoff_max=0.1, free_gib=0.0, quiet_seconds=0.0)
"""Limits for tests."""
RULES = json.dumps({"selections": [{"name": "MR", "conditions": {"Modality": "^MR$"}, "require": {"min_slices": 6}}]})
"""Takes what has slices enough, also where one is missing in between, which is seen when it is read."""


def study_files(folder: Path, name: str, count: int = 8, heights=None, **values: Any) -> list[Path]:
    """A study of one series of small slices under UIDs of its name."""
    made = slices_of(count, rows=16, columns=16, heights=heights, series=f"series of {name}")
    for number, one in enumerate(made, 1):
        one.StudyInstanceUID = study_uid(name)
        one.SOPInstanceUID = derived_uid(name, "object", number)
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return [save(one, folder / name / f"{number:03d}.dcm") for number, one in enumerate(made)]


def study_uid(name: str) -> str:
    return derived_uid("study", name)


def site_of(folder: Path, bundle: Path | None, node: Node, work: Work = QUICK, **values: Any) -> Site:
    """A site of one node."""
    explain = {"methods": ["saliency"], "audit": False}  # the traps are no component of medsal
    return Site(
        folder=folder, nodes={node.name: node}, work=work, bundle=bundle, rules=RULES, explain=explain, **values
    )


class Archive:
    """A node in memory: counts what it is asked, and fails as it is told to."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.node = Node(
            **{"name": "memory", "host": "127.0.0.1", "port": 104, "ae_title": "MEMORY", "write": True, **values}
        )
        self.folder = folder
        self.held: dict[str, dict[str, Path]] = {}
        self.asked: list[str] = []
        self.down: Problem | None = None
        self.counts = self.lists = True
        self.fails: dict[str, list[Problem]] = {}  # method -> problems of its next calls
        self.refuses: dict[str, Problem] = {}  # SOP instance UID -> problem when it is stored
        self.corrected: dict[str, str] = {}  # study instance UID -> patient's ID in its database alone
        self.forgets: set[str] = set()  # SOP instance UIDs that are taken and lost

    def put(self, *files: Path) -> None:
        for path in files:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            place = self.folder / object_name(str(header.SOPInstanceUID))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
            self.held.setdefault(str(header.StudyInstanceUID), {})[str(header.SOPInstanceUID)] = place

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise Trouble(self.down)
        if self.fails.get(what):
            raise Trouble(self.fails[what].pop(0))

    def echo(self) -> None:
        self._ask("echo")

    def find(self, wanted: Wanted) -> list[Study]:
        self._ask("find")
        chosen = [uid for uid in self.held if not wanted.study_uids or uid in wanted.study_uids]
        return [Study(uid, len(self.held[uid]) if self.counts else None) for uid in chosen]

    def instances(self, study: str) -> frozenset[str] | None:
        self._ask("instances")
        return frozenset(self.held.get(study, ())) if self.lists else None

    def patient(self, study: str) -> str | None:
        self._ask("patient")
        if study in self.corrected:
            return self.corrected[study]
        path = next(iter(self.held.get(study, {}).values()), None)
        return None if path is None else str(pydicom.dcmread(path, stop_before_pixels=True).PatientID)

    def fetch(self, study: str, folder: Path) -> int:
        self._ask("fetch")
        for uid, path in self.held.get(study, {}).items():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / object_name(uid))
        if not self.held.get(study):
            raise Trouble(Problem.NOTHING_RECEIVED)
        return len(self.held[study])

    def store(self, files, done=None) -> list[Sent]:
        self._ask("store")
        ends = []
        for path in files:
            uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            problem = self.refuses.get(uid)
            if problem is None and uid not in self.forgets:
                self.put(path)
            self.asked.append("stored")
            ends.append(Sent(uid, problem))
        return ends

    def confirm(self, study: str, uids) -> frozenset[str]:
        self._ask("confirm")
        return frozenset(uids) - set(self.held.get(study, ()))

    def results(self, name: str) -> list[pydicom.Dataset]:
        """What of a study was made by medsal."""
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in self.held[study_uid(name)].values()]
        return [one for one in headers if one.Manufacturer == "medsal"]


def trapped_bundle(root: Path) -> Path:
    """A bundle of volumes that crashes, hangs or eats memory by the number of slices, see `tests.pacs.traps`."""
    bundle = volume_bundle(root)
    path = bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"]["transforms"].insert(2, {"_target_": "tests.pacs.traps.Trapd", "keys": "image"})
    path.write_text(json.dumps(config))
    return bundle


class Remembered:
    """What workers made of the same images before: made once, by a worker, and copied from there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.setups = folder, {}, {}

    def explain(self, source, results, site, setup=""):
        files = sorted(Path(source).glob("*.dcm"))
        whose = {str(pydicom.dcmread(path, stop_before_pixels=True).PatientID) for path in files}
        key = (site.bundle, *(path.name for path in files), *whose)
        if key not in self.made:
            place = self.folder / str(len(self.made))
            try:
                self.made[key] = place, explain_study(source, place, site)
            except Trouble as trouble:
                self.made[key] = place, trouble
        place, outcome = self.made[key]
        if place.exists():
            shutil.copytree(place, results, dirs_exist_ok=True)
        if isinstance(outcome, Trouble):
            raise outcome
        return outcome

    def setup(self, site):
        if site.bundle not in self.setups:
            self.setups[site.bundle] = setup_of(site)
        return self.setups[site.bundle]
