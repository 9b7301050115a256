"""Utility: does a trained network's map find the truth better than chance, and than knowing where findings lie?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.baselines import MaskPrior
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.localisation import auprc_trapezoid, average_precision
from medsal.studies.trust.cases import Cases

NAN = float("nan")


def utility_rows(
    relevance: Sequence[Tensor], truths: Sequence[Tensor | None], *, shifts: int = 199, seed: int = 0
) -> list[dict[str, Any]]:
    """Score maps against the truth.

    Args:
        relevance: each ``(1, 1, *space)``; magnitudes count.
        truths: each boolean of the same shape; None where a case has none.
        shifts: other places of the truth that the null is the mean of.
        seed: of the draw.

    Returns:
        A row per case: ``average_precision``, ``null``, ``p``, ``auprc_trapezoid`` (as published, which gives a blank
        map more than 0.5), ``prevalence``, ``reason``.
    """
    rows = []
    for values, truth in zip(relevance, truths, strict=True):
        if truth is None:
            rows.append(_no_answer("no truth"))
            continue
        (null,) = average_precision_null(values.abs(), truth, shifts=shifts, seed=seed)
        row = {
            "average_precision": null.score,
            "null": null.mean,
            "p": null.p,
            "auprc_trapezoid": auprc_trapezoid(values.abs(), truth).item(),
            "prevalence": truth.double().mean().item(),
            "reason": null.reason,
        }
        rows.append(row)
    return rows


def prior_scores(
    prior: MaskPrior | None, names: Sequence[str], truths: Sequence[Tensor | None]
) -> list[dict[str, Any]]:
    """Score the mean training mask as if it were a map.

    Args:
        prior: made from training cases; None where there is none.
        names: of the cases, none of which the prior was made from.
        truths: boolean ``(1, 1, *space)`` or None.

    Returns:
        A row per case: ``prior``, its average precision, and ``reason``.

    Raises:
        UsageError: if the prior was made from a case, or lies on another grid.
    """
    rows = []
    for name, truth in zip(names, truths, strict=True):
        if prior is None or truth is None or not truth.any() or truth.all():
            rows.append({"prior": NAN, "reason": "no mean training mask" if prior is None else "no truth"})
            continue
        values = prior(name)
        if values.shape != truth.shape:
            raise UsageError(
                f"prior: wanted the grid {tuple(truth.shape[2:])} of {name}, got {tuple(values.shape[2:])}"
            )
        rows.append({"prior": average_precision(values, truth).item(), "reason": ""})
    return rows


def check_prior(prior: MaskPrior, cases: Cases) -> None:
    """Refuse a prior that a case cannot be scored with, before anything is explained.

    Args:
        prior: made from training cases.
        cases: of the study.

    Raises:
        UsageError: if the prior was made from a case, or lies on another grid.
    """
    for name, shape, scored in zip(cases.names, cases.shapes, cases.scored, strict=True):
        grid = tuple(prior(name).shape[2:]) if scored else shape[1:]
        if grid != shape[1:]:
            raise UsageError(f"prior: wanted the grid {shape[1:]} of {name}, got {grid}")


def _no_answer(reason: str) -> dict[str, Any]:
    names = ("average_precision", "null", "p", "auprc_trapezoid", "prevalence")
    return {**dict.fromkeys(names, NAN), "reason": reason}
