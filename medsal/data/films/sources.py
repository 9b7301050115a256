"""Where the films of a bundle come from: a table of a public study, a table of one's own, or the planted set."""

from __future__ import annotations

import gzip
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medsal.data.films.chain import FitFilmd
from medsal.data.films.folders import PARTS, part_name
from medsal.data.films.folds import patient_split
from medsal.data.films.listing import add_fault, film_case, log_cases, sound_cases
from medsal.data.films.loading import LoadFilmd, film_id
from medsal.data.films.rsna import rsna_cases
from medsal.data.films.siim import siim_cases
from medsal.data.films.truth import DrawBoxesd, DrawRled, LoadMaskd
from medsal.data.phantoms.film_set import planted_film_list, write_planted_films
from medsal.data.tables import Row, read_table, table_rows
from medsal.errors import InputError, NothingToDoError, UsageError
from medsal.files import write_file

__all__ = ["film_part", "film_source", "film_table_cases", "mask_files", "training_film_masks"]

logger = logging.getLogger("medsal")

_OWN = ("file", "label")
_CLASSES = {"0": 0, "1": 1}
_TRUTH = (LoadMaskd(allow_missing_keys=True), DrawRled(allow_missing_keys=True), DrawBoxesd(allow_missing_keys=True))


def film_source(
    csv_path: str | Path | None,
    images_dir: str | Path | None,
    planted: Mapping[str, Any],
    *,
    details: str | Path | None = None,
    leave_out: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The films of a table, or planted ones where none is given.

    The columns tell what the table is: ``EncodedPixels`` that of the SIIM pneumothorax set (`medsal.data.siim_cases`),
    ``Target`` and ``width`` that of the RSNA pneumonia set (`medsal.data.rsna_cases`), else `film_table_cases`.

    Args:
        csv_path: the table; None for planted films.
        images_dir: folder of the films. A table of one's own needs none where its paths are relative to itself.
        planted: arguments of `medsal.data.write_planted_films`.
        details: the RSNA set's table of detailed classes.
        leave_out: detailed classes of the RSNA set to leave out.

    Returns:
        the cases, as the reader of the table gives them.

    Raises:
        UsageError: a folder without a table, a public set's table without a folder, ``details`` for another table, or
            what the reader refuses.
    """
    if csv_path is None:
        if images_dir is not None:
            raise UsageError("images_dir: wanted the table of these films as well; set --csv_path")
        return film_table_cases(write_planted_films(**planted))
    path = Path(csv_path).expanduser()
    if not path.is_file():
        raise UsageError(f"csv_path: no file '{path}'; wanted a table of films")
    header = read_table(path)[0]
    rsna = {"Target", "width"} <= set(header)
    if (details is not None or leave_out) and not rsna:
        raise UsageError(f"'{path}': no table of boxes (Target, width); details and leave_out are for one")
    if not rsna and "EncodedPixels" not in header:
        return film_table_cases(path, images_dir)
    if images_dir is None:
        raise UsageError(f"'{path}': this table names films without their files; set --images_dir")
    if rsna:
        return rsna_cases(path, images_dir, details=details, leave_out=leave_out, unlisted="ignore")
    return siim_cases(path, images_dir, unlisted="ignore")


def film_table_cases(table: str | Path, images: str | Path | None = None) -> list[dict[str, Any]]:
    """The cases of a table of one's own: a film in each row.

    Args:
        table: a CSV with the columns ``file`` and ``label`` (0 or 1) and, where known, ``patient``, ``split``,
            ``finding`` and ``mask`` (a PNG of the film's field of view).
        images: what ``file`` and ``mask`` are relative to; the folder of the table by default.

    Returns:
        one dictionary per film: case, subject, session, image (path), label, label_name, and split and mask where the
        table has them; ``fault`` where something is wrong: no such film, another label.

    Raises:
        UsageError: there is no such table, a column is missing, a film is listed twice, or a part has another name.
        NothingToDoError: there is no case.
    """
    path = Path(table).expanduser()
    rows = table_rows(path, _OWN)
    root = path.parent if images is None else Path(images).expanduser()
    twice = [name for name, times in Counter(row["file"] for _, row in rows).items() if times > 1]
    if twice:
        raise UsageError(f"'{path}': the film '{twice[0]}' is listed twice; wanted each once")
    taken: Counter[str] = Counter()
    cases = [_case(row, path, root, taken) for row in rows]
    log_cases(path, cases)
    return cases


def _case(row: Row, table: Path, root: Path, taken: Counter[str]) -> dict[str, Any]:
    number, cells = row
    where, label = f"'{table.name}' row {number}", cells["label"]
    known = _CLASSES.get(label, -1)
    name = cells.get("finding") or ("" if known < 0 else "finding" if known else "no finding")
    case = film_case(film_id(cells["file"]), known, name, taken, image=str(root / cells["file"]))
    case["subject"] = cells.get("patient") or case["subject"]
    if cells.get("mask"):
        case["mask"] = str(root / cells["mask"])
    if cells.get("split"):
        case["split"] = part_name(cells["split"])
        if case["split"] not in PARTS:
            raise UsageError(f"{where}: the part is '{cells['split']}'; wanted {', '.join(PARTS)}")
    if known < 0:
        add_fault(case, f"{where}: the label is '{label}'; wanted 0 or 1")
    if not Path(case["image"]).is_file():
        add_fault(case, f"{where}: no film '{case['image']}'; wanted a file for each row")
    return case


def film_part(
    cases: Sequence[dict[str, Any]], part: str | None, *, seed: int = 0, sound: bool = False
) -> list[dict[str, Any]]:
    """The cases of one part; where nothing says who is in which, persons are dealt out.

    0.7, 0.1 and 0.2 of the cases go to training, validation and testing, all films of a person to one, the same for
    the same list and seed: what a network was trained on and what it is tested on are asked for one by one.

    Args:
        cases: of a reader, whole: a part of the list would be dealt out otherwise.
        part: ``train``, ``val`` or ``test``; None or empty: all.
        seed: of the dealing.
        sound: without those with a fault, which are logged; for training.

    Returns:
        the cases.

    Raises:
        UsageError: there is no such part, too few persons to deal out, or their names are hidden.
        NothingToDoError: nothing is in the part.
    """
    if part and part_name(part) not in PARTS:
        raise UsageError(f"part: wanted one of {', '.join(PARTS)}, got {part!r}")
    found = list(cases)
    if part and not any(case.get("split") for case in found):
        if any(case.get("anonymous") for case in found):
            raise UsageError("part: persons without names are dealt out in another order; set --splits as well")
        found = patient_split(found, seed=seed)
        logger.info("no split is given: films are dealt out by person, seed %d", seed)
    if part:
        nowhere = [case["case"] for case in found if not case.get("split") and not case.get("fault")]
        if nowhere:
            logger.warning("%d films are in no part, the first of them %s; they are left out", len(nowhere), nowhere[0])
        found = [case for case in found if case.get("split") == part_name(part)]
    found = sound_cases(found) if sound else found
    if not found:
        raise NothingToDoError(f"part {part or 'all'}: no film is in it")
    return found


def mask_files(cases: Sequence[dict[str, Any]], folder: str | Path | None) -> list[dict[str, Any]]:
    """Write the truth of films as files on the films' own grids, whatever it was given as.

    Args:
        cases: with ``mask`` (a file), ``rle`` or ``boxes``.
        folder: where to write, ``<case>_mask.nii.gz``; None leaves the cases as they are.

    Returns:
        the cases, ``mask`` a NIfTI file that lies on the film; those with a fault, or without truth, as they were.
    """
    if folder is None:
        return list(cases)
    found = []
    for case in cases:
        if case.get("fault") or not {"mask", "rle", "boxes"} & case.keys():
            found.append(dict(case))
            continue
        kept = {key: value for key, value in case.items() if key not in {"rle", "boxes"}}
        try:
            kept["mask"] = str(_mask_file(case, Path(folder)))
        except InputError as error:  # whatever is wrong with one case, the others go on
            add_fault(kept, str(error))
        found.append(kept)
    return found


def _mask_file(case: Mapping[str, Any], folder: Path) -> Path:
    import nibabel

    mask = _truth(case)
    image = nibabel.Nifti1Image(mask.as_tensor().numpy()[0, ..., None], mask.affine.numpy())
    return write_file(folder / f"{case['case']}_mask.nii.gz", gzip.compress(image.to_bytes(), mtime=0))


def _truth(case: Mapping[str, Any], *more: Any) -> Any:
    """The mask of a case on the grid of its film, steps of its own behind it."""
    item: Any = dict(case)
    for step in (LoadFilmd("image", "luminance"), *_TRUTH, *more):  # MONAI's Compose would hide what was wrong
        item = step(item)
    return item["mask"]


def training_film_masks(
    cases: Sequence[dict[str, Any]],
    size: int,
    *,
    part: str | None = None,
    finding: str | None = None,
    fit: str = "stretch",
    most: int = 100,
) -> list[dict[str, Any]] | None:
    """Where findings lie in training films, for the mean training mask, on the network's grid.

    Args:
        cases: all of the list whose ``part`` is scored.
        size: rows and columns that the network takes.
        part: that is scored.
        finding: of planted films; None: the cases' own masks.
        fit: as in `medsal.data.film_transforms`.
        most: as many films as this, the first of them.

    Returns:
        One dictionary per film: mask (1, size, size), case, subject, and split, which is train. None where all cases
        are scored, so that none of them may say where findings usually are.
    """
    if finding is not None:
        films = [film for film in planted_film_list(2 * most, finding=finding) if film.label]
        masks = [torch.from_numpy(film.sample(size).mask)[None].float() for film in films]
        names = [f"planted-{film.seed:07d}-{film.visit}" for film in films]
        subjects = [f"planted-{film.seed:07d}" for film in films]
    elif not part or part_name(part) == "train":
        return None
    else:
        own = [case for case in film_part(cases, "train", sound=True) if case["label"] == 1][:most]
        masks = [_truth(case, FitFilmd("image", ("mask",), size, fit)).as_tensor().float() for case in own]
        names, subjects = ([str(case[key]) for case in own] for key in ("case", "subject"))
    return [
        {"mask": mask, "case": case, "subject": subject, "split": "train"}
        for mask, case, subject in zip(masks, names, subjects, strict=True)
    ]
