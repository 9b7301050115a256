"""Where voxels lie: between the network's grid and the patient's own, and which slices to look at.

A grid is an affine (voxel index to millimetres, RAS+) and a shape. Every transform on the way in keeps the affine of
its ``MetaTensor`` right, so the way back is one resampling between two grids, whatever was done in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsal.errors import InputError, UsageError

if TYPE_CHECKING:
    from monai.data import MetaTensor

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the world axis (x to the right, y to the front, z up) that its slices are stacked along."""


def to_grid(image: MetaTensor, affine: Any, shape: Sequence[int], *, mode: str = "linear") -> MetaTensor:
    """Bring an image or a map to another grid, by where its voxels lie in the world.

    Outside the field of view of ``image`` the result is 0.

    Args:
        image: ``(C, *space)`` in 2D or 3D with an affine.
        affine: of the wanted grid, ``(4, 4)`` or ``(3, 3)``, voxel index to millimetres.
        shape: of the wanted grid.
        mode: ``linear`` for values, ``nearest`` for labels.

    Returns:
        ``(C, *shape)``, of the same dtype, with that affine and the rest of the meta of ``image``.

    Raises:
        UsageError: if the number of dimensions differs or the mode is not known.
    """
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    if len(shape) != image.ndim - 1 or mode not in {"linear", "nearest"}:
        raise UsageError(
            f"to_grid: wanted {image.ndim - 1} sizes and mode linear or nearest, got {tuple(shape)} and {mode!r}"
        )
    size = torch.Size(int(n) for n in shape)
    target = full_affine(affine)
    kind = image.dtype
    if image.shape[1:] == size and torch.allclose(full_affine(image.affine), target, atol=1e-6):
        return placed(image.as_tensor().clone(), target, image.meta)
    resample = SpatialResample(
        mode="bilinear" if mode == "linear" else "nearest", padding_mode="zeros", dtype=torch.float64
    )
    source = full_affine(image.affine)
    start, stop = _covered(source, image.shape[1:], target, size)
    whole = torch.zeros((len(image), *size), dtype=kind)
    if all(a < b for a, b in zip(start, stop, strict=True)):
        corner = target.clone()
        corner[:3, 3] += target[:3, : len(start)] @ torch.tensor(start, dtype=torch.float64)
        inside = torch.Size(b - a for a, b in zip(start, stop, strict=True))
        moved = resample(
            MetaTensor(image.as_tensor(), affine=source), dst_affine=corner, spatial_size=inside
        ).as_tensor()
        box = (slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
        whole[box] = moved.to(kind) if kind.is_floating_point else moved.round().to(kind)
    return placed(whole, target, image.meta)


def _covered(source: Tensor, shape: Sequence[int], target: Tensor, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Start and stop of the box of the target grid that the source's field of view reaches."""
    corners = np.array(
        list(itertools.product(*[(-1.0, float(n)) for n in shape], *[(0.0,)] * (3 - len(shape)), (1.0,)))
    )
    reached = (np.linalg.inv(target.numpy()) @ source.numpy() @ corners.T)[: len(shape)]
    start = np.clip(np.floor(reached.min(1)), 0, size).astype(int)
    stop = np.clip(np.ceil(reached.max(1)) + 1, 0, size).astype(int)
    return start.tolist(), stop.tolist()


def placed(values: Tensor, affine: Any, meta: dict[str, Any] | None = None) -> MetaTensor:
    """Give values a place in the world.

    Args:
        values: ``(C, *space)``.
        affine: voxel index to millimetres.
        meta: whatever else is known of the image; its own affine is not used.

    Returns:
        A ``MetaTensor`` with that affine and the rest of ``meta``.
    """
    from monai.data import MetaTensor

    dressed = MetaTensor(values, meta=dict(meta or {}))
    dressed.affine = full_affine(affine)
    return dressed


def full_affine(affine: Any) -> Tensor:
    """Write an affine as ``(4, 4)`` in float64.

    Args:
        affine: ``(4, 4)``, or ``(3, 3)`` of a picture in the plane.

    Returns:
        ``(4, 4)``.
    """
    given = torch.as_tensor(np.asarray(affine, dtype=np.float64))
    if given.shape == (4, 4):
        return given
    full = torch.eye(4, dtype=torch.float64)
    full[:2, :2] = given[:2, :2]
    full[:2, 3] = given[:2, 2]
    return full


def patient_grid(image: MetaTensor) -> tuple[Tensor, tuple[int, ...]]:
    """The grid of the file that an image was loaded from.

    Args:
        image: ``(C, *space)``, as MONAI's ``LoadImage`` and the transforms after it left it.

    Returns:
        Affine ``(4, 4)`` and shape.

    Raises:
        InputError: if the image does not say where it came from.
    """
    affine, shape = image.meta.get("original_affine"), image.meta.get("spatial_shape")
    if affine is None or shape is None:
        raise InputError("the image has no original_affine and spatial_shape in its meta: load it with LoadImaged")
    sizes = tuple(int(n) for n in np.asarray(shape).ravel()[: image.ndim - 1])
    return full_affine(affine), sizes


def position_known(meta: Mapping[str, Any]) -> bool:
    """Whether the affine of an image is more than a guess.

    Args:
        meta: of an image; formats other than NIfTI are believed.

    Returns:
        False where a NIfTI header says that neither its sform nor its qform means anything.

    Example:
        >>> position_known({"sform_code": 0, "qform_code": 1}), position_known({"sform_code": 0, "qform_code": 0})
        (True, False)
    """
    codes = [np.asarray(meta[key]).item() for key in ("sform_code", "qform_code") if key in meta]
    return len(codes) < 2 or any(codes)


def plane_axis(affine: Any, plane: str) -> int:
    """The array axis that the slices of an anatomical plane are stacked along.

    Args:
        affine: ``(4, 4)``; on an oblique grid the axis nearest to the plane's normal is taken.
        plane: ``axial``, ``coronal`` or ``sagittal``.

    Returns:
        0, 1 or 2.

    Raises:
        UsageError: if there is no such plane.

    Example:
        >>> plane_axis(np.diag([1.0, 1, 1, 1]), "coronal")
        1
    """
    if plane not in PLANES:
        raise UsageError(f"plane: wanted one of {', '.join(PLANES)}, got {plane!r}")
    from nibabel.orientations import io_orientation

    world_axis_of = io_orientation(np.asarray(full_affine(affine)))[:, 0]
    return int(np.flatnonzero(world_axis_of == PLANES[plane])[0])


def layer_affine(affine: Any, shape: Sequence[int], layer_shape: Sequence[int]) -> Tensor:
    """The affine of a low-resolution map that covers the same field of view as its image.

    Args:
        affine: of the image.
        shape: of the image, ``space``.
        layer_shape: of the map, as many sizes.

    Returns:
        ``(4, 4)``: voxels larger by the ratio of the shapes, the corner of the field of view kept.
    """
    zoom = torch.eye(4, dtype=torch.float64)
    for axis, (size, small) in enumerate(zip(shape, layer_shape, strict=True)):
        zoom[axis, axis] = size / small
        zoom[axis, 3] = (size / small - 1) / 2
    return full_affine(affine) @ zoom
