"""Settings: one checked form, whatever way they came, and a clear word on what cannot be scored."""

from __future__ import annotations

import json

import pytest

from medsal.errors import UsageError
from medsal.evaluation import METRICS
from medsal.scoring.settings import BASELINES, SCORED, Settings


def test_the_defaults_are_those_that_verdicts_are_about():
    found = Settings()
    assert list(found.metrics) == ["average_precision", "relevance_mass", "pointing_game", "relevance_rank"]
    assert (found.primary, found.side, found.shifts, found.baselines) == (
        "average_precision",
        "absolute",
        199,
        BASELINES,
    )
    assert (found.level, found.alpha, found.resamples, found.correction) == (0.95, 0.05, 2000, "holm")


def test_names_lists_and_mappings_of_metrics_are_one_thing():
    assert Settings(["iou"]) == Settings("iou") == Settings({"iou": {}}) == Settings({"iou": None})
    assert Settings(["iou"]).metrics == {"iou": {}}


@pytest.mark.parametrize("name", SCORED)
def test_every_metric_of_stored_maps_can_be_asked_for_with_its_defaults(name):
    others = {} if name in {"auprc_trapezoid", "sparseness", "entropy"} else {"primary": name}
    extra = {} if others else {"average_precision": {}}
    assert name in Settings({name: {}, **extra}, **others).metrics


def test_without_average_precision_verdicts_are_about_the_first_metric_that_can_bear_them():
    assert Settings(["auprc_trapezoid", "entropy", "dice", "iou"]).primary == "dice"
    assert Settings(["iou", "average_precision"]).primary == "average_precision"


def test_settings_survive_json_with_codes_as_numbers():
    made = Settings(
        {"layer_hit_rate": {"scores": ["graded", "signed", {255: 2, 0: -1}], "side": "positive"},
         "layer_coverage": {"part": ("iou", "mean"), "threshold": 0.75, "codes": [255, 128]}},
        baselines=["edges"], alpha=0.01, adversaries=True, seed=3,
    )  # fmt: skip
    again = Settings.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    assert again.metrics["layer_hit_rate"]["scores"][2] == {255: 2.0, 0: -1.0}
    assert again.baselines == ("edges",)
    assert Settings.from_dict({}) == Settings()


def test_lists_of_values_are_rows_of_their_own_and_sides_are_a_metrics_own():
    made = Settings({"iou": {"threshold": ["area", 0.5], "side": "positive"}, "dice": {}})
    assert made.variants("iou") == [("area", {"threshold": "area"}), ("0.5", {"threshold": 0.5})]
    assert made.variants("dice") == [("", {})]
    assert (made.side_of("iou"), made.side_of("dice")) == ("positive", "absolute")
    both = Settings({"layer_coverage": {"part": ["mean", "iou"], "threshold": [0.9, 0.5]}}).variants("layer_coverage")
    assert [name for name, _ in both] == ["mean 0.9", "mean 0.5", "iou 0.9", "iou 0.5"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics": ["average_precison"]}, "unknown 'average_precison'. Did you mean average_precision?"),
        ({"metrics": []}, "wanted names"),
        ({"metrics": 3}, "wanted names"),
        ({"metrics": {"iou": 3}}, "iou: wanted option: value, got 3"),
        ({"metrics": ["iou", "iou"]}, "iou came twice"),
        ({"metrics": ["insertion"]}, "insertion needs network and image and relevance, not stored maps alone"),
        ({"metrics": ["ssim"]}, "ssim needs relevance and other"),
        ({"metrics": {"iou": {"treshold": 1}}}, "iou: unknown 'treshold'. Did you mean threshold?"),
        ({"metrics": {"iou": {"ignore": 1}}}, "iou: unknown 'ignore'"),
        ({"metrics": {"iou": {"threshold": "half"}}}, "iou: threshold: wanted a number"),
        ({"metrics": {"iou": {"threshold": []}}}, "iou: threshold: wanted at least one value"),
        ({"metrics": {"pointing_game": {"ties": "last"}}}, "ties: wanted mean, first, any, got 'last'"),
        ({"metrics": {"pointing_game": {"tolerance_mm": "wide"}}}, "pointing_game: wanted values that it can be"),
        ({"metrics": {"layer_hit_rate": {"scores": "best"}}}, "scores: wanted graded, signed or code: score"),
        ({"metrics": {"layer_coverage": {"codes": "all"}}}, "codes: wanted each, a code or a list of codes, got 'all'"),
        ({"metrics": {"layer_coverage": {"part": "weighted", "codes": [32]}}}, "weights for 255, 128, 64, got (32,)"),
        ({"metrics": {"region_scores": {"reduce": "median"}}}, "reduce: wanted mean, sum, max, share"),
        ({"metrics": {"iou": {"side": "left"}}}, "iou: side: unknown 'left'"),
        ({"side": "absolut"}, "side: unknown 'absolut'. Did you mean absolute?"),
        ({"side": "as is"}, "relevance_mass: side: wanted absolute, positive or negative"),
        ({"primary": "iou"}, "primary: unknown 'iou'. There are average_precision"),
        ({"metrics": ["auprc_trapezoid"]}, "got auprc_trapezoid, a legacy metric"),
        ({"metrics": ["entropy"]}, "got entropy, without a chance level"),
        ({"correction": "none"}, "correction: unknown 'none'"),
        ({"baselines": ["center prior"]}, "baselines: unknown 'center prior'. Did you mean centre prior?"),
        ({"shifts": 0}, "shifts: wanted a whole number, 1 or more, got 0"),
        ({"resamples": True}, "resamples: wanted a whole number"),
        ({"level": 95}, "level: wanted a number between 0 and 1, got 95"),
        ({"alpha": 1.0}, "alpha: wanted a number between 0 and 0.5"),
        ({"adversaries": "yes"}, "adversaries: wanted true or false, got 'yes'"),
        ({"metric": ["iou"]}, "settings: unknown 'metric'. Did you mean metrics?"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_in_one_line(given, words):
    with pytest.raises(UsageError) as error:
        Settings.from_dict(given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_needs_a_network_or_a_second_map_is_not_scored_here():
    assert set(METRICS) - set(SCORED) == {
        name for name, row in METRICS.items() if "network" in row.takes or "other" in row.takes
    }


def test_settings_do_not_share_their_options_with_whoever_made_them():
    given = {"iou": {"threshold": ["area"]}}
    made = Settings(given)
    given["iou"]["threshold"].append("otsu")
    assert made.metrics == {"iou": {"threshold": ["area"]}}
