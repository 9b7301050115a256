"""Region scores against SciPy's labelled statistics, and label maps worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from medsal.errors import UsageError
from medsal.evaluation import METRICS
from medsal.evaluation.regions import box_regions, grid_regions, region_codes, region_scores, region_sizes

CODES = [2, 5, 9]


@pytest.fixture
def labelled():
    labels = torch.tensor([0, *CODES])[torch.randint(4, (3, 1, 5, 6, 4))]
    return torch.randn(3, 1, 5, 6, 4, dtype=torch.float64), labels


@pytest.mark.parametrize(("reduce", "peer"), [("mean", ndimage.mean), ("sum", ndimage.sum), ("max", ndimage.maximum)])
def test_region_scores_equal_scipy(labelled, reduce, peer):
    relevance, labels = labelled
    found = region_scores(relevance, labels, reduce=reduce)
    for i in range(3):
        wanted = peer(relevance[i, 0].numpy(), labels[i, 0].numpy(), CODES)
        torch.testing.assert_close(found[i], torch.from_numpy(wanted), rtol=0, atol=1e-13)


def test_shares_of_all_regions_add_up_and_are_the_sizes_for_a_blank_map(labelled):
    relevance, labels = labelled
    everywhere = [0, *CODES]
    shares = region_scores(relevance, labels, reduce="share", regions=everywhere, side="absolute")
    torch.testing.assert_close(shares.sum(1), torch.ones(3, dtype=torch.float64))
    blank = torch.full_like(relevance, 0.4)
    found = region_scores(blank, labels, reduce="share", regions=everywhere)
    torch.testing.assert_close(found, region_sizes(labels, everywhere), rtol=0, atol=1e-14)
    means = region_scores(blank, labels)
    torch.testing.assert_close(means, torch.full_like(means, 0.4), rtol=0, atol=1e-15)


def test_sides_of_signed_relevance():
    relevance, labels = torch.tensor([[[1.0, -3, 2]]]), torch.tensor([[[1, 1, 0]]])
    found = [region_scores(relevance, labels, side=side).item() for side in (None, "positive", "negative", "absolute")]
    assert found == [-1, 0.5, 1.5, 2]


def test_one_label_map_serves_every_image(labelled):
    relevance, labels = labelled
    torch.testing.assert_close(
        region_scores(relevance, labels[:1]), region_scores(relevance, labels[:1].expand_as(labels).clone())
    )


def test_a_region_that_is_not_there_and_a_map_that_is_not_finite_have_no_answer():
    relevance = torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2, 2)])
    labels = torch.tensor([[1, 1], [2, 2]]).expand(3, 1, 2, 2)
    found = region_scores(relevance, labels, regions=[1, 2, 3], reduce="share")
    assert found.isnan().tolist() == [[False, False, True], [True] * 3, [True] * 3]
    reasons = METRICS["region_scores"].reasons(found, relevance, labels)
    assert reasons == ["the region is not in the image; no relevance to share", "map not finite", reasons[0]]


def test_the_last_cell_of_a_grid_takes_what_is_left():
    grid = grid_regions((4, 8), (1, 3))
    assert grid[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]
    grid = grid_regions((4, 3, 2), (2, 3, 1))
    assert region_codes(grid) == [1, 2, 3, 4, 5, 6]
    assert grid[0, 0, 3, 2, 1] == 6
    with pytest.raises(UsageError, match=r"cells: wanted 1 or more along each axis of \(4, 8\), got \(5, 1\)"):
        grid_regions((4, 8), (5, 1))


def test_where_boxes_meet_the_first_counts():
    labels = box_regions([torch.tensor([[[0, 0], [2, 2]], [[1, 1], [3, 3]]]), torch.zeros(0, 2, 2)], (3, 3))
    assert labels[0, 0].tolist() == [[1, 1, 0], [1, 1, 2], [0, 2, 2]]
    assert not labels[1].any()


def test_what_cannot_be_is_refused():
    relevance = torch.ones(1, 1, 1, 2)
    with pytest.raises(UsageError, match="labels: wanted whole numbers; resample labels by nearest neighbour"):
        region_scores(relevance, torch.tensor([[[[0.5, 1.0]]]]))
    with pytest.raises(UsageError, match="reduce: wanted mean, sum, max, share, got 'median'"):
        region_scores(relevance, torch.ones(1, 1, 1, 2), reduce="median")
    with pytest.raises(UsageError, match="wanted labels above or below 0"):
        region_scores(relevance, torch.zeros(1, 1, 1, 2))
