"""Scores as dictionary transforms: value, chance, reason and rows of a case, alone and in a chain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, CopyItemsd

from medsal.errors import InputError, UsageError
from medsal.evaluation import METRICS, average_precision, pointing_game, relevance_mass
from medsal.scoring.score import ScoredCase, score_case
from medsal.scoring.settings import Settings
from medsal.transforms import (
    AveragePrecisiond,
    Entropyd,
    LayerHitRated,
    PointingGamed,
    RegionScoresd,
    RelevanceMassd,
    Scored,
    Spearmand,
)


def case_of(shape: tuple[int, ...] = (9, 8), seed: int = 0, spacing: float = 1.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    affine = torch.diag(torch.tensor([spacing] * 3 + [1.0]))
    mask = torch.zeros(1, *shape)
    mask[0, 2:4, 3:5] = 1
    return {
        "saliency_a": MetaTensor(torch.randn(1, *shape, generator=generator), affine=affine),
        "saliency_b": MetaTensor(torch.randn(1, *shape, generator=generator), affine=affine),
        "mask": MetaTensor(mask, affine=affine),
        "case": f"case-{seed}",
    }


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_a_score_comes_with_chance_reason_and_a_row(shape: tuple[int, ...]) -> None:
    case = case_of(shape)
    scored = AveragePrecisiond(["saliency_a", "saliency_b"], side="positive")(case)
    for key in ("saliency_a", "saliency_b"):
        wanted = average_precision(case[key][None].clamp_min(0), case["mask"][None]).item()
        assert scored[f"{key}_average_precision"] == wanted
        assert scored[f"{key}_average_precision_chance"] == case["mask"].double().mean().item()
        assert scored[f"{key}_average_precision_reason"] == ""
        assert scored[key] is case[key]
    assert [row["method"] for row in scored["scores"]] == ["saliency_a", "saliency_b"]
    assert scored["scores"][1] == {
        "method": "saliency_b", "metric": "average_precision", "part": "", "side": "positive", "reason": "",
        "value": scored["saliency_b_average_precision"], "null": scored["saliency_b_average_precision_chance"],
    }  # fmt: skip
    assert "scores" not in case


def test_sides_are_read_as_named() -> None:
    case = case_of()
    relevance, mask = case["saliency_a"][None], case["mask"][None]
    sides = {"absolute": relevance.abs(), "negative": (-relevance).clamp_min(0), "as is": relevance}
    for side, read in sides.items():
        found = AveragePrecisiond("saliency_a", side=side)(case)["saliency_a_average_precision"]
        assert found == average_precision(read, mask).item()
        mass = RelevanceMassd("saliency_a", side=side)(case)["saliency_a_relevance_mass"]
        assert mass == relevance_mass(read, mask).item()
    assert len({average_precision(read, mask).item() for read in sides.values()}) == 3
    both = Spearmand("saliency_a", truth="saliency_b")(case)["saliency_a_spearman"]
    wanted = METRICS["spearman"].function(case["saliency_a"][None].abs(), case["saliency_b"][None].abs())
    assert both == wanted.item()


def test_no_answer_is_nan_with_its_reason_and_no_chance() -> None:
    case = case_of()
    case["mask"] = case["mask"] * 0
    case["saliency_b"][0, 1, 1] = torch.nan
    scored = AveragePrecisiond(["saliency_a", "saliency_b"])(case)
    assert math.isnan(scored["saliency_a_average_precision"])
    assert math.isnan(scored["saliency_a_average_precision_chance"])
    assert [row["reason"] for row in scored["scores"]] == ["truth empty", "map not finite"]
    assert all(math.isnan(row["value"]) and math.isnan(row["null"]) for row in scored["scores"])


def test_a_truth_that_is_missing_is_refused_or_the_reason() -> None:
    case = case_of()
    del case["mask"]
    with pytest.raises(UsageError, match="average_precision of saliency_a: the case has no 'mask'"):
        AveragePrecisiond("saliency_a")(case)
    scored = AveragePrecisiond("saliency_a", allow_missing_keys=True)(case)
    assert scored["saliency_a_average_precision_reason"] == "no mask"
    assert math.isnan(scored["scores"][0]["value"])
    with pytest.raises(KeyError, match="saliency_c"):
        Entropyd("saliency_c")(case)


def test_ignored_voxels_do_not_count() -> None:
    case = case_of()
    case["outside"] = MetaTensor((torch.arange(8) > 5).expand(1, 9, 8), affine=case["mask"].affine)
    found = PointingGamed("saliency_a", ignore="outside")(case)
    wanted = pointing_game(case["saliency_a"][None].abs(), case["mask"][None], ignore=case["outside"][None])
    assert found["saliency_a_pointing_game"] == wanted.item()
    assert found["saliency_a_pointing_game_chance"] == pytest.approx(4 / (9 * 6))


def test_a_tolerance_in_mm_is_measured_by_the_affine_of_the_map() -> None:
    for spacing, hit in ((1.0, 1.0), (2.0, 0.0)):
        case = case_of(spacing=spacing)
        case["saliency_a"] *= 0
        case["saliency_a"][0, 2, 6] = 1  # two voxels from the truth
        found = PointingGamed("saliency_a", tolerance_mm=3.0)(case)
        assert found["saliency_a_pointing_game"] == hit
        assert PointingGamed("saliency_a", tolerance_mm=3.0, spacing=1.0)(case)["saliency_a_pointing_game"] == 1
    assert found["saliency_a_pointing_game_chance"] == pytest.approx(
        16 / 72
    )  # the truth and the eight pixels around each of it


def test_regions_are_rows_of_their_own() -> None:
    case = case_of()
    case["labels"] = torch.zeros(1, 9, 8, dtype=torch.int64)
    case["labels"][0, :2], case["labels"][0, 5:] = 3, 7
    scored = RegionScoresd("saliency_a", reduce="share")(case)
    assert [row["part"] for row in scored["scores"]] == ["3", "7"]
    assert scored["saliency_a_region_scores"].tolist() == [row["value"] for row in scored["scores"]]
    magnitude = case["saliency_a"].as_tensor().double().abs()
    assert scored["scores"][0]["value"] == pytest.approx((magnitude[0, :2].sum() / magnitude.sum()).item())
    named = RegionScoresd("saliency_a", regions=[7, 8])(case)["scores"]
    assert [(row["part"], row["reason"][:28]) for row in named] == [("7", ""), ("8", "the region is not in the ima")]
    case["labels"] *= 0
    assert RegionScoresd("saliency_a")(case)["scores"][0]["reason"] == "no region in the image"


def test_layers_are_scored_by_the_given_codes() -> None:
    case = case_of()
    case["layers"] = torch.full((1, 9, 8), 64)
    assert LayerHitRated("saliency_a")(case)["saliency_a_layer_hit_rate"] == 1
    assert LayerHitRated("saliency_a", scores={64: 5})(case)["saliency_a_layer_hit_rate_chance"] == 5


def test_scores_of_a_json_config_have_codes_in_quotes() -> None:
    case = {**case_of(), "layers": torch.full((1, 9, 8), 64)}
    assert LayerHitRated("saliency_a", scores={"64": 5})(case)["saliency_a_layer_hit_rate"] == 5


def test_maps_in_other_places_are_refused() -> None:
    case = case_of()
    case["mask"].affine[0, 3] = 4
    with pytest.raises(InputError, match="their affines differ"):
        AveragePrecisiond("saliency_a")(case)
    case["mask"] = case["mask"][:, :5]
    with pytest.raises(UsageError, match="wanted a mask on the grid of the map"):
        AveragePrecisiond("saliency_a")(case)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "avrage_precision"}, "Did you mean average_precision"),
        ({"metric": "deletion"}, "deletion runs the network"),
        ({"metric": "iou", "side": "both"}, "side: wanted positive, negative, absolute or as is, got 'both'"),
        ({"metric": "iou", "treshold": 1}, "iou has no option 'treshold'; it has threshold"),
        ({"metric": "entropy", "truth": "mask"}, "entropy takes no truth"),
        ({"metric": "spearman", "ignore": "mask"}, "spearman takes no ignore"),
        ({"metric": "iou", "output": "{method}"}, "output: wanted text with {key} and {metric}"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Scored("saliency_a", **arguments)


def test_scores_gather_in_a_chain_and_go_through_a_loader() -> None:
    keys = ["saliency_a", "saliency_b"]
    chain = Compose([
        CopyItemsd("mask", names="truth"), AveragePrecisiond(keys, truth="truth"), Entropyd(keys),
        PointingGamed(keys, output="{key}_{metric}_wide", tolerance_mm=2.0),
    ])  # fmt: skip
    alone = [chain(case_of(seed=seed)) for seed in range(3)]
    assert [len(case["scores"]) for case in alone] == [6, 6, 6]
    assert {"saliency_b_entropy", "saliency_b_pointing_game_wide_chance"} <= set(alone[0])
    loader = DataLoader(Dataset([case_of(seed=seed) for seed in range(3)], chain), batch_size=3, num_workers=1)
    (batch,) = loader
    for item, wanted in zip(decollate_batch(batch), alone, strict=True):
        assert float(item["saliency_a_average_precision"]) == pytest.approx(wanted["saliency_a_average_precision"])
        assert item["saliency_a_average_precision_reason"] == ""
        assert [float(row["value"]) for row in item["scores"]] == pytest.approx([r["value"] for r in wanted["scores"]])


def test_a_case_scored_in_a_chain_scores_what_it_scores_from_stored_maps() -> None:
    metrics: dict[str, dict[str, Any]] = {
        "average_precision": {}, "roc_auc": {}, "relevance_mass": {"side": "negative"},
        "pointing_game": {"tolerance_mm": 2.0}, "iou": {"threshold": "quantile:0.9"}, "entropy": {},
    }  # fmt: skip
    case = case_of(spacing=1.5)
    maps = {name: case[f"saliency_{name}"].as_tensor() for name in "ab"}
    stored = ScoredCase("case-0", "p", maps, mask=case["mask"].as_tensor(), spacing=(1.5, 1.5))
    rows = [row for row in score_case(stored, Settings(metrics)) if row["kind"] == "method"]
    keys = [f"saliency_{name}" for name in maps]
    chain = Compose([Scored(keys, metric, **options) for metric, options in metrics.items()])
    ours = {(row["method"].removeprefix("saliency_"), row["metric"]): row for row in chain(case)["scores"]}
    assert len(rows) == len(ours) == 12
    for row in rows:
        one = ours[row["method"], row["metric"]]
        assert one["value"] == pytest.approx(row["value"], rel=1e-12)
        assert [one[name] for name in ("part", "side", "reason")] == [row[name] for name in ("part", "side", "reason")]
        if row["metric"] in {"relevance_mass", "pointing_game"}:  # chance in closed form is the mean over all shifts
            assert one["null"] == pytest.approx(row["null"], rel=1e-9)


def test_voxels_to_ignore_that_lie_elsewhere_are_refused() -> None:
    case = case_of()
    moved = case["mask"].affine.clone()
    moved[0, 0] = -1
    case["outside"] = MetaTensor(torch.zeros(1, 9, 8), affine=moved)
    with pytest.raises(InputError, match="voxels to ignore are of one shape but their affines differ"):
        AveragePrecisiond("saliency_a", ignore="outside")(case)


def test_a_mask_that_was_scaled_with_the_image_is_refused() -> None:
    case = case_of()
    case["mask"] = case["mask"] * 2 - 1
    with pytest.raises(UsageError, match="below 0"):
        AveragePrecisiond("saliency_a")(case)
