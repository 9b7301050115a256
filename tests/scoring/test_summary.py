"""The summary against pandas, SciPy and statsmodels used directly on the long table."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from medsal.errors import UsageError
from medsal.scoring import Settings, summarise, write_summary
from medsal.scoring.aligned import aligned
from medsal.scoring.contrasts import verdicts
from medsal.scoring.table import as_table


@pytest.fixture(scope="module")
def summary(scores, settings):
    return summarise(scores, settings)


def of(scores, method, metric="average_precision", column="value"):
    """One map's numbers by case."""
    rows = scores[(scores["method"] == method) & (scores["metric"] == metric)]
    return rows.set_index("case")[column]


def means(scores, series):
    """Mean of each patient, in order of appearance of those with a number."""
    known = series.dropna()
    owners = scores.drop_duplicates("case").set_index("case")["patient"]
    return known.groupby(owners.loc[known.index], sort=False).mean()


def line(summary, method, metric="average_precision"):
    found = summary.methods[(summary.methods["method"] == method) & (summary.methods["metric"] == metric)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("metric", ["average_precision", "auprc_trapezoid"])
@pytest.mark.parametrize("method", ["gradcam", "ig", "saliency", "centre prior", "checkerboard"])
def test_every_number_of_a_method_equals_scipys(scores, settings, summary, method, metric):
    found, value = line(summary, method, metric), of(scores, method, metric)
    patients = means(scores, value)
    assert (found["patients"], found["images"], found["left_out"]) == (14, value.notna().sum(), value.isna().sum())
    assert found["mean"] == pytest.approx(patients.mean(), abs=1e-14)
    assert found["median"] == pytest.approx(patients.median(), abs=1e-14)
    for names, how in ((("low", "high"), "BCa"), (("percentile_low", "percentile_high"), "percentile")):
        wanted = stats.bootstrap(
            (patients.to_numpy(),), np.mean, method=how, confidence_level=0.9, n_resamples=400,
            rng=np.random.default_rng(5),
        ).confidence_interval  # fmt: skip
        assert [found[name] for name in names] == pytest.approx(list(wanted), abs=1e-13)
    null = of(scores, method, metric, "null").where(value.notna())
    assert found["null"] == pytest.approx(means(scores, null).mean(), abs=1e-14)
    both = stats.ttest_rel(patients, means(scores, null))
    assert found["chance_p"] == pytest.approx(both.pvalue, rel=1e-9)
    assert found["chance_difference"] == pytest.approx((patients - means(scores, null)).mean(), abs=1e-14)
    gap = (patients.mean() - means(scores, null).mean()) / (0.8 - means(scores, null).mean())
    assert (found["ceiling"], found["ceiling_of"]) == (pytest.approx(0.8), "box geometry")
    assert found["gap_closed"] == pytest.approx(gap, rel=1e-12)
    p = of(scores, method, metric, "p")[value.notna()].to_numpy()
    assert found["images_tested"] == len(p)
    assert found["share_p"] == (p < 0.05).mean()
    assert found["share_p_holm"] == (multipletests(p, method="holm")[1] < 0.05).mean()


def test_the_share_of_significant_images_is_between_none_and_all(summary):
    """So that the test above compares something."""
    shares = [line(summary, method)["share_p_holm"] for method in ("gradcam", "saliency")]
    assert shares[1] < shares[0]
    assert 0 < line(summary, "saliency")["share_p"] < 1


def test_the_patient_is_the_unit_not_the_image(make_row):
    """Ten images of one patient weigh as much as one of another."""
    rows = [make_row(f"a{n}", "a", "method", "ig", "iou", 1.0) for n in range(10)]
    rows.append(make_row("b", "b", "method", "ig", "iou", 0.0))
    assert line(summarise(as_table(rows), Settings()), "ig", "iou")["mean"] == 0.5


def power_missing(dz, n, alpha):
    return TTestPower().power(dz, n, alpha) - 0.8


def test_comparisons_equal_scipys_on_patients_means(scores, settings, summary):
    rows = summary.comparisons[summary.comparisons["metric"] == "average_precision"]
    names = ["gradcam", "ig", "saliency", "broken"]
    assert list(zip(rows["first"], rows["second"], strict=True)) == list(itertools.combinations(names, 2))
    answered = rows[rows["reason"] == ""]
    assert answered["p_corrected"].tolist() == pytest.approx(multipletests(answered["p"], method="holm")[1])
    assert set(rows["family"]) == {3}
    assert set(rows["correction"]) == {"holm"}
    for found in answered.to_dict("records"):
        first, second = of(scores, found["first"]), of(scores, found["second"])
        both = first.notna() & second.notna()
        a, b = means(scores, first[both]), means(scores, second[both])
        t = stats.ttest_rel(a, b)
        assert (found["p"], found["statistic"]) == pytest.approx((t.pvalue, t.statistic), rel=1e-9)
        assert (found["low"], found["high"]) == pytest.approx(tuple(t.confidence_interval(0.9)), abs=1e-13)
        assert found["difference"] == pytest.approx((a - b).mean(), abs=1e-14)
        assert (found["patients"], found["left_out"]) == (len(a), (~both).sum())
        interval = stats.bootstrap(
            (means(scores, (first - second)[both]).to_numpy(),), np.mean, method="BCa", confidence_level=0.9,
            n_resamples=400, rng=np.random.default_rng(5),
        ).confidence_interval  # fmt: skip
        assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx(tuple(interval), abs=1e-12)
        w = stats.wilcoxon(a, b)
        assert (found["wilcoxon_p"], found["wilcoxon_statistic"]) == pytest.approx((w.pvalue, w.statistic))
        assert found["wilcoxon_median"] == pytest.approx((a - b).median(), abs=1e-14)
        flips = stats.permutation_test(
            (a.to_numpy(), b.to_numpy()), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
            vectorized=True, n_resamples=9999, rng=np.random.default_rng(5),
        )  # fmt: skip
        assert found["sign_flip_p"] == pytest.approx(flips.pvalue)
        assert found["normality_p"] == pytest.approx(stats.shapiro(a - b).pvalue)
        assert found["dz"] == pytest.approx((a - b).mean() / (a - b).std(), rel=1e-12)
        above = np.sign(a.to_numpy()[:, None] - b.to_numpy()[None]).mean()
        assert found["cliffs_delta"] == pytest.approx(above, abs=1e-12)
        dz = optimize.brentq(power_missing, 0.1, 2, (len(a), 0.05 / 6))
        assert found["detectable_dz"] == pytest.approx(dz, rel=1e-6)


def test_adversaries_get_no_better_verdict_than_they_deserve_and_the_planted_truth_the_best(summary):
    found = summary.verdicts.drop_duplicates("method").set_index("method")["verdict"]
    assert found.to_dict() == {
        "gradcam": "beats chance and every baseline",
        "ig": "no better than another patient: ig",
        "saliency": "no better than centre prior",
        "broken": "not testable",
        "checkerboard": "no better than chance",
        "all ones": "no better than chance",
        "planted truth": "beats chance and every baseline",
    }
    against = summary.verdicts.groupby("method", sort=False)["against"].apply(list)
    assert against["gradcam"] == ["chance", "constant", "centre prior", "another patient: gradcam", "edges"]
    assert against["ig"] == ["chance", "constant", "centre prior", "another patient: ig", "edges"]
    assert against["planted truth"] == ["chance", "constant", "centre prior", "edges"]
    unscored = summary.verdicts[summary.verdicts["against"] == "edges"]
    assert set(unscored["reason"]) == {"no score of it in any image"}
    assert unscored[["difference", "p", "p_corrected"]].isna().all(axis=None)


def test_what_a_verdict_rests_on_is_corrected_by_holm_and_its_interval_has_the_level_asked_for(scores, summary):
    rows = summary.verdicts[(summary.verdicts["method"] == "gradcam") & (summary.verdicts["patients"] > 0)]
    assert rows["p_corrected"].tolist() == pytest.approx(multipletests(rows["p"], method="holm")[1])
    prior = rows[rows["against"] == "centre prior"].iloc[0]
    first, second = of(scores, "gradcam"), of(scores, "centre prior")
    both = first.notna() & second.notna()
    t = stats.ttest_rel(means(scores, first[both]), means(scores, second[both])).confidence_interval(0.9)
    assert (prior["low"], prior["high"]) == pytest.approx(tuple(t), abs=1e-13)


def test_where_lower_is_better_verdicts_and_priors_turn_round(make_row):
    rng = np.random.default_rng(0)
    rows = []
    for case in range(12):
        for kind, method, mean in (("method", "ig", 1.0), ("method", "cam", 3.0), ("baseline", "constant", 2.5),
                                   ("baseline", "random", 2.0)):  # fmt: skip
            value = mean + rng.normal(0, 0.1)
            rows.append(make_row(str(case), str(case), kind, method, "entropy", value, null=2.2, ceiling=0.5))
    found = summarise(as_table(rows), Settings())
    judged = {row["method"]: row["verdict"] for row in verdicts(next(aligned(as_table(rows))), Settings())}
    assert judged == {"ig": "beats chance and every baseline", "cam": "no better than chance"}
    assert line(found, "ig", "entropy")["prior"] == "random"
    assert line(found, "ig", "entropy")["chance_difference"] > 0
    assert 0 < line(found, "ig", "entropy")["gap_closed"] < 1


def test_the_prior_is_the_best_baseline_that_a_method_may_be_held_against(summary):
    assert line(summary, "gradcam")["prior"] == "centre prior"
    assert line(summary, "ig")["prior"] == "another patient: ig"
    assert line(summary, "ig")["prior_mean"] == line(summary, "another patient: ig")["mean"]
    assert not line(summary, "constant")["prior"]


def poisson_binomial(hits, chances):
    """Chance of at least so many hits, by all outcomes."""
    return sum(
        math.prod(c if hit else 1 - c for hit, c in zip(one, chances, strict=True))
        for one in itertools.product([0, 1], repeat=len(chances))
        if sum(one) >= sum(hits)
    )


def test_hits_are_counted_exactly_where_each_patient_has_one_image(make_row):
    rng = np.random.default_rng(1)
    hits, chances = [1.0, 0, 1, 1, 0, 0, 1], rng.uniform(0.05, 0.4, 7)
    rows = [make_row(f"c{n}", f"p{n}", "method", "ig", "pointing_game", hits[n], null=chances[n]) for n in range(7)]
    found = line(summarise(as_table(rows), Settings(metrics={"pointing_game": {}}, primary="pointing_game")), "ig",
                 "pointing_game")  # fmt: skip
    assert found["hit_p"] == pytest.approx(poisson_binomial(hits, chances), rel=1e-12)
    assert found["hit_reason"] == ""
    wilson = stats.binomtest(4, 7).proportion_ci(0.95, "wilson")
    assert (found["hit_low"], found["hit_high"]) == pytest.approx(tuple(wilson))


def test_hits_of_several_images_of_a_patient_and_of_tied_peaks_are_not_counted(summary, make_row):
    assert line(summary, "gradcam", "pointing_game")["hit_reason"] == "several images of one patient"
    rows = [make_row(f"c{n}", f"p{n}", "method", "ig", "pointing_game", 0.5, null=0.1) for n in range(3)]
    found = line(summarise(as_table(rows), Settings()), "ig", "pointing_game")
    assert found["hit_reason"] == "tied peaks: shares of hits cannot be counted"
    assert math.isnan(found["hit_p"])


def test_one_patient_has_a_mean_and_nothing_else(make_row):
    rows = [make_row(f"c{n}", "p", kind, name, "average_precision", 0.1 * n + 0.01 * at, null=0.01, p=0.5)
            for n in range(4) for at, (kind, name) in
            enumerate([("method", "ig"), ("method", "cam"), ("baseline", "constant")])]  # fmt: skip
    found = summarise(as_table(rows), Settings())
    one = line(found, "ig")
    assert (one["patients"], one["images"], one["mean"]) == (1, 4, pytest.approx(0.15))
    assert np.isnan([one[name] for name in ("low", "high", "percentile_low", "chance_p")]).all()
    assert one["reason"] == one["chance_reason"] == "wanted 2 patients or more, got 1"
    pair = found.comparisons.iloc[0]
    assert (pair["reason"], pair["family"]) == ("wanted 2 patients or more, got 1", 0)
    assert np.isnan([pair["p"], pair["p_corrected"], pair["dz"], pair["sign_flip_p"]]).all()
    assert set(found.verdicts["verdict"]) == {"not testable"}


def test_constant_differences_have_no_test_and_say_so(make_row):
    rows = [make_row(f"c{n}", f"p{n}", "method", name, "average_precision", 0.25 * n + shift, null=0.125, p=0.5)
            for n in range(4) for name, shift in (("ig", 0.0), ("cam", 0.125))]  # fmt: skip
    found = summarise(as_table(rows), Settings())
    pair = found.comparisons.iloc[0]
    assert (pair["difference"], pair["reason"]) == (-0.125, "all patients have the same value")
    for name in ("low", "high", "p", "p_corrected", "statistic", "bootstrap_low", "wilcoxon_p", "dz", "normality_p"):
        assert math.isnan(pair[name]), name
    assert pair["bootstrap_reason"] == pair["wilcoxon_reason"] == pair["sign_flip_reason"] == pair["reason"]


def test_a_method_without_any_score_is_there_with_its_reasons(summary):
    one = line(summary, "broken")
    assert (one["patients"], one["images"], one["left_out"]) == (0, 0, 41)
    numbers = ("mean", "low", "median", "null", "chance_p", "ceiling", "gap_closed", "share_p", "share_p_holm")
    assert np.isnan([one[name] for name in numbers]).all()
    counted = summary.left_out[(summary.left_out["method"] == "broken")]
    assert counted[["reason", "images"]].to_numpy().tolist() == [["map not finite", 41]] * 3


def test_left_out_images_are_counted_by_reason_and_a_case_of_one_method_only_is_not_dropped_in_silence(make_row):
    rows = [make_row(f"c{n}", f"p{n}", "method", "ig", "iou", 0.1 * n) for n in range(5)]
    rows += [make_row(f"c{n}", f"p{n}", "method", "cam", "iou", 0.3 - 0.1 * n**2) for n in range(3)]
    rows += [{**make_row("c3", "p3", "method", "cam", "iou", math.nan), "reason": "truth empty"}]
    found = summarise(as_table(rows), Settings())
    assert found.left_out.to_dict("records") == [
        {"kind": "method", "method": "cam", "metric": "iou", "part": "", "reason": "truth empty", "images": 1},
        {"kind": "method", "method": "cam", "metric": "iou", "part": "", "reason": "no row in the table", "images": 1},
    ]
    assert line(found, "cam", "iou")["left_out"] == 2
    pair = found.comparisons.iloc[0]
    assert (pair["patients"], pair["left_out"]) == (3, 2)
    assert pair["difference"] == pytest.approx(np.mean([0.1 * n - 0.3 + 0.1 * n**2 for n in range(3)]))


def test_the_same_table_gives_the_same_bytes_and_no_metric_is_guessed(scores, settings, tmp_path, make_row):
    files = write_summary(tmp_path / "a", summarise(scores, settings))
    again = write_summary(tmp_path / "b", summarise(scores.copy(), settings))
    assert [file.name for file in files] == ["summary.csv", "comparisons.csv", "verdicts.csv"]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    with pytest.raises(UsageError, match="unknown metric 'auc'"):
        summarise(as_table([make_row("a", "p", "method", "ig", "auc", 0.1)]), settings)


def test_an_empty_table_has_an_empty_summary(settings):
    found = summarise(as_table([]), settings)
    assert [len(found.methods), len(found.comparisons), len(found.verdicts), len(found.left_out)] == [0] * 4


@pytest.mark.parametrize("seed", range(6))
def test_small_and_odd_tables_give_numbers_or_reasons_and_no_warning(make_row, seed):
    rng = np.random.default_rng(seed)
    rows = [
        make_row(f"c{n}", f"p{n % 4}", "method", name, metric, float(rng.integers(0, 2)),
                 null=rng.choice([0.1, 1]), p=rng.choice([0.001, 1]), ceiling=rng.choice([0.1, 1.0]))
        for n in range(rng.integers(1, 7)) for name in ("a", "b", "c") for metric in ("iou", "pointing_game")
    ]  # fmt: skip
    found = summarise(as_table(rows), Settings(metrics={"iou": {}}, primary="iou", resamples=50))
    for one in found.methods.to_dict("records"):
        assert math.isnan(one["low"]) == bool(one["reason"]), one
    for one in found.comparisons.to_dict("records"):
        assert math.isnan(one["p"]) == bool(one["reason"]), one


def test_less_cover_of_the_background_is_better():
    rng = np.random.default_rng(0)
    rows = [
        {"case": f"c{n}", "patient": f"p{n}", "kind": "method", "method": method, "metric": "layer_coverage",
         "part": part, "side": "absolute", "value": level + rng.normal(0, 0.02), "null": 0.4, "reason": ""}
        for n in range(8)
        for method, level in (("good", 0.2), ("bad", 0.7))
        for part in ("top", "background")
    ]  # fmt: skip
    found = summarise(as_table(rows), Settings(metrics=("layer_coverage",))).methods.set_index(["method", "part"])
    assert found["better"].to_dict() == {
        (method, part): "lower" if part == "background" else "higher" for method, part in found.index
    }
    difference = found["chance_difference"]
    assert difference["good", "background"] > 0 > difference["bad", "background"]
    assert difference["bad", "top"] > 0 > difference["good", "top"]
