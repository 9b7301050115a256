"""Adversarial maps end to end: scored, judged, and the statement says no more than what was found."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from medsal.evaluation.baselines import mean_training_mask, other_patient
from medsal.evaluation.verdict import BEST, CHANCE, NOT_TESTABLE
from medsal.scoring.adversaries import ADVERSARIES_COLUMNS, render_adversaries, report_adversaries, write_adversaries
from medsal.scoring.rivals import PLANTED
from medsal.scoring.score import ScoredCase, score_case
from medsal.scoring.settings import Settings

SIZES = {2: 40, 3: 20}
METRICS = ("average_precision", "relevance_mass", "pointing_game", "relevance_rank", "auprc_trapezoid")
ASKED = Settings(METRICS, shifts=49, adversaries=True)
HOSTILE = {"constant", "all ones", "one outlier", "checkerboard", "centre blob", "edges", "shuffled",
           "another patient's mask"}  # fmt: skip


def study(dims, *, central, count, seed):
    """Images and lesions: in the middle and bright, or anywhere and unseen."""
    generator, size = np.random.default_rng(seed), SIZES[dims]
    grid = np.indices((size,) * dims).reshape(dims, -1).T
    for _ in range(count):
        centre = generator.uniform(-1, 1, dims) * size * (0.06 if central else 0.32) + size / 2
        mask = (np.linalg.norm(grid - centre, axis=1) < size * 0.12).reshape((size,) * dims)
        texture = ndimage.gaussian_filter(generator.normal(size=mask.shape), 1.5) + central * 2 * mask
        yield torch.from_numpy(texture)[None], torch.from_numpy(mask)[None]


def body_of(mask):
    found, size = torch.zeros_like(mask), mask.shape[-1]
    found[(0, *[slice(round(size * 0.06), size - round(size * 0.06))] * (mask.ndim - 1))] = True
    return found


@functools.cache
def scores(dims, *, central, prior=True, count=20, baselines=True):
    cases = list(study(dims, central=central, count=count, seed=3))
    training = study(dims, central=central, count=60, seed=4)
    known = mean_training_mask(
        ((f"t{i}", mask) for i, (_, mask) in enumerate(training)), {f"t{i}": "train" for i in range(60)}
    )
    others = other_patient([str(i) for i in range(count)]) if count > 1 else [0]
    settings = ASKED if baselines else Settings(METRICS, shifts=49, adversaries=True, baselines=())
    rows = []
    for i, (image, mask) in enumerate(cases):
        one = ScoredCase(
            f"c{i}", f"p{i}", {}, mask, image=image, body=body_of(mask), prior=known if prior else None,
            other_mask=cases[others[i]][1],
        )  # fmt: skip
        rows += score_case(one, settings)
    return pd.DataFrame(rows)


def verdicts(report, metric):
    rows = report.table[report.table["metric"] == metric]
    return dict(zip(rows["map"], rows["verdict"], strict=True))


@pytest.mark.parametrize("dims", SIZES)
def test_where_place_tells_nothing_no_adversary_gets_a_better_verdict_than_chance(dims):
    report = report_adversaries(scores(dims, central=False), ASKED)
    for metric in METRICS[:-1]:
        found = verdicts(report, metric)
        assert found.pop(PLANTED) == BEST, metric
        assert set(found) == HOSTILE
        if metric == "relevance_mass":
            assert found.pop("constant") == NOT_TESTABLE  # zeros have no relevance to take a share of
        assert set(found.values()) == {CHANCE}, metric
    assert report.refused
    assert "None gets a better verdict than chance." in report.statement
    assert "The planted truth gets the best verdict" in report.statement
    assert "Not testable: constant (relevance_mass)." in report.statement


@pytest.mark.parametrize("dims", SIZES)
def test_where_lesions_are_central_a_blob_beats_chance_and_a_baseline_refuses_it_in_so_many_words(dims):
    report = report_adversaries(scores(dims, central=True), ASKED)
    assert report.refused
    for metric in METRICS[:-1]:
        found = verdicts(report, metric)
        assert (found.pop(PLANTED) == BEST) == (metric != "pointing_game"), metric  # a peak in the middle always hits
        assert BEST not in found.values(), metric
        assert found["all ones"] == found["checkerboard"] == CHANCE
    assert "centre blob (average_precision)" in report.above_chance
    assert "None beats chance and every baseline. Above chance, and refused by a baseline" in report.statement
    assert "centre blob (by centre prior, mean training mask); edges (by" in report.statement
    assert report.not_told == ("pointing_game",)
    assert "DOES NOT GET THE BEST VERDICT by pointing_game (no better than" in report.statement
    assert "better verdict than chance" not in report.statement


def test_without_a_baseline_that_knows_as_much_the_blob_is_taken_and_the_report_says_so():
    report = report_adversaries(scores(2, central=True, baselines=False), ASKED)
    assert "centre blob (average_precision)" in report.taken
    assert not report.refused
    assert "TAKEN FOR AN EXPLANATION" in report.statement
    assert "A mean training mask among the baselines would tell" in report.statement
    assert "held against chance and no baseline" in report.statement


def test_too_few_patients_show_nothing_and_the_report_says_that_too():
    report = report_adversaries(scores(2, central=False, prior=False, count=1), ASKED)
    assert set(report.not_told) == set(METRICS[:-1])
    assert set(report.table["verdict"]) == {NOT_TESTABLE}
    assert "THE PLANTED TRUTH DOES NOT GET THE BEST VERDICT by average_precision (not testable)" in report.statement
    assert "over 1 patients: no method could." in report.statement


def test_a_metric_that_loses_the_truth_is_named():
    found = scores(2, central=False).copy()
    lost = (found["method"] == PLANTED) & (found["metric"] == "pointing_game")
    found.loc[lost, "value"] = found.loc[lost, "null"] / 2
    report = report_adversaries(found, ASKED)
    assert report.not_told == ("pointing_game",)
    assert "pointing_game (no better than chance), over 20 patients" in report.statement


def test_a_metric_that_takes_an_adversary_for_right_is_named():
    found = scores(2, central=False).copy()
    fooled = (
        (found["method"] == "checkerboard") & (found["kind"] == "adversary") & (found["metric"] == "relevance_rank")
    )
    generator = np.random.default_rng(0)
    found.loc[fooled, "value"] = generator.uniform(0.8, 0.9, int(fooled.sum()))
    report = report_adversaries(found, ASKED)
    assert report.taken == ("checkerboard (relevance_rank)",)
    assert "TAKEN FOR AN EXPLANATION: checkerboard (relevance_rank). " in report.statement


def test_the_report_is_a_table_and_text_that_fits_a_log(tmp_path):
    report = report_adversaries(scores(2, central=True), ASKED)
    assert tuple(report.table.columns) == ADVERSARIES_COLUMNS
    assert "auprc_trapezoid" not in set(report.table["metric"])
    row = report.table[(report.table["metric"] == "average_precision") & (report.table["map"] == "all ones")].iloc[0]
    of_map = scores(2, central=True).query("metric == 'average_precision' and method == 'all ones'")
    assert (row["value"], row["null"]) == pytest.approx((of_map["value"].mean(), of_map["null"].mean()))
    assert (row["patients"], row["left_out"], row["refused_by"]) == (20, 0, "chance")
    text = render_adversaries(report)
    assert max(map(len, text.splitlines())) <= 120
    assert " ".join(report.statement.split()) in " ".join(text.split())
    assert "not testable" in text
    words = dict.fromkeys(["part", "refused_by"], str)
    again = pd.read_csv(write_adversaries(tmp_path / "run", report), dtype=words, keep_default_na=False,
                        na_values={"p_corrected": "", "value": "", "null": ""})  # fmt: skip
    pd.testing.assert_frame_equal(again[list(words)], report.table[list(words)], check_dtype=False)
    numbers = ["patients", "value", "null", "p_corrected"]
    pd.testing.assert_frame_equal(again[numbers], report.table[numbers], check_exact=True, check_dtype=False)


def test_without_adversaries_the_report_says_that_there_were_none():
    report = report_adversaries(scores(2, central=True).query("kind == 'baseline'"), ASKED)
    assert report.table.empty
    assert report.statement == "No adversarial map was scored by a metric of localisation."
    assert render_adversaries(report) == report.statement + "\n"
