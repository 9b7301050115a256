"""Boxes as masks, and what a box lets a perfect map score."""

from __future__ import annotations

import math

import pytest
import torch

from medsal.errors import UsageError
from medsal.evaluation import average_precision, prevalence
from medsal.evaluation.truth import bounding_box, box_ceiling, boxes_to_mask


def test_boxes_are_half_open_and_joined():
    boxes = [torch.tensor([[[1, 2, 0], [3, 5, 2]], [[2, 4, 1], [4, 5, 3]]]), torch.zeros(0, 2, 3)]
    mask = boxes_to_mask(boxes, (5, 6, 4))
    wanted = torch.zeros(2, 1, 5, 6, 4, dtype=torch.bool)
    wanted[0, 0, 1:3, 2:5, 0:2] = True
    wanted[0, 0, 2:4, 4:5, 1:3] = True
    assert torch.equal(mask, wanted)


def test_a_box_between_voxels_takes_those_whose_centre_it_holds():
    mask = boxes_to_mask([torch.tensor([[[0.4], [2.5]], [[3.6], [4.4]]])], (6,))
    assert mask[0, 0].int().tolist() == [1, 1, 0, 0, 0, 0]


def test_a_box_of_no_width_is_empty_and_one_beyond_the_image_is_cut():
    assert not boxes_to_mask([torch.tensor([[[2, 2], [2, 5]]])], (6, 6)).any()
    assert boxes_to_mask([torch.tensor([[[-3, 4], [2, 99]]])], (6, 6)).sum() == 4


@pytest.mark.parametrize("wrong", [[[[3, 0], [1, 2]]], [[[0, 0, 0], [1, 1, 1]]]])
def test_a_box_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match="boxes: wanted start <= stop along 2 axes"):
        boxes_to_mask([torch.tensor(wrong)], (6, 6))


def test_the_box_around_a_mask():
    mask = torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    mask[0, 0, 1, 2] = mask[0, 0, 3, 4] = True
    drawn = bounding_box(mask)
    assert drawn[0, 0, 1:4, 2:5].all()
    assert drawn.sum() == 9


def ball(dims, radius=40):
    axis = torch.arange(-radius - 5, radius + 6, dtype=torch.float64)
    return sum(a**2 for a in torch.meshgrid(*[axis] * dims, indexing="ij")) <= (radius + 0.5) ** 2


@pytest.mark.parametrize("dims", [2, 3])
def test_a_perfect_map_scores_the_ceiling_against_its_box(dims):
    mask = ball(dims, 40 if dims == 2 else 20)[None, None]
    box = bounding_box(mask)
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
