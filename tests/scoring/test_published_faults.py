"""Faults of published evaluations, made on purpose: the wrong number they give, and that scoring does not give it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medsal.errors import InputError, UsageError
from medsal.evaluation import METRICS, average_precision
from medsal.evaluation.baselines import mean_training_mask
from medsal.evaluation.confidence import drop_in_confidence
from medsal.scoring import ScoredCase, Settings, score_case, summarise
from medsal.scoring.reading import CaseReader
from medsal.scoring.sources import folder_cases
from medsal.scoring.table import as_table

ONLY = {"baselines": (), "side": "as is", "shifts": 9}


def found(rows, **wanted):
    """The one row of what is wanted."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def rows_of(case, relevance, mask=None, *, metrics=("average_precision",), patient="", **more):
    maps = {"gradcam": relevance}
    return score_case(ScoredCase(case, patient or case, maps, mask=mask, **more), Settings(metrics=metrics, **ONLY))


class Bright(torch.nn.Module):
    """A network that looks at the upper right corner only."""

    def forward(self, image):
        seen = image[:, :, :2, 4:].mean((1, 2, 3))
        return torch.stack([-seen, seen], 1)


def test_a_transposed_heat_map_darkens_another_part():
    """Heat maps were read as columns first and laid over the image mirrored along its diagonal."""
    image = torch.ones(1, 1, 6, 6)
    heat = torch.zeros(1, 1, 6, 6)
    heat[..., :2, 4:] = 1
    right = drop_in_confidence(Bright(), image, heat, target=1)
    wrong = drop_in_confidence(Bright(), image, heat.transpose(2, 3), target=1)
    assert float(right) == 0  # the evidence was kept
    assert float(wrong) > 0.3
    with pytest.raises(InputError, match=r"c: .*\(1, 8, 6\)"):
        rows_of("c", torch.rand(1, 8, 6), torch.ones(1, 6, 8, dtype=torch.bool))


def test_maps_belong_to_cases_by_name_in_whatever_order_files_come(tmp_path):
    """Names came from a folder's listing while the loader shuffled: maps were scored against others' truth."""
    for number in range(5):
        truth = np.zeros((10, 10), np.uint8)
        truth[2 * number : 2 * number + 2] = 255
        for folder, name in (("maps", f"{number}_gradcam"), ("masks", f"{'abcde'[4 - number]}_{number}")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(truth).save(tmp_path / folder / f"{name}.png")
    listed = zip(sorted((tmp_path / "maps").iterdir()), sorted((tmp_path / "masks").iterdir()), strict=True)
    wrong = [float(np.mean(np.array(Image.open(a)) == np.array(Image.open(b)))) for a, b in listed]
    assert min(wrong) < 1  # pairing two listings by place mixes cases up
    study = folder_cases(f"{tmp_path}/maps/{{case}}_{{method}}.png", {"mask": f"{tmp_path}/masks/*_{{case}}.png"})
    for one in study.found:
        reader = CaseReader(one)
        scores = rows_of(one.case, reader.map("gradcam"), reader.mask())
        assert found(scores, metric="average_precision")["value"] == 1


def table_with_a_blank_and_a_broken_map():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True
    rows = []
    for number in range(6):
        relevance = mask.float() + torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(number))
        rows += rows_of(f"case-{number}", relevance, mask)
    rows += rows_of("case-blank", torch.zeros(1, 8, 8), mask)
    rows += rows_of("case-broken", torch.full((1, 8, 8), torch.nan), mask)
    return as_table(rows)


def test_maps_that_are_nan_are_counted_with_a_reason():
    """A constant map divided by its range is NaN; such images were left out and nobody was told."""
    table = table_with_a_blank_and_a_broken_map()
    summary = summarise(table, Settings(metrics=("average_precision",), **ONLY))
    (line,) = summary.methods.to_dict("records")
    assert (line["images"], line["left_out"]) == (7, 1)
    assert "map not finite" in str(summary.left_out)
    assert table.set_index("case").loc["case-blank", "value"] == 4 / 64  # a blank map has an answer


def test_a_mean_is_over_what_was_scored():
    """Sums were divided by the number of all files, those that could not be read among them."""
    table = table_with_a_blank_and_a_broken_map()
    (line,) = summarise(table, Settings(metrics=("average_precision",), **ONLY)).methods.to_dict("records")
    values = table["value"].dropna()
    assert line["mean"] == pytest.approx(values.mean(), abs=1e-15)
    assert line["mean"] != pytest.approx(values.sum() / len(table), abs=1e-3)


def test_the_mean_mask_takes_no_truth_that_it_is_scored_with():
    """The published mean-mask baseline was made from the boxes of the test images."""
    masks = {name: torch.zeros(1, 4, 4, dtype=torch.bool) for name in ("a", "b")}
    masks["a"][0, 0, 0] = masks["b"][0, 1, 1] = True
    with pytest.raises(UsageError, match="wanted cases of the split 'train', got b of 'test'"):
        mean_training_mask(masks.items(), {"a": "train", "b": "test"})
    prior = mean_training_mask([("a", masks["a"])], {"a": "train"})
    settings = Settings(metrics=("average_precision",), baselines=("mean training mask",), side="as is", shifts=9)
    with pytest.raises(UsageError, match="made from a"):
        score_case(ScoredCase("a", "a", {"gradcam": torch.rand(1, 4, 4)}, mask=masks["a"], prior=prior), settings)


def test_a_map_is_ranked_not_cut_at_one_half():
    """Maps were made 0 and 1 at one half before the curve: whatever ranks below is tied."""
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[0, :2, :5] = True
    relevance = torch.linspace(0.4, 0, 100).view(1, 10, 10)  # the truth comes first, and all of it below one half
    ours = found(rows_of("c", relevance, mask), metric="average_precision")["value"]
    cut = float(average_precision((relevance > 0.5).float()[None], mask[None]))
    assert cut == pytest.approx(0.1)  # a blank map: the share of true pixels
    assert ours == pytest.approx(float(average_precision(relevance[None], mask[None])))
    assert ours > 5 * cut


def test_a_blank_map_beats_published_methods_by_trapezoids_and_by_nothing_else():
    """The published area under the curve gives a blank map (1 + p) / 2."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :2, :2] = True
    scores = rows_of("c", torch.zeros(1, 20, 20), mask, metrics=("average_precision", "auprc_trapezoid"))
    assert found(scores, metric="auprc_trapezoid")["value"] == found(scores, metric="auprc_trapezoid")["null"] == 0.505
    assert found(scores, metric="average_precision")["value"] == found(scores, metric="average_precision")["null"]
    assert METRICS["auprc_trapezoid"].legacy


def test_resized_layers_have_no_codes_but_their_own(tmp_path):
    """Maps of layers were resized linearly: values between codes counted as background."""
    layers = np.full((8, 8), 255, np.uint8)
    layers[4:] = 128
    linear = torch.nn.functional.interpolate(torch.from_numpy(layers)[None, None].float(), size=(5, 4), mode="bilinear")
    assert not set(linear.unique().tolist()) <= {128, 255}
    Image.fromarray(layers).save(tmp_path / "layers_a.png")
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(5, 4)).save(tmp_path / "a_gradcam.png")
    study = folder_cases(
        f"{tmp_path}/{{case}}_{{method}}.png", {"layers": f"{tmp_path}/layers_{{case}}.png"}, resample=True
    )
    reader = CaseReader(study.found[0], resample=True)
    assert set(reader.labels("layers").unique().tolist()) == {128, 255}
    assert reader.resampled
