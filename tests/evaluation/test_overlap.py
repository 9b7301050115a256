"""Overlap at thresholds, against scikit-learn, scikit-image and every threshold tried one by one."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.filters import threshold_otsu
from sklearn.metrics import f1_score, jaccard_score

from medsal.errors import UsageError
from medsal.evaluation.overlap import best_iou, dice, iou


def cut(relevance, mask, threshold):
    """The cut map, told a slow way."""
    if threshold == "area":
        return relevance >= relevance.flatten().sort(descending=True).values[int(mask.sum()) - 1]
    if threshold == "otsu":
        return relevance > threshold_otsu(relevance.numpy())
    if isinstance(threshold, str):
        below = math.floor(float(threshold.split(":")[1]) * relevance.numel())
        return relevance >= relevance.flatten().sort().values[below]
    return relevance >= threshold


@pytest.mark.parametrize("threshold", [0.3, "area", "otsu", "quantile:0.9", "quantile:0"])
@pytest.mark.parametrize("levels", [6, 10**6])
@pytest.mark.parametrize("shape", [(11, 13), (5, 6, 7)])
def test_overlap_equals_scikit_learn(threshold, levels, shape):
    relevance = torch.randint(0, levels, (4, 1, *shape)).double() / levels
    mask = torch.rand(4, 1, *shape) < 0.3
    predicted = [cut(r, m, threshold).flatten() for r, m in zip(relevance, mask, strict=True)]
    truth = [m.flatten() for m in mask]
    wanted = [jaccard_score(m, p) for m, p in zip(truth, predicted, strict=True)]
    assert iou(relevance, mask, threshold=threshold).tolist() == pytest.approx(wanted, abs=1e-15)
    wanted = [f1_score(m, p) for m, p in zip(truth, predicted, strict=True)]
    assert dice(relevance, mask, threshold=threshold).tolist() == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_the_best_threshold_is_the_best_of_all(levels):
    relevance = torch.randint(0, levels, (3, 1, 9, 8)).double() / levels - 0.4
    mask = torch.rand(3, 1, 9, 8) < 0.25
    for i in range(3):
        wanted = max(iou(relevance[[i]], mask[[i]], threshold=t).item() for t in relevance[i].unique().tolist())
        assert best_iou(relevance, mask)[i].item() == pytest.approx(wanted, abs=1e-15)


def test_a_map_below_the_threshold_predicts_nothing():
    assert iou(torch.zeros(1, 1, 3, 3), torch.eye(3).bool()[None, None], threshold=0.5).item() == 0
    assert dice(torch.zeros(1, 1, 3, 3), torch.eye(3).bool()[None, None], threshold=0.5).item() == 0


def test_a_threshold_in_single_precision_takes_the_values_equal_to_it():
    assert iou(torch.tensor([[[0.1, 0.0]]]), torch.tensor([[[True, False]]]), threshold=0.1).item() == 1


def test_otsu_of_a_map_of_large_close_values_is_that_of_the_map_without_its_offset():
    relevance, mask = torch.rand(1, 1, 20, 20, dtype=torch.float64), torch.rand(1, 1, 20, 20) < 0.5
    far = relevance * 2.0**-20 + 2.0**20
    assert iou(far, mask, threshold="otsu").item() == pytest.approx(iou(relevance, mask, threshold="otsu").item(), 0.02)


@pytest.mark.parametrize("wrong", ["median", "quantile:2", "quantile:", "quantile:x", None, True])
def test_an_unknown_threshold_is_refused(wrong):
    with pytest.raises(UsageError, match="threshold: wanted a number, quantile:Q with Q from 0 to 1, area or otsu"):
        iou(torch.rand(1, 1, 3, 3), torch.eye(3).bool()[None, None], threshold=wrong)
