"""The mean training mask as a baseline: from cases of the training split that share nobody with the scored ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from medsal.data.tables import read_table
from medsal.errors import InputError, UsageError
from medsal.evaluation.baselines import MaskPrior, mean_training_mask
from medsal.geometry import full_affine
from medsal.scoring.arrays import Volume, as_bundle_reads, brought, read_volume, stretched
from medsal.scoring.cases import Cases
from medsal.scoring.reading import CaseReader, check_mask


@dataclass(frozen=True)
class Prior:
    """The mean training mask, and where it lies.

    Attributes:
        prior: the mean and the cases that it was made from.
        place: the same on its grid.
    """

    prior: MaskPrior
    place: Volume

    def at(self, like: Volume) -> MaskPrior:
        """The prior on the grid of a case.

        Args:
            like: lies on the grid.

        Returns:
            The prior, resampled where the grid is another.
        """
        values, how = _laid(self.place, like, resample=True, mode="linear")
        return replace(self.prior, relevance=values[None]) if how else self.prior


def training_prior(given: Any, cases: Cases) -> Prior:
    """Make the mean training mask.

    Args:
        given: items with ``mask`` (a file, or an image on the grid of the first case), ``case``, ``split`` (``train``)
            and, where known, ``subject``; or the path of a table with the columns case, patient, split and mask.
        cases: those that are scored.

    Returns:
        The prior on the grid of the first case.

    Raises:
        UsageError: if an item is of another split, is scored itself, is of a patient that is scored, or lies on a grid
            that cannot be brought to that of the first case.
    """
    items = list(_rows(Path(given).expanduser()) if isinstance(given, str | Path) else _items(given))
    scored = {files.case for files in cases.found}
    patients = {files.patient for files in cases.found}
    for item in items:
        who = {"case": item["case"] in scored, "patient": item["subject"] in patients}
        if any(who.values()):
            what = "case" if who["case"] else f"patient ({item['subject']})"
            raise UsageError(
                f"prior_datalist: the {what} of {item['case']} is scored: it cannot be in the prior as well"
            )
    like = CaseReader(cases.found[0], resample=cases.resample).like
    grid = cases.found[0].grid
    run, film = grid is not None, grid.film if grid is not None else None
    splits = {item["case"]: item["split"] for item in items}
    try:
        prior = mean_training_mask(_masks(items, like, resample=run or cases.resample, run=run, film=film), splits)
    except InputError as error:
        raise UsageError(f"prior_datalist: {error}") from error
    return Prior(prior, Volume(prior.relevance[0], like.affine, "mean training mask", like.picture))


def _items(given: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in given:
        missing = [key for key in ("mask", "case", "split") if key not in item]
        if missing:
            raise UsageError(f"prior_datalist: wanted the key {missing[0]} in every item, got {', '.join(item)}")
        yield {**item, "case": str(item["case"]), "subject": str(item.get("subject") or item["case"])}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    header, lines = read_table(path)
    missing = [name for name in ("case", "split", "mask") if name not in header]
    if missing:
        raise UsageError(f"prior_datalist: '{path}': no column {missing[0]!r}; it has {', '.join(header)}")
    for _, line in lines:
        mask = path.parent / Path(line["mask"]).expanduser()
        yield {**line, "mask": mask, "subject": line.get("patient") or line["case"]}


def _masks(
    items: Sequence[Mapping[str, Any]], like: Volume, *, resample: bool, run: bool, film: Any
) -> Iterator[tuple[str, Tensor]]:
    for item in items:
        volume = _volume(item["mask"], f"mask of {item['case']}", run=run, film=film)
        check_mask(volume)
        yield item["case"], _laid(volume, like, resample=resample, mode="nearest")[0]


def _laid(volume: Volume, like: Volume, *, resample: bool, mode: str) -> tuple[Tensor, str]:
    """As ``brought``, but of different patients: upright and lying films share a field of view, none is transposed."""
    if volume.affine is None and like.affine is None and len(volume.space) == len(like.space):
        if volume.space == like.space:
            return volume.values, ""
        if resample:
            return stretched(volume.values, like.space, mode), f"{mode}, stretched"
        raise InputError(
            f"{volume.source}: wanted the grid of the map {like.space}, got {volume.space}; --resample true stretches"
        )
    return brought(volume, like, resample=resample, mode=mode)


def _volume(mask: Any, source: str, *, run: bool, film: Any) -> Volume:
    """A mask from a file, or as a transform left it."""
    if isinstance(mask, str | Path):
        volume = read_volume(mask, source=f"{source} {mask}")
        return as_bundle_reads(volume, film=film) if run else volume
    affine = full_affine(mask.affine) if hasattr(mask, "affine") else None
    return Volume(mask.as_subclass(Tensor).float(), affine, source)
