"""The films of a region study: their maps, where their regions are, which group they belong to, what is doubted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsal.bundle.fingerprint import named_apart
from medsal.data.tables import table_rows
from medsal.errors import UsageError
from medsal.export.layout import safe_name
from medsal.scoring.cases import CaseFiles, Cases
from medsal.scoring.runs import names_of_regions, run_cases
from medsal.studies.regions.groups import Groups, groups_of_items, groups_of_table

_SOURCES = ("lungs_dir", "key", "cells")


@dataclass(frozen=True)
class Regions:
    """Where the regions of a film come from.

    Attributes:
        lungs_dir: folder that the bundle ``cxr_lung_fields`` wrote: six regions, and what is doubted.
        key: of items of the data list: a file of labels.
        cells: of a grid over the network's image, along each axis: rows and columns of a film.
        names: code -> name.
    """

    lungs_dir: Path | None = None
    key: str = ""
    cells: tuple[int, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyCases:
    """What a region study looks at.

    Attributes:
        cases: with maps, and the file of their regions where they are not cells of a grid.
        regions: where regions come from.
        groups: of each case.
        doubts: case -> what is odd about its lung fields.
    """

    cases: Cases
    regions: Regions
    groups: Groups
    doubts: Mapping[str, str] = field(default_factory=dict)


def study_cases(
    datalist: Any,
    maps_dir: str | Path | Sequence[str | Path],
    *,
    regions: Mapping[str, Any],
    groups: Mapping[str, Any],
    grid: str = "network",
    resample: bool = False,
) -> StudyCases:
    """Gather the films of a study.

    Args:
        datalist: items of a data list, or the ``Cases`` of another tool's maps.
        maps_dir: the run's folder; several where the networks of a cross-validation explained what they had not seen.
        regions: one of ``lungs_dir`` (with ``lung_regions/<case>.png`` and ``lung_fields.csv``), ``key`` (of items) and
            ``cells`` (rows and columns); with ``key`` also ``names``. Of another tool's maps the pattern ``regions``
            does what ``key`` does here.
        groups: ``table`` (a CSV with ``case`` and ``group``, and as known ``patient`` and columns of readers) or
            ``key`` (of items); ``readers``: names of columns, or keys, with readers' scores.
        grid: ``network`` or ``patient``, see ``run_cases``.
        resample: on the patient's grid, whether regions on another grid are resampled.

    Returns:
        The films. One without maps, regions or group is left out, with the reason.

    Raises:
        UsageError: if regions or groups are not told, or told twice.
    """
    items = [] if isinstance(datalist, Cases) else named_apart(datalist)
    source = _source(regions, foreign=isinstance(datalist, Cases))
    if isinstance(datalist, Cases):
        cases = replace(datalist, resample=resample or datalist.resample)
        source = replace(source, names=source.names or cases.region_names)
    else:
        folders = [maps_dir] if isinstance(maps_dir, str | Path) else list(maps_dir)
        cases = _of_runs([Path(one) for one in folders], items, grid, resample)
    if groups.get("table"):
        known = groups_of_table(Path(str(groups["table"])), tuple(groups.get("readers") or ()))
    else:
        known = groups_of_items(items, str(groups.get("key") or ""), tuple(groups.get("readers") or ()))
    found, excluded = [], dict(cases.excluded)
    for files in cases.found:
        placed, why = _placed(files, source, items)
        why = why or ("" if files.case in known.group else "has no group")
        if why:
            excluded[files.case] = why
        else:
            found.append(replace(placed, patient=known.patient.get(files.case, files.patient)))
    excluded |= {case: "has a group, but no map" for case in known.group if case not in {*excluded, *_names(found)}}
    facts = {**cases.facts, "patients_known": any(files.patient != files.case for files in found)}
    return StudyCases(
        replace(cases, found=tuple(found), excluded=excluded, facts=facts), source, known, _doubts(source)
    )


def _names(found: Iterable[CaseFiles]) -> list[str]:
    return [files.case for files in found]


def _source(given: Mapping[str, Any], *, foreign: bool) -> Regions:
    """Where regions are, if it is told once."""
    told = [name for name in _SOURCES if given.get(name)]
    unknown = [name for name in given if name not in {*_SOURCES, "names"}]
    if unknown or len(told) > 1 or not (told or foreign):
        raise UsageError(f"regions: wanted one of {', '.join(_SOURCES)}, got {', '.join(unknown or told) or 'none'}")
    cells = tuple(int(count) for count in given.get("cells") or ())
    if any(count < 1 for count in cells):
        raise UsageError(f"cells: wanted 1 or more along each axis, got {cells}")
    lungs, names = given.get("lungs_dir"), names_of_regions(given.get("names"))
    if lungs:
        from medsal.data.films.lungs import LUNG_REGIONS

        names = dict(LUNG_REGIONS)
    return Regions(Path(str(lungs)) if lungs else None, str(given.get("key") or ""), cells, names)


def _of_runs(folders: Sequence[Path], items: Sequence[Mapping[str, Any]], grid: str, resample: bool) -> Cases:
    """The cases of one run, or of several that explained different ones."""
    # an item's image stands for its truth, which is not read here: regions are found by themselves
    runs = [run_cases(folder, items, {"mask": "image"}, grid=grid, resample=resample) for folder in folders]
    if not runs:
        raise UsageError("maps_dir: wanted the folder of a run, or several, got none")
    found: dict[str, CaseFiles] = {}
    excluded: dict[str, str] = {}
    for run in runs:
        for files in run.found:
            if files.case in found:
                raise UsageError(f"maps_dir: case {files.case!r} was explained in two of the folders; name it in one")
            found[files.case] = replace(files, truth={})
        excluded |= run.excluded
    kept = [found[case] for item in items if (case := str(item["case"])) in found]
    why = {case: reason for case, reason in excluded.items() if case not in found}
    models = [run.facts.get("model", {}) for run in runs]
    facts = {"kind": "run", "grid": grid, "models": models}
    return Cases(found=tuple(kept), excluded=why, facts=facts, resample=resample)


def _placed(files: CaseFiles, source: Regions, items: Sequence[Mapping[str, Any]]) -> tuple[CaseFiles, str]:
    """A case with the file of its regions, or why it has none."""
    if source.cells:
        return replace(files, truth={}), ""
    if source.lungs_dir is not None:
        path = source.lungs_dir / "lung_regions" / f"{safe_name(files.case)}.png"
        return replace(files, truth={"regions": path}), "" if path.is_file() else "no lung regions of this film"
    if source.key:
        item = next((item for item in items if str(item["case"]) == files.case), {})
        path = Path(str(item.get(source.key) or ""))
        why = "" if item.get(source.key) else f"no regions: nothing under {source.key!r} in the data list"
        return replace(files, truth={"regions": path}), why
    return files, "" if "regions" in files.truth else "has maps, but no regions"


def _doubts(source: Regions) -> dict[str, str]:
    """What the table beside the lung fields says is odd."""
    if source.lungs_dir is None:
        return {}
    rows = table_rows(source.lungs_dir / "lung_fields.csv", ("case", "doubts"))
    return {row["case"]: row["doubts"] for _, row in rows if row["doubts"]}
