"""What is asked of every map of a case: metrics with their options and the truth that they are scored against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation import METRICS
from medsal.evaluation.layers import coverage_weights
from medsal.evaluation.regions import region_codes
from medsal.evaluation.truth import bare
from medsal.scoring.case import ScoredCase
from medsal.scoring.settings import EACH, LAYER_SCORES, Settings


@dataclass(frozen=True, eq=False)
class Question:
    """One metric with options and truth, asked of every map.

    Attributes:
        metric: of ``METRICS``.
        parts: what the numbers that it gives are called, empty where there is one that needs no name.
        side: what is read of signed relevance.
        options: of the metric's function.
        truth: second of what the function takes, ``(1, 1, *space)``; None where it takes none or there is none.
        reason: why it cannot be answered for any map.
    """

    metric: str
    parts: tuple[str, ...]
    side: str
    options: Mapping[str, Any] = field(default_factory=dict)
    truth: Tensor | None = None
    reason: str = ""

    def answers(self, read: Tensor, ignore: Tensor | None) -> list[tuple[float, str]]:
        """Score a map.

        Args:
            read: one side of a map, ``(1, 1, *space)``.
            ignore: voxels that do not count, of that shape.

        Returns:
            For each part the score and the reason why it is NaN.
        """
        if self.reason:
            return [(float("nan"), self.reason)] * len(self.parts)
        row = METRICS[self.metric]
        left_out = ignore if row.family == "localisation" else None
        values = self.scores(read, left_out)
        if not values.isnan().any():
            return [(value, "") for value in values[0].tolist()]
        (reason,) = row.reasons(values, read, self.truth, left_out)
        told = values[0].isnan().tolist()
        return [
            (value, (self._why(read, i) if reason == row.no_answer else reason) if gone else "")
            for i, (value, gone) in enumerate(zip(values[0].tolist(), told, strict=True))
        ]

    def _why(self, read: Tensor, part: int) -> str:
        """Which of a metric's reasons it is for a finite map, where the table names two."""
        row = METRICS[self.metric]
        absent, _, nothing = row.no_answer.partition("; ")
        if not nothing or row.family == "localisation":
            return nothing or absent
        if row.family == "layers":
            return absent if (read > 0).any() else nothing
        known = self.truth is not None and bool((self.truth == self.options["regions"][part]).any())
        return nothing if known else absent

    def scores(self, read: Tensor, ignore: Tensor | None) -> Tensor:
        """The numbers alone.

        Args:
            read: one side of a map, ``(1, 1, *space)``.
            ignore: voxels that do not count, of that shape; of no account for layers and regions.

        Returns:
            ``(1, parts)``.
        """
        taken = [read] if self.truth is None else [read, self.truth]
        more = {} if ignore is None else {"ignore": ignore}
        return METRICS[self.metric].function(*taken, **self.options, **more).reshape(1, -1)


def questions_of(case: ScoredCase, settings: Settings) -> list[Question]:
    """What is asked of every map of a case.

    Args:
        case: the case.
        settings: metrics and options.

    Returns:
        The questions in the order of the settings.
    """
    return [one for metric in settings.metrics for one in _questions(case, settings, metric)]


def _questions(case: ScoredCase, settings: Settings, metric: str) -> Iterator[Question]:
    side, takes = settings.side_of(metric), METRICS[metric].takes
    kind = {"mask": "mask", "layers": "layers", "labels": "regions"}.get(takes[-1], "")
    given = getattr(case, kind) if kind else None
    truth = None if given is None else bare(given)[None]
    asked: set[tuple[str, ...]] = set()
    for name, options in settings.variants(metric):
        if kind and truth is None:
            yield Question(metric, (name,), side, reason=f"no {kind}")
            continue
        if truth is not None and kind == "mask" and not truth.is_floating_point():
            truth = truth.bool()
        for parts, chosen in _parts(case, metric, name, options):
            if parts not in asked:  # a list of thresholds is of no account for the coverage that has none
                yield Question(metric, parts, side, chosen, truth)
            asked.add(parts)


def _parts(
    case: ScoredCase, metric: str, name: str, options: Mapping[str, Any]
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Names and options of the questions that one variant of a metric comes to."""
    if metric == "layer_coverage":
        return _coverage(case, dict(options))
    if metric == "region_scores":
        codes = list(case.region_names) or _labels(case)
        names = tuple(f"{case.region_names.get(code, code)} {name}".strip() for code in codes)
        return [(names, {**options, "regions": codes})]
    if metric == "layer_hit_rate" and isinstance(options.get("scores"), str):
        options = {**options, "scores": LAYER_SCORES[options["scores"]]}
    if metric == "pointing_game" and case.spacing is not None:
        options = {"spacing": list(case.spacing), **options}
    return [((name,), dict(options))]


def _labels(case: ScoredCase) -> list[int]:
    codes = region_codes(bare(torch.zeros(1) if case.regions is None else case.regions))
    if not codes:
        raise InputError(f"{case.case}: regions: wanted labels above or below 0, got none")
    return codes


def _coverage(case: ScoredCase, options: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    part, codes = options.get("part", "mean"), options.pop("codes", None)
    if part in {"background", "weighted"}:
        return [((part,), options if codes is None or codes == EACH else {**options, "codes": codes})]
    chosen = _each_layer(case) if codes == EACH else [codes]
    at = f" at {options.get('threshold', 0.5):g}" if part == "iou" else ""
    return [((_layer_name(case, part, one) + at,), {**options, "codes": one}) for one in chosen]


def _each_layer(case: ScoredCase) -> Sequence[int]:
    layers = torch.zeros(1) if case.layers is None else bare(case.layers)
    return list(case.layer_names) or [int(code) for code in torch.unique(layers).tolist()]


def _layer_name(case: ScoredCase, part: str, codes: int | Sequence[int] | None) -> str:
    return "+".join(str(case.layer_names.get(code, code)) for code in coverage_weights(part, codes))
