"""The embedded skin ultrasound set on disk: planted scans, layer maps, evidence, and five folds as folders."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsal.data.phantoms.sets import finish, is_complete, write_png, write_table
from medsal.data.phantoms.skin_scan import LAYERS, SKIN_CLASSES, PlantedSkin, planted_scan
from medsal.errors import MedsalError, UsageError
from medsal.files import write_file

__all__ = ["FOLDS", "SKIN_COLUMNS", "planted_scan_list", "write_planted_skin"]

logger = logging.getLogger("medsal")

FOLDS = 5
SKIN_COLUMNS = ("file", "case", "patient", "fold", "label", "class", "layers", "evidence")
_VERSION = 1  # raise it when the same seed gives other pixels


def write_planted_skin(folder: str | Path, *, cases: int = 400, seed: int = 0) -> Path:
    """Write skin scans with planted truth as PNG files, a table and folds, or find them written already.

    * ``skin.csv``: file, case, patient, fold, label, class, layers, evidence; paths are relative to the table
    * ``images/``, ``layers/`` (codes in ``layers.json``), ``evidence/`` (0 or 255)
    * ``k1`` to ``k5``, each ``{train,val,test}/<class>/``: in fold k the scans whose ``fold`` is k are the test, the
      next fold's are for validation; links to ``images/`` where the disk has them, else copies

    Half of the patients have two scans, of two classes; a patient is in one fold only.

    Args:
        folder: where to write; made if absent.
        cases: number of scans; the classes take turns.
        seed: the first patient's seed, the following count up.

    Returns:
        path of ``skin.csv``.

    Raises:
        UsageError: fewer than one scan, or a folder that cannot be written.
    """
    root = Path(folder)
    scans = planted_scan_list(cases, seed=seed)
    parameters = {"version": _VERSION, "set": "skin", "cases": cases, "seed": seed}
    table = root / "skin.csv"
    if is_complete(root, parameters):
        return table
    folds = _folds(scans, seed)
    rows: list[dict[str, Any]] = []
    files: list[Path] = []
    try:
        for number, scan in enumerate(scans, 1):
            row, written = _write_scan(root, number, scan, seed)
            rows.append({**row, "fold": folds[scan.seed]})
            files.extend(written)
        files += _write_folds(root, rows)
        files.append(write_file(root / "layers.json", json.dumps({str(k): v for k, v in LAYERS.items()}).encode()))
        files.append(write_table(table, SKIN_COLUMNS, rows))
        finish(root, parameters, files)
    except MedsalError as error:
        raise UsageError(f"planted skin: {error}") from error
    return table


def planted_scan_list(cases: int, *, seed: int = 0) -> list[PlantedSkin]:
    """The scans of a set: the classes take turns, and every second patient has two scans.

    Args:
        cases: number of scans.
        seed: the first patient's seed, the following count up.

    Returns:
        scans; those of one patient share the seed and differ in the visit.

    Raises:
        UsageError: fewer than one scan.

    Example:
        >>> [(scan.seed, scan.visit, scan.label) for scan in planted_scan_list(4)]
        [(0, 1, 0), (1, 1, 1), (1, 2, 2), (2, 1, 3)]
    """
    if cases < 1:
        raise UsageError(f"planted skin: wanted at least 1 scan, got {cases}")
    scans = []
    for number in range(cases):
        pair, place = divmod(number, 3)  # of three scans two are of one patient
        patient, visit = seed + 2 * pair + min(place, 1), max(place, 1)
        scans.append(planted_scan(patient, label=number % len(SKIN_CLASSES), visit=visit))
    return scans


def _folds(scans: Sequence[PlantedSkin], seed: int) -> dict[int, int]:
    """The fold of each patient, 1 to 5."""
    patients = np.random.default_rng([seed, 7]).permutation(sorted({scan.seed for scan in scans}))
    return {int(patient): number % FOLDS + 1 for number, patient in enumerate(patients)}


def _write_scan(root: Path, number: int, scan: PlantedSkin, seed: int) -> tuple[dict[str, Any], list[Path]]:
    name = f"scan-{number:05d}"
    images = scan.sample()
    files = [
        write_png(root / "images" / f"{name}.png", images.image),
        write_png(root / "layers" / f"{name}.png", images.layers),
        write_png(root / "evidence" / f"{name}.png", images.evidence * np.uint8(255)),
    ]
    file, layers, evidence = (path.relative_to(root).as_posix() for path in files)
    row = {
        "file": file,
        "case": name,
        "patient": f"patient-{scan.seed - seed + 1:05d}",
        "label": scan.label,
        "class": SKIN_CLASSES[scan.label],
        "layers": layers,
        "evidence": evidence,
    }
    return row, files


def _write_folds(root: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """The folders of the folds, every class in every part of them, be it empty."""
    written = []
    for fold in range(1, FOLDS + 1):
        parts = {fold: "test", fold % FOLDS + 1: "val"}
        for part in ("train", "val", "test"):
            for name in SKIN_CLASSES:
                place = root / f"k{fold}" / part / name
                place.mkdir(parents=True, exist_ok=True)
                for stale in place.glob("scan-*.png"):  # of a set with other parameters
                    stale.unlink()
        for row in rows:
            source = root / row["file"]
            target = root / f"k{fold}" / parts.get(row["fold"], "train") / row["class"] / source.name
            written.append(_link(source, target))
    return written


def _link(source: Path, target: Path) -> Path:
    """A second name for a file; a copy where the disk knows no such names."""
    try:
        os.link(source, target)
    except OSError:
        write_file(target, source.read_bytes())
    return target
