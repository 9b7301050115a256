"""Scores of a map at other places of the truth: a map sorted once, and places drawn once, serve every metric.

A metric that ranks voxels needs to know of each true voxel only how many voxels are at least as high. Moving the truth
does not change that, so that a place costs one look-up for each true voxel and no pass over the map. Equal to
``chance.sampled_null`` of the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsal.evaluation.chance import Null, no_answer, summarise_all, summarise_sample
from medsal.evaluation.overlap import cutter
from medsal.evaluation.shifts import allowed_shifts, draw_shifts, spectrum_of, sums_at_shifts

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Places:
    """The truth of one image, and the other places that it is held against.

    Attributes:
        truth: boolean, without voxels to ignore.
        shifts: how many other places are drawn, without replacement; all where there are fewer.
        seed: of the draw.
        body: only shifts that wrap nothing around the border and leave as much of the truth inside it as there is.
    """

    truth: NDArray[np.bool_]
    shifts: int = 199
    seed: int = 0
    body: NDArray[np.bool_] | None = None

    @cached_property
    def allowed(self) -> NDArray[np.bool_] | None:
        """For each shift whether it stays inside the body; None where every shift counts."""
        return None if self.body is None else allowed_shifts(self.truth, self.body)

    @cached_property
    def drawn(self) -> tuple[list[tuple[int, ...]], bool]:
        """The shifts drawn, and whether these are all there are."""
        return draw_shifts(self.truth, self.shifts, self.seed, allowed=self.allowed)

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """Where the truth's voxels lie in the flattened image.

        Yields:
            One array for each place: first the truth's own, then those drawn.
        """
        where, shape = np.nonzero(self.truth), self.truth.shape
        for place in [(0,) * len(shape), *self.drawn[0]]:
            moved = [(at + step) % size for at, step, size in zip(where, place, shape, strict=True)]
            yield np.ravel_multi_index(moved, shape)

    def mass_null(self, weights: NDArray[Any]) -> Null:
        """Exact null of the share of weights inside the truth, ``chance.mass_null`` where the body is known already.

        Args:
            weights: of the truth's shape, nowhere below 0, 0 where voxels are to be ignored.

        Returns:
            The null; without an answer where all weights are 0.
        """
        total = float(weights.sum(dtype=np.float64))
        if not total > 0:
            return no_answer("no relevance on the side that is read")
        score = float(weights[self.truth].sum(dtype=np.float64) / total)
        scores = sums_at_shifts(spectrum_of(weights), self.truth)
        scores /= total
        if self.allowed is None:
            return summarise_all(score, scores.ravel(), float(self.truth.mean()))
        inside = scores[self.allowed]
        return summarise_all(score, inside, float(inside.mean()))


@dataclass(frozen=True)
class Found:
    """What a place finds: the distinct values of its voxels, from high to low.

    Attributes:
        gained: how many of its voxels have each value.
        at_least: how many voxels of the map are at least as high.
        above: how many are higher.
        size: voxels of the place.
        total: voxels of the map that count.
    """

    gained: NDArray[np.int64]
    at_least: NDArray[np.int64]
    above: NDArray[np.int64]
    size: int
    total: int


Score = Callable[[Found], float]


def nulls_at_places(
    values: NDArray[Any], places: Places, asked: Mapping[Any, tuple[str, Mapping[str, Any]]],
    ignore: NDArray[np.bool_] | None = None,
) -> dict[Any, Null]:  # fmt: skip
    """Sampled nulls of metrics that rank voxels, all from one sort of the map.

    Args:
        values: the map, finite where it counts, of the shape of the truth.
        places: the truth and its other places; its ``body`` must leave out what is to be ignored.
        asked: any key -> name of a metric of ``RANKED`` and its options.
        ignore: voxels that do not count.

    Returns:
        Key -> null.
    """
    flat = values.ravel()
    ordered = np.sort(flat if ignore is None else flat[~ignore.ravel()])
    if ignore is not None:
        flat = np.where(ignore.ravel(), ordered[0], flat)
    scores = {key: RANKED[name](ordered, int(places.truth.sum()), **options) for key, (name, options) in asked.items()}
    found: dict[Any, list[float]] = {key: [] for key in asked}
    for at in places.indices():
        place = _find(ordered, flat[at])
        for key, score in scores.items():
            found[key].append(score(place))
    every = places.drawn[1]
    return {key: summarise_sample(one[0], np.array(one[1:]), exact=every) for key, one in found.items()}


def sums_null(weights: NDArray[np.float64], worth: NDArray[np.float64]) -> Null:
    """Exact null of a weighted sum, over all shifts of what each voxel is worth.

    Args:
        weights: of one image.
        worth: of the same shape.

    Returns:
        The null of the sum of their products.
    """
    scores = sums_at_shifts(spectrum_of(weights), worth)
    return summarise_all(float((weights * worth).sum()), scores.ravel(), float(weights.sum() * worth.mean()))


def _find(ordered: NDArray[Any], values: NDArray[Any]) -> Found:
    own, gained = np.unique(values, return_counts=True)
    total = len(ordered)
    at_least, above = (total - np.searchsorted(ordered, own, side) for side in ("left", "right"))
    return Found(gained[::-1], at_least[::-1], above[::-1], len(values), total)


def _average_precision(_: NDArray[Any], __: int) -> Score:
    return lambda at: float((at.gained * at.gained.cumsum() / at.at_least).sum() / at.size)


def _roc_auc(_: NDArray[Any], __: int) -> Score:
    def score(at: Found) -> float:
        true_above = at.gained.cumsum() - at.gained
        higher = at.above - true_above
        tied = at.at_least - at.above - at.gained
        false = at.total - at.size
        return float((at.gained * (false - higher - tied / 2)).sum() / (at.size * false))

    return score


def _relevance_rank(ordered: NDArray[Any], size: int) -> Score:
    last = ordered[-size]
    taken, above = (len(ordered) - int(np.searchsorted(ordered, last, side)) for side in ("left", "right"))

    def score(at: Found) -> float:
        ahead, tied = at.gained[at.at_least <= above].sum(), at.gained[at.at_least == taken].sum()
        return float((ahead + (size - above) * tied / (taken - above)) / size)

    return score


def _iou(ordered: NDArray[Any], size: int, threshold: float | str = "area") -> Score:
    if threshold == "area":
        cut = ordered[-size]
    else:
        values = torch.from_numpy(ordered)
        cut = ordered.dtype.type(cutter(threshold)(values, torch.zeros_like(values, dtype=torch.bool)))
    taken = len(ordered) - int(np.searchsorted(ordered, cut))

    def score(at: Found) -> float:
        hit = at.gained[at.at_least <= taken].sum()
        return float(hit / (taken + size - hit))

    return score


def _dice(ordered: NDArray[Any], size: int, threshold: float | str = "area") -> Score:
    overlap = _iou(ordered, size, threshold)
    return lambda at: 2 * overlap(at) / (1 + overlap(at))


def _best_iou(_: NDArray[Any], size: int) -> Score:
    def score(at: Found) -> float:
        hits = at.gained.cumsum()
        return float((hits / (size + at.at_least - hits)).max())

    return score


RANKED: Mapping[str, Callable[..., Score]] = {
    "average_precision": _average_precision,
    "roc_auc": _roc_auc,
    "relevance_rank": _relevance_rank,
    "iou": _iou,
    "dice": _dice,
    "best_iou": _best_iou,
}
"""Metric -> from the sorted map, the number of true voxels and options to the score of what a place finds."""
