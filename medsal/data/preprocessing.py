"""The two ways of preparing an MRI for a network, as named chains of MONAI transforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import (
    BorderPadd,
    Compose,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    SpatialCropd,
    ThresholdIntensityd,
)

from medsal.data.grids import TEMPORAL_GRID, Grid
from medsal.transforms import BackgroundToZerod, CheckImaged, LoadVolumed, ResampleToGridd, ResizeSlicesd

# NormalizeIntensity writes into the image it is given: an image that was not just read is copied first.

__all__ = ["SEED_SLICES", "network_mri_transforms", "seed_mri_transforms"]

SEED_SLICES = (10, 125)
"""First and one past the last coronal slice that `seed_mri_transforms` keeps."""


def network_mri_transforms(
    keys: Sequence[str] = ("image",),
    *,
    mask_keys: Sequence[str] = (),
    grid: Grid = TEMPORAL_GRID,
    clamp: float = 5.0,
    load: bool = True,
    statistics: tuple[float, float] | None = None,
) -> Compose:
    """What the embedded 3D network sees: the whole head z-normalised, then resampled on a fixed grid, then clamped.

    1. load, channel first, 2. refuse what is no sound 3D image, 3. make the background 0 (not with given
    statistics) and z-normalise over the voxels that are not 0 (those stay 0), 4. resample on the grid (anti-
    aliased, one interpolation), 5. clamp to ``[-clamp, clamp]``.

    Args:
        keys: the images.
        mask_keys: masks and label maps, resampled to the same grid by nearest neighbour; may be missing from a case.
        grid: where the network looks.
        clamp: largest absolute value.
        load: read the files first; False where the case holds images already.
        statistics: mean and standard deviation to normalise with, instead of the image's own.

    Returns:
        the chain.
    """
    mean, deviation = statistics or (None, None)
    places = (grid.origin, grid.spacing, grid.size)
    steps = [
        LoadVolumed((*keys, *mask_keys), allow_missing_keys=True) if load else Lambdad(keys, torch.clone),
        CheckImaged(keys),
        *([] if statistics else [BackgroundToZerod(keys)]),
        NormalizeIntensityd(keys, mean, deviation, nonzero=True),
        ResampleToGridd(keys, *places),
        ThresholdIntensityd(keys, clamp, above=False, cval=clamp),
        ThresholdIntensityd(keys, -clamp, above=True, cval=-clamp),
    ]
    if mask_keys:
        steps.append(ResampleToGridd(mask_keys, *places, "nearest", allow_missing_keys=True))
    return Compose(steps)


def seed_mri_transforms(
    keys: Sequence[str] = ("image",), *, grid: Grid | None = None, orientation: str = "", load: bool = True
) -> Compose:
    """What a network on coronal slices sees: 115 slices of 128 x 128 pixels, as a volume (1, 128, 115, 128).

    1. z-normalise over the whole volume, 2. slices 10 to 124 along the second array axis, 3. each slice resized to
    112 x 112, bilinear with antialiasing, 4. 8 zeros (the mean of the volume) around each slice. The array's own order
    of axes is kept, as the networks trained this way expect it; their volumes were CAT12's ``mwp1`` maps of
    113 x 137 x 113 voxels of 1.5 mm. The affine is right after each step, so maps find their way back to the file's
    grid.

    Args:
        keys: the images.
        grid: resample on this grid first, e.g. `medsal.data.SEED_GRID` for an image that is not on CAT12's grid.
        orientation: turn the array to these axes first, e.g. ``"RAS"``; empty: as in the file.
        load: read the files first; False where the case holds images already.

    Returns:
        the chain.
    """
    first, end = SEED_SLICES
    steps = [LoadVolumed(keys) if load else Lambdad(keys, torch.clone), CheckImaged(keys)]
    if grid is not None:
        steps.append(ResampleToGridd(keys, grid.origin, grid.spacing, grid.size))
    if orientation:
        steps.append(Orientationd(keys, orientation, labels=None))
    everything = 2**31 - 1  # as an end: up to the last voxel
    return Compose(
        [
            *steps,
            CheckImaged(keys, min_size=(1, end, 1)),
            NormalizeIntensityd(keys),
            SpatialCropd(keys, roi_start=(0, first, 0), roi_end=(everything, end, everything)),
            ResizeSlicesd(keys, 112, 1),
            BorderPadd(keys, (8, 0, 8)),
        ]
    )
