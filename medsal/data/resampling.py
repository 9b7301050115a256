"""Resampling of volumes as MONAI array transforms; the affine of the result is right after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import GaussianSmooth, InvertibleTransform, SpatialCrop, SpatialResample
from monai.transforms.utils import scale_affine
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple_rep

from medsal.data.grids import Grid
from medsal.errors import InputError, UsageError

__all__ = ["ResampleToGrid", "ResizeSlices", "file_of"]

_FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian, in standard deviations
_ANTI_ALIAS_FROM = 1.5
LEAST_SHARE = 0.1
"""An image that fills less of the network's field of view than this is refused; below half of it a run warns."""


def file_of(image: Any) -> str:
    """How an error message names an image: its file, where one is known.

    Args:
        image: MetaTensor, or any other image.

    Returns:
        the quoted path, or "the image".
    """
    meta = getattr(image, "meta", {})
    return f"'{meta['filename_or_obj']}'" if meta.get("filename_or_obj") else "the image"


class ResampleToGrid(InvertibleTransform):  # type: ignore[misc]  # MONAI is untyped
    """Sample an image of any orientation and spacing on a fixed grid along the world's axes, in one interpolation.

    Where the grid is more than 1.5 times coarser than the image along one of the image's axes, the image is first
    smoothed along that axis by a Gaussian with full width at half maximum ``sqrt(ratio**2 - 1)`` image voxels, so that
    noise and fine structure do not alias; never for ``mode="nearest"``. Outside the image the value is 0:
    ``meta["field_of_view"]`` is the share of the grid's voxels that lie inside the image, and an image (no mask) that
    fills less than `LEAST_SHARE` of the grid is refused.

    Args:
        origin: world position (mm, RAS+) of the centre of the grid's first voxel, or ``"center"``: the grid's centre
            lies on the image's centre (for crops whose world position means nothing).
        spacing: voxel size in mm, one for all axes or one per axis.
        size: number of voxels per axis.
        mode: ``"bilinear"`` or ``"nearest"`` (masks and label maps).

    Example:
        >>> image = MetaTensor(torch.rand(1, 20, 20, 20))
        >>> out = ResampleToGrid((2.0, 2.0, 2.0), 2.0, (8, 8, 8))(image)
        >>> out.shape, out.affine[0].tolist()
        (torch.Size([1, 8, 8, 8]), [2.0, 0.0, 0.0, 2.0])
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(
        self,
        origin: Sequence[float] | str,
        spacing: Sequence[float] | float,
        size: Sequence[int],
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        if isinstance(origin, str) and origin != "center":
            raise UsageError(f"origin of a grid: wanted three numbers in mm or 'center', got '{origin}'")
        if mode not in {"bilinear", "nearest"}:
            raise UsageError(f"mode of a grid: wanted 'bilinear' or 'nearest', got '{mode}'")
        try:
            self.origin = origin if isinstance(origin, str) else ensure_tuple_rep(origin, 3)
            self.spacing = ensure_tuple_rep(spacing, 3)
            self.size = ensure_tuple_rep(size, 3)
        except ValueError as error:
            raise UsageError(
                f"grid: wanted three numbers each, got origin {origin}, spacing {spacing}, size {size}"
            ) from error
        self.mode = mode

    def grid_affine(self, img: MetaTensor) -> np.ndarray:
        """The grid's 4x4 matrix from voxel indices to world mm.

        Args:
            img: channel-first image, looked at for ``origin="center"`` only.

        Returns:
            the affine of the output.
        """
        if not isinstance(self.origin, str):
            return Grid(tuple(self.origin), self.spacing, self.size).affine
        affine = np.diag([*self.spacing, 1.0])
        middle = np.append((np.asarray(img.shape[1:]) - 1) / 2, 1.0)
        centre = (np.asarray(img.affine, dtype=float) @ middle)[:3]
        affine[:3, 3] = centre - np.asarray(self.spacing) * (np.asarray(self.size) - 1) / 2
        return affine

    def __call__(self, img: torch.Tensor, mode: str | None = None) -> MetaTensor:
        """Resample one image.

        Args:
            img: channel-first 3D image; without an affine its voxels are taken for millimetres.
            mode: instead of the mode given at construction.

        Returns:
            the image on the grid, float32, its affine the grid's.

        Raises:
            InputError: the image and the grid do not overlap, or hardly.
        """
        source: MetaTensor = convert_to_tensor(img, dtype=torch.float32, track_meta=True)
        mode = mode or self.mode
        affine, target = np.asarray(source.affine, dtype=float), self.grid_affine(source)
        step = np.linalg.solve(affine, target)  # from grid indices to image indices
        ratio = 1 / np.linalg.norm(np.linalg.inv(step)[:3, :3], axis=0)
        blur = np.where(ratio > _ANTI_ALIAS_FROM, np.sqrt(np.maximum(ratio**2 - 1, 0)) / _FWHM, 0.0)
        if mode == "nearest":
            blur[:] = 0
        part = self._needed(source, step, blur)
        if blur.any():
            part = GaussianSmooth(sigma=np.maximum(blur, 1e-3).tolist())(part)
        resample = SpatialResample(mode=mode, padding_mode="zeros")
        with resample.trace_transform(False):
            out: MetaTensor = resample(part, dst_affine=torch.as_tensor(target), spatial_size=self.size)
        if mode != "nearest":
            out.meta["field_of_view"] = self._share(source, step)
        info = {"affine": affine.tolist(), "mode": mode}
        return self.push_transform(out, orig_size=source.shape[1:], extra_info=info)

    def _share(self, source: MetaTensor, step: np.ndarray) -> float:
        """How much of the grid lies inside the image."""
        places = np.stack(np.meshgrid(*(np.arange(n) for n in self.size), indexing="ij"), -1).reshape(-1, 3)
        places = places @ step[:3, :3].T + step[:3, 3]
        share = float(((places >= -0.5) & (places <= np.asarray(source.shape[1:]) - 0.5)).all(1).mean())
        if share < LEAST_SHARE:
            raise InputError(
                f"{file_of(source)}: only {share:.1%} of what the network looks at lies inside the image, wanted at "
                f"least {LEAST_SHARE:.0%}: check that its header gives standard (MNI-like) coordinates, or register it"
            )
        return share

    def _needed(self, source: MetaTensor, step: np.ndarray, blur: np.ndarray) -> MetaTensor:
        """The part of the image that the grid can see, with the margin that smoothing needs."""
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in self.size), indexing="ij"), -1).reshape(-1, 3)
        places = corners @ step[:3, :3].T + step[:3, 3]
        margin = np.ceil(4 * blur) + 2
        size = np.asarray(source.shape[1:])
        start = np.clip(np.floor(places.min(0) - margin).astype(int), 0, None)
        end = np.minimum(np.ceil(places.max(0) + margin).astype(int) + 1, size)
        if (places.max(0) < 0).any() or (places.min(0) > size - 1).any():
            raise InputError(
                f"{file_of(source)}: no voxel lies in the network's field of view; "
                "wanted an image in standard (MNI-like) world coordinates: check the header or register it first"
            )
        crop = SpatialCrop(roi_start=start.tolist(), roi_end=end.tolist())
        with crop.trace_transform(False):
            return crop(source)

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Sample an image of this grid on the grid that the image came from; 0 outside.

        Args:
            data: channel-first output of this transform, or a map with its meta.

        Returns:
            the image on the original grid.
        """
        done = self.pop_transform(data)
        info = done["extra_info"]
        resample = SpatialResample(mode=info["mode"], padding_mode="zeros")
        with resample.trace_transform(False):
            affine = torch.as_tensor(info["affine"], dtype=torch.float64)
            return resample(data, dst_affine=affine, spatial_size=done["orig_size"])


class ResizeSlices(InvertibleTransform):  # type: ignore[misc]  # MONAI is untyped
    """Resize each slice of a volume in its plane, bilinear with antialiasing, as torchvision does with a PIL image.

    torchvision's ``Resize`` on a PIL slice and on a tensor (``antialias=True``) agree with this to float32 rounding; it
    is ``torch.nn.functional.interpolate`` on the slices as channels. Pixel edges, not centres, stay in place, and the
    affine says so.

    Args:
        size: the two new sizes, in the order of the plane's axes.
        axis: the array axis along which the slices are counted, not resized.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(self, size: Sequence[int] | int = 112, axis: int = 1) -> None:
        super().__init__()
        self.size = ensure_tuple_rep(size, 2)
        self.axis = axis

    def __call__(self, img: torch.Tensor) -> MetaTensor:
        """Resize one volume.

        Args:
            img: channel-first 3D image.

        Returns:
            the image with the new in-plane sizes, float32.
        """
        source: MetaTensor = convert_to_tensor(img, dtype=torch.float32, track_meta=True)
        out = self._resized(source, self.size)
        return self.push_transform(out, orig_size=source.shape[1:])

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Resize back to the sizes before.

        Args:
            data: channel-first output of this transform, or a map with its meta.

        Returns:
            the volume with its former sizes.
        """
        before = list(self.pop_transform(data)["orig_size"])
        del before[self.axis]
        return self._resized(data, (int(before[0]), int(before[1])))

    def _resized(self, source: MetaTensor, size: tuple[int, ...]) -> MetaTensor:
        slices = source.as_tensor().movedim(self.axis + 1, 1)
        flat = slices.reshape(1, -1, *slices.shape[2:])
        resized = torch.nn.functional.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
        volume = resized.reshape(*slices.shape[:2], *size).movedim(1, self.axis + 1)
        scale = torch.as_tensor(scale_affine(list(source.shape[1:]), list(volume.shape[1:])), dtype=torch.float64)
        out = MetaTensor(
            volume.contiguous(), meta=dict(source.meta), applied_operations=list(source.applied_operations)
        )
        out.affine = source.affine.to(torch.float64) @ scale
        return out
