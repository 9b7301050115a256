"""Images as users give them: checked, laid out, with their spacing; and relevance given back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from medsal.attribution.passes import HALF
from medsal.errors import InputError, UsageError

Spacing = tuple[float, ...]


def plain_image(image: Tensor) -> Tensor:
    """Strip and check what a user gave as image.

    Args:
        image: a ``MetaTensor`` or tensor ``(B, C, *space)``.

    Returns:
        A plain tensor without a graph, in single precision at least.

    Raises:
        UsageError: if it is not a batch of images with channels.
        InputError: if a value is not finite; the error names the first such place.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim not in {4, 5} or not image.numel():
        came = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise UsageError(f"image: wanted floating point (B, C, *space) in 2D or 3D, got {came}")
    plain = image.detach().as_subclass(Tensor)
    if plain.dtype in HALF:
        plain = plain.float()
    if plain.is_inference():
        plain = plain.clone()
    bad = ~torch.isfinite(plain)
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise InputError(
            f"image: {int(bad.sum())} values are not finite, the first at (image, channel, *voxel) {place}"
        )
    return plain


def as_volume(image: Tensor, slice_axis: int | None) -> Tensor:
    """Take the slices of a network that has them as channels for a volume.

    Args:
        image: ``(B, 1, *space)``, or slices ``(B, S, H, W)``.
        slice_axis: the axis of ``space`` that runs over the slices; None for other networks.

    Returns:
        ``(B, 1, *space)``; the image itself of other networks.
    """
    if slice_axis is None or image.ndim == 5:
        return image
    return image.movedim(1, slice_axis + 1).unsqueeze(1)


def laid_out(image: Tensor, memory_format: torch.memory_format | None) -> Tensor:
    """Lay images out in memory.

    Args:
        image: ``(B, C, *space)``.
        memory_format: None is contiguous.

    Returns:
        The same images.

    Raises:
        UsageError: if the format is for images of other dimensions.
    """
    fits = {torch.channels_last: 4, torch.channels_last_3d: 5}
    if memory_format in fits and fits[memory_format] != image.ndim:
        raise UsageError(f"memory_format: {memory_format} does not fit images of {image.ndim - 2} dimensions")
    return image.contiguous(memory_format=memory_format or torch.contiguous_format)


def spacings_of(image: Tensor, plain: Tensor, given: Any = None) -> list[Spacing]:
    """Find the spacing of each image.

    Args:
        image: as the user gave it; the affine of a ``MetaTensor`` is ``(4, 4)``, of a batch ``(B, 4, 4)``.
        plain: ``(B, C, *space)``.
        given: what the user gave, for all images or for each.

    Returns:
        Millimetres per voxel along each axis of space, for each image; ones where nothing says it.

    Raises:
        UsageError: if what was given does not fit the images.
    """
    batch, dims = len(plain), plain.ndim - 2
    if given is not None:
        values = torch.as_tensor(given, dtype=torch.float64)
        if values.shape not in {(dims,), (batch, dims)} or not (values > 0).all():
            raise UsageError(f"spacing: wanted {dims} lengths in mm, for all images or each of {batch}, got {given!r}")
        return [tuple(row) for row in values.expand(batch, dims).tolist()]
    affine = getattr(image, "affine", None)
    if affine is None or image.ndim != plain.ndim or affine.shape[-1] < dims + 1:
        return [(1.0,) * dims] * batch
    affines = torch.as_tensor(affine).double().expand(batch, *affine.shape[-2:])
    lengths = torch.linalg.vector_norm(affines[:, :-1, :dims], dim=1)
    return [tuple(row) for row in lengths.tolist()]


def runs(spacings: Sequence[Spacing]) -> Iterator[slice]:
    """Split a batch where the spacing changes.

    Args:
        spacings: one for each image.

    Yields:
        Slices of the batch with one spacing each.

    Example:
        >>> list(runs([(1.0, 1.0), (1.0, 1.0), (2.0, 1.0)]))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    start = 0
    for i in range(1, len(spacings) + 1):
        if i == len(spacings) or spacings[i] != spacings[start]:
            yield slice(start, i)
            start = i


def dress(relevance: Tensor, image: Tensor) -> Tensor:
    """Give relevance the meta of the image, where the image has any.

    Args:
        relevance: ``(B, 1, *space)``.
        image: as the user gave it.

    Returns:
        A ``MetaTensor`` where the image is one, else a tensor.
    """
    relevance = relevance.detach().contiguous()
    if type(image) is Tensor or not hasattr(image, "copy_meta_from"):
        return relevance
    from monai.data import MetaTensor

    dressed: Tensor = MetaTensor(relevance).copy_meta_from(image)
    return dressed
