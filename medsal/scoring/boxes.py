"""Tables of boxes: half-open, in pixels of the image, several for an image."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from medsal.data.tables import read_table
from medsal.errors import UsageError
from medsal.scoring.cases import Box

_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_SIZES = ("x", "y", "width", "height")
_CASE = ("case", "patientId", "image")
_NO_NUMBER = {"", "nan", "none", "null"}


def read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read a table of boxes.

    Columns: ``case`` (or ``patientId``, ``image``), and ``x_min``, ``y_min``, ``x_max``, ``y_max``, or ``x``, ``y``,
    ``width``, ``height`` (x along the columns of the picture, y along its rows); or ``start_0``, ``stop_0``, ... along
    the axes of the array, for volumes. A row with empty cells is an image without a box.

    Args:
        path: of the table.

    Returns:
        Case -> its boxes, start and stop along the axes of the array; empty where the image has none.

    Raises:
        UsageError: if columns are missing, a number is none, or a box stops before it starts.
    """
    file = path.expanduser()
    return dict(_read(file, file.stat().st_mtime_ns if file.is_file() else 0))


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, tuple[Box, ...]]:  # noqa: ARG001  another time of change is another table
    if not path.is_file():
        raise UsageError(f"boxes: no file '{path}'")
    header, lines = read_table(path)
    name = next((name for name in _CASE if name in header), None)
    axes = [axis for axis in range(3) if {f"start_{axis}", f"stop_{axis}"} <= set(header)]
    kinds = {"corners": set(_CORNERS) <= set(header), "sizes": set(_SIZES) <= set(header), "axes": len(axes) > 1}
    kind = next((kind for kind, there in kinds.items() if there), None)
    if name is None or kind is None or axes != list(range(len(axes))):
        raise UsageError(
            f"boxes: '{path}': wanted the columns case and {', '.join(_CORNERS)}; {', '.join(_SIZES)}; or start_0, "
            f"stop_0, start_1, stop_1; it has {', '.join(header)}"
        )
    columns = {
        "corners": _CORNERS,
        "sizes": _SIZES,
        "axes": tuple(f"{end}_{axis}" for end in ("start", "stop") for axis in axes),
    }
    found: dict[str, list[Box]] = {}
    for number, line in lines:
        own = found.setdefault(line[name], [])
        box = _box(kind, [line[column] for column in columns[kind]], f"boxes: '{path}' row {number}")
        own += [box] if box else []
    return {case: tuple(boxes) for case, boxes in found.items()}


def _box(kind: str, cells: list[str], where: str) -> Box | None:
    """One box from its cells; None where they are empty."""
    empty = [cell.lower() in _NO_NUMBER for cell in cells]
    if all(empty):
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = []
    if any(empty) or not numbers or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{where}: wanted finite numbers in all cells or in none, got {', '.join(map(repr, cells))}")
    half = len(numbers) // 2
    start, end = numbers[:half], numbers[half:]
    if kind == "sizes":
        end = [low + size for low, size in zip(start, end, strict=True)]
    if any(high <= low for low, high in zip(start, end, strict=True)):
        raise UsageError(f"{where}: wanted a box that ends after it starts (half-open), got {start} to {end}")
    turned = slice(None) if kind == "axes" else slice(None, None, -1)
    return tuple(start[turned]), tuple(end[turned])
