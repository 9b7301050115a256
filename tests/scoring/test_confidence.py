"""Confidence of stored maps: what is written is what the network says, and only maps of where it looks do well."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from medsal.bundle.weights import load_weights
from medsal.errors import UsageError
from medsal.evaluation import METRICS
from medsal.evaluation.confidence import drop_in_confidence, increase_in_confidence
from medsal.scoring import ConfidenceEvaluation, Settings, read_scores, verify
from medsal.scoring.cases import CaseFiles, Cases

SIZE = 12
SPOT = (slice(2, 6), slice(3, 7))
CUTS = [0.5, 0.9]


def loaded(item):
    return {**item, "image": torch.from_numpy(np.load(item["image"]))}


class Looks(nn.Module):
    """Says 1 as far as the image is bright in one spot, and looks nowhere else."""

    def __init__(self):
        super().__init__()
        weight = torch.zeros(SIZE, SIZE)
        weight[SPOT] = 0.25
        self.linear = nn.Linear(SIZE * SIZE, 2)
        self.linear.weight.data = torch.stack([torch.zeros(SIZE * SIZE), weight.flatten()])
        self.linear.bias.data = torch.tensor([2.0, 0.0])

    def forward(self, image):
        return self.linear(image.flatten(1))


@pytest.fixture
def study(tmp_path):
    """Three cases with a perfect map, its opposite, a map without positive values and one that is not finite."""
    torch.manual_seed(1)
    network = Looks()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    load_weights(network, tmp_path / "model.pt")
    (tmp_path / "cases").mkdir()
    found, items = [], []
    for number in range(3):
        case = f"case-{number}"
        spot = np.zeros((SIZE, SIZE), np.float32)
        spot[SPOT] = 1 + 0.1 * number
        maps = {"right": spot, "wrong": spot.max() - spot, "below": -spot, "broken": np.where(spot > 0, np.nan, 1)}
        files = {name: tmp_path / f"{case}_{name}.npy" for name in maps}
        for name, path in files.items():
            np.save(path, maps[name].astype(np.float32))
        found.append(CaseFiles(case=case, patient=f"patient-{number}", maps=files))
        np.save(tmp_path / f"{case}.npy", torch.rand(1, SIZE, SIZE).numpy() + 1)
        items.append({"case": case, "image": str(tmp_path / f"{case}.npy")})
        (tmp_path / "cases" / f"{case}.json").write_text(json.dumps({"case": case, "target": 1}))

    def make(**options):
        settings = Settings(side=options.pop("side", "positive"), baselines=(), resamples=50, compared=False)
        return ConfidenceEvaluation(
            Cases(found=tuple(found)), settings, tmp_path / "out", network=network, datalist=items, transform=loaded,
            maps_dir=tmp_path, options={"thresholds": CUTS, "draws": 19, **options},
        )  # fmt: skip

    make.network, make.items, make.folder = network, items, tmp_path / "out"
    return make


def value(table, method, metric, part, case="case-0", column="value"):
    rows = table[(table["method"] == method) & (table["metric"] == metric) & (table["part"] == part)]
    return rows[rows["case"] == case][column].item()


def test_the_scores_are_those_of_the_metrics(study):
    study().run()
    table = read_scores(study.folder)
    for item in study.items:
        image = loaded(item)["image"][None]
        for method in ("right", "wrong"):
            relevance = torch.from_numpy(np.load(study.folder.parent / f"{item['case']}_{method}.npy"))[None, None]
            for direction in ("keep", "remove"):
                for cut, part in ((None, "heat map"), *((cut, f"at {cut:g}") for cut in CUTS)):
                    for metric in (drop_in_confidence, increase_in_confidence):
                        wanted = metric(
                            study.network, image, relevance, target=1, direction=direction, threshold=cut
                        ).item()
                        got = value(table, method, metric.__name__, f"{direction} {part}", item["case"])
                        assert got == pytest.approx(wanted, abs=1e-6)


def test_only_a_map_of_where_the_network_looks_keeps_and_removes_its_confidence(study):
    study().run()
    table = read_scores(study.folder)
    kept, removed = "keep at 0.5", "remove at 0.5"
    assert value(table, "right", "drop_in_confidence", kept) == pytest.approx(0, abs=1e-6)
    assert value(table, "right", "drop_in_confidence", removed) > 0.5
    assert value(table, "wrong", "drop_in_confidence", kept) > 0.5
    assert value(table, "wrong", "drop_in_confidence", removed) == pytest.approx(0, abs=1e-6)
    for method, p in (("right", 0.05), ("wrong", 1.0)):
        for part in (kept, removed):
            assert value(table, method, "drop_in_confidence", part, column="p") == pytest.approx(p, abs=0.06)
    assert 0 < value(table, "right", "drop_in_confidence", kept, column="null") <= 1


def test_the_better_end_turns_where_the_relevant_part_is_removed(study):
    assert METRICS["drop_in_confidence"].better_end("keep at 0.5") == "lower"
    assert METRICS["drop_in_confidence"].better_end("remove at 0.5") == "higher"
    assert METRICS["increase_in_confidence"].better_end("remove heat map") == "lower"
    assert METRICS["layer_hit_rate"].better_end("remove") == "higher"
    study().run()
    import pandas as pd

    summary = pd.read_csv(study.folder / "summary.csv")
    removed = summary[summary["part"] == "remove at 0.5"].set_index(["method", "metric"])
    assert removed.loc[("right", "drop_in_confidence"), "better"] == "higher"
    assert removed.loc[("right", "drop_in_confidence"), "chance_difference"] > 0


def test_a_constant_map_loses_nothing_and_stands_beside_as_a_baseline(study):
    study().run()
    table = read_scores(study.folder)
    assert set(table[table["method"] == "constant"]["kind"]) == {"baseline"}
    assert value(table, "constant", "drop_in_confidence", "keep heat map") == pytest.approx(0, abs=1e-6)


def test_a_map_that_says_nothing_has_a_reason_and_no_number(study):
    study().run()
    table = read_scores(study.folder)
    for method, why in (("below", "no relevance on the side that is read"), ("broken", "map not finite")):
        rows = table[table["method"] == method]
        assert rows["value"].isna().all()
        assert set(rows["reason"]) == {why}
        assert len(rows) == len(table[table["method"] == "right"])


def test_the_negative_side_is_read_where_it_is_asked_for(study):
    study(side="negative").run()
    table = read_scores(study.folder)
    assert value(table, "below", "drop_in_confidence", "remove at 0.5") > 0.5
    assert set(table[table["method"] == "right"]["reason"]) == {"no relevance on the side that is read"}


def test_what_was_scored_is_not_scored_again_and_can_be_verified(study):
    assert study().run().skipped == 0
    assert study().run().skipped == 3
    assert study(fill=1.0).run().skipped == 0
    assert verify(study.folder) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"thresholds": [0.5, 1.5]}, "thresholds: wanted shares"),
        ({"draws": 0}, "draws: wanted a whole number"),
        ({"score": "odds"}, "score: wanted probability"),
        ({"side": "as is"}, "side: wanted absolute"),
        ({"treshold": 1}, "unknown 'treshold'"),
    ],
)
def test_a_wrong_option_is_named(study, options, error):
    with pytest.raises(UsageError, match=error):
        study(**options)
