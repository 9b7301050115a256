"""The embedded X-ray sets on disk: planted films with their truth, and the tables of the public sets.

The same films can be read as an own table (``films.csv``), in the format of the SIIM pneumothorax set (``siim.csv``)
and in that of the RSNA pneumonia set (``rsna.csv``): all that reads those sets can be tried without them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsal.data.films.rle import EMPTY, encode_rle
from medsal.data.phantoms.sets import finish, is_complete, write_png, write_table
from medsal.data.phantoms.thorax import LUNGS
from medsal.data.phantoms.thorax_film import FilmImages, PlantedFilm, planted_film
from medsal.errors import MedsalError, UsageError
from medsal.files import write_file

__all__ = ["FILM_COLUMNS", "SPLITS", "planted_film_list", "write_planted_films"]

logger = logging.getLogger("medsal")

FILM_COLUMNS = ("file", "case", "patient", "split", "label", "finding", "mask", "lungs", "boxes")
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Parts of the patients."""

_PUBLIC = 1024  # the public sets give masks and boxes on films of this size
_VERSION = 1  # raise it when the same seed gives other pixels


def write_planted_films(
    folder: str | Path, *, finding: str = "pneumothorax", cases: int = 500, seed: int = 0, size: int = 256
) -> Path:
    """Write chest films with planted truth as PNG files and tables, or find them written already.

    Every second film has the finding. Two of five patients have two or three films, which stay in one split.

    * ``films.csv``: file, case, patient, split, label, finding, mask, lungs, boxes; paths are relative to the table,
      boxes half-open in pixels of the film, ``x0 y0 x1 y1`` parted by ``;``
    * ``images/``, ``masks/`` (0 or 255), ``lungs/`` (values in ``lungs.json``)
    * ``siim.csv``: ``ImageId``, `` EncodedPixels`` with its leading blank, relative column-major runs at 1024 x 1024,
      one row per part of the finding, ``-1`` without one
    * ``rsna.csv``: ``patientId`` (which names the film there), x, y, width, height at 1024 x 1024, Target, one row per
      box; ``rsna_classes.csv``: patientId, class
    * ``splits/{train,val,test}.csv``: name, label

    Args:
        folder: where to write; made if absent.
        finding: ``"pneumothorax"`` or ``"pneumonia"``.
        cases: number of films.
        seed: the first patient's seed, the following count up.
        size: pixels along each side of a film, 64 to 1024.

    Returns:
        path of ``films.csv``.

    Raises:
        UsageError: fewer than one film, a size out of range, an unknown finding, or a folder that cannot be written.
    """
    if not 64 <= size <= _PUBLIC:
        raise UsageError(f"planted films: wanted a size of 64 to {_PUBLIC} pixels, got {size}")
    root = Path(folder)
    films = planted_film_list(cases, finding=finding, seed=seed)
    parameters = {"version": _VERSION, "finding": finding, "cases": cases, "seed": seed, "size": size}
    table = root / "films.csv"
    if is_complete(root, parameters):
        return table
    splits = _splits(films, seed)
    rows: list[dict[str, Any]] = []
    parts: list[np.ndarray] = []
    files: list[Path] = []
    try:
        for number, film in enumerate(films, 1):
            images = film.sample(size)
            row, written = _write_film(root, number, film, images, seed)
            rows.append({**row, "split": splits[film.seed]})
            parts.append(images.parts)
            files.extend(written)
            if number % 100 == 0:
                logger.info("planted films: %d of %d", number, len(films))
        files += _write_public(root, rows, parts)
        files.append(write_file(root / "lungs.json", json.dumps({str(k): v for k, v in LUNGS.items()}).encode()))
        files.append(write_table(table, FILM_COLUMNS, rows))
        finish(root, parameters, files)
    except MedsalError as error:
        raise UsageError(f"planted films: {error}") from error
    return table


def planted_film_list(cases: int, *, finding: str = "pneumothorax", seed: int = 0) -> list[PlantedFilm]:
    """The films of a set: some patients have several, and every second film has the finding.

    Args:
        cases: number of films.
        finding: ``"pneumothorax"`` or ``"pneumonia"``.
        seed: the first patient's seed, the following count up.

    Returns:
        films; those of one patient share the seed and differ in the visit.

    Raises:
        UsageError: fewer than one film, or an unknown finding.

    Example:
        >>> [(film.seed, film.visit, film.label) for film in planted_film_list(6)]
        [(0, 1, 0), (1, 1, 1), (2, 1, 0), (3, 1, 1), (3, 2, 0), (4, 1, 1)]
    """
    if cases < 1:
        raise UsageError(f"planted films: wanted at least 1 film, got {cases}")
    visits = (1, 1, 1, 2, 3)
    films: list[PlantedFilm] = []
    patient = 0
    while len(films) < cases:
        for visit in range(1, visits[patient % len(visits)] + 1):
            films.append(planted_film(seed + patient, finding=finding, label=len(films) % 2, visit=visit))
        patient += 1
    return films[:cases]


def _splits(films: Sequence[PlantedFilm], seed: int) -> dict[int, str]:
    """The split of each patient; every split has films where there are patients for it."""
    patients = np.array(sorted({film.seed for film in films}))
    patients = np.random.default_rng([seed, 7]).permutation(patients)
    bounds = np.rint(np.cumsum([0, *SPLITS.values()]) * len(patients)).astype(int)
    return {
        int(patient): name
        for name, first, last in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)
        for patient in patients[first:last]
    }


def _write_film(
    root: Path, number: int, film: PlantedFilm, images: FilmImages, seed: int
) -> tuple[dict[str, Any], list[Path]]:
    name = f"film-{number:05d}"
    files = [
        write_png(root / "images" / f"{name}.png", images.image),
        write_png(root / "masks" / f"{name}.png", images.mask * np.uint8(255)),
        write_png(root / "lungs" / f"{name}.png", images.lungs),
    ]
    file, mask, lungs = (path.relative_to(root).as_posix() for path in files)
    row = {
        "file": file,
        "case": name,
        "patient": f"patient-{film.seed - seed + 1:05d}",
        "label": film.label,
        "finding": film.finding if film.label else "",
        "mask": mask,
        "lungs": lungs,
        "boxes": ";".join(" ".join(map(str, box)) for box in images.boxes),
    }
    return row, files


def _write_public(root: Path, rows: Sequence[dict[str, Any]], parts: Sequence[np.ndarray]) -> list[Path]:
    """The tables of the public sets, all at 1024 x 1024."""
    runs: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    for row, own in zip(rows, parts, strict=True):
        runs.extend({"ImageId": row["case"], " EncodedPixels": text} for text in _runs(own))
        target = {"patientId": row["case"], "Target": row["label"]}
        classes.append({"patientId": row["case"], "class": "Lung Opacity" if row["label"] else "Normal"})
        scale = _PUBLIC / own.shape[0]
        for box in row["boxes"].split(";") if row["boxes"] else []:
            x0, y0, x1, y1 = (scale * int(value) for value in box.split())
            boxes.append({**target, "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0})
        if not row["boxes"]:
            boxes.append(target)
    written = [
        write_table(root / "siim.csv", ("ImageId", " EncodedPixels"), runs),
        write_table(root / "rsna.csv", ("patientId", "x", "y", "width", "height", "Target"), boxes),
        write_table(root / "rsna_classes.csv", ("patientId", "class"), classes),
    ]
    for split in SPLITS:
        listed = [{"name": row["case"], "label": row["label"]} for row in rows if row["split"] == split]
        written.append(write_table(root / "splits" / f"{split}.csv", ("name", "label"), listed))
    return written


def _runs(parts: np.ndarray) -> list[str]:
    """The runs of each part, on the public sets' grid."""
    nearest = ((np.arange(_PUBLIC) + 0.5) * parts.shape[0] / _PUBLIC).astype(int)
    large = parts[np.ix_(nearest, nearest)]
    return [encode_rle(large == part) for part in np.unique(parts) if part] or [EMPTY]
