"""A metric as a user asks for it: by name, with the side of relevance that it reads and its options."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medsal.attribution.images import runs, spacings_of
from medsal.errors import InputError, UsageError
from medsal.evaluation import METRICS, Metric
from medsal.evaluation.regions import region_codes
from medsal.evaluation.truth import SIDES, bare, side_of

AS_IS = "as is"
"""The side of a map that is read as its method gave it, signs and all."""


class Answer(NamedTuple):
    """What a metric says of a batch of maps.

    Attributes:
        values: ``(B, parts)`` in float64, NaN where there is no answer.
        chance: of the same shape: what a map that knows nothing scores, NaN where the truth alone does not tell.
        reasons: for each image and part why there is no answer; empty where there is one.
        parts: names of the columns: codes of regions; one empty name where the metric gives one number.
    """

    values: Tensor
    chance: Tensor
    reasons: list[tuple[str, ...]]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Scorer:
    """A metric by name, with the side of relevance that it reads and its options.

    Args:
        metric: a name of ``medsal.METRICS``, of a metric that needs no network.
        side: of signed relevance: ``absolute``, ``positive``, ``negative``, or ``as is``. Of two maps both are read so.
        options: of the metric. Without ``spacing`` a distance in mm is measured by the affine of the map.

    Raises:
        UsageError: if there is no such metric, side or option, or the metric needs the network.
    """

    metric: str
    side: str = "absolute"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            near = difflib.get_close_matches(self.metric, METRICS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"metric: unknown metric {self.metric!r}.{hint} There are {', '.join(METRICS)}")
        if self.row.cost:
            raise UsageError(f"metric: {self.metric} runs the network; wanted a metric of stored maps")
        if self.side not in {AS_IS, *SIDES}:
            raise UsageError(f"side: wanted {', '.join(SIDES)} or {AS_IS}, got {self.side!r}")
        known = self._optional - {"ignore", "side"}
        for name in self.options:
            if name not in known:
                raise UsageError(f"{self.metric} has no option {name!r}; it has {', '.join(sorted(known)) or 'none'}")

    @property
    def row(self) -> Metric:
        """The row of the table."""
        return METRICS[self.metric]

    @property
    def truth(self) -> str | None:
        """What the metric holds maps against, ``mask``, ``layers``, ``labels`` or ``other``; None for nothing."""
        return self.row.takes[1] if len(self.row.takes) > 1 else None

    @property
    def ignores(self) -> bool:
        """Whether voxels can be left out."""
        return "ignore" in self._optional

    @property
    def _optional(self) -> set[str]:
        parameters = inspect.signature(self.row.function).parameters.values()
        return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}

    def __call__(self, relevance: Tensor, truth: Tensor | None = None, ignore: Tensor | None = None) -> Answer:
        """Score maps.

        Args:
            relevance: ``(B, 1, *space)``.
            truth: of the same shape, where the metric takes one.
            ignore: voxels that do not count, where the metric leaves any out.

        Returns:
            Values, what chance gives, and why there is no answer.

        Raises:
            InputError: if map and truth lie in different places of space.
        """
        if truth is not None and not _same_place(relevance, truth):
            raise InputError(f"{self.metric}: map and truth are of one shape but their affines differ; resample one")
        if ignore is not None and not _same_place(relevance, ignore):
            raise InputError(f"{self.metric}: map and voxels to ignore are of one shape but their affines differ")
        plain = bare(relevance)
        given = {
            name: bare(one).to(plain.device) for name, one in (("truth", truth), ("ignore", ignore)) if one is not None
        }
        read = self._read(plain)
        if self.truth == "other":
            given["truth"] = self._read(given["truth"])
        options = dict(self.options)
        parts: tuple[str, ...] = ("",)
        if self.truth == "labels":
            codes = options.get("regions") or region_codes(given["truth"])
            options["regions"], parts = codes, tuple(str(code) for code in codes)
            if not parts:
                return unanswered(len(plain), "no region in the image", plain.device)
        if "spacing" not in self._optional or "spacing" in options:
            return self._answer(read, options, parts, **given)
        spacings = spacings_of(relevance, plain)
        found = []
        for some in runs(spacings):
            here = {name: one[some] for name, one in given.items()}
            found.append(self._answer(read[some], {**options, "spacing": spacings[some.start]}, parts, **here))
        values, chance = (
            torch.cat(columns) for columns in zip(*((one.values, one.chance) for one in found), strict=True)
        )
        return Answer(values, chance, [reasons for one in found for reasons in one.reasons], parts)

    def _read(self, relevance: Tensor) -> Tensor:
        return relevance if self.side == AS_IS else side_of(relevance, self.side)

    def _answer(
        self,
        read: Tensor,
        options: Mapping[str, Any],
        parts: tuple[str, ...],
        truth: Tensor | None = None,
        ignore: Tensor | None = None,
    ) -> Answer:
        left_out = {} if ignore is None else {"ignore": ignore}
        against = [] if self.truth is None else [truth]
        values = self.row.function(read, *against, **options, **left_out).to(read.device).reshape(len(read), len(parts))
        chance = None if truth is None else self.row.chance_value(truth, **options, **left_out)
        known = (
            torch.full_like(values, torch.nan) if chance is None else chance.to(values).reshape(-1, 1).expand_as(values)
        )
        columns = [self.row.reasons(column, read, truth, ignore) for column in values.unbind(1)]
        return Answer(values, known.where(~values.isnan(), torch.nan), list(zip(*columns, strict=True)), parts)


def unanswered(count: int, reason: str, device: torch.device | str = "cpu") -> Answer:
    """The answer for images that cannot be scored at all.

    Args:
        count: how many.
        reason: in words.
        device: of the values.

    Returns:
        NaN and the reason for each.
    """
    nothing = torch.full((count, 1), torch.nan, dtype=torch.float64, device=device)
    return Answer(nothing, nothing, [(reason,)] * count, ("",))


def _same_place(relevance: Tensor, truth: Tensor) -> bool:
    """Whether two images of one shape lie at the same place, as far as both say where."""
    one, other = getattr(relevance, "affine", None), getattr(truth, "affine", None)
    if one is None or other is None or one.shape != other.shape or relevance.shape != truth.shape:
        return True
    return torch.allclose(one.to(other), other, rtol=1e-4, atol=1e-3)
