"""Methods compared on the same patients, and p-values corrected for how many comparisons there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from medsal.errors import UsageError
from medsal.evaluation.corrections import corrected
from medsal.evaluation.intervals import Patients, Scores, bootstrap_difference, cliffs_delta, cohen_dz, detectable
from medsal.evaluation.outcomes import NAN, Outcome, PatientScores, answered, by_patient, pairs_by_patient

if TYPE_CHECKING:
    from numpy.typing import NDArray


def paired_t(first: Scores, second: Scores, patients: Patients = None, *, level: float = 0.95) -> Outcome:
    """Student's t-test of the patients' mean differences: SciPy's ``ttest_rel``.

    Args:
        first: one score for each image; NaN where there is none.
        second: of the same images.
        patients: whose each image is.
        level: of the interval.

    Returns:
        Mean of first - second, its t interval and p.

    Example:
        >>> found = paired_t([0.3, 0.5, 0.4, 0.9], [0.1, 0.2, 0.3, 0.3], ["a", "a", "b", "c"])
        >>> found.n, round(found.estimate, 4), round(found.p, 4)
        (3, 0.3167, 0.166)
    """
    unit = pairs_by_patient(first, second, patients)

    def test() -> dict[str, float]:
        from scipy import stats

        found = stats.ttest_rel(unit.values[:, 0], unit.values[:, 1])
        interval = found.confidence_interval(level)
        return {
            "low": float(interval.low), "high": float(interval.high), "p": float(found.pvalue),
            "statistic": float(found.statistic),
        }  # fmt: skip

    return answered("paired t", unit, 2, _mean_difference(unit), test)


def wilcoxon(first: Scores, second: Scores, patients: Patients = None) -> Outcome:
    """Wilcoxon's signed-rank test of the patients' mean differences: SciPy's ``wilcoxon``.

    Args:
        first: one score for each image; NaN where there is none.
        second: of the same images.
        patients: whose each image is.

    Returns:
        Median of the differences and p, no interval.
    """
    unit = pairs_by_patient(first, second, patients)

    def test() -> dict[str, float]:
        from scipy import stats

        found = stats.wilcoxon(unit.values[:, 0], unit.values[:, 1])
        return {"p": float(found.pvalue), "statistic": float(found.statistic)}

    return answered("Wilcoxon signed-rank", unit, 2, _median_difference(unit), test)


def sign_flip(
    first: Scores, second: Scores, patients: Patients = None, *, resamples: int = 9999, seed: int = 0
) -> Outcome:
    """Permutation test that swaps the two methods within patients: SciPy's ``permutation_test``, exact where it can be.

    Args:
        first: one score for each image; NaN where there is none.
        second: of the same images.
        patients: whose each image is.
        resamples: how many swaps are drawn; all of them where there are fewer.
        seed: of the draw.

    Returns:
        Mean of first - second and p, no interval.
    """
    unit = pairs_by_patient(first, second, patients)

    def test() -> dict[str, float]:
        from scipy import stats

        found = stats.permutation_test(
            (unit.values[:, 0], unit.values[:, 1]), lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=resamples, batch=1000,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        return {"p": float(found.pvalue), "statistic": float(found.statistic)}

    return answered("sign-flip permutation", unit, 2, _mean_difference(unit), test)


def mcnemar(first: Scores, second: Scores, patients: Patients = None) -> Outcome:
    r"""McNemar's test of two methods' hits; of several images for each patient, Durkalski's extension.

    One image for each patient: exact binomial, statsmodels' ``mcnemar``. Else, with :math:`d_k` the mean difference of
    patient k, :math:`(\sum d_k)^2 / \sum d_k^2` against chi-squared with one degree of freedom. Durkalski et al. 2003,
    doi:10.1002/sim.1438.

    Args:
        first: 0 or 1 for each image; NaN where there is none.
        second: of the same images.
        patients: whose each image is.

    Returns:
        Difference of the hit rates and p, no interval.

    Raises:
        UsageError: if a score is neither 0 nor 1.
    """
    both = np.array([first, second], dtype=np.float64)
    if not np.isin(both[~np.isnan(both)], [0, 1]).all():
        raise UsageError("McNemar: wanted hits of 0 or 1; with tied peaks take the tie rule 'first' or 'any'")
    unit = pairs_by_patient(first, second, patients)
    if len(unit.images) and unit.images.max() > 1:
        return answered("McNemar, Durkalski", unit, 2, _mean_difference(unit), lambda: _durkalski(unit))
    return answered("McNemar, exact", unit, 1, _mean_difference(unit), lambda: _mcnemar(unit))


def _mcnemar(unit: PatientScores) -> dict[str, float]:
    from statsmodels.stats.contingency_tables import mcnemar as exact

    table = np.zeros((2, 2))
    np.add.at(table, tuple(unit.values.astype(int).T), 1)
    found = exact(table, exact=True)
    return {"p": float(found.pvalue), "statistic": float(found.statistic)}


def _durkalski(unit: PatientScores) -> dict[str, float]:
    from scipy import stats

    differences = unit.values[:, 0] - unit.values[:, 1]
    statistic = float(differences.sum() ** 2 / (differences**2).sum())
    return {"p": float(stats.chi2.sf(statistic, 1)), "statistic": statistic}


def friedman(table: Mapping[str, Scores], patients: Patients = None) -> Outcome:
    """Friedman's test of three methods or more on the same patients: SciPy's ``friedmanchisquare``.

    Args:
        table: method -> one score for each image, all of the same images.
        patients: whose each image is.

    Returns:
        Kendall's W (0: no order of the methods, 1: all patients agree on one) and p.

    Raises:
        UsageError: if there are fewer than three methods or their numbers of images differ.
    """
    if len(table) < 3 or len({len(scores) for scores in table.values()}) != 1:
        raise UsageError("Friedman: wanted three methods or more with scores of the same images")
    unit = by_patient(np.column_stack([np.asarray(scores, dtype=np.float64) for scores in table.values()]), patients)
    if len(unit.patients) < 2 or not np.ptp(unit.values, axis=1).any():
        reason = "all methods have the same value" if len(unit.patients) > 1 else "wanted 2 patients or more"
        return Outcome("Friedman", len(unit.patients), NAN, left_out=unit.left_out, reason=reason)
    from scipy import stats

    found = stats.friedmanchisquare(*unit.values.T)
    n, k = unit.values.shape
    w = float(found.statistic) / (n * (k - 1))
    return Outcome("Friedman", n, w, p=float(found.pvalue), statistic=float(found.statistic), left_out=unit.left_out)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same patients.

    Attributes:
        first: name of a method.
        second: of the other.
        primary: the paired t-test, with the interval of the mean difference.
        p_corrected: its p among all comparisons.
        interval: bootstrap over patients of the same difference.
        wilcoxon: beside it, never in its place.
        sign_flip: beside it, never in its place.
        normality: p of Shapiro's test of the differences; low says that the other two matter.
        dz: effect size.
        detectable: the smallest dz that so many patients show with a power of 80 % among so many comparisons.
        cliffs_delta: effect size without regard to pairs.
    """

    first: str
    second: str
    primary: Outcome
    p_corrected: float
    interval: Outcome
    wilcoxon: Outcome
    sign_flip: Outcome
    normality: float
    dz: float
    detectable: float
    cliffs_delta: float


def compare(
    table: Mapping[str, Scores], patients: Patients = None, *, correction: str = "holm", seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare every two methods on the same patients.

    Args:
        table: method -> one score for each image, all of the same images; NaN where there is none.
        patients: whose each image is.
        correction: of the primary p-values, see ``corrected``.
        seed: of the bootstrap and the permutations.

    Returns:
        One comparison for each pair, in the order of the table.
    """
    pairs = list(combinations(table, 2))
    primary = [paired_t(table[a], table[b], patients) for a, b in pairs]
    p_corrected = corrected([outcome.p for outcome in primary], correction)
    return tuple(
        _comparison((a, b), table, patients, (outcome, float(p), 0.05 / len(pairs)), seed)
        for (a, b), outcome, p in zip(pairs, primary, p_corrected, strict=True)
    )


def _comparison(
    names: tuple[str, str],
    table: Mapping[str, Scores],
    patients: Patients,
    found: tuple[Outcome, float, float],
    seed: int,
) -> Comparison:
    primary, p, alpha = found
    first, second = (table[name] for name in names)
    unit = pairs_by_patient(first, second, patients)
    return Comparison(
        *names, primary, p,
        bootstrap_difference(first, second, patients, seed=seed),
        wilcoxon(first, second, patients),
        sign_flip(first, second, patients, seed=seed),
        normality(unit.values[:, 0] - unit.values[:, 1]),
        cohen_dz(first, second, patients),
        detectable(primary.n, alpha=alpha),
        cliffs_delta(unit.values[:, 0], unit.values[:, 1]),
    )  # fmt: skip


def normality(values: NDArray[np.float64]) -> float:
    """Shapiro's test that values are normal.

    Args:
        values: one for each patient.

    Returns:
        p; NaN for fewer than three values or constant ones.
    """
    from scipy import stats

    return float(stats.shapiro(values).pvalue) if len(values) >= 3 and np.ptp(values) > 0 else NAN


def _mean_difference(unit: PatientScores) -> float:
    return float((unit.values[:, 0] - unit.values[:, 1]).mean()) if len(unit.values) else NAN


def _median_difference(unit: PatientScores) -> float:
    return float(np.median(unit.values[:, 0] - unit.values[:, 1])) if len(unit.values) else NAN
