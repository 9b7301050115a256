"""How a film is prepared for a network: one chain, for training and for explaining."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    DeleteItemsd,
    MapTransform,
    NormalizeIntensityd,
    RepeatChanneld,
    ScaleIntensityRanged,
)
from torch.nn.functional import interpolate, pad

from medsal.data.films.loading import LoadFilmd
from medsal.data.films.truth import DrawBoxesd, DrawRled, LoadLayersd, LoadMaskd
from medsal.errors import UsageError
from medsal.geometry import placed
from medsal.transforms import CheckImaged

__all__ = ["INTENSITIES", "FitFilmd", "film_transforms"]

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
            FitFilmd("image", ("mask", "layers"), size, fit),
            *augment,
            *_values(intensity, channels // loaded),
        ]
    )


def _truth_steps(wanted: bool) -> list[Any]:
    if not wanted:
        return [DeleteItemsd(["mask", "layers", "rle", "boxes"])]
    return [
        LoadMaskd(allow_missing_keys=True),  # first: what is drawn is put under the same key
        DrawRled(allow_missing_keys=True),
        DrawBoxesd(allow_missing_keys=True),
        LoadLayersd(allow_missing_keys=True),
    ]


class FitFilmd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Bring a film, and its truth likewise, to the square that a network takes; the affine of the result is right.

    Films are resized bilinear and antialiased, as torchvision resizes a picture. (MONAI's ``Resize`` smooths against
    zeros instead, which darkens the edges.) Truth takes the pixel that each centre falls on.

    Args:
        keys: films.
        truth_keys: masks and maps of codes; may be missing from a case.
        size: rows and columns.
        fit: ``stretch``, or ``pad`` the shorter side equally at both ends with 0.
    """

    def __init__(
        self, keys: KeysCollection = "image", truth_keys: Sequence[str] = (), size: int = 320, fit: str = "stretch"
    ) -> None:
        super().__init__(keys)
        self.truth_keys = tuple(truth_keys)
        self.size, self.fit = size, fit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize the films and truth of one case.

        Args:
            data: the case.

        Returns:
            a copy of the case with the films and truth on their new grid.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._fitted(d[key], "bilinear")
        for key in self.truth_keys:
            if key in d:
                d[key] = self._fitted(d[key], "nearest-exact")
        return d

    def _fitted(self, image: MetaTensor, mode: str) -> MetaTensor:
        before = image.shape[1:]
        shares = [n / max(before) if self.fit == "pad" else 1.0 for n in before]
        inside = [max(1, round(self.size * share)) for share in shares]
        values = interpolate(image.as_tensor()[None].float(), inside, mode=mode, antialias=mode == "bilinear")[0]
        first = [(self.size - n) // 2 for n in inside]
        last = [self.size - n - start for n, start in zip(inside, first, strict=True)]
        values = pad(values, (first[1], last[1], first[0], last[0]))
        to_old = torch.eye(4, dtype=torch.float64)  # from an index of the result to one of the film
        for axis, (old, new, start) in enumerate(zip(before, inside, first, strict=True)):
            to_old[axis, axis] = old / new
            to_old[axis, 3] = (0.5 - start) * old / new - 0.5  # edges, not centres, stay in place
        affine = image.affine.double() @ to_old
        return placed(values.to(image.dtype) if mode != "bilinear" else values, affine, image.meta)


def _values(intensity: str, copies: int) -> list[Any]:
    """From 0 and 1 to what the network takes, and as many channels."""
    channels = [RepeatChanneld("image", copies)] if copies > 1 else []
    if intensity == "imagenet":
        return [*channels, NormalizeIntensityd("image", _IMAGENET_MEAN, _IMAGENET_DEVIATION, channel_wise=True)]
    if intensity == "signed":
        return [ScaleIntensityRanged("image", 0.0, 1.0, -1.0, 1.0), *channels]
    return channels
