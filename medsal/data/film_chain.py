"""How a film is prepared for a network: one chain, for training and for explaining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.transforms import (
    Compose,
    NormalizeIntensityd,
    RepeatChanneld,
    Resized,
    ScaleIntensityRanged,
    SpatialPadd,
)

from medsal.data.film_truth import DrawBoxesd, DrawRled, LoadLayersd, LoadMaskd
from medsal.data.films import LoadFilmd
from medsal.errors import UsageError
from medsal.transforms import CheckImaged

__all__ = ["INTENSITIES", "film_transforms"]

INTENSITIES = ("signed", "unit", "imagenet")
"""What the network gets for black and white: -1 and 1; 0 and 1; what torchvision's weights were trained with."""

_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FITS = ("stretch", "pad")
_LEAST = (16, 16)


def film_transforms(
    size: int = 320,
    *,
    intensity: str = "signed",
    fit: str = "stretch",
    channels: int = 3,
    colour: str = "refuse",
    truth: bool = True,
    augment: Sequence[Callable[[Any], Any]] = (),
) -> Compose:
    """The chain from the files of a case to what a network takes, image and truth on one grid.

    1. load the film, from 0 (black) to 1 (white), and refuse one without contrast; 2. put its truth on its grid, where
    the case has any: ``mask`` (from a file, ``rle`` or ``boxes``) and ``layers``; 3. resize, bilinear and antialiased,
    truth by nearest neighbour; 4. ``augment``, for training only; 5. the range of values; 6. channels. Without
    ``augment`` nothing is random, and training without augmentation is exactly what is explained.

    Args:
        size: rows and columns that the network takes.
        intensity: one of `INTENSITIES`.
        fit: ``stretch`` to a square, as the published studies do, or ``pad`` the shorter side with black.
        channels: 1, or 3 equal ones for networks of colour pictures.
        colour: what is done with a film that has colours, see `medsal.data.LoadFilm`; ``keep`` gives 3 channels.
        truth: read and draw the truth too; False leaves it out of the batch.
        augment: dictionary transforms that act on film and truth (``image``, ``mask``, ``layers``), values 0 to 1.

    Returns:
        the chain.

    Raises:
        UsageError: an option is not one of its values.
    """
    if intensity not in INTENSITIES or fit not in _FITS or channels not in {1, 3}:
        raise UsageError(
            f"film_transforms: wanted intensity {', '.join(INTENSITIES)}, fit {' or '.join(_FITS)} and channels 1 or 3"
            f", got {intensity!r}, {fit!r} and {channels!r}"
        )
    if channels == 1 and (colour == "keep" or intensity == "imagenet"):
        raise UsageError("film_transforms: colours and the intensities of ImageNet are of 3 channels, got channels 1")
    loaded = 3 if colour == "keep" else 1
    return Compose(
        [
            LoadFilmd("image", colour),
            CheckImaged("image", loaded, _LEAST),
            *_truth_steps(truth),
            *_fitting("image", size, fit, "bilinear"),
            *_fitting(("mask", "layers") if truth else (), size, fit, "nearest-exact"),
            *augment,
            *_values(intensity, channels // loaded),
        ]
    )


def _truth_steps(wanted: bool) -> list[Any]:
    if not wanted:
        from monai.transforms import DeleteItemsd

        return [DeleteItemsd(["mask", "layers", "rle", "boxes"])]
    return [
        LoadMaskd(allow_missing_keys=True),  # first: what is drawn is put under the same key
        DrawRled(allow_missing_keys=True),
        DrawBoxesd(allow_missing_keys=True),
        LoadLayersd(allow_missing_keys=True),
    ]


def _fitting(keys: Sequence[str] | str, size: int, fit: str, mode: str) -> list[Any]:
    """Resize; nothing where there are no keys."""
    if not keys:
        return []
    smooth = mode == "bilinear"
    if fit == "stretch":
        return [Resized(keys, (size, size), mode=mode, anti_aliasing=smooth, allow_missing_keys=True)]
    return [
        Resized(keys, size, "longest", mode=mode, anti_aliasing=smooth, allow_missing_keys=True),
        SpatialPadd(keys, (size, size), allow_missing_keys=True),
    ]


def _values(intensity: str, copies: int) -> list[Any]:
    """From 0 and 1 to what the network takes, and as many channels."""
    channels = [RepeatChanneld("image", copies)] if copies > 1 else []
    if intensity == "imagenet":
        return [*channels, NormalizeIntensityd("image", _IMAGENET_MEAN, _IMAGENET_DEVIATION, channel_wise=True)]
    if intensity == "signed":
        return [ScaleIntensityRanged("image", 0.0, 1.0, -1.0, 1.0), *channels]
    return channels
