"""Layer scores: the golden values of a published pair, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medsal.errors import UsageError
from medsal.evaluation import METRICS
from medsal.evaluation.layers import GRADED, SIGNED, THRESHOLDS, layer_coverage, layer_hit_rate, mean_cover, mean_score

STRIPES = torch.tensor([255, 128, 64, 32, 0, 17]).repeat_interleave(2).expand(4, 12)[None, None]


@pytest.fixture
def published(real_data):
    """The published map and its layers."""
    files = [real_data / "skin" / name for name in ("HEATMAP_GRADCAMPLUSPLUS_DENSENET.png", "SKIN_LAYERS_MAP.png")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no skin ultrasound pair in {real_data / 'skin'}")
    heat, layers = (torch.from_numpy(np.array(Image.open(file)))[None, None] for file in files)
    return heat / 255, layers


def test_the_published_pair_has_its_published_scores(published):
    heat, layers = published
    assert layer_hit_rate(heat, layers).item() == 0
    assert layer_hit_rate(heat, layers, scores=SIGNED).item() == 0
    assert layer_coverage(heat, layers).item() == pytest.approx(0.6412, abs=5e-5)
    assert layer_coverage(heat, layers, part="background").item() == pytest.approx(0.3918, abs=5e-5)
    assert layer_coverage(heat, layers, part="weighted").item() == pytest.approx(0.2847, abs=5e-5)
    assert mean_score(layers).item() == pytest.approx((3 * 7303 + 2 * 7812 + 7812 - 15965) / 224**2, abs=1e-12)


def test_a_transposed_heat_map_gives_other_scores(published):
    heat, layers = published
    turned = heat.transpose(2, 3)
    assert abs(layer_coverage(turned, layers) - layer_coverage(heat, layers)).item() > 0.1
    assert abs(layer_coverage(turned, layers, part="weighted") - 0.2847).item() > 0.02


@pytest.mark.parametrize(
    ("column", "graded", "signed"), [(0, 3, 1), (2, 2, 0), (4, 1, 0), (6, 0, 0), (8, -1, -1), (10, -1, -1)]
)
def test_the_layer_of_the_peak_gives_the_score(column, graded, signed):
    peak = torch.zeros(1, 1, 4, 12)
    peak[0, 0, 2, column] = 0.3
    assert layer_hit_rate(peak, STRIPES).item() == graded
    assert layer_hit_rate(peak, STRIPES, scores=SIGNED).item() == signed
    assert layer_hit_rate(peak, STRIPES, scores={17: 0.5}, other=-2).item() == (0.5 if column == 10 else -2)


def test_equal_peaks_count_by_their_mean():
    relevance = torch.zeros(1, 1, 4, 12)
    relevance[0, 0, 1, [0, 2, 9]] = 5
    assert layer_hit_rate(relevance, STRIPES).item() == pytest.approx((3 + 2 - 1) / 3)
    blank = torch.ones(1, 1, 4, 12)
    assert layer_hit_rate(blank, STRIPES).item() == pytest.approx((3 + 2 + 1 + 0 - 1 - 1) / 6)
    assert mean_score(STRIPES).item() == pytest.approx(4 / 6)


def test_each_side_is_read_for_itself():
    relevance = torch.zeros(1, 1, 4, 12)
    relevance[0, 0, 1, 0], relevance[0, 0, 1, 2] = 1, -2
    found = [layer_hit_rate(relevance, STRIPES, side=side).item() for side in ("positive", "negative", "absolute")]
    assert found == [3, 2, 2]
    covers = [layer_coverage(relevance, STRIPES, side=side).item() for side in ("positive", "negative", "absolute")]
    assert covers == pytest.approx([1 / 8, 0, 0.5 / 8])


def test_coverage_of_maps_told_by_hand():
    relevance = torch.zeros(1, 1, 4, 12)
    relevance[..., 0:2], relevance[..., 2:4], relevance[..., 4:6], relevance[..., 8:10] = 2.0, 1.0, 0.5, 0.2
    assert layer_coverage(relevance, STRIPES).item() == 1
    assert layer_coverage(relevance, STRIPES, codes=128).item() == 0.5
    assert layer_coverage(relevance, STRIPES, codes=(128, 64)).item() == 0.375
    assert layer_coverage(relevance, STRIPES, part="background").item() == pytest.approx(0.1)
    assert layer_coverage(relevance, STRIPES, part="weighted").item() == pytest.approx((1 + 0.25 + 0.0625) / 3)
    assert layer_coverage(relevance, STRIPES, part="iou", threshold=0.5).item() == 0.5
    assert layer_coverage(relevance, STRIPES, part="iou", threshold=0.55).item() == 1
    assert layer_coverage(relevance, STRIPES, part="iou", codes=32).item() == 0
    assert mean_cover(relevance).item() == pytest.approx((1 + 0.5 + 0.25 + 0.1) / 6)
    assert THRESHOLDS == (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)


def test_a_map_of_ones_covers_everything_and_its_chance_says_so():
    ones = torch.ones(1, 1, 4, 12)
    for part in ("mean", "background"):
        assert layer_coverage(ones, STRIPES, part=part).item() == mean_cover(ones).item() == 1


def test_interpolated_codes_are_no_layer():
    layers = torch.tensor([[[254.6, 255.0]]])
    assert layer_hit_rate(torch.tensor([[[1.0, 0.0]]]), layers).item() == -1
    assert layer_coverage(torch.tensor([[[1.0, 0.0]]]), layers).item() == 0


def test_without_an_answer_there_is_a_reason():
    relevance = torch.stack([torch.zeros(1, 2, 2), -torch.ones(1, 2, 2), torch.full((1, 2, 2), torch.nan)])
    layers = torch.full((3, 1, 2, 2), 255)
    for name in ("layer_hit_rate", "layer_coverage"):
        row = METRICS[name]
        found = row.function(relevance, layers)
        assert found.isnan().all()
        assert row.reasons(found, relevance, layers) == [row.no_answer, row.no_answer, "map not finite"]
    assert layer_coverage(torch.ones(1, 1, 2, 2), layers[:1], codes=32).isnan().all()


def test_unknown_parts_and_weights_are_refused():
    with pytest.raises(UsageError, match="part: wanted mean, background, iou, weighted, got 'top'"):
        layer_coverage(torch.ones(1, 1, 4, 12), STRIPES, part="top")
    with pytest.raises(UsageError, match="weights for 255, 128, 64"):
        layer_coverage(torch.ones(1, 1, 4, 12), STRIPES, part="weighted", codes=32)
    assert list(GRADED.values()) == [3, 2, 1, 0]
