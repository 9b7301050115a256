"""How much relevance each region of each film has, beside what a map of one value would give it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation.regions import grid_regions, region_codes, region_scores, region_sizes
from medsal.evaluation.truth import side_of
from medsal.scoring.cases import CaseFiles
from medsal.scoring.reading import CaseReader
from medsal.studies.regions.cases import StudyCases
from medsal.studies.regions.settings import DENSITY, RegionSettings

COLUMNS = ("case", "method", "reduce", "region", "value", "chance", "reason")
"""Of ``regions.csv``: one row for each film, map, reduction and region. ``chance``: what a map of one
value and of the same sum would give; NaN for ``max``."""


def label_map(study: StudyCases, reader: CaseReader) -> Tensor:
    """The regions of a film on the grid of its maps.

    Args:
        study: says where regions come from.
        reader: of the film.

    Returns:
        Codes ``(1, 1, *space)``.

    Raises:
        InputError: if there is no region in it.
    """
    if study.regions.cells:
        return grid_regions(reader.space, study.regions.cells)
    labels = reader.labels("regions")
    if labels is None or not bool((labels != 0).any()):
        raise InputError(f"regions of {reader.files.case}: wanted labels above 0, got none")
    return labels[None]


def region_names(study: StudyCases, codes: tuple[int, ...]) -> dict[int, str]:
    """Names of the regions of a study.

    Args:
        study: with the names that are known.
        codes: of the regions that were found.

    Returns:
        Code -> name; of a grid ``strip 1`` or ``row 1 column 1``.
    """
    cells, known = study.regions.cells, study.regions.names
    if known and not cells:
        return {code: known.get(code, f"region {code}") for code in sorted({*codes, *known})}
    if len(cells) == 2 and min(cells) > 1:
        return {code: f"row {(code - 1) // cells[1] + 1} column {(code - 1) % cells[1] + 1}" for code in codes}
    word = "strip" if len(cells) == 2 else "cell" if cells else "region"
    return {code: f"{word} {code}" for code in codes}


def score_case(
    study: StudyCases, files: CaseFiles, settings: RegionSettings
) -> tuple[list[dict[str, Any]], Tensor, Mapping[str, str]]:
    """Score all maps of one film.

    Args:
        study: what it belongs to.
        files: of the film.
        settings: reductions and side.

    Returns:
        Rows as ``COLUMNS`` has them, with the code of a region in place of its name; the regions
        ``(1, 1, *space)``; what was resampled, and how.
    """
    reader = CaseReader(files, resample=study.cases.resample)
    labels = label_map(study, reader)
    codes = sorted({*region_codes(labels), *(() if study.regions.cells else study.regions.names)})
    rows: list[dict[str, Any]] = []
    for method in files.maps:
        relevance = reader.map(method)[None]
        read = relevance.double() if settings.side == "as is" else side_of(relevance, settings.side).double()
        for reduce in settings.reduce:
            values = _values(read, labels, reduce, codes)
            flat = _flat(read, labels, reduce, codes)
            for code, value, chance in zip(codes, values.tolist(), flat.tolist(), strict=True):
                row = {"case": files.case, "method": method, "reduce": reduce, "region": code, "value": value}
                why = _why(read, labels, code) if math.isnan(value) else ""
                rows.append({**row, "chance": math.nan if why else chance, "reason": why})
    return rows, labels, reader.resampled


def _values(read: Tensor, labels: Tensor, reduce: str, codes: list[int]) -> Tensor:
    """The score of each region."""
    if reduce != DENSITY:
        return region_scores(read, labels, reduce=reduce, regions=codes)[0]
    whole = read.mean()
    found = region_scores(read, labels, reduce="mean", regions=codes)[0] / whole
    return found if whole != 0 else torch.full_like(found, math.nan)


def _flat(read: Tensor, labels: Tensor, reduce: str, codes: list[int]) -> Tensor:
    """What a map of one value and of the same sum gives each region."""
    sizes = region_sizes(labels, codes)[0]
    alike = {DENSITY: 1.0, "mean": float(read.mean()), "max": math.nan}
    return (
        torch.full_like(sizes, alike[reduce])
        if reduce in alike
        else sizes * {"sum": float(read.sum())}.get(reduce, 1.0)
    )


def _why(read: Tensor, labels: Tensor, code: int) -> str:
    """Why a region has no score."""
    if not bool((labels == code).any()):
        return "the region is not in the image"
    return "relevance sums to nothing" if bool(read.isfinite().all()) else "the map is not finite"
