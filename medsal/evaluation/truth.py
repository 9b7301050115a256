"""Truth: maps and masks of one grid, what cannot be answered and why, and boxes as masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from medsal.errors import UsageError

SIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda r: r.clamp_min(0),
    "negative": lambda r: (-r).clamp_min(0),
    "absolute": torch.abs,
}
"""Name -> what is read of signed relevance; none of it is below zero."""

REASONS = ("map not finite", "truth not finite", "everything ignored", "truth empty", "truth everywhere")
"""Why a map cannot be scored against a mask, the first that holds."""


def side_of(relevance: Tensor, side: str) -> Tensor:
    """Read one side of signed relevance.

    Args:
        relevance: of any shape.
        side: ``positive`` (its positive part), ``negative`` (its negative part, turned positive) or ``absolute``.

    Returns:
        The same shape, nowhere below 0.

    Raises:
        UsageError: if there is no such side.
    """
    if side not in SIDES:
        raise UsageError(f"side: wanted {', '.join(SIDES)}, got {side!r}")
    return SIDES[side](relevance)


def prevalence(mask: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Share of true voxels: the average precision and the pointing game of a map that knows nothing.

    Args:
        mask: boolean ``(B, 1, *space)``.
        ignore: boolean of the same shape; these voxels do not count.

    Returns:
        ``(B,)`` in float64.
    """
    truth = bare(mask).bool().flatten(1)
    if ignore is None:
        return truth.sum(1).double() / truth.shape[1]
    counted = ~bare(ignore).bool().flatten(1)
    return (truth & counted).sum(1).double() / counted.sum(1)


def bare(tensor: Tensor) -> Tensor:
    """Strip a tensor of its graph and of what MONAI adds.

    Args:
        tensor: any tensor.

    Returns:
        A plain tensor that shares its memory.
    """
    return tensor.detach().as_subclass(Tensor)


def plain(tensor: Tensor) -> Tensor:
    """Strip a map likewise; half precision, whole numbers and booleans become real numbers, with the same values.

    Args:
        tensor: any tensor.

    Returns:
        A plain tensor in single precision or double.
    """
    stripped = bare(tensor)
    if stripped.dtype in {torch.float16, torch.bfloat16, torch.bool}:
        return stripped.float()
    return stripped if stripped.is_floating_point() else stripped.double()


def images(relevance: Tensor, *others: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Go through a batch image by image.

    Args:
        relevance: ``(B, 1, *space)``.
        *others: of the same shape: a mask, layers, labels, voxels to ignore; None for none.

    Yields:
        What there is of each image, of shape ``space``.

    Raises:
        UsageError: if the shapes differ or there is not one channel.
    """
    given = [bare(one) for one in (relevance, *others) if one is not None]
    if relevance.ndim < 3 or relevance.shape[1] != 1:
        raise UsageError(f"wanted maps of shape (B, 1, *space), got {tuple(relevance.shape)}")
    for other in given[1:]:
        if other.shape != relevance.shape:
            raise UsageError(
                f"wanted a mask on the grid of the map {tuple(relevance.shape)}, got {tuple(other.shape)}; resample it"
            )
    for row in zip(*given, strict=True):
        values, *rest = (one[0] for one in row)
        yield plain(values), *rest


def no_answer(relevance: Tensor, mask: Tensor, ignore: Tensor | None = None) -> list[str]:
    """Say why a map cannot be scored against a mask.

    Args:
        relevance: ``(B, 1, *space)``.
        mask: truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        For each image ``""``, or one of ``REASONS``.

    Raises:
        UsageError: if a mask has values between 0 and 1, as interpolation makes them, or below 0.
    """
    return [_reason(*row) for row in images(relevance, mask, ignore)]


def _reason(values: Tensor, mask: Tensor, ignore: Tensor | None = None) -> str:
    if mask.is_floating_point():
        if not mask.isfinite().all():
            return "truth not finite"
        if ((mask > 0) & (mask < 1)).any():
            raise UsageError("mask: wanted 0 and 1, got values between them; resample masks by nearest neighbour")
    if mask.dtype != torch.bool and (mask < 0).any():
        raise UsageError("mask: wanted 0 and 1, got values below 0; leave masks out where intensities are scaled")
    truth = mask.bool()
    left_out = torch.zeros((), dtype=torch.bool, device=truth.device) if ignore is None else ignore.bool()
    if not (values.isfinite() | left_out).all():
        return "map not finite"
    if left_out.all():
        return "everything ignored"
    if not (truth & ~left_out).any():
        return "truth empty"
    return "truth everywhere" if (truth | left_out).all() else ""


def score_each(
    score: Callable[[Tensor, Tensor], Tensor], relevance: Tensor, mask: Tensor, ignore: Tensor | None = None
) -> Tensor:
    """Score every image that can be scored.

    Args:
        score: from values ``(N,)`` and boolean truth ``(N,)`` to one number.
        relevance: ``(B, 1, *space)``.
        mask: truth of the same shape.
        ignore: voxels that do not count.

    Returns:
        ``(B,)`` in float64, NaN where ``no_answer`` has a reason.
    """
    found = []
    for row in images(relevance, mask, ignore):
        if _reason(*row):
            found.append(torch.tensor(math.nan, dtype=torch.float64, device=row[0].device))
            continue
        counted = ... if len(row) == 2 else ~row[2].bool()
        found.append(score(row[0][counted].flatten(), row[1].bool()[counted].flatten()).double())
    return torch.stack(found)


def boxes_to_mask(boxes: Sequence[Tensor], space: Sequence[int]) -> Tensor:
    """Draw half-open boxes: a voxel is in a box if its centre is, start <= index + 1/2 < stop.

    For whole numbers these are the voxels from ``start`` to ``stop - 1``, as many as ``stop - start``.

    Args:
        boxes: for each image ``(n, 2, dims)``, start and stop of every box along each axis of space; n may be 0.
        space: size of the grid along each axis.

    Returns:
        Boolean ``(B, 1, *space)``, the union of each image's boxes.

    Raises:
        UsageError: if a box has another number of axes or stops before it starts.

    Example:
        >>> boxes_to_mask([torch.tensor([[[0, 1], [2, 3]]])], (3, 4)).int()
        tensor([[[[0, 1, 1, 0],
                  [0, 1, 1, 0],
                  [0, 0, 0, 0]]]], dtype=torch.int32)
    """
    mask = torch.zeros(len(boxes), 1, *space, dtype=torch.bool)
    for row, image_boxes in enumerate(boxes):
        for box in image_boxes:
            mask[row] |= one_box(box, space)
    return mask


def one_box(box: Tensor, space: Sequence[int]) -> Tensor:
    """Draw one half-open box, see ``boxes_to_mask``.

    Args:
        box: ``(2, dims)``.
        space: size of the grid.

    Returns:
        Boolean, of shape ``space``.

    Raises:
        UsageError: if it has another number of axes or stops before it starts.
    """
    if box.shape != (2, len(space)) or (box[1] < box[0]).any():
        raise UsageError(
            f"boxes: wanted start <= stop along {len(space)} axes, (n, 2, {len(space)}), got {box.tolist()}"
        )
    inside = torch.ones(*space, dtype=torch.bool)
    for axis, size in enumerate(space):
        centre = torch.arange(size) + 0.5
        line = (centre >= box[0, axis]) & (centre < box[1, axis])
        inside &= line.view(*[size if i == axis else 1 for i in range(len(space))])
    return inside
