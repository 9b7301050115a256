"""Statistics against SciPy and statsmodels on the patients' means, and what they say where there is no answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from medsal.errors import UsageError
from medsal.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    by_patient,
    cliffs_delta,
    cohen_d,
    cohen_dz,
    compare,
    corrected,
    detectable,
    friedman,
    group_difference,
    hit_rate,
    mcnemar,
    mixed_difference,
    normality,
    paired_t,
    patients_needed,
    power,
    reader_correlation,
    region_tests,
    sign_flip,
    suemer_2023,
    wilcoxon,
)

PATIENTS = [f"p{at}" for at in np.random.default_rng(0).integers(0, 15, 90)]


def scores(seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, len(PATIENTS)).cumsum() / 5


def means(values):
    names = list(dict.fromkeys(PATIENTS))
    return np.array([np.mean([v for v, p in zip(values, PATIENTS, strict=True) if p == name]) for name in names])


FIRST, SECOND = scores(1), scores(2, 0.1)
DIFFERENCES = means(FIRST) - means(SECOND)


def test_images_become_patients_and_what_has_no_score_is_counted():
    holes = FIRST.copy()
    holes[[3, 17]] = np.nan
    unit = by_patient(holes, PATIENTS)
    assert unit.left_out == 2
    assert unit.images.sum() == 88
    kept = [p for at, p in enumerate(PATIENTS) if at not in {3, 17}]
    wanted = [np.mean([v for v, p in zip(np.delete(FIRST, [3, 17]), kept, strict=True) if p == q]) for q in
              unit.patients]  # fmt: skip
    np.testing.assert_allclose(unit.values, wanted, atol=1e-15)
    assert by_patient([1.0, np.nan, 2.0]).values.tolist() == [1, 2]
    with pytest.raises(UsageError, match="one patient for each of 2 scores, got 1"):
        by_patient([1.0, 2.0], ["a"])


def test_a_patient_all_of_whose_images_lack_a_score_does_not_count():
    outcome = paired_t([1.0, 2.0, np.nan, 5.0], [0.0, 3.0, 1.0, 1.0], ["a", "b", "c", "d"])
    assert (outcome.n, outcome.left_out) == (3, 1)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_intervals_equal_scipys_over_patients(method):
    wanted = stats.bootstrap(
        (means(FIRST),), np.mean, method=method, n_resamples=500, rng=np.random.default_rng(7)
    ).confidence_interval
    found = bootstrap_mean(FIRST, PATIENTS, method=method, resamples=500, seed=7)
    assert (found.estimate, found.low, found.high) == pytest.approx((means(FIRST).mean(), *wanted), abs=1e-12)
    assert found.n == len(set(PATIENTS)) == 15
    wide = bootstrap_mean(FIRST, PATIENTS, method=method, level=0.99)
    assert wide.low < found.low
    assert wide.high > found.high


def test_the_interval_over_images_is_narrower_than_the_right_one_over_patients():
    alike = np.repeat(np.random.default_rng(0).normal(size=20), 30) + np.random.default_rng(1).normal(0, 0.5, 600)
    right, wrong = bootstrap_mean(alike, np.repeat(range(20), 30)), bootstrap_mean(alike)
    assert right.high - right.low > 2 * (wrong.high - wrong.low)


def test_the_bootstrap_of_a_difference_is_that_of_the_differences():
    found = bootstrap_difference(FIRST, SECOND, PATIENTS, seed=3)
    assert found == bootstrap_mean(FIRST - SECOND, PATIENTS, seed=3)


def test_paired_tests_equal_scipys():
    t = stats.ttest_rel(means(FIRST), means(SECOND))
    found = paired_t(FIRST, SECOND, PATIENTS)
    assert (found.statistic, found.p) == pytest.approx((t.statistic, t.pvalue), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval()), abs=1e-12)
    assert found.estimate == pytest.approx(DIFFERENCES.mean(), abs=1e-14)
    w, found = stats.wilcoxon(means(FIRST), means(SECOND)), wilcoxon(FIRST, SECOND, PATIENTS)
    assert (found.statistic, found.p) == pytest.approx((w.statistic, w.pvalue), rel=1e-12)
    assert found.estimate == pytest.approx(np.median(DIFFERENCES), abs=1e-14)


def test_sign_flips_equal_scipys_and_for_few_patients_the_exact_enumeration():
    wanted = stats.permutation_test(
        (DIFFERENCES,),
        lambda d, axis: d.mean(axis=axis),
        permutation_type="samples",
        n_resamples=99_999,
        vectorized=True,
    )
    assert sign_flip(FIRST, SECOND, PATIENTS, resamples=99_999).p == pytest.approx(wanted.pvalue, abs=1e-12)
    d = np.array([0.3, -0.1, 0.7, 0.4, 0.25])
    every = np.array([d @ (1 - 2 * np.array(signs)) for signs in np.ndindex(*[2] * 5)])
    wanted_p = min(1, 2 * min((every >= d.sum() - 1e-12).mean(), (every <= d.sum() + 1e-12).mean()))
    assert sign_flip(d, np.zeros(5)).p == pytest.approx(wanted_p, abs=1e-12)


def test_mcnemar_equals_statsmodels_and_for_many_images_durkalskis_formula():
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 60)) < [[0.7], [0.45]]
    table = [[(~a & ~b).sum(), (~a & b).sum()], [(a & ~b).sum(), (a & b).sum()]]
    assert mcnemar(a, b).p == pytest.approx(mcnemar_of_statsmodels(table).pvalue, rel=1e-12)
    assert mcnemar(a, b).estimate == pytest.approx(a.mean() - b.mean())
    owners = np.repeat(range(20), 3)
    d = (a.astype(float) - b).reshape(20, 3).mean(1)
    found = mcnemar(a, b, owners)
    assert found.test == "McNemar, Durkalski"
    assert found.p == pytest.approx(stats.chi2.sf(d.sum() ** 2 / (d**2).sum(), 1), rel=1e-12)
    with pytest.raises(UsageError, match="hits of 0 or 1"):
        mcnemar([0.5, 1], [1, 0])


def test_durkalskis_formula_is_mcnemars_chi_squared_for_one_image_each():
    a, b = np.random.default_rng(1).random((2, 80)) < [[0.7], [0.5]]
    table = [[(~a & ~b).sum(), (~a & b).sum()], [(a & ~b).sum(), (a & b).sum()]]
    wanted = mcnemar_of_statsmodels(table, exact=False, correction=False)
    doubled = mcnemar(np.repeat(a, 2), np.repeat(b, 2), np.repeat(range(80), 2))
    assert (doubled.statistic, doubled.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)


def test_friedman_equals_scipys_and_agreement_of_all_patients_is_1():
    table = {"a": FIRST, "b": SECOND, "c": scores(3)}
    wanted = stats.friedmanchisquare(*(means(values) for values in table.values()))
    found = friedman(table, PATIENTS)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    order = {"a": FIRST, "b": FIRST + 1, "c": FIRST + 2}
    assert friedman(order, PATIENTS).estimate == pytest.approx(1)
    assert friedman({"a": FIRST, "b": FIRST, "c": FIRST}, PATIENTS).reason == "all methods have the same value"
    with pytest.raises(UsageError, match="three methods or more"):
        friedman({"a": FIRST, "b": SECOND}, PATIENTS)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("holm", "holm"), ("bonferroni", "bonferroni"), ("bh", "fdr_bh"), ("by", "fdr_by")]
)
def test_corrections_equal_statsmodels_and_leave_tests_without_answer_out_of_the_family(ours, theirs):
    p = [0.001, 0.2, 0.03, 0.04, 0.9, 0.011]
    wanted = multipletests(p, method=theirs)[1]
    np.testing.assert_allclose(corrected(p, ours), wanted, rtol=1e-12)
    with_hole = corrected([*p[:2], np.nan, *p[2:]], ours)
    assert np.isnan(with_hole[2])
    np.testing.assert_allclose(np.delete(with_hole, 2), wanted, rtol=1e-12)


def test_holm_is_holm_and_false_discovery_scipys():
    p = [0.01, 0.04, 0.03]
    np.testing.assert_allclose(corrected(p), [0.03, 0.06, 0.06], atol=1e-15)
    np.testing.assert_allclose(corrected(p, "bh"), stats.false_discovery_control(p), atol=1e-15)
    np.testing.assert_allclose(corrected(p, "by"), stats.false_discovery_control(p, method="by"), atol=1e-15)
    with pytest.raises(UsageError, match="one of holm, bonferroni, bh, by, got 'hs'"):
        corrected(p, "hs")
    assert np.isnan(corrected([np.nan])).all()


def test_effect_sizes_by_hand():
    assert cohen_dz(FIRST, SECOND, PATIENTS) == pytest.approx(DIFFERENCES.mean() / DIFFERENCES.std(ddof=1))
    a, b = np.array([1.0, 2, 3, 3]), np.array([2.0, 2, 0])
    wanted = np.mean([np.sign(x - y) for x in a for y in b])
    assert cliffs_delta(a, b) == pytest.approx(wanted, abs=1e-15)
    assert cliffs_delta(a, a) == 0
    assert cliffs_delta([3, 4], [1, 2]) == 1
    sd = np.sqrt((3 * a.var(ddof=1) + 2 * b.var(ddof=1)) / 5)
    assert cohen_d(a, b) == pytest.approx((a.mean() - b.mean()) / sd, abs=1e-15)
    assert np.isnan([cohen_d([1, 1], [1, 1]), cohen_d([1], [2, 3]), cliffs_delta([], [1]), cohen_dz([1], [2])]).all()
    assert np.isnan(cohen_dz([2, 3, 4], [1, 2, 3]))


def test_cliffs_delta_is_the_mann_whitney_statistic():
    a, b = np.random.default_rng(0).integers(0, 9, (2, 40))
    u = stats.mannwhitneyu(a, b).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * u / 1600 - 1, abs=1e-14)


def test_power_follows_the_noncentral_t_distribution():
    n, dz = 30, 0.4
    critical = stats.t.ppf(0.975, n - 1)
    wanted = stats.nct.sf(critical, n - 1, dz * n**0.5) + stats.nct.cdf(-critical, n - 1, dz * n**0.5)
    assert power(n, dz) == pytest.approx(wanted, abs=1e-9)
    assert power(n, 0) == pytest.approx(0.05, abs=1e-9)
    assert [patients_needed(dz) for dz in (0.2, 0.3, 0.5)] == [199, 90, 34]
    assert [patients_needed(-dz, alpha=0.05 / 28) for dz in (0.2, 0.3, 0.5)] == [398, 180, 68]
    assert power(100, detectable(100)) == pytest.approx(0.8, abs=1e-6)
    assert detectable(100) == pytest.approx(0.28, abs=0.005)
    assert power(100, detectable(100, chance=0.99)) == pytest.approx(0.99, abs=1e-6)
    for n in (3, 4, 10):
        # 105 pairs of 15 methods
        assert power(n, detectable(n, alpha=0.05 / 105), alpha=0.05 / 105) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(UsageError, match=r"between alpha 0\.05 and 1, got 0\.01"):
        detectable(10, chance=0.01)
    # beyond what SciPy's distribution can do
    assert power(100, 5.0) == power(40, -9.0) == 1
    drawn = np.random.default_rng(0).normal(30, 1, (40_000, 2))
    seen = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert power(2, 30.0) == pytest.approx(seen, abs=2e-3)
    assert np.isnan([power(1, 0.5), detectable(2)]).all()
    with pytest.raises(UsageError, match="other than 0"):
        patients_needed(0)


def test_rates_of_hits_have_wilsons_interval_for_one_image_each():
    for n, wanted in ((50, (0.37, 0.63)), (100, (0.40, 0.60)), (300, (0.44, 0.56))):
        found = hit_rate([0, 1] * (n // 2))
        assert (found.low, found.high) == pytest.approx(proportion_confint(n // 2, n, method="wilson"), abs=1e-12)
        assert (found.low, found.high) == pytest.approx(wanted, abs=5e-3)
    assert hit_rate([1, 1, 1]).low > 0.4
    several = hit_rate(FIRST > 0, PATIENTS)
    assert several.test == "bootstrap percentile over patients"
    assert hit_rate([np.nan]).reason == "wanted 1 patient or more, got 0"


def test_the_published_tree_takes_the_t_test_or_mann_whitney_as_it_says():
    generator = np.random.default_rng(1)
    normal = generator.normal(size=(2, 40))
    t = stats.ttest_ind(*normal)
    found = suemer_2023(*normal)
    assert (found.test, found.p) == ("Student's t", pytest.approx(t.pvalue, rel=1e-12))
    for groups in ((normal[0], 5 * normal[1]), (normal[0], generator.exponential(size=40))):
        found = suemer_2023(*groups)
        assert (found.test, found.p) == ("Mann-Whitney U", pytest.approx(stats.mannwhitneyu(*groups).pvalue, rel=1e-12))
    assert suemer_2023([1, 2], [1, 2, 3]).reason == "wanted 3 images or more in each group, got 2 and 3"
    assert suemer_2023([1, 1, 1], [1, 2, 3]).reason == "a group has one value only"
    assert suemer_2023([1, 2, 3, np.nan], [1, 2, 4]).left_out == 1


def region_data(effect):
    generator = np.random.default_rng(5)
    owners = np.repeat(range(30), 4)
    groups = np.array(["sick", "well"])[owners % 2].tolist()
    sick = np.array([group == "sick" for group in groups])
    table = {
        name: generator.normal(size=30)[owners] + generator.normal(0, 0.3, 120) + size * sick
        for name, size in (("lung", effect), ("heart", 0.0), ("rest", 0.0))
    }
    return table, groups, owners.tolist()


def test_regions_are_tested_by_patients_with_holm_beside_the_published_way():
    table, groups, owners = region_data(3.0)
    ours = region_tests(table, groups, owners)
    theirs = region_tests(table, groups, owners, preset="suemer2023")
    assert [row.significant for row in ours] == [True, False, False]
    assert {row.outcome.n for row in ours} == {30}
    assert {row.outcome.n for row in theirs} == {120}
    np.testing.assert_allclose([r.p_corrected for r in ours], corrected([r.outcome.p for r in ours], "holm"))
    np.testing.assert_allclose([r.p_corrected for r in theirs], corrected([r.outcome.p for r in theirs], "bonferroni"))
    sick = np.array([group == "sick" for group in groups])
    assert theirs[0].effect == pytest.approx(cohen_d(table["lung"][sick], table["lung"][~sick]), abs=1e-14)
    assert theirs[1].outcome.p < ours[1].outcome.p
    assert region_tests(table, groups, owners, alpha=1e-30)[0].significant is False
    mixed = region_tests(table, groups, owners, preset="mixed")
    assert [row.significant for row in mixed] == [True, False, False]
    assert mixed[0].outcome == mixed_difference(table["lung"], groups, owners)


def test_the_mixed_model_of_regions_takes_patients_of_both_groups():
    table, groups, owners = region_data(3.0)
    both = [owner % 20 for owner in owners]
    (row, *_) = region_tests(table, groups, both, preset="mixed")
    assert row.outcome == mixed_difference(table["lung"], groups, both)
    assert np.isfinite([row.effect, row.cliffs_delta]).all()


def test_groups_of_patients_equal_scipys_welch_test_of_their_means():
    table, groups, owners = region_data(1.0)
    unit = by_patient(table["lung"], owners).values
    wanted = stats.ttest_ind(unit[::2], unit[1::2], equal_var=False)
    found = group_difference(table["lung"], groups, owners)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()), rel=1e-12)
    with pytest.raises(UsageError, match="patient 0 is in both groups"):
        group_difference([1.0, 2, 3], ["a", "b", "a"], [0, 0, 1])
    with pytest.raises(UsageError, match="one of two groups"):
        group_difference([1.0, 2, 3], ["a", "b", "c"])
    assert (
        group_difference([1.0, 2, 3], ["a", "b", "b"]).reason == "wanted 2 patients or more in each group, got 1 and 2"
    )
    assert group_difference([1.0, 1, 2, 2], [0, 0, 1, 1]).reason == "all patients have the same value"


def test_the_mixed_model_equals_statsmodels_formula():
    table, groups, owners = region_data(1.0)
    data = {"y": table["lung"], "g": [float(group == "sick") for group in groups], "p": owners}
    wanted = mixedlm("y ~ g", pd.DataFrame(data), groups=np.array(owners)).fit()
    found = mixed_difference(table["lung"], groups, owners)
    assert found.estimate == pytest.approx(wanted.params["g"], rel=1e-6)
    assert found.statistic == pytest.approx(wanted.tvalues["g"], rel=1e-4)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.statistic), 28), rel=1e-12)


def test_the_mixed_model_of_balanced_pairs_is_the_paired_t_test():
    generator = np.random.default_rng(2)
    owners = np.repeat(range(20), 5)
    first, second = (generator.normal(size=20)[owners] + generator.normal(size=100) for _ in range(2))
    found = mixed_difference([*first, *second], ["a"] * 100 + ["b"] * 100, [*owners, *owners])
    wanted = paired_t(first, second, owners)
    assert (found.estimate, found.p) == pytest.approx((wanted.estimate, wanted.p), rel=1e-3)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-3)
    holes = [np.nan, *first[1:], *second]
    assert mixed_difference(holes, ["a"] * 100 + ["b"] * 100, [*owners, *owners]).left_out == 1
    assert mixed_difference([1.0, 2], ["a", "b"], [0, 1]).reason.startswith("wanted three patients or more")
    with pytest.raises(UsageError, match="two groups and a patient"):
        mixed_difference([1.0, 2], ["a", "a"], [0, 1])


def test_scores_and_readers_correlate_as_scipy_says_over_patients():
    wanted = stats.spearmanr(means(FIRST), means(SECOND))
    found = reader_correlation(FIRST, SECOND, PATIENTS)
    assert (found.estimate, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    assert -1 <= found.low < found.estimate < found.high <= 1
    assert reader_correlation(FIRST, FIRST, PATIENTS).estimate == pytest.approx(1)
    assert reader_correlation([1.0, 2], [1.0, 2]).reason == "wanted 3 patients or more, got 2"
    assert reader_correlation([1.0, 2, 3], [1.0, 1, 1]).reason == "all patients have the same value"


@pytest.mark.parametrize("test", [paired_t, wilcoxon, sign_flip, bootstrap_difference])
def test_one_patient_and_constant_differences_have_no_answer_and_say_why(test):
    one = test([1.0, 2.0], [0.5, 0.0], ["a", "a"])
    assert (one.n, one.reason) == (1, "wanted 2 patients or more, got 1")
    same = test([1.0, 2.0, 4.0], [0.0, 1.0, 3.0])
    assert (same.estimate, same.reason) == (1.0, "all patients have the same value")
    none = test([np.nan, 1.0], [1.0, np.nan])
    assert (none.n, none.left_out) == (0, 2)
    assert np.isnan([none.estimate, *(v for o in (one, same, none) for v in (o.p, o.low, o.high))]).all()
    with pytest.raises(UsageError, match="scores of the same images, got 2 and 1"):
        test([1.0, 2.0], [1.0])


def test_all_pairs_of_methods_are_compared_and_corrected_together():
    table = {"a": FIRST, "b": SECOND, "c": FIRST + 0.5 + 0.1 * scores(4)}
    found = compare(table, PATIENTS)
    assert [(row.first, row.second) for row in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose([row.p_corrected for row in found], corrected([row.primary.p for row in found], "holm"))
    row = found[0]
    assert row.primary == paired_t(FIRST, SECOND, PATIENTS)
    assert row.interval == bootstrap_difference(FIRST, SECOND, PATIENTS)
    assert row.wilcoxon == wilcoxon(FIRST, SECOND, PATIENTS)
    assert row.sign_flip == sign_flip(FIRST, SECOND, PATIENTS)
    assert row.normality == stats.shapiro(DIFFERENCES).pvalue == normality(DIFFERENCES)
    assert row.dz == cohen_dz(FIRST, SECOND, PATIENTS)
    assert power(15, row.detectable, alpha=0.05 / 3) == pytest.approx(0.8, abs=1e-6)
    by = compare(table, PATIENTS, correction="by")
    np.testing.assert_allclose([r.p_corrected for r in by], corrected([r.primary.p for r in by], "by"))


def test_unknown_ways_are_refused():
    with pytest.raises(UsageError, match="'BCa' or 'percentile', got 'basic'"):
        bootstrap_mean(FIRST, PATIENTS, method="basic")
    with pytest.raises(UsageError, match="one of suemer2023, patients, mixed, got 'x'"):
        region_tests({"a": FIRST}, ["a"] * 90, preset="x")


def test_the_interval_of_a_correlation_with_readers_is_that_of_scipys_over_the_same_draws():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=12)
    readers = np.round(scores + rng.normal(size=12))  # ties
    found = reader_correlation(scores, readers, resamples=200, seed=5)
    places = np.random.default_rng(5).integers(0, 12, (200, 12))
    again = [stats.spearmanr(scores[at], readers[at]).statistic for at in places if np.ptp(readers[at]) > 0]
    assert [found.low, found.high] == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=1e-12)
