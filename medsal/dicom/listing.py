"""What `medsal dicom inspect` and `medsal dicom select` say of a folder; nothing of it is the patient's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from medsal.dicom.film import read_film
from medsal.dicom.phi import pseudonym
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.scan import Series
from medsal.dicom.select import Selection
from medsal.dicom.series import read_series
from medsal.dicom.units import Found, begin, counts, is_film, unit_name

if TYPE_CHECKING:
    from monai.data import MetaTensor

USABLE = "usable"
_CODE = re.compile(r"[A-Z0-9]{2,16}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One series, or one film.

    Attributes:
        series: its pseudonym.
        study: pseudonym of its study.
        modality: as the header says.
        files: number of files.
        shape: columns, rows and slices of a volume, rows and columns of a film; empty where it cannot be read.
        spacing: millimetres along each of them; of a film that does not say, none.
        status: ``usable``, or the code of the refusal.
        detail: of the refusal.
        paths: the files, where they are asked for.
    """

    series: str
    study: str
    modality: str
    files: int
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    status: str = USABLE
    detail: str = ""
    paths: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows."""
        return (
            self.series,
            self.study,
            self.modality,
            str(self.files),
            " x ".join(map(str, self.shape)) or "-",
            " x ".join(f"{step:g}" for step in self.spacing) or "-",
            f"{self.status} ({self.detail})" if self.detail else self.status,
        )


def read(series: Series, *, film: bool | None = None, voi: int | str | None = "any", scaled: bool = True) -> MetaTensor:
    """Read a series as a volume or a film.

    Args:
        series: of `medsal.dicom.units.find`.
        film: as which; by its SOP class if None.
        voi: of films, as `read_film` takes it.
        scaled: of films, as `read_film` takes it; with ``any`` they are shown as `medsal.data.LoadFilm` shows them.

    Returns:
        The image.

    Raises:
        Refusal: as `read_film` and `read_series` say.
    """
    if not (is_film(series) if film is None else film):
        return read_series(series.files)
    if len(series.files) > 1:
        same = len({one.uid for one in series.files}) == 1
        raise Refusal(Reason.DUPLICATE_INSTANCES if same else Reason.NOT_ONE_FILM, f"{len(series.files)} files")
    return read_film(series.first, voi=voi, scaled=scaled)


def inspected(series: Series, *, identified: bool = False) -> Row:
    """Read a series and say what it is.

    Args:
        series: of `medsal.dicom.units.find`.
        identified: name its files, whose names may name the patient.

    Returns:
        Its row.
    """
    begin(series)
    said = series.first.text("Modality")
    about: dict[str, Any] = {
        "series": unit_name(series),
        "study": pseudonym(series.study_uid, "study"),
        "modality": said if _CODE.fullmatch(said) else "?",
        "files": len(series.files),
        "paths": tuple(str(one.path) for one in series.files) if identified else (),
    }
    try:
        image = read(series)
    except Refusal as refusal:
        return Row(**about, status=refusal.reason.value, detail=refusal.detail)
    shape = tuple(int(size) for size in image.shape[1:])
    steps = image.affine[:3, : len(shape)].norm(dim=0).tolist()
    return Row(**about, shape=shape, spacing=tuple(round(float(step), 4) for step in steps))


def table(rows: Sequence[Row], refused: Sequence[Refusal]) -> str:
    """Write rows for a reader.

    Args:
        rows: one for each series.
        refused: files that cannot be read.

    Returns:
        A text of lines.
    """
    lines: list[tuple[str, ...]] = [("series", "study", "modality", "files", "shape", "spacing (mm)", "status")]
    lines += [row.cells for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for row in rows:
        text += [f"{row.series}: {path}" for path in row.paths]
    return "\n".join([*text, *refused_lines(refused)]) + "\n"


def refused_lines(refused: Iterable[Refusal]) -> list[str]:
    """Say how many files were refused, and why.

    Args:
        refused: files that cannot be read.

    Returns:
        No line, or one.
    """
    found = counts(refused)
    said = ", ".join(f"{number} {code}" for code, number in found.items())
    return [f"files that cannot be read: {said}"] if found else []


def inspection(rows: Sequence[Row], found: Found) -> dict[str, Any]:
    """Say the same for a program.

    Args:
        rows: one for each series.
        found: what was looked at.

    Returns:
        Plain types.
    """
    return {"series": [asdict(row) for row in rows], "refused_files": counts(found.refused)}


def selection_lines(chosen: Selection) -> list[str]:
    """What was taken and what was not, for a reader.

    Args:
        chosen: from `medsal.dicom.select_series`.

    Returns:
        One line each.
    """
    lines = [f"{name}: {unit_name(series)} taken ({series.slices} slices)" for name, series in chosen.chosen]
    return lines + [f"{entry['rule']}: {entry['series']} not taken: {entry['why']}" for entry in not_taken(chosen)]


def not_taken(chosen: Selection) -> list[dict[str, str]]:
    """What was not taken, for a program.

    Args:
        chosen: from `medsal.dicom.select_series`.

    Returns:
        ``rule``, ``series`` (or the study that has none), ``reason``, ``detail`` and ``why`` of each.
    """
    return [
        {
            "rule": one.rule,
            "series": unit_name(one.series) if one.series is not None else one.subject,
            "reason": one.refusal.reason.value,
            "detail": one.refusal.detail,
            "why": str(one.refusal),
        }
        for one in chosen.rejected
    ]


def selection(chosen: Selection, found: Found) -> dict[str, Any]:
    """Say what was selected, for a program.

    Args:
        chosen: from `medsal.dicom.select_series`.
        found: what was looked at.

    Returns:
        Plain types.
    """
    taken = [{"rule": name, "series": unit_name(one), "slices": one.slices} for name, one in chosen.chosen]
    return {"taken": taken, "not_taken": not_taken(chosen), "refused_files": counts(found.refused)}
