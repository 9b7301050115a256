"""Ceilings: the formula of boxes, coarse grids and other readers against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medsal.errors import UsageError
from medsal.evaluation import average_precision, pointing_game, prevalence
from medsal.evaluation.ceiling import (
    bounding_boxes,
    box_ceiling,
    box_geometry_ceiling,
    ellipsoid,
    gap_closed,
    reader_ceiling,
    resolution_ceiling,
)


@pytest.mark.parametrize("shape", [(32, 40), (16, 20, 18)])
def test_a_perfect_ellipse_scores_f_plus_1_minus_f_p_against_its_box(shape):
    box = tuple((2, size - 5) for size in shape)
    mask = ellipsoid([box], shape)
    truth = bounding_boxes(mask)
    filled = torch.zeros(shape, dtype=torch.bool)
    filled[tuple(slice(a, b) for a, b in box)] = True
    assert (truth[0, 0] == filled).all()
    wanted = box_ceiling(truth, mask)
    torch.testing.assert_close(box_geometry_ceiling(average_precision, mask), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(average_precision(mask.double(), truth), wanted, rtol=0, atol=1e-12)
    assert box_geometry_ceiling(pointing_game, mask).item() == 1


def test_ellipses_and_ellipsoids_fill_pi_by_4_and_pi_by_6_of_their_box():
    assert ellipsoid([((0, 200), (0, 160))], (200, 160)).double().mean().item() == pytest.approx(math.pi / 4, abs=2e-3)
    assert ellipsoid([((0, 60),) * 3], (60, 60, 60)).double().mean().item() == pytest.approx(math.pi / 6, abs=2e-3)


def ball(dims, radius=40):
    axis = torch.arange(-radius - 5, radius + 6, dtype=torch.float64)
    return sum(a**2 for a in torch.meshgrid(*[axis] * dims, indexing="ij")) <= (radius + 0.5) ** 2


@pytest.mark.parametrize("dims", [2, 3])
def test_a_perfect_map_scores_the_ceiling_against_its_box(dims):
    mask = ball(dims, 40 if dims == 2 else 20)[None, None]
    box = bounding_boxes(mask)
    found = average_precision(mask.double(), box)
    torch.testing.assert_close(box_ceiling(box, mask), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(box_ceiling(box), found, rtol=0.02, atol=0)
    p = prevalence(box)
    fill = math.pi / (4 if dims == 2 else 6)
    torch.testing.assert_close(box_ceiling(box), fill + (1 - fill) * p, rtol=0, atol=1e-15)


def test_an_ellipse_in_a_box_of_a_twentieth_of_the_image_is_held_below_four_fifths():
    box = torch.zeros(1, 1, 100, 100, dtype=torch.bool)
    box[..., :20, :25] = True
    assert box_ceiling(box).item() == pytest.approx(0.797, abs=1e-3)


def test_no_box_has_no_ceiling_and_an_outline_outside_is_refused():
    assert box_ceiling(torch.zeros(1, 1, 3, 3, dtype=torch.bool)).isnan().all()
    with pytest.raises(UsageError, match="wanted an outline inside its boxes"):
        box_ceiling(torch.eye(3).bool()[None, None], torch.ones(1, 1, 3, 3, dtype=torch.bool))


def test_each_finding_has_its_own_box():
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[0, 0, 1, 1] = mask[0, 0, 2, 2] = mask[0, 0, 6, 7] = True
    wanted = torch.zeros(9, 9, dtype=torch.bool)
    wanted[1:3, 1:3] = wanted[6, 7] = True
    assert (bounding_boxes(mask)[0, 0] == wanted).all()


def test_the_grid_of_the_image_has_no_ceiling_below_1_and_a_coarser_one_has():
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[0, 0, 8:16, 8:16] = True
    mask[1, 0, 9:12, 17:20] = True
    assert resolution_ceiling(average_precision, mask, (32, 32)).tolist() == [1, 1]
    fine, coarse = (resolution_ceiling(average_precision, mask, (n, n)) for n in (16, 4))
    assert (coarse < fine).all()
    assert resolution_ceiling(average_precision, mask, (4, 4), mode="nearest")[0].item() == 1
    # the small one lies in one cell of 8 x 8: nine of the 64 tied voxels are true
    assert resolution_ceiling(average_precision, mask, (4, 4), mode="nearest")[1].item() == pytest.approx(9 / 64)


def test_the_ceiling_of_a_coarse_grid_holds_in_3d():
    mask = torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    mask[..., 1:3, 5:7, 9:11] = True
    assert resolution_ceiling(average_precision, mask, (4, 4, 4), mode="nearest").item() == pytest.approx(1 / 8)
    assert 1 / 8 < resolution_ceiling(average_precision, mask, (8, 8, 8)).item() < 1


def test_readers_are_scored_by_the_same_rule_and_averaged():
    mask = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    other = mask.roll(1, 2).double()
    absent = other.clone()
    absent[1] = float("nan")
    twice = reader_ceiling(average_precision, mask, [mask, other])
    torch.testing.assert_close(twice, (1 + average_precision(other, mask)) / 2)
    assert reader_ceiling(average_precision, mask, [absent]).isnan().tolist() == [False, True, False]
    assert reader_ceiling(average_precision, mask, [mask, absent])[1].item() == 1


def test_the_gap_closed_is_0_at_the_prior_1_at_the_ceiling_and_undefined_without_a_gap():
    found = gap_closed(torch.tensor([0.2, 0.8, 0.5, 0.5]), torch.tensor([0.2, 0.2, 0.2, 0.8]), torch.tensor([0.8] * 4))
    assert found[:3].tolist() == pytest.approx([0, 1, 0.5])
    assert found[3].isnan()


def test_what_does_not_fit_is_refused():
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(UsageError, match="no finer than the image"):
        resolution_ceiling(average_precision, mask, (9, 8))
    with pytest.raises(UsageError, match="grid of 2 axes"):
        resolution_ceiling(average_precision, mask, (4, 4, 4))
    with pytest.raises(UsageError, match="'nearest' or 'linear', got 'cubic'"):
        resolution_ceiling(average_precision, mask, (4, 4), mode="cubic")
    with pytest.raises(UsageError, match="at least one other reader"):
        reader_ceiling(average_precision, mask, [])
    for box in ([(0, 9), (0, 8)], [(3, 3), (0, 8)], [(0, 8)]):
        with pytest.raises(UsageError, match="half-open boxes inside an image"):
            ellipsoid([box], (8, 8))
