"""Tables of cases as users have them: any usual delimiter, blanks around cells, a byte order mark; rows by number."""

from __future__ import annotations

import csv
from pathlib import Path

from medsal.errors import UsageError

__all__ = ["Row", "read_table", "table_rows"]

Row = tuple[int, dict[str, str]]
"""The number of a line of the file, counted from 1 with the header, and its cells by column."""

_LONGEST_CELL = 2**27  # an RLE mask of a film may be longer than the 128 KiB that the csv module allows


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Read a table.

    Args:
        path: of a file in UTF-8 with a header line.

    Returns:
        The header and the rows that are not blank; blanks at the ends of all cells, those of the header too, are
        stripped.

    Raises:
        UsageError: it cannot be read, is empty, or a row has another number of cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}': cannot be read as a table ({error}); wanted a CSV in UTF-8") from error
    first = text.split("\n", maxsplit=1)[0]
    delimiter = max(",;\t|", key=first.count)  # a column name holds none of these
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        return _cells(path, text, delimiter)
    finally:
        csv.field_size_limit(before)


def _cells(path: Path, text: str, delimiter: str) -> tuple[list[str], list[Row]]:
    lines = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    header = [cell.strip() for cell in next(lines, [])]
    if not any(header):
        raise UsageError(f"'{path}': the table is empty; wanted a header line and one row per image")
    rows = []
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UsageError(
                f"'{path}' row {lines.line_num}: {len(cells)} cells; wanted {len(header)} as in the header"
            )
        rows.append((lines.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return header, rows


def table_rows(path: str | Path, wanted: tuple[str, ...]) -> list[Row]:
    """Read a table that must have certain columns, the first of which is filled in every row.

    Args:
        path: of the table.
        wanted: names of columns; the first names the image.

    Returns:
        The rows.

    Raises:
        UsageError: there is no such file, a column is missing or there twice, or a row names no image.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"'{file}': no such file; wanted a table with the columns {', '.join(wanted)}")
    header, rows = read_table(file)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UsageError(f"'{file}': no column '{missing[0]}'; it has {', '.join(header)}; wanted {', '.join(wanted)}")
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise UsageError(f"'{file}': two columns are called '{twice[0]}'; rename the one that is not meant")
    for number, row in rows:
        if not row[wanted[0]]:
            raise UsageError(f"'{file}' row {number}: nothing in column '{wanted[0]}'; wanted the name of an image")
    return rows
