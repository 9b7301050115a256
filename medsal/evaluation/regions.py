"""Regions: how much relevance lies in each region of a label map, such as grid cells, boxes, lungs or an atlas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.truth import bare, images, one_box, plain, side_of

REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda inside, _: inside.mean(),
    "sum": lambda inside, _: inside.sum(),
    "max": lambda inside, _: inside.max(),
    "share": lambda inside, whole: inside.sum() / whole,
}


def region_scores(
    relevance: Tensor,
    labels: Tensor,
    *,
    reduce: str = "mean",
    regions: Sequence[int] | None = None,
    side: str | None = None,
) -> Tensor:
    r"""Relevance of each region: ``mean`` is :math:`\sum_{v \in R} r_v / |R|`, the sum over the area.

    Sümer et al. 2023 (PMLR 219:712-736) take the mean of magnitudes. A constant map gives every region the same mean,
    and a share (of all relevance, labelled or not) of the region's size; shares add up to 1, so that regions are not
    independent of each other.

    Args:
        relevance: ``(B, 1, *space)``.
        labels: codes of regions, of the same shape, or ``(1, 1, *space)`` for every image.
        reduce: ``mean``, ``sum``, ``max`` or ``share``.
        regions: their codes; None takes all but 0 in the batch, see ``region_codes``.
        side: ``positive``, ``negative`` or ``absolute``; None reads signed values as they are.

    Returns:
        ``(B, R)`` in float64, in the order of the codes; NaN where a region is not in the image, the map is not finite,
        or, for ``share``, relevance sums to nothing.

    Raises:
        UsageError: if there is no such reduction, or no region.
    """
    if reduce not in REDUCTIONS:
        raise UsageError(f"reduce: wanted {', '.join(REDUCTIONS)}, got {reduce!r}")
    codes = region_codes(labels) if regions is None else list(regions)
    if not codes:
        raise UsageError("region_scores: wanted labels above or below 0, got none")
    if len(labels) == 1:
        labels = labels.expand_as(relevance)
    found = torch.full((len(relevance), len(codes)), math.nan, dtype=torch.float64, device=relevance.device)
    for row, (values, places) in zip(found, images(relevance, labels), strict=True):
        read = values.double() if side is None else side_of(values, side).double()
        whole = read.sum()
        for i, code in enumerate(codes):
            inside = read[places == code]
            if len(inside) and whole.isfinite() and (reduce != "share" or whole != 0):
                row[i] = REDUCTIONS[reduce](inside, whole)
    return found


def region_codes(labels: Tensor) -> list[int]:
    """The codes of all regions in a batch, in rising order, without 0.

    Args:
        labels: ``(B, 1, *space)`` of whole numbers.

    Returns:
        The codes.

    Raises:
        UsageError: if a label is not a whole number, as interpolation makes them.
    """
    codes = torch.unique(plain(labels).double()).tolist()
    if any(code != int(code) for code in codes if math.isfinite(code)) or not all(map(math.isfinite, codes)):
        raise UsageError("labels: wanted whole numbers; resample labels by nearest neighbour")
    return [int(code) for code in codes if code]


def region_sizes(labels: Tensor, regions: Sequence[int]) -> Tensor:
    """The share of the image in each region: the share of relevance that chance gives it.

    Args:
        labels: ``(B, 1, *space)``.
        regions: their codes.

    Returns:
        ``(B, R)`` in float64.
    """
    flat = bare(labels).flatten(1)
    return torch.stack([(flat == code).double().mean(1) for code in regions], 1)


def grid_regions(space: Sequence[int], cells: Sequence[int]) -> Tensor:
    """A grid of cells as a label map, numbered from 1 in array order; the last cell of an axis takes what is left.

    Args:
        space: size of the image along each axis.
        cells: cells along each axis, at most its size.

    Returns:
        Whole numbers ``(1, 1, *space)``.

    Raises:
        UsageError: if the cells do not fit.

    Example:
        >>> grid_regions((2, 5), (1, 2))[0, 0].tolist()
        [[1, 1, 2, 2, 2], [1, 1, 2, 2, 2]]
    """
    if len(cells) != len(space) or not all(1 <= n <= size for n, size in zip(cells, space, strict=True)):
        raise UsageError(f"cells: wanted 1 or more along each axis of {tuple(space)}, got {tuple(cells)}")
    label = torch.zeros(*space, dtype=torch.int64)
    for axis, (size, count) in enumerate(zip(space, cells, strict=True)):
        at = (torch.arange(size) // (size // count)).clamp_max(count - 1)
        label = label * count + at.view(*[size if i == axis else 1 for i in range(len(space))])
    return label[None, None] + 1


def box_regions(boxes: Sequence[Tensor], space: Sequence[int]) -> Tensor:
    """Half-open boxes as a label map, numbered from 1 in their order; where boxes meet the first counts.

    Args:
        boxes: for each image ``(n, 2, dims)``, see ``medsal.evaluation.truth.boxes_to_mask``.
        space: size of the image along each axis.

    Returns:
        Whole numbers ``(B, 1, *space)``, 0 outside of all boxes.
    """
    labels = torch.zeros(len(boxes), 1, *space, dtype=torch.int64)
    for drawn, image_boxes in zip(labels, boxes, strict=True):
        for number, box in enumerate(image_boxes, 1):
            drawn[0][one_box(box, space) & (drawn[0] == 0)] = number
    return labels
