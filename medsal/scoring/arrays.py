"""Maps and masks from files, NIfTI, NPY or grey PNG, and onto one grid; nothing is resampled that was not asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation.ceiling import brought_back
from medsal.geometry import full_affine, placed, to_grid

SUFFIXES = (".nii.gz", ".nii", ".npy", ".png")
"""What can be read."""
_GREY = {"1", "L", "I", "I;16", "I;16B", "I;16L", "F"}
_SAME_MM = 1e-3
BY_INDEX = "by the index of the array: only one of the two files says where it lies"
"""How what was not resampled came to a grid, where the order and direction of axes had to be taken on trust."""
_WORDS = {"nearest": "nearest neighbour", "linear": "linear interpolation"}


@dataclass(frozen=True)
class Volume:
    """Values as a file has them, and where they lie.

    Attributes:
        values: ``(1, *space)``; of a picture its rows and columns.
        affine: ``(4, 4)``, voxel index to millimetres; None where the file does not say.
        source: what errors call it.
        picture: whether it comes from a picture, whose first axis is down the image.
    """

    values: Tensor
    affine: Tensor | None
    source: str
    picture: bool = False

    @property
    def space(self) -> tuple[int, ...]:
        """The shape without the channel."""
        return tuple(self.values.shape[1:])


def read_volume(path: Path | str, *, source: str = "", image: bool = False, whole: bool = False) -> Volume:
    """Read one map, mask or image.

    A NIfTI of one slice, and a first axis of one in an NPY, are taken away. Float64 becomes float32; an NPY with values
    that single precision cannot hold (too large, too near to 0, too large a whole number) stays in double.

    Args:
        path: ending in one of ``SUFFIXES``.
        source: what errors call it; its path by default.
        image: whether it is an image, which may also be JPEG and in colours: they become grey.
        whole: an NPY holds what it is known to hold: no axis is taken for a channel or for colours.

    Returns:
        Its values, not changed, and its place.

    Raises:
        InputError: if it is missing, cannot be read, is a colour picture, or is neither in 2D nor in 3D.
    """
    file, source = Path(path), source or str(path)
    if not file.is_file():
        raise InputError(f"{source}: no such file")
    suffix = next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), "")
    if suffix in {".nii", ".nii.gz"}:
        return _nifti(file, source)
    if suffix == ".npy":
        return _npy(file, source, whole=whole)
    if suffix == ".png" or (image and file.suffix.lower() in {".jpg", ".jpeg"}):
        return _picture(file, source, colours=image)
    raise InputError(f"{source}: wanted a file that ends in {', '.join(SUFFIXES)}")


def _nifti(file: Path, source: str) -> Volume:
    from medsal.transforms import LoadVolume

    try:
        image = LoadVolume(placed=False)(file)
    except InputError as error:
        raise InputError(_why(error, file, source)) from error
    values = image.as_tensor()
    if len(values) != 1 or values.ndim not in {3, 4}:
        raise InputError(f"{source}: wanted one volume, got shape {tuple(values.shape[1:])} x {len(values)}")
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    return Volume(values.contiguous(), full_affine(image.affine), source)


def _why(error: Exception, file: Path, source: str) -> str:
    """What was wrong with a file, which is called as errors shall call it."""
    text = " ".join(str(error).split()).replace(f"'{file}'", str(file)).replace(str(file), source)
    return text.replace(file.name, source) if file.name not in source else text


def _npy(file: Path, source: str, *, whole: bool) -> Volume:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{source}: cannot be read as NPY ({_why(error, file, source)})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError(f"{source}: wanted an array of real numbers, got {getattr(array, 'dtype', type(array))}")
    if array.ndim == 3 and array.shape[0] != 1 and array.shape[-1] in {3, 4} and not whole:
        raise InputError(
            f"{source}: shape {array.shape} is that of a colour picture; save one value per voxel, a volume as (1, ...)"
        )
    if array.ndim in {3, 4} and array.shape[0] == 1 and not whole:
        array = array[0]
    return Volume(_tensor(array, source), None, source)


def _picture(file: Path, source: str, *, colours: bool) -> Volume:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert("L") if colours and opened.mode not in _GREY else opened
            mode = image.mode
            array = np.array(image) if mode in _GREY else np.empty(0)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{source}: cannot be read as a picture ({_why(error, file, source)})") from error
    if mode not in _GREY:
        raise InputError(
            f"{source}: a colour picture (mode {mode}) shows relevance, its numbers are not relevance; "
            "save the map itself as grey PNG, NPY or NIfTI"
        )
    return Volume(_tensor(array, source), None, source, picture=True)


def _tensor(array: np.ndarray, source: str) -> Tensor:
    if array.ndim not in {2, 3} or not array.size:
        raise InputError(f"{source}: wanted values in 2D or 3D, got shape {array.shape}")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    return torch.from_numpy(single if _held(array, single) else np.ascontiguousarray(array, dtype=np.float64))[None]


def _held(array: np.ndarray, single: np.ndarray) -> bool:
    """Whether values in single precision are still what they were: finite, not 0, and whole numbers the same."""
    if array.dtype.itemsize <= single.dtype.itemsize and array.dtype.kind == "f":
        return True
    if array.dtype.kind in "iu":
        return array.dtype.itemsize < single.dtype.itemsize or bool((single.astype(np.float64) == array).all())
    if array.dtype.kind == "b":
        return True
    tiny = np.abs(array) < np.finfo(np.float32).tiny
    return bool((np.isfinite(single) == np.isfinite(array)).all()) and not bool(array[tiny].any())


def as_bundle_reads(volume: Volume, shape: tuple[int, ...] | None = None, film: Any = None) -> Volume:
    """A picture as the bundle has it: as MONAI's ``LoadImage``, columns first and an affine of pixels, or as a film.

    Args:
        volume: as ``read_volume`` gave it; anything but a picture comes back as it is.
        shape: of the image as the bundle read it; rows stay first where that says so.
        film: affine of the image where ``medsal.data.LoadFilm`` read it, which has rows first whatever the shape.

    Returns:
        The same values on the grid that a bundle sees.
    """
    if not volume.picture:
        return volume
    if film is not None:
        to_film = torch.eye(4, dtype=torch.float64)  # a picture of another size shows the same field of view
        for axis, (pixels, own) in enumerate(zip(shape or volume.space, volume.space, strict=True)):
            to_film[axis, axis] = pixels / own
            to_film[axis, 3] = 0.5 * pixels / own - 0.5
        return Volume(volume.values, torch.as_tensor(film, dtype=torch.float64) @ to_film, volume.source)
    rows_first = shape == volume.space and volume.space != volume.space[::-1]
    values = volume.values if rows_first else volume.values.transpose(1, 2).contiguous()
    return Volume(values, torch.eye(4, dtype=torch.float64), volume.source)


def same_place(one: Volume, other: Volume) -> bool:
    """Whether two volumes lie on one grid, as far as their files say.

    Args:
        one: a volume.
        other: another.

    Returns:
        True for the same shape and, where both have one, the same affine; False for a picture and a NIfTI, whose axes
        mean different things.
    """
    if one.space != other.space:
        return False
    if one.affine is not None and other.affine is not None:
        return bool(torch.allclose(one.affine, other.affine, atol=_SAME_MM))
    return (one.affine is None) == (other.affine is None) or not (one.picture or other.picture)


def brought(volume: Volume, like: Volume, *, resample: bool, mode: str = "nearest") -> tuple[Tensor, str]:
    """Bring a volume to the grid of another: as it is where it lies there, else resampled if that was asked for.

    Where both have a place in the world it is resampled by that; where neither has, it is stretched to the same field
    of view. What looks transposed is refused.

    Args:
        volume: what is brought.
        like: what lies on the grid.
        resample: whether another grid may be resampled.
        mode: ``nearest`` for masks and labels, ``linear`` for maps and images.

    Returns:
        ``(1, *space)`` and how it was resampled, empty where it was not; ``BY_INDEX`` where nobody knows that it lies
        there.

    Raises:
        InputError: if the grids differ and resampling was not asked for, or cannot be right.
    """
    if same_place(volume, like):
        return volume.values, BY_INDEX if (volume.affine is None) != (like.affine is None) else ""
    fault = f"{volume.source}: wanted the grid of the map {_place(like)}, got {_place(volume)}"
    if (volume.affine is None) != (like.affine is None) or len(volume.space) != len(like.space):
        raise InputError(f"{fault}; they cannot be laid on each other: save both in one format")
    if volume.affine is None and volume.space == like.space[::-1]:
        raise InputError(f"{fault}; one of them is transposed")
    if not resample:
        raise InputError(f"{fault}; --resample true brings it there by {_WORDS[mode]}")
    if volume.affine is not None:
        moved = to_grid(placed(volume.values, volume.affine), like.affine, like.space, mode=mode)
        return moved.as_tensor(), mode
    return stretched(volume.values, like.space, mode), f"{mode}, stretched"


def stretched(values: Tensor, space: tuple[int, ...], mode: str = "linear") -> Tensor:
    """Bring values to another number of voxels over the same field of view.

    Args:
        values: ``(1, *space)``.
        space: the wanted shape.
        mode: ``nearest`` or ``linear``.

    Returns:
        ``(1, *space)``.
    """
    return values if tuple(values.shape[1:]) == space else brought_back(values[None], space, mode)[0]


def oriented(values: Tensor, affine: Tensor | None, like: Tensor | None) -> Tensor:
    """Turn and flip a volume until its axes point where those of another do.

    Args:
        values: ``(1, *space)``.
        affine: of the volume, (4, 4); None where it is not known.
        like: of the other.

    Returns:
        The same values with their axes in another order; as they are where an affine is not known, and of pictures.
    """
    import nibabel

    if affine is None or like is None or values.ndim != 4:
        return values
    own, wanted = (nibabel.io_orientation(one.double().numpy()) for one in (affine, like))
    if np.isnan(own).any() or np.isnan(wanted).any():
        return values
    turned = nibabel.apply_orientation(values[0].numpy(), nibabel.orientations.ornt_transform(own, wanted))
    return torch.from_numpy(np.ascontiguousarray(turned))[None]


def _place(volume: Volume) -> str:
    """The grid of a volume in words."""
    import nibabel

    shape = " x ".join(map(str, volume.space))
    if volume.affine is None:
        return f"({shape} {'pixels' if volume.picture else 'voxels'})"
    corner = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3].tolist())
    size = " x ".join(f"{value:.2f}" for value in volume.affine[:3, : len(volume.space)].norm(dim=0).tolist())
    axes = "".join(map(str, nibabel.aff2axcodes(volume.affine.numpy())))
    return f"({shape} voxels of {size} mm from {corner}, axes {axes})"
