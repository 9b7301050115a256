"""Segments of an image at several scales, for methods that rank regions: label images, never stacks of masks."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medsal.errors import UsageError

Array = NDArray[Any]
ROUNDING = 1e-6
"""Relative error of spacings that were stored in single precision."""
LARGEST_LABEL = 2**16
"""Labels beyond this are numbered anew, so that a table over them stays small."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of one image; those of different label images may overlap.

    Attributes:
        labels: label images, each of the image's ``space``; 0 belongs to no segment.
        spacing: units of length per voxel along each axis.
        dilation: by how much every segment is widened on all sides, in units of length.
        min_new: the fewest voxels by which a segment must enlarge the area ranked so far to be taken.
    """

    labels: tuple[Array, ...]
    spacing: tuple[float, ...]
    dilation: float = 0.0
    min_new: int = 1

    def masks(self) -> Iterator[tuple[tuple[slice, ...], Array]]:
        """Go through the widened segments: label image by label image, labels ascending.

        Yields:
            The box that holds the segment, and its mask in that box.
        """
        from scipy import ndimage

        reach = [math.floor(self.dilation / step * (1 + ROUNDING)) for step in self.spacing]
        for image in self.labels:
            for index, box in enumerate(ndimage.find_objects(image)):
                if box is None:
                    continue
                wide = tuple(
                    slice(max(0, part.start - more), min(length, part.stop + more))
                    for part, more, length in zip(box, reach, image.shape, strict=True)
                )
                yield wide, dilate(image[wide] == index + 1, self.dilation, self.spacing)


Segmentation = Callable[[Array, tuple[float, ...]], "Segments | Array | Sequence[Array]"]
"""Maps an image ``(C, *space)`` in float64 and its spacing to ``Segments``, or to label images or masks."""


def dilate(mask: Array, radius: float, spacing: Sequence[float]) -> Array:
    """Widen a mask by an ellipsoid that is a ball in units of length.

    Args:
        mask: boolean, in 2D or 3D.
        radius: of the ball, in units of length.
        spacing: units of length per voxel along each axis.

    Returns:
        The voxels whose centre lies within ``radius`` of the centre of one in the mask.

    Example:
        >>> dilate(np.array([[0, 0, 0, 1, 0, 0, 0]]) > 0, 3.0, (1.0, 1.5)).astype(int).tolist()
        [[0, 1, 1, 1, 1, 1, 0]]
    """
    squared = (radius * (1 + ROUNDING)) ** 2
    reach = [math.floor(math.sqrt(squared) / step) for step in spacing[:-1]]
    by_width: dict[int, list[tuple[int, ...]]] = {}
    for shift in np.ndindex(*[2 * r + 1 for r in reach]):
        moved = tuple(s - r for s, r in zip(shift, reach, strict=True))
        rest = squared - sum((m * step) ** 2 for m, step in zip(moved, spacing[:-1], strict=True))
        if rest >= 0:
            by_width.setdefault(math.floor(math.sqrt(rest) / spacing[-1]), []).append(moved)
    result, row = np.zeros_like(mask), mask.copy()
    for width in range(max(by_width) + 1):
        if width:
            _add_moved(row, mask, (*[0] * (mask.ndim - 1), width))
            _add_moved(row, mask, (*[0] * (mask.ndim - 1), -width))
        for moved in by_width.get(width, ()):
            _add_moved(result, row, (*moved, 0))
    return result


def _add_moved(target: Array, source: Array, moved: tuple[int, ...]) -> None:
    """``target |= source``, the source moved by so many voxels."""
    if any(abs(m) >= length for m, length in zip(moved, source.shape, strict=True)):
        return
    to = tuple(slice(max(0, m), length + min(0, m)) for m, length in zip(moved, source.shape, strict=True))
    origin = tuple(slice(max(0, -m), length + min(0, -m)) for m, length in zip(moved, source.shape, strict=True))
    target[to] |= source[origin]


@dataclass(frozen=True)
class Felzenszwalb:
    """Graph-based segments of a picture, with the constants of PAIR's XRAI; all lengths are in pixels.

    Felzenszwalb and Huttenlocher 2004 by scikit-image, which does it in 2D only. The picture, scaled to [-1, 1] over
    all channels, is resized to ``size`` first, and its labels are brought back by nearest neighbour.

    Attributes:
        scales: one segmentation for each; larger gives larger segments.
        sigma: of the smoothing before, in pixels of ``size``.
        min_size: fewest pixels of ``size`` in a segment.
        size: what the picture is resized to; None leaves it as it is.
        dilation: radius in pixels of the picture.
        min_new: fewest new pixels of the picture, see ``Segments``.
    """

    scales: tuple[float, ...] = (50, 100, 150, 250, 500, 1200)
    sigma: float = 0.8
    min_size: int = 150
    size: tuple[int, int] | None = (224, 224)
    dilation: float = 5.0
    min_new: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "size", None if self.size is None else tuple(self.size))

    def __call__(self, image: Array, spacing: tuple[float, ...]) -> Segments:  # noqa: ARG002  a segmentation's
        """Segment a picture, or a volume of one slice.

        Args:
            image: ``(C, H, W)``, or ``(C, *space)`` with one axis of length 1.
            spacing: not used.

        Returns:
            One label image for each scale.

        Raises:
            UsageError: if the image has more than one slice.
        """
        from skimage.segmentation import felzenszwalb
        from skimage.transform import resize

        space = image.shape[1:]
        if len(space) == 3 and 1 not in space:
            raise UsageError(f"segments: Felzenszwalb wants a picture, got a volume {space}; take Supervoxels")
        picture = image.squeeze(1 + space.index(1)) if len(space) == 3 else image
        low, high = picture.min(), picture.max()
        scaled = np.moveaxis((picture - low) / (high - low if high > low else 1.0) * 2 - 1, 0, -1)
        if self.size:
            scaled = resize(scaled, self.size, order=3, mode="constant", preserve_range=True, anti_aliasing=True)
        labels = []
        for scale in self.scales:
            with warnings.catch_warnings():  # it asks whether more than three channels are meant: they are
                warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
                found = felzenszwalb(scaled, scale=scale, sigma=self.sigma, min_size=self.min_size)
            if self.size:
                back = {"order": 0, "preserve_range": True, "mode": "constant", "anti_aliasing": False}
                found = resize(found, picture.shape[1:], **back)
            labels.append(found.astype(np.int32).reshape(space) + 1)
        return Segments(tuple(labels), (1.0,) * len(space), self.dilation, self.min_new)


@dataclass(frozen=True)
class GivenSegments:
    """Segments known beforehand, such as an atlas or organ masks; the same for every image that they are given for.

    Attributes:
        labels: a label image or mask, or several; 0 belongs to no segment.
        dilation: radius in mm.
        min_new: fewest new mm^3 (mm^2 in 2D), see ``Segments``; a single voxel is enough by default.
    """

    labels: Any = field(compare=False)
    dilation: float = 0.0
    min_new: float = 0.0
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", label_images(self.labels))
        object.__setattr__(self, "digest", digest_of(*self.labels))

    def __call__(self, image: Array, spacing: tuple[float, ...]) -> Segments:
        """Check that the segments lie on the image's grid.

        Args:
            image: ``(C, *space)``.
            spacing: mm per voxel along each axis.

        Returns:
            The segments.

        Raises:
            UsageError: if their shape is not that of the image.
        """
        for found in self.labels:
            if found.shape != image.shape[1:]:
                raise UsageError(f"segments: wanted label images of shape {image.shape[1:]}, got {found.shape}")
        return Segments(self.labels, spacing, self.dilation, voxels_of(self.min_new, spacing))


def voxels_of(volume: float, spacing: Sequence[float]) -> int:
    """Count the voxels of a volume.

    Args:
        volume: in units of length to the power of the dimensions.
        spacing: units of length per voxel along each axis.

    Returns:
        The least number of voxels that fills it, at least 1.
    """
    return max(1, math.ceil(volume / math.prod(spacing) * (1 - ROUNDING)))


def label_images(found: Any) -> tuple[Array, ...]:
    """Bring label images and masks into one form.

    Args:
        found: a label image or boolean mask ``(*space)``, or a sequence of these.

    Returns:
        Integer label images, one for each, with 0 outside all segments.

    Raises:
        UsageError: if there is none, or one has labels that are negative or not whole.
    """
    several = found if isinstance(found, list | tuple) else [found]
    images = []
    for one in several:
        values = one.detach().cpu().numpy() if isinstance(one, Tensor) else np.asarray(one)
        if values.dtype.kind not in "bui" and not np.array_equal(values, np.rint(values)):
            raise UsageError(f"segments: wanted whole numbers or masks, got {values.dtype} with fractions")
        if values.size and values.min() < 0:
            raise UsageError(f"segments: wanted labels from 0 (no segment), got {values.min()}")
        if values.size and values.max() > LARGEST_LABEL:
            kinds, values = np.unique(values, return_inverse=True)
            values = values + (kinds[0] > 0)
        images.append(np.ascontiguousarray(values, dtype=np.int32))
    if not images:
        raise UsageError("segments: wanted at least one label image or mask, got none")
    return tuple(images)


def digest_of(*arrays: Array) -> str:
    """Name the content of arrays.

    Args:
        *arrays: of any type and shape.

    Returns:
        A digest; equal for equal types, shapes and values.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
