"""What the scores of one map amount to: mean and interval over patients, chance, ceiling, and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.evaluation.chance_hits import hit_count_p
from medsal.evaluation.corrections import corrected
from medsal.evaluation.intervals import bootstrap_mean, hit_rate
from medsal.evaluation.outcomes import NAN, by_patient
from medsal.evaluation.paired_tests import paired_t

if TYPE_CHECKING:
    from medsal.scoring.aligned import Aligned, Floats, Scored
    from medsal.scoring.settings import Settings

HITS = "pointing_game"
METHODS_COLUMNS = (
    "kind", "method", "metric", "part", "side", "better", "patients", "images", "left_out", "mean", "low", "high",
    "percentile_low", "percentile_high", "median", "reason", "null", "null_images", "chance_difference", "chance_p",
    "chance_reason", "ceiling", "ceiling_images", "ceiling_of", "gap_closed", "gap_reason",
    "images_tested", "share_p", "share_p_holm", "prior", "prior_mean", "hit_low", "hit_high", "hit_p", "hit_reason",
)  # fmt: skip


def describe(one: Scored, table: Aligned, settings: Settings) -> dict[str, Any]:
    """One row of the summary of methods.

    Args:
        one: a map's scores.
        table: all maps' scores of the same metric and part.
        settings: level and seed of intervals, alpha of tests.

    Returns:
        A value for each of ``METHODS_COLUMNS``, see ``Summary``.
    """
    patients = table.patients
    unit = by_patient(one.value, patients)
    options = {"level": settings.level, "resamples": settings.resamples, "seed": settings.seed}
    bca, percentile = (
        bootstrap_mean(one.value, patients, method=method, **options)  # type: ignore[arg-type]  # numbers all
        for method in ("BCa", "percentile")
    )
    return {
        "kind": one.kind, "method": one.method, "metric": table.metric, "part": table.part, "side": one.side,
        "better": table.better, "patients": bca.n, "images": int(unit.images.sum()), "left_out": bca.left_out,
        "mean": bca.estimate, "low": bca.low, "high": bca.high,
        "percentile_low": percentile.low, "percentile_high": percentile.high,
        "median": float(np.median(unit.values)) if bca.n else NAN, "reason": bca.reason,
        **_chance(one, table), **_ceiling(one, table), **_significant(one, settings), **_prior(one, table),
        **(_hits(one, table, settings) if table.metric == HITS else _no_hits("")),
    }  # fmt: skip


def patient_mean(values: Floats, patients: tuple[str, ...]) -> float:
    """Mean over patients of their mean scores.

    Args:
        values: one for each case, NaN where there is none.
        patients: whose each case is.

    Returns:
        NaN without any.
    """
    means = by_patient(values, patients).values
    return float(means.mean()) if len(means) else NAN


def _chance(one: Scored, table: Aligned) -> dict[str, Any]:
    """The null, and the paired t-test against it; positive where the map is better."""
    found = paired_t(table.sign * one.value, table.sign * one.null, table.patients)
    scored = not np.isnan(one.value).all()
    return {
        "null": patient_mean(one.null, table.patients), "null_images": int((~np.isnan(one.null)).sum()),
        "chance_difference": found.estimate, "chance_p": found.p,
        "chance_reason": "no chance level" if scored and np.isnan(one.null).all() else found.reason,
    }  # fmt: skip


def _ceiling(one: Scored, table: Aligned) -> dict[str, Any]:
    """Ceiling, and the share of the way to it from chance, both of patients' means over images that have all three."""
    unit = by_patient(np.column_stack([one.value, one.null, one.ceiling]), table.patients)
    gap, reason = NAN, "no image with a score, a chance level and a ceiling"
    if len(unit.values):
        value, null, ceiling = unit.values.mean(0)
        room = table.sign * (ceiling - null)
        gap, reason = ((value - null) / (ceiling - null), "") if room > 0 else (NAN, "the ceiling is no better")
    return {
        "ceiling": patient_mean(one.ceiling, table.patients), "ceiling_images": int((~np.isnan(one.ceiling)).sum()),
        "ceiling_of": one.ceiling_of, "gap_closed": float(gap), "gap_reason": reason,
    }  # fmt: skip


def _significant(one: Scored, settings: Settings) -> dict[str, Any]:
    p = one.p[~np.isnan(one.p)]
    if not len(p):
        return {"images_tested": 0, "share_p": NAN, "share_p_holm": NAN}
    # Holm's smallest p is the smallest of all times their number; where that is too high, none is left to look at
    holm = corrected(p, "holm") if p.min() * len(p) < settings.alpha else np.ones(1)
    shares = [float((of < settings.alpha).mean()) for of in (p, holm)]
    return {"images_tested": len(p), "share_p": shares[0], "share_p_holm": shares[1]}


def _prior(one: Scored, table: Aligned) -> dict[str, Any]:
    """The best of the baselines that the map is held against, by its mean."""
    others = [] if one.kind == "baseline" else table.baselines_of(one.method)
    means = {other.method: patient_mean(other.value, table.patients) for other in others}
    known = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    if not known:
        return {"prior": "", "prior_mean": NAN}
    best = max(known, key=lambda name: table.sign * known[name])
    return {"prior": best, "prior_mean": known[best]}


def _hits(one: Scored, table: Aligned, settings: Settings) -> dict[str, Any]:
    """Interval of the rate of hits, and the chance of so many where each patient has one image."""
    unit = by_patient(one.value, table.patients)
    rate = hit_rate(one.value, table.patients, level=settings.level, seed=settings.seed)
    known = ~np.isnan(one.value) & ~np.isnan(one.null)
    reason = ""
    if not known.any():
        reason = "no image with a hit or miss and its chance"
    elif not np.isin(one.value[known], [0, 1]).all():
        reason = "tied peaks: shares of hits cannot be counted"
    elif unit.images.max() > 1:
        reason = "several images of one patient"
    p = NAN if reason else hit_count_p(one.value[known].tolist(), one.null[known].tolist())
    return {"hit_low": rate.low, "hit_high": rate.high, "hit_p": p, "hit_reason": reason or rate.reason}


def _no_hits(reason: str) -> dict[str, Any]:
    return {"hit_low": NAN, "hit_high": NAN, "hit_p": NAN, "hit_reason": reason}
