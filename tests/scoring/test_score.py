"""One case scored: values are the metrics', chance levels those of the core, and what cannot be answered says why."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsal.errors import InputError, UsageError
from medsal.evaluation import METRICS, prevalence
from medsal.evaluation.baselines import MaskPrior, adversaries
from medsal.evaluation.chance import mass_null, sampled_null
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.localisation import pointing_chance
from medsal.evaluation.truth import side_of
from medsal.scoring.rivals import PLANTED, case_seed
from medsal.scoring.score import ScoredCase, score_case
from medsal.scoring.settings import SCORED, Settings
from medsal.scoring.table import COLUMNS

SPACES = {"2D": (18, 22), "3D": (10, 12, 9)}
MASKED = [name for name, row in SCORED.items() if row.family == "localisation"]
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def lesion(space, start=3, size=4):
    mask = torch.zeros(1, *space)
    mask[(0, *(slice(start, start + size) for _ in space))] = 1
    return mask


def noise(space, seed=0):
    return torch.randn(1, *space, generator=torch.Generator().manual_seed(seed))


def case(space=SPACES["2D"], **more):
    given = {"maps": {"ours": noise(space) + lesion(space)}, "mask": lesion(space), **more}
    return ScoredCase("c1", "p1", **given)


def scored(one, metrics=MASKED, *, baselines=(), kind="method", **more):
    rows = score_case(one, Settings(metrics, baselines=baselines, **more))
    return {(row["method"], row["metric"], row["part"]): row for row in rows if row["kind"] == kind}


def of(rows, metric, method="ours", part=""):
    return rows[method, metric, part]


@every_space
@pytest.mark.parametrize("side", ["absolute", "positive", "negative", "as is"])
def test_values_are_those_of_the_metrics_on_the_side_that_is_read(space, side):
    names = [name for name in MASKED if side != "as is" or name != "relevance_mass"] + ["sparseness", "entropy"]
    one = case(space)
    rows = scored(one, names, side=side)
    read = one.maps["ours"][None] if side == "as is" else side_of(one.maps["ours"][None], side)
    for name in names:
        row, truth = METRICS[name], [one.mask[None]] if "mask" in METRICS[name].takes else []
        assert of(rows, name)["value"] == row.function(read, *truth)[0].item(), name
        assert (of(rows, name)["side"], of(rows, name)["reason"]) == (side, "")


@every_space
@pytest.mark.parametrize("inside", [False, True])
def test_chance_is_that_of_the_core(space, inside):
    body = torch.ones(1, *space)
    body[..., -2:] = 0
    one = case(space, body=body if inside else None)
    names = [name for name in MASKED if name not in {"auprc_trapezoid", "pointing_game"}]
    rows = scored(one, names, shifts=40)
    read, mask = one.maps["ours"][None].abs(), one.mask[None].bool()
    more = {"body": body[None].bool() if inside else None}
    sampled = {"shifts": 40, "seed": case_seed(0, "c1"), **more}
    wanted = {name: sampled_null(METRICS[name].function, read, mask, **sampled)[0] for name in names}
    wanted["relevance_mass"] = mass_null(read, mask, **more)[0]
    (other,) = average_precision_null(read, mask, **sampled)
    assert (wanted["average_precision"].mean, wanted["average_precision"].p) == pytest.approx((other.mean, other.p))
    for name, null in wanted.items():
        row = of(rows, name)
        found = [row[column] for column in ("value", "null", "null_sd", "p")]
        assert found == pytest.approx([null.score, null.mean, null.sd, null.p], abs=1e-6), name


def test_the_peak_is_held_against_a_point_put_anywhere_in_the_body():
    body = torch.zeros(1, *SPACES["2D"])
    body[:, 2:12, 2:12] = 1
    hit, miss = torch.zeros(2, 1, *SPACES["2D"])
    hit[0, 4, 4] = miss[0, 10, 10] = 1
    rows = scored(case(maps={"hit": hit, "miss": miss}, body=body), ["pointing_game"])
    level = pointing_chance(lesion(SPACES["2D"])[None], ignore=body[None] == 0)[0].item()
    assert level == 16 / 100
    found = {name: of(rows, "pointing_game", name) for name in ("hit", "miss")}
    assert [(row["value"], row["null"], row["p"]) for row in found.values()] == [(1, level, level), (0, level, 1)]
    assert found["hit"]["null_sd"] == pytest.approx(math.sqrt(level * (1 - level)))


def test_tied_peaks_move_together_and_tolerance_widens_the_target():
    space, ties = (5, 6), ["mean", "first", "any"]
    mask, peaks = torch.zeros(1, *space), torch.zeros(1, *space)
    mask[0, 1, 1:4] = 1
    peaks[0, 1, 1] = peaks[0, 3, 3] = 2
    rows = scored(case(maps={"ours": peaks}, mask=mask), {"pointing_game": {"ties": ties}})
    rolled = [(mask.roll(s, (1, 2)) * (peaks > 0)).sum().item() / 2 for s in np.ndindex(space)]
    found = {name: of(rows, "pointing_game", part=name) for name in ties}
    assert [row["value"] for row in found.values()] == [0.5, 1, 1]
    assert found["mean"]["null"] == pytest.approx(np.mean(rolled))
    assert found["mean"]["p"] == np.mean([share >= 0.5 for share in rolled])
    assert found["any"]["null"] == pytest.approx(np.mean([share > 0 for share in rolled]))
    assert found["first"]["null"] == found["first"]["p"] == pytest.approx(3 / 30)
    wide = scored(case(maps={"ours": peaks}, mask=mask, spacing=(1, 3)), {"pointing_game": {"tolerance_mm": 1}})
    assert of(wide, "pointing_game")["null"] == pytest.approx(9 / 30)


@every_space
def test_a_blank_map_scores_the_prevalence_and_the_trapezoid_is_held_against_what_a_blank_map_gets(space):
    one = case(space, maps={"blank": torch.ones(1, *space), "perfect": lesion(space)})
    rows, p = scored(one), prevalence(one.mask[None])[0].item()
    blank = {name: rows["blank", name, ""] for name in MASKED}
    for name in ("average_precision", "pointing_game", "relevance_mass", "relevance_rank", "iou", "best_iou"):
        assert (blank[name]["value"], blank[name]["null"], blank[name]["p"]) == pytest.approx((p, p, 1), abs=1e-12)
        assert rows["perfect", name, ""]["value"] == 1
        assert rows["perfect", name, ""]["p"] < 0.02 + p
    legacy = blank["auprc_trapezoid"]
    assert legacy["value"] == legacy["null"] == pytest.approx((1 + p) / 2)
    assert math.isnan(legacy["p"])
    assert rows["perfect", "auprc_trapezoid", ""]["null"] == legacy["null"]


def test_voxels_to_ignore_count_nowhere():
    space = SPACES["2D"]
    ignore = torch.zeros(1, *space)
    ignore[..., -6:] = 1
    ours = noise(space) + lesion(space)
    wild = torch.where(ignore > 0, 1e3, ours)
    found = [scored(case(maps={"ours": map_}, ignore=ignore), shifts=30) for map_ in (ours, wild)]
    assert repr(found[0]) == repr(found[1])
    row, left = of(found[1], "average_precision"), ignore[None].bool()
    metric = partial(METRICS["average_precision"].function, ignore=left)
    sample = {"shifts": 30, "seed": case_seed(0, "c1"), "body": ~left}
    (null,) = sampled_null(metric, ours[None].abs(), lesion(space)[None].bool(), **sample)
    assert (row["value"], row["null"], row["p"]) == pytest.approx((null.score, null.mean, null.p), abs=1e-12)
    assert of(found[0], "pointing_game")["null"] == pytest.approx(16 / (18 * 16))


@pytest.mark.parametrize(
    ("mask", "maps", "reason"),
    [
        (torch.zeros(1, 6, 6), {}, "truth empty"),
        (torch.ones(1, 6, 6), {}, "truth everywhere"),
        (torch.full((1, 6, 6), math.nan), {}, "truth not finite"),
        (None, {}, "map not finite"),
        (None, {"ours": torch.full((1, 6, 6), math.inf)}, "map not finite"),
    ],
)
def test_what_has_no_answer_is_nan_with_its_reason(mask, maps, reason):
    broken = torch.arange(36.0).view(1, 6, 6)
    if reason == "map not finite" and not maps:
        broken[0, 2, 2] = math.nan
    one = case((6, 6), mask=lesion((6, 6)) if mask is None else mask, maps={"ours": broken, **maps})
    for row in scored(one).values():
        assert row["reason"] == reason
        assert all(math.isnan(row[column]) for column in ("value", "null", "null_sd", "p", "ceiling"))
        assert not row["ceiling_of"]


def test_nothing_on_the_side_that_is_read_is_no_relevance_to_take_a_share_of():
    rows = scored(case(maps={"ours": -lesion(SPACES["2D"])}), side="positive")
    assert of(rows, "relevance_mass")["reason"] == "no relevance on the side that is read"
    assert math.isnan(of(rows, "relevance_mass")["value"])
    row = of(rows, "average_precision")
    assert (row["value"], row["null"], row["p"]) == pytest.approx((16 / 396, 16 / 396, 1), abs=1e-12)


def test_where_the_truth_fits_nowhere_else_there_is_a_score_and_no_chance_level():
    mask = lesion(SPACES["2D"])
    row = of(scored(case(body=mask)), "average_precision")
    assert row["value"] > 0
    assert math.isnan(row["null"])
    assert math.isnan(row["p"])


def test_a_method_without_a_map_and_a_case_without_a_truth_say_so():
    one = case(missing={"other": "the run failed"}, regions=lesion(SPACES["2D"]))
    rows = scored(one, ["average_precision", "layer_hit_rate", "region_scores"])
    assert of(rows, "average_precision", "other")["reason"] == "the run failed"
    assert of(rows, "layer_hit_rate")["reason"] == "no layers"
    assert of(rows, "region_scores", part="1")["reason"] == ""


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"maps": {"gradcam": torch.zeros(1, 7, 8)}}, "c1: gradcam: wanted the grid of the truth (1, 18, 22), got"),
        ({"maps": {"cam": torch.zeros(18, 22)}}, "c1: cam: wanted the grid of the truth (1, 18, 22), got (18, 22)"),
        ({"body": torch.zeros(1, 7, 8)}, "c1: body: wanted the grid"),
        ({"ignore": torch.zeros(1, 7, 8)}, "c1: ignore: wanted the grid"),
        ({"layers": torch.zeros(1, 7, 8)}, "c1: layers: wanted the grid"),
        ({"image": torch.zeros(3, 7, 8)}, "c1: image: wanted the grid"),
        ({"readers": [torch.zeros(1, 7, 8)]}, "c1: reader 1: wanted the grid"),
        ({"mask": None}, "c1: wanted a mask, layers or regions"),
        ({"mask": lesion((18, 22)) / 2}, "c1: ours: mask: wanted 0 and 1"),
        ({"missing": {"ours": "lost"}}, "c1: ours: wanted a map or the reason"),
        ({"grids": {"ours": (3, 3, 3)}}, "c1: ours: wanted the grid of a layer of 2 axes no finer"),
        ({"grids": {"ours": (3, 30)}}, "c1: ours: wanted the grid of a layer of 2 axes no finer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_that_names_case_and_map(part, words):
    with pytest.raises(InputError) as error:
        scored(case(**part))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_have_the_tables_columns_in_the_order_of_maps_and_metrics():
    one = case(maps={"b": noise(SPACES["2D"]), "a": noise(SPACES["2D"], 1)}, image=noise(SPACES["2D"], 2))
    rows = score_case(one, Settings(["iou", "average_precision"], adversaries=True, shifts=5))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["metric"] for row in rows] == ["iou", "average_precision"] * (len(rows) // 2)
    assert list(dict.fromkeys(row["method"] for row in rows if row["kind"] == "method")) == ["b", "a"]
    assert list(dict.fromkeys(row["kind"] for row in rows)) == ["method", "baseline", "adversary"]
    assert {(row["case"], row["patient"]) for row in rows} == {("c1", "p1")}
    again = score_case(one, Settings(["iou", "average_precision"], adversaries=True, shifts=5))
    assert repr(again) == repr(rows)


def test_each_map_is_asked_for_once_nothing_is_changed_and_metadata_is_no_matter():
    class Asked(dict):
        def __getitem__(self, name):
            self.times = [*getattr(self, "times", []), name]
            return super().__getitem__(name)

    maps = Asked({"ours": MetaTensor(noise(SPACES["2D"])), "half": noise(SPACES["2D"], 1).half()})
    before = {name: map_.clone() for name, map_ in maps.items()}
    rows = scored(case(maps=maps, mask=MetaTensor(lesion(SPACES["2D"]))), [*MASKED, "entropy"])
    assert maps.times == ["ours", "half"]
    assert all(torch.equal(maps[name], before[name]) for name in before)
    plain = scored(case(maps={"ours": noise(SPACES["2D"])}), [*MASKED, "entropy"])
    assert repr([rows[key] for key in plain]) == repr(list(plain.values()))


def test_places_of_a_case_are_its_own_whatever_others_there_are():
    one, two = case(), ScoredCase("c2", "p1", {"ours": case().maps["ours"]}, lesion(SPACES["2D"]))
    nulls = [of(scored(each, shifts=20, seed=seed), "iou")["null"] for each in (one, two) for seed in (0, 1)]
    assert len(set(nulls)) == 4


def test_baselines_are_scored_where_there_is_what_they_are_made_from():
    space = SPACES["2D"]
    bare = scored(case(), ["iou"], baselines=Settings().baselines, kind="baseline")
    assert [name for name, _, _ in bare] == ["constant", "random", "centre prior"]
    prior = MaskPrior(lesion(space)[None], frozenset({"c9"}))
    maps = {"others": {"ours": noise(space, 5)}, "untrained": {"ours": noise(space, 6)}}
    one = case(image=noise(space, 2), prior=prior, **maps)
    rows = scored(one, ["average_precision"], baselines=Settings().baselines, kind="baseline")
    assert [name for name, _, _ in rows] == [
        "constant", "random", "centre prior", "edges", "mean training mask", "another patient: ours", "untrained: ours",
    ]  # fmt: skip
    assert rows["mean training mask", "average_precision", ""]["value"] == 1
    metric = METRICS["average_precision"].function
    other = metric(noise(space, 5)[None].abs(), lesion(space)[None])[0].item()
    assert rows["another patient: ours", "average_precision", ""]["value"] == other
    with pytest.raises(UsageError, match="made from c1: it cannot be scored"):
        scored(case(prior=MaskPrior(lesion(space)[None], frozenset({"c1"}))), baselines=["mean training mask"])
    wide = case(prior=MaskPrior(torch.ones(1, 1, 4, 4), frozenset()))
    (row,) = scored(wide, ["iou"], baselines=["mean training mask"], kind="baseline").values()
    assert (row["reason"], math.isnan(row["value"])) == ("its grid is 4x4, not 18x22", True)


def test_maps_without_signs_are_read_as_they_are_on_every_side():
    found = [scored(case(image=noise(SPACES["2D"])), ["average_precision"], baselines=["centre prior", "edges"],
                    kind="baseline", side=side) for side in ("absolute", "negative")]  # fmt: skip
    values = [[row["value"] for row in rows.values()] for rows in found]
    assert values[0] == values[1]


@every_space
def test_adversaries_are_those_of_the_core_and_a_planted_truth(space):
    one = case(space, image=noise(space, 2), other_mask=lesion(space, start=5))
    rows = scored(one, ["average_precision"], adversaries=True, kind="adversary")
    wanted = adversaries(one.image[None], one.other_mask[None], seed=case_seed(0, "c1"))
    assert [name for name, _, _ in rows] == [*wanted, PLANTED]
    metric = METRICS["average_precision"].function
    for name, map_ in wanted.items():
        assert rows[name, "average_precision", ""]["value"] == metric(map_, one.mask[None])[0].item()
    assert rows[PLANTED, "average_precision", ""]["value"] == 1
