"""Pictures of scores: they hold what they should, also of methods without a score."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medsal.errors import UsageError
from medsal.scoring import draw_differences, draw_scores, summarise
from medsal.scoring.figures import CEILING, CHANCE, PRIOR
from medsal.scoring.table import as_table


@pytest.fixture(scope="module")
def summary(scores, settings):
    return summarise(scores, settings)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def columns_of(image, colour):
    """Columns in which a colour stands over at least 8 pixels, apart by more than 3."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    found = np.flatnonzero((np.abs(image - wanted).sum(2) < 12).sum(0) >= 8)
    return [int(run.mean()) for run in np.split(found, np.flatnonzero(np.diff(found) > 3) + 1) if len(run)]


def test_chance_prior_and_ceiling_stand_where_the_axis_says(scores, summary):
    image = pixels(draw_scores(scores, summary, "average_precision"))
    rows = summary.methods[summary.methods["metric"] == "average_precision"].set_index("method")
    # three marks with known values: a straight line through two of them gives the third
    chance, prior, ceiling = (columns_of(image, colour)[:1] for colour in (CHANCE, PRIOR, CEILING))
    values = rows.loc["gradcam", "null"], rows.loc["centre prior", "mean"], rows.loc["gradcam", "ceiling"]
    scale = (ceiling[0] - chance[0]) / (values[2] - values[0])
    assert chance[0] + scale * (values[1] - values[0]) == pytest.approx(prior[0], abs=4)


def test_a_method_without_a_score_keeps_its_line_and_one_part_more_is_one_panel_more(
    scores, summary, settings, make_row
):
    with_broken = pixels(draw_scores(scores, summary, "average_precision"))
    fewer = scores[scores["method"] != "broken"].reset_index(drop=True)
    without = pixels(draw_scores(fewer, summarise(fewer, settings), "average_precision"))
    assert with_broken.shape[0] > without.shape[0]
    rows = [make_row(f"c{n}", f"p{n}", "method", name, "layer_coverage", 0.1 * n, part=part)
            for n in range(4) for name in ("a", "b") for part in ("255", "128", "64")]  # fmt: skip
    table = as_table(rows)
    three = pixels(draw_scores(table, summarise(table, settings), "layer_coverage"))
    one = table[table["part"] == "64"].reset_index(drop=True)
    assert three.shape[0] == pytest.approx(
        3 * pixels(draw_scores(one, summarise(one, settings), "layer_coverage")).shape[0], abs=3
    )


def test_the_same_table_gives_the_same_bytes(scores, summary):
    assert draw_scores(scores, summary, "pointing_game") == draw_scores(scores, summary, "pointing_game")
    assert draw_differences(summary, "pointing_game") == draw_differences(summary, "pointing_game")


def test_differences_have_a_line_for_each_pair_and_no_answer_is_no_crash(summary, scores, settings):
    six = pixels(draw_differences(summary, "average_precision"))
    fewer = scores[scores["method"] != "broken"].reset_index(drop=True)
    three = pixels(draw_differences(summarise(fewer, settings), "average_precision"))
    assert six.shape[0] - three.shape[0] == pytest.approx(3 * 0.34 * 110, abs=3)


def test_a_metric_that_was_not_scored_is_refused_by_name(scores, summary):
    with pytest.raises(UsageError, match="nothing to draw of iou"):
        draw_scores(scores, summary, "iou")
    with pytest.raises(UsageError, match="nothing to draw of differences of iou"):
        draw_differences(summary, "iou")
