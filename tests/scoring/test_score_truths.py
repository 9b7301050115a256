"""Ceilings by boxes, grids and readers; layers and regions by name, each against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from medsal.evaluation import METRICS
from medsal.evaluation.ceiling import bounding_boxes, box_geometry_ceiling, ellipsoid, resolution_ceiling
from medsal.evaluation.chance_hits import layer_hit_chance
from medsal.evaluation.layers import GRADED, SIGNED, layer_coverage
from medsal.evaluation.regions import region_scores
from medsal.evaluation.verdict import BEST, CHANCE
from medsal.scoring.score import ScoredCase, score_case
from medsal.scoring.settings import Settings
from medsal.scoring.summary import summarise
from medsal.scoring.table import as_table

SPACE = (24, 30)
CODES = torch.tensor([255, 128, 64, 32, 0, 0]).repeat_interleave(4)[None, :, None].expand(1, *SPACE)


def boxes(space=SPACE):
    mask = torch.zeros(1, *space)
    mask[(0, *(slice(2, 10) for _ in space))] = 1
    mask[(0, *(slice(13, 18) for _ in space))] = 1
    return mask


def noise(space=SPACE, seed=0):
    return torch.rand(1, *space, generator=torch.Generator().manual_seed(seed))


def rows_of(metrics, *, maps=None, **more):
    one = ScoredCase("c1", "p1", maps or {"ours": noise()}, **more)
    rows = score_case(one, Settings(metrics, baselines=(), shifts=30))
    return {(row["method"], row["metric"], row["part"]): row for row in rows}


@pytest.mark.parametrize("space", [SPACE, (20, 19, 21)])
@pytest.mark.parametrize("metric", ["average_precision", "roc_auc", "relevance_rank", "best_iou", "relevance_mass"])
def test_boxes_let_an_ellipse_score_what_their_geometry_allows(space, metric):
    row = rows_of([metric], maps={"ours": noise(space)}, mask=boxes(space), boxes=True)["ours", metric, ""]
    drawn = ellipsoid([[(2, 10)] * len(space), [(13, 18)] * len(space)], space)
    wanted = box_geometry_ceiling(METRICS[metric].function, drawn)[0].item()
    assert torch.equal(bounding_boxes(drawn)[0], boxes(space).bool())
    assert (row["ceiling"], row["ceiling_of"]) == (pytest.approx(wanted), "box geometry")


@pytest.mark.parametrize("threshold", ["area", "otsu", "quantile:0.9", 0.7])
def test_a_perfect_outline_is_cut_where_it_ends_whatever_cuts_the_maps(threshold):
    (row,) = rows_of({"iou": {"threshold": threshold}}, mask=boxes(), boxes=True).values()
    drawn = ellipsoid([[(2, 10)] * 2, [(13, 18)] * 2], SPACE)
    assert row["ceiling"] == pytest.approx((drawn.sum() / boxes().sum()).item())


def test_a_cams_ceiling_is_that_of_its_grid_and_of_no_other_method():
    maps = {"cam": noise(), "saliency": noise(seed=1), "coarser": noise(seed=2)}
    rows = rows_of(["average_precision"], maps=maps, mask=boxes(), grids={"cam": (6, 7), "coarser": [3, 3]})
    for name, grid in {"cam": (6, 7), "coarser": (3, 3)}.items():
        row = rows[name, "average_precision", ""]
        wanted = resolution_ceiling(METRICS["average_precision"].function, boxes()[None].bool(), grid)[0].item()
        assert (row["ceiling"], row["ceiling_of"]) == (wanted, f"layer grid {grid[0]}x{grid[1]}")
    own = rows["saliency", "average_precision", ""]
    assert (own["ceiling"], own["ceiling_of"]) == (1, "outline")


def test_the_lowest_ceiling_counts_and_says_what_sets_it():
    good, poor, absent = boxes(), boxes().roll(4, 1), torch.full((1, *SPACE), math.nan)
    metric = METRICS["average_precision"].function
    score = metric(poor[None], boxes()[None])[0].item()
    for readers, wanted in (
        ([poor], (score, "reader")),
        ([good, poor, absent], ((1 + score) / 2, "reader")),
        ([absent], (1, "outline")),
    ):
        row = rows_of(["average_precision"], mask=boxes(), readers=readers)["ours", "average_precision", ""]
        assert (row["ceiling"], row["ceiling_of"]) == (pytest.approx(wanted[0]), wanted[1])
    rows = rows_of(["average_precision"], mask=boxes(), boxes=True, grids={"ours": (8, 10)}, readers=[good])
    row = rows["ours", "average_precision", ""]
    alone = rows_of(["average_precision"], mask=boxes(), boxes=True)["ours", "average_precision", ""]
    assert row["ceiling_of"] == "box geometry, layer grid 8x10"
    assert 0 < row["ceiling"] < 1
    assert row["ceiling"] != alone["ceiling"]


def test_hits_of_layers_by_both_published_scores_against_their_chance():
    peak, tied = torch.zeros(1, *SPACE), torch.zeros(1, *SPACE)
    peak[0, 5, 3] = tied[0, 1, 3] = tied[0, 9, 3] = 1
    asked = {"layer_hit_rate": {"scores": ["graded", "signed"]}}
    rows = rows_of(asked, maps={"peak": peak, "tied": tied}, layers=CODES)
    for name, scores in {"graded": GRADED, "signed": SIGNED}.items():
        worth = torch.tensor([float(scores.get(int(code), -1)) for code in CODES[0].flatten()]).reshape(SPACE)
        row, both = (rows[method, "layer_hit_rate", name] for method in ("peak", "tied"))
        assert (row["value"], both["value"]) == (scores[128], (scores[255] + scores[64]) / 2)
        assert row["null"] == pytest.approx(layer_hit_chance(CODES[None], scores)[0].item(), abs=1e-12)
        assert row["null"] == pytest.approx(both["null"], abs=1e-12)
        assert row["p"] == (worth >= scores[128]).double().mean().item()
        rolled = [((tied[0] / 2) * worth.roll(s, (0, 1))).sum().item() for s in np.ndindex(SPACE)]
        assert both["p"] == np.mean([one >= both["value"] - 1e-6 for one in rolled])
        assert both["null_sd"] == pytest.approx(np.std(rolled), abs=1e-6)
        assert (row["ceiling"], row["ceiling_of"]) == (max(scores.values()), "layers")


def test_coverage_of_layers_by_name_against_the_layers_shifted():
    names = {255: "top", 128: "middle", 0: "gel"}
    asked = {"layer_coverage": {"part": ["mean", "background", "weighted", "iou"], "threshold": 0.5}}
    rows = rows_of(asked, layers=CODES, layer_names=names)
    assert [part for _, _, part in rows] == ["top", "background", "weighted", "top at 0.5"]
    share = noise()[0] / noise().max()
    for (_, _, name), part in zip(rows, asked["layer_coverage"]["part"], strict=True):
        row = rows["ours", "layer_coverage", name]
        assert row["value"] == layer_coverage(noise()[None], CODES[None], part=part)[0].item()
        if part == "iou":
            continue
        shifted = [layer_coverage(noise()[None], CODES.roll(s, (1, 2))[None], part=part)[0].item()
                   for s in np.ndindex(SPACE)]  # fmt: skip
        beyond = [one <= row["value"] + 1e-9 if part == "background" else one >= row["value"] - 1e-9 for one in shifted]
        assert (row["null"], row["null_sd"]) == pytest.approx((np.mean(shifted), np.std(shifted)), abs=1e-6), part
        assert row["p"] == np.mean(beyond)
        assert row["ceiling_of"] == "layers"
    assert rows["ours", "layer_coverage", "top"]["null"] == pytest.approx(share.mean().item(), abs=1e-6)
    assert rows["ours", "layer_coverage", "background"]["ceiling"] == 0
    assert rows["ours", "layer_coverage", "top"]["ceiling"] == 1
    assert 0 < rows["ours", "layer_coverage", "top at 0.5"]["p"] <= 1


def test_each_layer_can_be_asked_for_and_one_that_is_not_there_says_so():
    rows = rows_of({"layer_coverage": {"codes": "each"}}, layers=CODES, layer_names={255: "top", 7: "gone"})
    assert rows["ours", "layer_coverage", "top"]["reason"] == ""
    assert rows["ours", "layer_coverage", "gone"]["reason"] == "the layer is not in the image"
    unnamed = rows_of({"layer_coverage": {"codes": "each"}}, layers=CODES)
    assert [part for _, _, part in unnamed] == ["0", "32", "64", "128", "255"]
    blank = rows_of(["layer_coverage"], maps={"ours": torch.zeros(1, *SPACE)}, layers=CODES)
    assert blank["ours", "layer_coverage", "255"]["reason"] == "no relevance on the side that is read"


def test_the_published_pair_of_skin_layers_scores_what_was_published(real_data):
    files = [real_data / "skin" / name for name in ("HEATMAP_GRADCAMPLUSPLUS_DENSENET.png", "SKIN_LAYERS_MAP.png")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no skin ultrasound pair in {real_data / 'skin'}")
    heat, layers = (torch.from_numpy(np.array(Image.open(file)))[None] for file in files)
    asked = {"layer_hit_rate": {"scores": ["graded", "signed"]},
             "layer_coverage": {"part": ["mean", "background", "weighted"]}}  # fmt: skip
    rows = rows_of(asked, maps={"ours": heat / 255}, layers=layers)
    values = [row["value"] for row in rows.values()]
    assert values == pytest.approx([0, 0, 0.6412, 0.3918, 0.2847], abs=5e-5)
    turned = rows_of(asked, maps={"ours": heat.transpose(1, 2) / 255}, layers=layers)
    assert abs(turned["ours", "layer_coverage", "255"]["value"] - values[2]) > 0.1


def test_regions_are_named_and_held_against_a_map_that_is_the_same_everywhere():
    regions = CODES // 32
    one = {"regions": regions, "region_names": {7: "left", 4: "middle", 5: "gone"}}
    rows = rows_of({"region_scores": {"reduce": ["mean", "share", "sum", "max"]}}, **one)
    for reduce in ("mean", "share", "sum", "max"):
        wanted = region_scores(noise()[None], regions[None], reduce=reduce, regions=[7, 4])[0].tolist()
        found = [rows["ours", "region_scores", f"{name} {reduce}"] for name in ("left", "middle")]
        assert [row["value"] for row in found] == wanted
        flat = torch.full((1, 1, *SPACE), noise().mean().item())
        chance = region_scores(flat, regions[None], reduce=reduce, regions=[7, 4])[0].tolist()
        if reduce != "max":
            assert [row["null"] for row in found] == pytest.approx(chance, rel=1e-5)
        assert rows["ours", "region_scores", f"gone {reduce}"]["reason"] == "the region is not in the image"
    assert math.isnan(rows["ours", "region_scores", "left max"]["null"])
    unnamed = rows_of(["region_scores"], regions=regions)
    assert [part for _, _, part in unnamed] == ["1", "2", "4", "7"]


def test_layers_and_boxes_do_not_disturb_each_other():
    rows = rows_of(["average_precision", "layer_hit_rate"], mask=boxes(), boxes=True, layers=CODES)
    assert rows["ours", "layer_hit_rate", ""]["ceiling"] == 3
    assert rows["ours", "average_precision", ""]["ceiling_of"] == "box geometry"


def test_several_layers_can_be_covered_as_one():
    rows = rows_of({"layer_coverage": {"part": ["mean", "weighted"], "codes": [255, 128]}}, layers=CODES)
    assert [part for _, _, part in rows] == ["255+128", "weighted"]
    wanted = [layer_coverage(noise()[None], CODES[None], part=part, codes=(255, 128)) for part in ("mean", "weighted")]
    assert [row["value"] for row in rows.values()] == [one.item() for one in wanted]
    assert rows["ours", "layer_coverage", "weighted"]["ceiling"] == 0.75


def test_less_relevance_in_the_background_is_better():
    settings, rows = Settings({"layer_coverage": {"part": ["mean", "background"]}}, baselines=(), resamples=50), []
    for i in range(5):
        inside = (CODES != 0).float() + 0.1 * noise(seed=i)
        maps = {"inside": inside, "outside": inside.amax() - inside}
        rows += score_case(ScoredCase(f"c{i}", f"p{i}", maps, layers=CODES), settings)
    found = summarise(as_table(rows), settings)
    ends = found.methods.drop_duplicates("part").set_index("part")["better"].to_dict()
    assert ends == {"255": "higher", "background": "lower"}
    judged = found.verdicts[found.verdicts["part"] == "background"].set_index("method")["verdict"].to_dict()
    assert judged == {"inside": BEST, "outside": CHANCE}
    gap = found.methods.query("part == 'background' and method == 'inside'")["gap_closed"].item()
    assert 0 < gap < 1
