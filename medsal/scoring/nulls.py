"""What chance gives a map, metric by metric: exact over all shifts, sampled, or in closed form.

The places of a truth are drawn once for a case, and a map is sorted once however many metrics rank it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsal.evaluation import METRICS
from medsal.evaluation.chance import Null, no_answer
from medsal.evaluation.chance_hits import any_hit_chance
from medsal.evaluation.layers import GRADED, coverage_weights, scored_codes
from medsal.evaluation.localisation import pointing_chance, within
from medsal.evaluation.places import RANKED, Places, nulls_at_places, sums_null
from medsal.evaluation.regions import region_sizes
from medsal.scoring.questions import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = no_answer("no chance level")


class Chance:
    """Chance levels for the maps of one case.

    Args:
        mask: truth ``(1, 1, *space)``; None where there is none.
        ignore: voxels that do not count, of that shape.
        body: where the truth may be shifted to, of that shape.
        shifts: places that a sampled null looks at.
        seed: of their draw.
    """

    def __init__(
        self, mask: Tensor | None, ignore: Tensor | None, body: Tensor | None, *, shifts: int, seed: int
    ) -> None:
        self.mask, self.shifts, self.seed = mask, shifts, seed
        self.ignore = None if ignore is None else ignore.bool()
        self._levels: dict[str, Null] = {}
        self._hits: dict[str, tuple[Places, float]] = {}
        self.room = None if body is None else body.bool()
        if self.ignore is not None:
            self.room = ~self.ignore if self.room is None else self.room & ~self.ignore

    @cached_property
    def truth(self) -> Tensor:
        """Where the mask is true and counts."""
        if self.mask is None:
            raise LookupError("no mask")  # no metric asks: without a mask there is no answer
        return self.mask.bool() if self.ignore is None else self.mask.bool() & ~self.ignore

    @cached_property
    def places(self) -> Places:
        """Where the truth lies, and where else it is looked for."""
        return Places(_one(self.truth), self.shifts, self.seed, None if self.room is None else _one(self.room))

    def of(self, read: Tensor, asked: Mapping[int, Question]) -> dict[int, list[Null]]:
        """What chance gives one map.

        Args:
            read: one side of a map, ``(1, 1, *space)``.
            asked: any key -> a question that this map has an answer to.

        Returns:
            Key -> a null for each part, NaN where none is known.
        """
        ranked = {key: (one.metric, one.options) for key, one in asked.items() if one.metric in RANKED}
        found: dict[int, list[Null]] = {}
        if ranked:
            left_out = None if self.ignore is None else _one(self.ignore)
            nulls = nulls_at_places(_one(read), self.places, ranked, left_out)
            found = {key: [null] for key, null in nulls.items()}
        for key, one in asked.items():
            if key not in found:
                found[key] = self._closed(read, one)
        return found

    def _closed(self, read: Tensor, one: Question) -> list[Null]:
        if one.metric == "relevance_mass":
            return [self.places.mass_null(_one(read if self.ignore is None else read.masked_fill(self.ignore, 0)))]
        if one.metric == "pointing_game":
            return [self._pointing(read, one.options)]
        if METRICS[one.metric].family == "localisation":
            return [self._blank(one)]
        if one.truth is None:
            return [UNKNOWN] * len(one.parts)
        if one.metric == "region_scores":
            return [_level(level) for level in _region_levels(read, one.truth, one.options)]
        return [_hit(read, one) if one.metric == "layer_hit_rate" else self._coverage(read, one)]

    def _blank(self, one: Question) -> Null:
        """What a map that is the same everywhere scores."""
        key = f"{one.metric} {one.options}"
        if key not in self._levels:
            level = METRICS[one.metric].chance_value(self.truth, ignore=self.ignore, **one.options)
            self._levels[key] = UNKNOWN if level is None else _level(float(level[0]))
        return self._levels[key]

    def _targets(self, options: Mapping[str, Any]) -> tuple[Places, float]:
        """Where a peak hits, and how likely one does that is put anywhere."""
        reach, spacing = options.get("tolerance_mm", 0.0), options.get("spacing", 1.0)
        key = f"{reach} {spacing}" if reach else ""
        if key not in self._hits:
            wide = within(self.truth, reach, spacing)
            places = replace(self.places, truth=_one(wide)) if reach else self.places
            outside = None if self.room is None else ~self.room
            self._hits[key] = places, float(pointing_chance(wide, ignore=outside)[0])
        return self._hits[key]

    def _pointing(self, read: Tensor, options: Mapping[str, Any]) -> Null:
        """A peak put anywhere; where peaks are tied, all of them shifted together."""
        ties = options.get("ties", "mean")
        places, chance = self._targets(options)
        if not chance > 0:
            return no_answer("the truth is not in the body")
        seen = read if self.ignore is None else read.masked_fill(self.ignore, -math.inf)
        peaks = seen == seen.max()
        at = np.flatnonzero(_one(peaks))
        hits = places.truth.ravel()[at]
        if len(at) == 1 or ties == "first":
            return _once(chance, hit=bool(hits[0]))
        if ties == "any":
            return _once(
                float(any_hit_chance(seen, torch.from_numpy(places.truth)[None, None])[0]), hit=bool(hits.any())
            )
        return places.mass_null(_one(peaks))

    def _coverage(self, read: Tensor, one: Question) -> Null:
        part = one.options.get("part", "mean")
        weights = scored_codes(_one_of(one.truth), coverage_weights(part, one.options.get("codes")), 0.0).numpy()
        share = _one(read).astype(np.float64)
        share /= share.max()
        inside = weights > 0
        if part == "iou":
            cut = (share >= one.options.get("threshold", 0.5)).astype(np.float32)
            places = Places(inside, self.shifts, self.seed)
            return nulls_at_places(cut, places, {"iou": ("iou", {"threshold": 0.5})})["iou"]
        weights /= np.count_nonzero(inside)
        if part != "background":
            return sums_null(share, weights)
        found = sums_null(share, -weights)  # less is better
        return replace(found, score=-found.score, mean=-found.mean, high=math.nan)


def _hit(read: Tensor, one: Question) -> Null:
    """The peaks of a map at every place of a map of layers."""
    worth = scored_codes(_one_of(one.truth), one.options.get("scores", GRADED), one.options.get("other", -1)).numpy()
    peaks = _one(read == read.max())
    if np.count_nonzero(peaks) > 1:
        return sums_null(peaks / np.count_nonzero(peaks), worth)
    score = float(worth[peaks][0])
    p = float(np.mean(worth >= score))
    return Null(score, float(worth.mean()), float(worth.std()), math.nan, p, worth.size, exact=True)


def _region_levels(read: Tensor, labels: Tensor, options: Mapping[str, Any]) -> list[float]:
    """What a map that is the same everywhere gives each region."""
    reduce, regions = options.get("reduce", "mean"), options["regions"]
    mean = float(read.sum(dtype=torch.float64)) / read.numel()
    if reduce == "mean":
        return [mean] * len(regions)
    shares = region_sizes(labels, regions)[0].tolist()
    if reduce == "share":
        return shares
    return [mean * share * read.numel() if reduce == "sum" else math.nan for share in shares]


def _level(level: float) -> Null:
    """A level that stands for itself: a map that knows nothing scores it."""
    return replace(UNKNOWN, mean=level, reason="")


def _once(chance: float, *, hit: bool) -> Null:
    """The null of one point that hits or does not."""
    sd = math.sqrt(chance * (1 - chance))
    return Null(float(hit), chance, sd, math.nan, chance if hit else 1.0, 0, exact=True)


def _one(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values[0, 0].numpy()
    return found


def _one_of(truth: Tensor | None) -> Tensor:
    return torch.zeros(1) if truth is None else truth[0, 0]
