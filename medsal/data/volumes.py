"""Volumes as they come from files: read, checked, their background at 0; MONAI array transforms."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, Transform
from monai.utils import TransformBackends

from medsal.data.resampling import file_of
from medsal.errors import InputError
from medsal.geometry import position_known

__all__ = ["BackgroundToZero", "CheckImage", "LoadVolume"]


class LoadVolume(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Read a NIfTI file (``.nii``, ``.nii.gz``) as MONAI's ``LoadImage`` does, channel first, float32; fail clearly.

    ``LoadImage`` tries every reader it knows before it gives up: its error does not say what was wrong with the file,
    and it loads the DICOM readers for each instance. The meta of the result is the same: ``affine``,
    ``original_affine``, ``spatial_shape``, ``filename_or_obj``.

    Args:
        placed: refuse a header that gives no position in space (sform_code and qform_code 0): left and right would be
            guessed.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(self, placed: bool = True) -> None:
        self.placed = placed

    def __call__(self, filename: Any) -> MetaTensor:
        """Read one file.

        Args:
            filename: its path.

        Returns:
            the image (C, x, y, z); a 4D file's volumes are its channels.

        Raises:
            InputError: there is no such file, it is no NIfTI, it is cut off, its voxels are no real numbers, or its
                header gives no position in space.
        """
        from nibabel.filebasedimages import ImageFileError  # here: only reading needs it

        path = Path(filename)
        if not path.is_file():
            raise InputError(f"'{path}': no such file; wanted a NIfTI image (.nii or .nii.gz)")
        reader = NibabelReader()
        try:
            array, meta = reader.get_data(reader.read(path))
        except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise InputError(f"'{path}': cannot be read as NIfTI ({type(error).__name__}: {reason})") from error
        if array.dtype.kind not in "biuf":
            kind = "colours" if array.dtype.names else f"{array.dtype} numbers"
            raise InputError(f"'{path}': voxels are {kind}; wanted real numbers: save one channel, or the magnitude")
        if not np.isfinite(meta["affine"]).all() or abs(np.linalg.det(meta["affine"])) < 1e-9:
            raise InputError(f"'{path}': the header's affine has no inverse; wanted the image's position in space")
        if self.placed and not position_known(meta):
            raise InputError(
                f"'{path}': the header gives no position in space (sform_code and qform_code are 0), so left and right "
                "are unknown; wanted one of them: put it in with the tool that wrote the file"
            )
        meta["filename_or_obj"] = str(path)
        image = MetaTensor.ensure_torch_and_prune_meta(array.astype(np.float32), meta)
        return EnsureChannelFirst()(image)


class CheckImage(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Let a sound 3D image pass unchanged; refuse any other with one line that names the file.

    Refused: more than one volume (4D), another number of channels, no voxels, NaN or infinite voxels (with their number
    and the first place), the same value everywhere, fewer voxels along an axis than ``min_size``.

    Args:
        channels: number of channels wanted.
        min_size: fewest voxels per axis.

    Example:
        >>> CheckImage()(torch.zeros(1, 4, 4, 4))
        Traceback (most recent call last):
        medsal.errors.InputError: the image: all 64 voxels are 0; wanted an image with contrast
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(self, channels: int = 1, min_size: Sequence[int] = (1, 1, 1)) -> None:
        self.channels = channels
        self.min_size = tuple(min_size)

    def __call__(self, img: Any) -> Any:
        """Check one image.

        Args:
            img: channel-first image without batch.

        Returns:
            the same image.

        Raises:
            InputError: the image is not what a network can take.
        """
        fault = self._shape_fault(tuple(img.shape)) or self._value_fault(torch.as_tensor(img))
        if fault:
            raise InputError(f"{file_of(img)}: {fault}")
        return img

    def _shape_fault(self, shape: tuple[int, ...]) -> str:
        space = len(self.min_size)
        if len(shape) != space + 1:
            return f"{len(shape) - 1} spatial dimensions {shape[1:]}; wanted {space}"
        if 0 in shape:
            return f"no voxels, shape {shape[1:]}; wanted at least {self.min_size}"
        if shape[0] != self.channels:
            return (
                f"{shape[0]} volumes or channels of {shape[1:]} (a 4D file?); wanted {self.channels}: "
                "extract the volume to explain"
            )
        if any(n < least for n, least in zip(shape[1:], self.min_size, strict=True)):
            return f"shape {shape[1:]}; wanted at least {self.min_size}: resample it first"
        return ""

    @staticmethod
    def _value_fault(img: torch.Tensor) -> str:
        broken = ~torch.isfinite(img)
        if broken.any():
            first = tuple(torch.nonzero(broken)[0].tolist()[1:])
            return f"{int(broken.sum())} voxels are NaN or infinite, the first at index {first}; wanted finite values"
        low = float(img.min())
        if low == float(img.max()):
            return f"all {img.numel()} voxels are {low:g}; wanted an image with contrast"
        return ""


class BackgroundToZero(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Shift an image so that its background is 0, as ``NormalizeIntensity(nonzero=True)`` expects.

    The background is the value that more than half of the voxels on the faces of the volume share (air or what skull
    stripping left), such as -1000, or the intercept of a file's scaling. An image where there is no such value, or
    where it is 0, is not touched. ``meta["background"]`` says what was found.

    Example:
        >>> image = torch.full((1, 4, 4, 4), -1000.0)
        >>> image[0, 1, 1, 1] = 5
        >>> BackgroundToZero()(image).unique().tolist()
        [0.0, 1005.0]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Shift one image.

        Args:
            img: channel-first image of one channel.

        Returns:
            the image, or a shifted copy.
        """
        faces = [torch.as_tensor(img).select(axis, place).flatten() for axis in range(1, img.ndim) for place in (0, -1)]
        border = torch.cat(faces)
        value = border.median()  # the value of more than half is also the middle one
        if (border == value).sum() * 2 <= len(border):
            return img
        shifted = img if value == 0 else img - value
        if isinstance(shifted, MetaTensor):
            shifted.meta["background"] = float(value)
        return shifted
