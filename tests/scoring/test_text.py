from __future__ import annotations

import math
import re

import pytest

from medsal.scoring import Settings, render, summarise
from medsal.scoring.table import as_table


@pytest.fixture(scope="module")
def text(scores, settings):
    return render(summarise(scores, settings))


def test_no_line_is_wider_than_120(text):
    assert max(map(len, text.splitlines())) <= 120


def test_a_line_holds_the_numbers_of_its_map(text, scores, settings):
    rows = summarise(scores, settings).methods
    row = rows[(rows["method"] == "gradcam") & (rows["metric"] == "average_precision")].iloc[0]
    (line,) = [line for line in text.splitlines() if re.match(r"  gradcam +\d", line)][:1]
    trapezoid = rows[(rows["method"] == "gradcam") & (rows["metric"] == "auprc_trapezoid")]["mean"].iloc[0]
    assert line.split() == [
        "gradcam", "14", str(row["images"]), str(row["left_out"]), f"{row['mean']:.4f}", f"{row['low']:.4f}", "to",
        f"{row['high']:.4f}", f"{row['null']:.4f}", "<", ".001", "0.8000", f"{trapezoid:.4f}",
    ]  # fmt: skip


def test_the_trapezoid_stands_beside_average_precision_with_what_a_blank_map_gets(text, scores):
    constant = scores[(scores["method"] == "constant") & (scores["metric"] == "average_precision")]
    prevalence = constant.groupby("patient")["value"].mean().mean()
    assert "\nauprc_trapezoid" not in text
    head = next(line for line in text.splitlines() if line.startswith("  map"))
    assert head.endswith("trapezoid*")
    assert "a blank map scores (1 + p) / 2" in text
    assert f"here {(1 + prevalence) / 2:.4f}: more than 3 of 3 methods" in text


def test_the_blank_map_is_told_by_the_chance_level_where_no_constant_map_was_scored(make_row):
    rows = [make_row(f"c{n}", f"p{n}", "method", "ig", metric, 0.3, null=null)
            for n in range(3) for metric, null in (("average_precision", 0.04), ("auprc_trapezoid", 0.52))]  # fmt: skip
    assert "here 0.5200: more than 1 of 1 methods" in render(summarise(as_table(rows), Settings()))


def test_verdicts_pairs_and_what_was_left_out_are_told(text):
    assert re.search(r"^  saliency +no better than centre prior$", text, re.M)
    assert re.search(r"^  adversary: all ones +no better than chance$", text, re.M)
    assert re.search(r"^  gradcam - saliency +0\.\d+ .* p < .001$", text, re.M)
    assert re.search(r"^  gradcam - broken +no answer: wanted 2 patients or more, got 0$", text, re.M)
    assert re.search(r"^ +82 of average_precision, 2 maps: map not finite$", text, re.M)


def test_a_score_below_chance_is_not_sold_as_significant(make_row):
    rows = [
        make_row(f"c{n}", f"p{n}", "method", "ig", "average_precision", 0.01 + 0.001 * n, null=0.3) for n in range(9)
    ]
    (line,) = [line for line in render(summarise(as_table(rows), Settings())).splitlines() if re.match("  ig +9", line)]
    assert line.split()[-2:] == ["below", "-"]


def test_long_names_many_pairs_and_parts_stay_readable(make_row):
    names = [f"{'integrated_gradients_of_the_third_layer'}_{n}" for n in range(8)]
    rows = [make_row(f"c{c}", f"p{c}", "method", name, "layer_coverage", math.sin(c * 9.0 + n), part=part)
            for c in range(3) for n, name in enumerate(names) for part in ("255", "128")]  # fmt: skip
    text = render(summarise(as_table(rows), Settings()))
    assert max(map(len, text.splitlines())) <= 120
    assert "layer_coverage of 128 (higher is better" in text
    assert "and 36 more in comparisons.csv" in text
    assert "no verdict: the table has no score of the primary metric" in text


def test_an_empty_table_is_told_as_such(settings):
    assert render(summarise(as_table([]), settings)) == "no verdict: the table has no score of the primary metric\n"
