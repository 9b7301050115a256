"""Dictionary transforms of images: checks and resampling that keep ``MetaTensor.affine`` right at every step.

Each is the dictionary version, suffix ``d`` (aliases ``D`` and ``Dict``), of an array transform of ``medsal.data``. The
way back to a patient's own grid needs nothing but the affine, which is why each step keeps it right.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import ensure_tuple_rep

from medsal.data.grids import TEMPORAL_GRID
from medsal.data.resampling import ResampleToGrid, ResizeSlices
from medsal.data.volumes import BackgroundToZero, CheckImage, LoadVolume

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
