"""Boxes as masks."""

from __future__ import annotations

import pytest
import torch

from medsal.errors import UsageError
from medsal.evaluation.truth import boxes_to_mask


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
