"""Groups of patients compared, region by region, and maps set against what readers say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError
from medsal.evaluation.corrections import corrected
from medsal.evaluation.intervals import Patients, Scores, cliffs_delta, cohen_d
from medsal.evaluation.outcomes import NAN, Outcome, PatientScores, by_patient, pairs_by_patient
from medsal.evaluation.paired_tests import normality

if TYPE_CHECKING:
    from numpy.typing import NDArray

Group = Sequence[float] | np.ndarray[Any, Any]


@dataclass(frozen=True)
class RegionTest:
    """Two groups compared in one region.

    Attributes:
        region: its name.
        outcome: the test.
        p_corrected: its p among all regions.
        significant: whether that is below alpha.
        effect: Cohen's d.
        cliffs_delta: the same without regard to the scale.
    """

    region: str
    outcome: Outcome
    p_corrected: float
    significant: bool
    effect: float
    cliffs_delta: float


def suemer_2023(first: Group, second: Group) -> Outcome:
    """The published test tree for one region: every image a sample, the test chosen by other tests.

    Levene and Shapiro at 0.05; equal variances and both normal: Student's t-test, else Mann-Whitney; two-sided,
    unpaired. Suemer et al. 2023, PMLR 219:712. Images of one patient make its p too small: see ``mixed_difference``.

    Args:
        first: scores of one group's images; NaN are left out and counted.
        second: of the other group's.

    Returns:
        Difference of the means and p; ``n`` is the number of images here.
    """
    from scipy import stats

    groups = [np.asarray(group, dtype=np.float64) for group in (first, second)]
    one, two = (group[~np.isnan(group)] for group in groups)
    n, left_out = len(one) + len(two), sum(map(len, groups)) - len(one) - len(two)
    if min(len(one), len(two)) < 3:
        reason = f"wanted 3 images or more in each group, got {len(one)} and {len(two)}"
        return Outcome("test tree", n, NAN, left_out=left_out, reason=reason)
    difference = float(one.mean() - two.mean())
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return Outcome("test tree", n, difference, left_out=left_out, reason="a group has one value only")
    if stats.levene(one, two).pvalue > 0.05 and min(normality(one), normality(two)) > 0.05:
        name, found = "Student's t", stats.ttest_ind(one, two, equal_var=True)
    else:
        name, found = "Mann-Whitney U", stats.mannwhitneyu(one, two, alternative="two-sided")
    return Outcome(name, n, difference, p=float(found.pvalue), statistic=float(found.statistic), left_out=left_out)


def group_difference(scores: Scores, groups: Sequence[Hashable], patients: Patients = None) -> Outcome:
    """Two groups of patients compared by the patients' means: Welch's t-test, SciPy's ``ttest_ind``.

    Args:
        scores: one for each image; NaN where there is none.
        groups: of each image, two different values; a patient belongs to one.
        patients: whose each image is.

    Returns:
        Difference of the means, the group that comes first less the other, its 95 % interval and p.

    Raises:
        UsageError: if there are not two groups, or a patient is in both.
    """
    one, two = _split(scores, groups, patients)
    n, left_out = len(one.values) + len(two.values), one.left_out + two.left_out
    if min(len(one.values), len(two.values)) < 2:
        reason = f"wanted 2 patients or more in each group, got {len(one.values)} and {len(two.values)}"
        return Outcome("Welch's t", n, NAN, left_out=left_out, reason=reason)
    difference = float(one.values.mean() - two.values.mean())
    if max(np.ptp(one.values), np.ptp(two.values)) == 0:
        return Outcome("Welch's t", n, difference, left_out=left_out, reason="all patients have the same value")
    from scipy import stats

    found = stats.ttest_ind(one.values, two.values, equal_var=False)
    interval = found.confidence_interval()
    return Outcome(
        "Welch's t", n, difference, float(interval.low), float(interval.high), float(found.pvalue),
        float(found.statistic), left_out,
    )  # fmt: skip


def _split(
    scores: Scores, groups: Sequence[Hashable], patients: Patients, *, shared: bool = False
) -> tuple[PatientScores, PatientScores]:
    """Each group's patients; ``shared``: one may be in both."""
    names = list(dict.fromkeys(groups))
    if len(names) != 2 or len(groups) != len(scores):
        raise UsageError(f"wanted one of two groups for each of {len(scores)} scores, got {len(groups)} of {names}")
    owners = list(range(len(scores))) if patients is None else list(patients)
    sides = [{o for o, g in zip(owners, groups, strict=True) if g == name} for name in names]
    if sides[0] & sides[1] and not shared:
        raise UsageError(f"patient {min(map(str, sides[0] & sides[1]))} is in both groups; compare with a paired test")
    values = np.asarray(scores, dtype=np.float64)
    found = []
    for name in names:
        rows = [row for row, group in enumerate(groups) if group == name]
        found.append(by_patient(values[rows], [owners[row] for row in rows]))
    return found[0], found[1]


def mixed_difference(scores: Scores, groups: Sequence[Hashable], patients: Sequence[Hashable]) -> Outcome:
    """Difference of two groups or methods with a random intercept for each patient: statsmodels' ``MixedLM``.

    score ~ group + (1 | patient), by restricted likelihood; every image counts, those of one patient as alike as they
    are. Where patients are in both groups (two methods), (group | patient): without it a method that suits some
    patients only looks significant. Wald's statistic against t with patients - 1 degrees of freedom (- 2 where each
    patient is in one group only).

    Args:
        scores: one for each image; NaN where there is none.
        groups: of each image, two different values.
        patients: whose each image is.

    Returns:
        Difference, the group that comes first less the other, its 95 % interval and p.

    Raises:
        UsageError: if there are not two groups, or numbers differ.
    """
    names = list(dict.fromkeys(groups))
    values = np.asarray(scores, dtype=np.float64)
    if len(names) != 2 or not len(groups) == len(patients) == len(values):
        raise UsageError(f"wanted one of two groups and a patient for each of {len(values)} scores, got {names}")
    known = ~np.isnan(values)
    member = np.array([group == names[0] for group in groups], dtype=np.float64)[known]
    index: dict[Hashable, int] = {}
    owners = np.array([index.setdefault(o, len(index)) for o, k in zip(patients, known, strict=True) if k], dtype=int)
    left_out = int((~known).sum())
    crossed = len(set(zip(owners.tolist(), member.tolist(), strict=True))) > len(index)
    name = "mixed model"
    if len(index) < 3 or len(set(member)) < 2 or np.bincount(owners).max() < 2 or not np.ptp(values[known]):
        reason = "wanted three patients or more, both groups, scores that differ, and several images of a patient"
        return Outcome(name, len(index), NAN, left_out=left_out, reason=reason)
    return _fitted(Outcome(name, len(index), NAN, left_out=left_out), values[known], member, owners, crossed)


def _fitted(
    start: Outcome, values: NDArray[np.float64], member: NDArray[np.float64], owners: NDArray[np.int64], crossed: bool
) -> Outcome:
    from scipy import stats
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

    with warnings.catch_warnings():
        # a variance of 0 between patients lies on the border of what the likelihood allows: an answer, not a failure
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        design = np.column_stack([np.ones_like(member), member - 0.5])
        alike = design if crossed else design[:, :1]
        try:
            found = MixedLM(values / values.std(), design, groups=owners, exog_re=alike).fit(reml=True)
        except np.linalg.LinAlgError:
            return replace(start, reason="the mixed model has no solution")
    estimate, error = found.fe_params[1] * values.std(), found.bse_fe[1] * values.std()
    if not found.converged or not error > 0:
        return replace(start, reason="the mixed model did not converge")
    freedom = start.n - (1 if crossed else 2)
    half = float(stats.t.ppf(0.975, freedom) * error)
    p = float(2 * stats.t.sf(abs(estimate / error), freedom))
    return Outcome(
        start.test, start.n, float(estimate), float(estimate - half), float(estimate + half), p,
        float(estimate / error), start.left_out,
    )  # fmt: skip


PRESETS = {"suemer2023": (0.001, "bonferroni"), "patients": (0.05, "holm"), "mixed": (0.05, "holm")}
"""Ways to test regions: alpha and correction."""


def region_tests(
    table: Mapping[str, Scores],
    groups: Sequence[Hashable],
    patients: Patients = None,
    *,
    preset: str = "patients",
    alpha: float | None = None,
) -> tuple[RegionTest, ...]:
    """Compare two groups in every region.

    Args:
        table: region -> one score for each image.
        groups: of each image, two different values.
        patients: whose each image is.
        preset: ``"patients"``: ``group_difference`` with Holm at 0.05; ``"suemer2023"``: the published tree over images
            with Bonferroni at 0.001; ``"mixed"``: ``mixed_difference`` with Holm at 0.05.
        alpha: level after correction, if not the preset's.

    Returns:
        One row for each region.

    Raises:
        UsageError: if the preset is unknown, there are not two groups, or a patient is in both (``mixed`` takes that).
    """
    if preset not in PRESETS:
        raise UsageError(f"preset: wanted one of {', '.join(PRESETS)}, got {preset!r}")
    level, correction = PRESETS[preset]
    level = level if alpha is None else alpha
    owners = list(range(len(groups))) if patients is None or preset == "suemer2023" else patients
    sides = [_split(scores, groups, owners, shared=preset == "mixed") for scores in table.values()]
    tests: dict[str, Callable[[Scores], Outcome]] = {
        "suemer2023": lambda scores: suemer_2023(*_images(scores, groups)),
        "patients": lambda scores: group_difference(scores, groups, owners),
        "mixed": lambda scores: mixed_difference(scores, groups, owners),
    }
    outcomes = [tests[preset](scores) for scores in table.values()]
    p = corrected([outcome.p for outcome in outcomes], correction)
    return tuple(
        RegionTest(
            region, outcome, float(q), bool(q < level), cohen_d(one.values, two.values),
            cliffs_delta(one.values, two.values),
        )
        for region, outcome, q, (one, two) in zip(table, outcomes, p, sides, strict=True)
    )  # fmt: skip


def _images(scores: Scores, groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, first = np.asarray(scores, dtype=np.float64), np.array([group == groups[0] for group in groups])
    return values[first], values[~first]


def reader_correlation(
    scores: Scores, readers: Scores, patients: Patients = None, *, resamples: int = 2000, seed: int = 0
) -> Outcome:
    """Spearman's correlation of a map's score with what readers say, over patients: SciPy's ``spearmanr``.

    Args:
        scores: one for each image; NaN where there is none.
        readers: of the same images.
        patients: whose each image is.
        resamples: of the percentile bootstrap over patients that gives the interval.
        seed: of the draw.

    Returns:
        Correlation, interval and p.
    """
    from scipy import stats

    unit = pairs_by_patient(scores, readers, patients)
    name, n = "Spearman over patients", len(unit.patients)
    if n < 3 or min(np.ptp(unit.values, axis=0)) == 0:
        reason = f"wanted 3 patients or more, got {n}" if n < 3 else "all patients have the same value"
        return Outcome(name, n, NAN, left_out=unit.left_out, reason=reason)
    found = stats.spearmanr(unit.values[:, 0], unit.values[:, 1])
    drawn = unit.values[np.random.default_rng(seed).integers(0, n, (resamples, n))]
    drawn = drawn[np.ptp(drawn, axis=1).min(axis=1) > 0]  # of one value there is no correlation
    ranks = stats.rankdata(drawn, axis=1) - (n + 1) / 2
    again = (ranks[..., 0] * ranks[..., 1]).sum(1) / np.sqrt((ranks**2).sum(1).prod(1))
    low, high = np.quantile(again, [0.025, 0.975])
    return Outcome(
        name, n, float(found.statistic), float(low), float(high), float(found.pvalue), float(found.statistic),
        unit.left_out,
    )  # fmt: skip
