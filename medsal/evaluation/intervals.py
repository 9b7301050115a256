"""Intervals over patients, rates of hits, and what a given number of patients can show."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError
from medsal.evaluation.outcomes import NAN, Outcome, answered, by_patient, pairs_by_patient

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scores = Sequence[float] | np.ndarray[Any, Any]
Patients = Sequence[Hashable] | None


def bootstrap_mean(
    scores: Scores,
    patients: Patients = None,
    *,
    method: str = "BCa",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Outcome:
    """Mean over patients of their mean scores, with a bootstrap interval over patients: SciPy's ``bootstrap``.

    Efron & Tibshirani 1993. Over images instead, 95 % intervals hold the truth in a third of studies with 30 alike
    slices of each patient.

    Args:
        scores: one for each image; NaN where there is none.
        patients: whose each image is.
        method: ``"BCa"`` or ``"percentile"``.
        level: share of studies whose interval holds the truth.
        resamples: how many.
        seed: of the draw.

    Returns:
        The mean with its interval, without p.

    Raises:
        UsageError: if the method is unknown.
    """
    if method not in {"BCa", "percentile"}:
        raise UsageError(f"method: wanted 'BCa' or 'percentile', got {method!r}")
    unit = by_patient(scores, patients)
    mean = float(unit.values.mean()) if len(unit.values) else NAN

    def interval() -> dict[str, float]:
        from scipy import stats

        found = stats.bootstrap(
            (unit.values,), np.mean, method=method, confidence_level=level, n_resamples=resamples,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return {"low": float(found.low), "high": float(found.high)}

    return answered(f"bootstrap {method} over patients", unit, 2, mean, interval)


def bootstrap_difference(
    first: Scores,
    second: Scores,
    patients: Patients = None,
    *,
    method: str = "BCa",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Outcome:
    """``bootstrap_mean`` of the differences of two methods on the same images.

    Args:
        first: one score for each image.
        second: of the same images.
        patients: whose each image is.
        method: ``"BCa"`` or ``"percentile"``.
        level: of the interval.
        resamples: how many.
        seed: of the draw.

    Returns:
        The mean of first - second with its interval; images that either lacks are left out and counted.
    """
    pairs_by_patient(first, second, patients)
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_mean(differences, patients, method=method, level=level, resamples=resamples, seed=seed)


def hit_rate(hits: Scores, patients: Patients = None, *, level: float = 0.95, seed: int = 0) -> Outcome:
    """Rate of hits: Wilson's interval where each patient has one image, else a percentile bootstrap over patients.

    Wilson 1927, doi:10.1080/01621459.1927.10502953; statsmodels' ``proportion_confint``.

    Args:
        hits: 0 to 1 for each image; NaN where there is none.
        patients: whose each image is.
        level: of the interval.
        seed: of the bootstrap.

    Returns:
        The rate with its interval, without p.
    """
    from statsmodels.stats.proportion import proportion_confint

    unit = by_patient(hits, patients)
    if not set(unit.values.tolist()) <= {0.0, 1.0}:
        return bootstrap_mean(hits, patients, method="percentile", level=level, seed=seed)
    n = len(unit.values)
    if not n:
        return Outcome("Wilson", 0, NAN, left_out=unit.left_out, reason="wanted 1 patient or more, got 0")
    low, high = proportion_confint(int(unit.values.sum()), n, alpha=1 - level, method="wilson")
    return Outcome("Wilson", n, float(unit.values.mean()), float(low), float(high), left_out=unit.left_out)


def power(n: int, dz: float, *, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t-test of n patients sees a mean difference of dz standard deviations.

    Args:
        n: patients.
        dz: mean of the differences by their standard deviation.
        alpha: level of the test; of a family, divide it by the number of comparisons.

    Returns:
        From ``alpha`` to 1: statsmodels' ``TTestPower``; NaN for fewer than two patients.
    """
    from scipy import stats
    from statsmodels.stats.power import TTestPower

    if n < 2:
        return NAN
    found = float(TTestPower().power(dz, n, alpha))
    if not np.isnan(found):
        return found
    # SciPy gives up on large noncentralities; there the mean's own scatter is nothing beside it
    critical = stats.t.isf(alpha / 2, n - 1)
    return float(stats.chi2.cdf((n - 1) * n * (dz / critical) ** 2, n - 1))


def detectable(n: int, *, chance: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest dz that a paired t-test of n patients sees with a given chance.

    Args:
        n: patients.
        chance: power that is wanted.
        alpha: level of the test.

    Returns:
        dz; NaN for fewer than three patients.

    Raises:
        UsageError: if the power that is wanted is not between alpha and 1.
    """
    from scipy import optimize

    if not alpha < chance < 1:
        raise UsageError(f"detectable: wanted a power between alpha {alpha:g} and 1, got {chance:g}")
    if n < 3:
        return NAN
    high = 1.0
    while power(n, high, alpha=alpha) < chance:
        high *= 2
    return float(optimize.brentq(lambda dz: power(n, dz, alpha=alpha) - chance, 0.0, high))


def patients_needed(dz: float, *, chance: float = 0.8, alpha: float = 0.05) -> int:
    """How many patients a paired t-test needs to see a difference.

    Args:
        dz: mean of the differences by their standard deviation; not 0.
        chance: power that is wanted.
        alpha: level of the test.

    Returns:
        The least number, 2 or more.

    Raises:
        UsageError: if dz is 0.
    """
    if not dz:
        raise UsageError("patients needed: wanted a difference other than 0")
    low, high = 1, 2
    while power(high, abs(dz), alpha=alpha) < chance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, abs(dz), alpha=alpha) >= chance else (middle, high)
    return high


def cohen_dz(first: Scores, second: Scores, patients: Patients = None) -> float:
    """Effect size of a paired comparison: mean difference over patients by its standard deviation.

    Args:
        first: one score for each image.
        second: of the same images.
        patients: whose each image is.

    Returns:
        dz; NaN for fewer than two patients or constant differences.
    """
    unit = pairs_by_patient(first, second, patients)
    return _standardised(unit.values[:, 0] - unit.values[:, 1])


def _standardised(values: NDArray[np.float64]) -> float:
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean() / sd) if sd > 1e-12 * max(1.0, float(np.abs(values).max(initial=0))) else NAN


def cohen_d(first: Scores, second: Scores) -> float:
    """Effect size of two separate groups: difference of their means by the pooled standard deviation. Cohen 1988.

    Args:
        first: values of one group, one for each patient; NaN do not count.
        second: of the other.

    Returns:
        d; NaN for a group of fewer than two, or constant groups.
    """
    one, two = (np.asarray(group, dtype=np.float64) for group in (first, second))
    one, two = one[~np.isnan(one)], two[~np.isnan(two)]
    if min(len(one), len(two)) < 2:
        return NAN
    pooled = ((len(one) - 1) * one.var(ddof=1) + (len(two) - 1) * two.var(ddof=1)) / (len(one) + len(two) - 2)
    return float((one.mean() - two.mean()) / np.sqrt(pooled)) if pooled > 1e-24 else NAN


def cliffs_delta(first: Scores, second: Scores) -> float:
    """Chance that a value of the first group is above one of the second, less the chance that it is below. Cliff 1993.

    Args:
        first: values of one group, one for each patient; NaN do not count.
        second: of the other.

    Returns:
        From -1 to 1; 0 by chance; NaN for an empty group.
    """
    one, two = (np.asarray(group, dtype=np.float64) for group in (first, second))
    one, two = one[~np.isnan(one)], np.sort(two[~np.isnan(two)])
    if not len(one) or not len(two):
        return NAN
    below, not_above = (np.searchsorted(two, one, side).sum() for side in ("left", "right"))
    return float((below + not_above) / (len(one) * len(two)) - 1)
