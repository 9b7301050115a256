"""Maps held against each other: every two methods, and each method against all that knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.evaluation.intervals import bootstrap_difference, detectable
from medsal.evaluation.outcomes import NAN
from medsal.evaluation.paired_tests import Comparison, compare, paired_t
from medsal.evaluation.verdict import judge

if TYPE_CHECKING:
    from medsal.scoring.aligned import Aligned, Scored
    from medsal.scoring.settings import Settings

COMPARISONS_COLUMNS = (
    "metric", "part", "better", "first", "second", "patients", "left_out", "difference", "low", "high", "p",
    "statistic", "reason", "p_corrected", "correction", "family", "bootstrap_low", "bootstrap_high",
    "bootstrap_reason", "wilcoxon_median", "wilcoxon_p", "wilcoxon_statistic", "wilcoxon_reason", "sign_flip_p",
    "sign_flip_statistic", "sign_flip_reason", "normality_p", "dz", "detectable_dz", "cliffs_delta",
)  # fmt: skip
VERDICTS_COLUMNS = (
    "kind", "method", "metric", "part", "verdict", "against", "patients", "left_out", "difference", "low", "high", "p",
    "p_corrected", "test", "reason",
)  # fmt: skip
NO_SCORE = "no score of it in any image"


def comparisons(table: Aligned, settings: Settings) -> list[dict[str, Any]]:
    """Compare every two methods on the images that both have scored.

    Args:
        table: one metric.
        settings: level, resamples and seed of intervals, correction, alpha.

    Returns:
        One row for each pair, see ``Summary``.
    """
    methods = {one.method: one.value for one in table.of("method")}
    pairs = compare(methods, table.patients, correction=settings.correction, seed=settings.seed)
    family = sum(not np.isnan(pair.primary.p) for pair in pairs)
    common = {"metric": table.metric, "part": table.part, "better": table.better, "correction": settings.correction}
    return [{**common, "family": family, **_pair(pair, table, settings, len(pairs))} for pair in pairs]


def _pair(pair: Comparison, table: Aligned, settings: Settings, pairs: int) -> dict[str, Any]:
    values = {one.method: one.value for one in table.of("method")}
    both = values[pair.first], values[pair.second], table.patients
    primary = paired_t(*both, level=settings.level)
    interval = bootstrap_difference(*both, level=settings.level, resamples=settings.resamples, seed=settings.seed)
    return {
        "first": pair.first, "second": pair.second, "patients": primary.n, "left_out": primary.left_out,
        "difference": primary.estimate, "low": primary.low, "high": primary.high, "p": primary.p,
        "statistic": primary.statistic, "reason": primary.reason, "p_corrected": pair.p_corrected,
        "bootstrap_low": interval.low, "bootstrap_high": interval.high, "bootstrap_reason": interval.reason,
        "wilcoxon_median": pair.wilcoxon.estimate, "wilcoxon_p": pair.wilcoxon.p,
        "wilcoxon_statistic": pair.wilcoxon.statistic, "wilcoxon_reason": pair.wilcoxon.reason,
        "sign_flip_p": pair.sign_flip.p, "sign_flip_statistic": pair.sign_flip.statistic,
        "sign_flip_reason": pair.sign_flip.reason, "normality_p": pair.normality, "dz": pair.dz,
        "detectable_dz": detectable(primary.n, alpha=settings.alpha / pairs), "cliffs_delta": pair.cliffs_delta,
    }  # fmt: skip


def verdicts(table: Aligned, settings: Settings) -> list[dict[str, Any]]:
    """Judge every method and every adversary against its chance level and the baselines.

    A baseline without a score in any image is no part of it, and named with that reason.

    Args:
        table: the primary metric.
        settings: alpha of each verdict.

    Returns:
        One row for each map and what it was held against, see ``Summary``.
    """
    return [row for kind in ("method", "adversary") for one in table.of(kind) for row in _verdict(one, table, settings)]


def _verdict(one: Scored, table: Aligned, settings: Settings) -> list[dict[str, Any]]:
    baselines = {other.method: table.sign * other.value for other in table.baselines_of(one.method)}
    known = {name: values for name, values in baselines.items() if not np.isnan(values).all()}
    own, patients = table.sign * one.value, table.patients
    others = {"chance": table.sign * one.null, **known}
    found = judge(own, others["chance"], known, patients, alpha=settings.alpha)
    tests = {against: paired_t(own, other, patients, level=settings.level) for against, other in others.items()}
    common = {
        "kind": one.kind, "method": one.method, "metric": table.metric, "part": table.part, "verdict": found.verdict,
    }  # fmt: skip
    rows = [
        {
            **common, "against": against, "patients": held.n, "left_out": held.left_out, "difference": held.estimate,
            "low": tests[against].low, "high": tests[against].high, "p": held.p,
            "p_corrected": found.p_corrected[against],
            "test": held.test, "reason": held.reason,
        }
        for against, held in found.differences.items()
    ]  # fmt: skip
    nothing = dict.fromkeys(("difference", "low", "high", "p", "p_corrected"), NAN)
    for name in baselines:
        if name not in known:
            gone = {"patients": 0, "left_out": len(one.value), "test": "", "reason": NO_SCORE}
            rows.append({**common, "against": name, **nothing, **gone})
    return rows
