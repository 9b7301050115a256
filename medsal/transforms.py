"""MONAI transforms of medsal: checks and resampling that keep ``MetaTensor.affine`` right at every step.

Array transforms take a channel-first image without batch; the dictionary versions carry the suffix ``d`` (aliases ``D``
and ``Dict``). The way back to a patient's own grid needs nothing but the affine, which is why each step keeps it right.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, InvertibleTransform, MapTransform, Transform
from monai.utils import TransformBackends, ensure_tuple_rep

from medsal.data.grids import TEMPORAL_GRID
from medsal.data.resampling import ResampleToGrid, ResizeSlices, file_of
from medsal.errors import InputError
from medsal.geometry import position_known

__all__ = [
    "BackgroundToZero",
    "BackgroundToZeroD",
    "BackgroundToZeroDict",
    "BackgroundToZerod",
    "CheckImage",
    "CheckImageD",
    "CheckImageDict",
    "CheckImaged",
    "LoadVolume",
    "LoadVolumeD",
    "LoadVolumeDict",
    "LoadVolumed",
    "ResampleToGrid",
    "ResampleToGridD",
    "ResampleToGridDict",
    "ResampleToGridd",
    "ResizeSlices",
    "ResizeSlicesD",
    "ResizeSlicesDict",
    "ResizeSlicesd",
]


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


class _OnKeys(MapTransform, InvertibleTransform):  # type: ignore[misc]  # MONAI is untyped
    """Apply an array transform to the images of a case; the case itself is left as it was."""

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool, **per_key: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform
        self.per_key = {name: ensure_tuple_rep(value, len(self.keys)) for name, value in per_key.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, index in self.key_iterator(d, range(len(self.keys))):
            d[key] = self.transform(d[key], **{name: values[index] for name, values in self.per_key.items()})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the transform on the images of one case.

        Args:
            data: the case after the transform.

        Returns:
            a copy of the case with the images on their former grids.
        """
        d = dict(data)
        if isinstance(self.transform, InvertibleTransform):
            for key in self.key_iterator(d):
                d[key] = self.transform.inverse(d[key])
        return d


class LoadVolumed(_OnKeys):
    """Dictionary version of `LoadVolume`.

    Args:
        keys: where the paths are, and the images will be.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, LoadVolume(), allow_missing_keys)


class BackgroundToZerod(_OnKeys):
    """Dictionary version of `BackgroundToZero`.

    Args:
        keys: the images to shift.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, BackgroundToZero(), allow_missing_keys)


class CheckImaged(_OnKeys):
    """Dictionary version of `CheckImage`.

    Args:
        keys: the images to check.
        channels: number of channels wanted.
        min_size: fewest voxels per axis.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int = 1,
        min_size: Sequence[int] = (1, 1, 1),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, CheckImage(channels, min_size), allow_missing_keys)


class ResampleToGridd(_OnKeys):
    """Dictionary version of `ResampleToGrid`; the default grid is the embedded network's, `medsal.data.TEMPORAL_GRID`.

    Args:
        keys: the images to resample.
        origin: world position of the first voxel's centre in mm, or ``"center"``.
        spacing: voxel size in mm.
        size: number of voxels per axis.
        mode: ``"bilinear"`` or ``"nearest"``, one for all keys or one per key.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        origin: Sequence[float] | str = TEMPORAL_GRID.origin,
        spacing: Sequence[float] | float = TEMPORAL_GRID.spacing,
        size: Sequence[int] = TEMPORAL_GRID.size,
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, ResampleToGrid(origin, spacing, size), allow_missing_keys, mode=mode)


class ResizeSlicesd(_OnKeys):
    """Dictionary version of `ResizeSlices`.

    Args:
        keys: the images to resize.
        size: the two new sizes.
        axis: the array axis along which the slices are counted.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, size: Sequence[int] | int = 112, axis: int = 1, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, ResizeSlices(size, axis), allow_missing_keys)


BackgroundToZeroD = BackgroundToZeroDict = BackgroundToZerod
CheckImageD = CheckImageDict = CheckImaged
ResampleToGridD = ResampleToGridDict = ResampleToGridd
LoadVolumeD = LoadVolumeDict = LoadVolumed
ResizeSlicesD = ResizeSlicesDict = ResizeSlicesd
