"""Writing a set of cases to disk: tables, pictures, and a record of what belongs to a finished set.

The record is written last, so that a set without it, or with other files than it says, is written again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsal.files import write_file

__all__ = ["finish", "is_complete", "write_png", "write_table"]

_RECORD = "planted.json"


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a CSV atomically.

    Args:
        path: where to write.
        columns: the header.
        rows: one mapping per row.

    Returns:
        the path.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_file(path, text.getvalue().encode())


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write an 8 bit grey PNG atomically; the same pixels give the same bytes.

    Args:
        path: where to write.
        image: (rows, columns), uint8.

    Returns:
        the path.
    """
    from PIL import Image  # here: reading tables needs no pictures

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=4)
    return write_file(path, buffer.getvalue())


def finish(root: Path, parameters: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Record that a set is complete.

    Args:
        root: its folder.
        parameters: what it was made with.
        files: all that belongs to it, below ``root``.
    """
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    write_file(root / _RECORD, json.dumps({"parameters": dict(parameters), "files": sizes}).encode())


def is_complete(root: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether the record says that these files with these sizes belong to these parameters.

    Args:
        root: the set's folder.
        parameters: what it shall have been made with.

    Returns:
        False also where there is no record, or one that cannot be read.
    """
    try:
        record = json.loads((root / _RECORD).read_text(encoding="utf-8"))
        sizes = {name: (root / name).stat().st_size for name in record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(record.get("parameters") == dict(parameters) and sizes == record["files"])
