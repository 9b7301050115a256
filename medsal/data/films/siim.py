"""The SIIM-ACR pneumothorax table: one row or more per film, masks as run lengths on 1024 x 1024 pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.listing import add_fault, by_film, film_case, find_images, log_cases
from medsal.data.films.rle import EMPTY, join_rle
from medsal.data.tables import Row, table_rows
from medsal.errors import InputError

__all__ = ["SIIM_CLASSES", "SIIM_SHAPE", "siim_cases"]

SIIM_CLASSES = ("no pneumothorax", "pneumothorax")
"""Names of the classes 0 and 1."""

SIIM_SHAPE = (1024, 1024)
"""Rows and columns that the run lengths are counted on."""

_IMAGE, _MASK = "ImageId", "EncodedPixels"


def siim_cases(
    table: str | Path,
    images: str | Path,
    *,
    shape: tuple[int, int] = SIIM_SHAPE,
    unlisted: str = "fault",
) -> list[dict[str, Any]]:
    """The cases of a table ``ImageId, EncodedPixels``, in its order.

    A film with a finding has a row for each part of its mask; ``-1`` is a film without. Blanks around the names of
    columns do not matter (the published table has one). Whose film it is the table does not say: see
    `medsal.data.film_list`.

    Args:
        table: the CSV, ``train-rle.csv``.
        images: folder of the films as DICOM or PNG, in any folders below it, named as in the table.
        shape: rows and columns that the run lengths are counted on.
        unlisted: a film that the table does not name becomes a case with a ``fault``, or ``ignore`` it.

    Returns:
        one dictionary per film: case, subject, session, image (path), label (0 or 1), label_name, ``rle``: the whole
        mask as run lengths (``-1``: empty) for `medsal.data.DrawRled`; ``fault`` where something is wrong: a run
        outside of the film, ``-1`` beside a mask, the same mask twice, no film, two films.

    Raises:
        UsageError: there is no such table or folder, or a column is missing.
        NothingToDoError: there is no case.
    """
    path = Path(table).expanduser()
    films = by_film(table_rows(path, (_IMAGE, _MASK)), _IMAGE)
    taken: Counter[str] = Counter()
    cases = [_case(name, rows, path, shape, taken) for name, rows in films.items()]
    find_images(cases, images, path, films, unlisted)
    log_cases(path, cases)
    return cases


def _case(name: str, rows: Sequence[Row], path: Path, shape: tuple[int, int], taken: Counter[str]) -> dict[str, Any]:
    masks = [row[_MASK] for _, row in rows]
    where = [f"'{path.name}' row {number}" for number, _ in rows]
    label = int(any(mask != EMPTY for mask in masks))
    case = film_case(name, label, SIIM_CLASSES[label], taken, rle=EMPTY)
    if EMPTY in masks and len(masks) > 1:
        other = f"row {rows[1 if masks[0] == EMPTY else 0][0]}"
        add_fault(case, f"{where[masks.index(EMPTY)]}: {EMPTY} (no finding), but {other} has the same film; wanted one")
    elif len(set(masks)) < len(masks):
        again = next(i for i, mask in enumerate(masks) if mask in masks[:i])
        add_fault(case, f"{where[again]}: the same mask as row {rows[masks.index(masks[again])][0]}; wanted each once")
    try:
        case["rle"] = join_rle(masks, shape[0] * shape[1], where)
    except InputError as error:
        add_fault(case, str(error))
    return case
