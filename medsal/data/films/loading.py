"""Films and other pictures as tensors: PNG and JPEG of 8 or 16 bits, DICOM of projection X-ray (CR, DX).

A film is ``(channels, rows, columns)``: its first row is the top of the picture and its first column the left edge, as
torchvision and PIL have it. (MONAI's ``PILReader`` gives columns first.) Its affine is the film's own: millimetres
downwards and to the right, where the file tells the distance of pixels, else pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from numpy.typing import NDArray

from medsal.errors import InputError, UsageError

__all__ = ["FILM_SUFFIXES", "LoadFilm", "LoadFilmD", "LoadFilmDict", "LoadFilmd", "film_id", "find_films", "picture"]

FILM_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
"""What the names of films end with, in any case."""

_GREY = 2 / 255
"""Channels that differ by no more than this are copies of one; JPEG moves them a little."""

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL
_COLOURS = ("refuse", "luminance", "keep")


def film_id(name: str | Path) -> str:
    """The name of a film without folders and without what tells its format.

    Args:
        name: of the file, or of the film already.

    Returns:
        What tables call it; the dots of DICOM's numbers stay.

    Example:
        >>> film_id("dicom/1.2.276.0.dcm"), film_id("1.2.276.0"), film_id("a/IM-0005-0001.jpeg")
        ('1.2.276.0', '1.2.276.0', 'IM-0005-0001')
    """
    base = Path(name).name
    suffix = Path(base).suffix
    return base.removesuffix(suffix) if suffix.lower() in FILM_SUFFIXES else base


def find_films(folder: str | Path) -> dict[str, list[Path]]:
    """The films in a folder and the folders in it.

    Args:
        folder: where to look.

    Returns:
        The name of each film and its files, sorted; more than one file where a name is there twice.

    Raises:
        UsageError: there is no such folder.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UsageError(f"'{root}': no such folder; wanted a folder of films ({', '.join(FILM_SUFFIXES)})")
    found: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() in FILM_SUFFIXES and not file.name.startswith("."):
            found.setdefault(film_id(file), []).append(file)
    return found


class LoadFilm(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Read a film as ``(channels, rows, columns)`` in float32 from 0 (black) to 1 (white).

    Pictures are divided by what their bits can hold (255, 65535). DICOM is shown as a viewer shows it: rescale, the
    first VOI LUT or window, MONOCHROME1 turned round; the range of the window (without one, of the stored bits) becomes
    0 to 1. Nothing of the header but the distance of pixels is kept.

    The meta has ``affine``, ``original_affine``, ``spatial_shape``, ``filename_or_obj``; ``spacing`` tells where the
    distance of pixels is from (``PixelSpacing``, ``ImagerPixelSpacing`` or ``unknown``: 1).

    Args:
        colour: what is done with a picture that has colours: ``refuse`` it, take its ``luminance``, or ``keep`` it.
            With ``keep`` every film has three channels, else one; grey pictures saved as colours count as grey.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  (MONAI's own class attribute)

    def __init__(self, colour: str = "refuse") -> None:
        if colour not in _COLOURS:
            raise UsageError(f"colour: wanted {', '.join(_COLOURS)}, got {colour!r}")
        self.colour = colour

    def __call__(self, filename: Any) -> MetaTensor:
        """Read one film.

        Args:
            filename: its path.

        Returns:
            the film.

        Raises:
            InputError: there is no such file, it is no film that can be read, or it has colours where none are wanted.
        """
        path = Path(filename)
        if not path.is_file():
            raise InputError(f"'{path}': no such file; wanted a film ({', '.join(FILM_SUFFIXES)})")
        values, spacing, origin = _dicom(path) if _is_dicom(path) else (picture(path), (1.0, 1.0), "unknown")
        film = torch.from_numpy(np.ascontiguousarray(self._channels(path, values), np.float32))
        affine = torch.diag(torch.tensor([*spacing, 1.0, 1.0], dtype=torch.float64))
        meta = {
            "original_affine": affine.clone(),
            "spatial_shape": torch.tensor(film.shape[1:]),
            "filename_or_obj": str(path),
            "original_channel_dim": float("nan"),
            "spacing": origin,
            "loader": f"LoadFilm {self.colour}",
        }
        return MetaTensor(film, affine=affine, meta=meta)

    def _channels(self, path: Path, values: NDArray[Any]) -> NDArray[Any]:
        """``(rows, columns)`` or ``(rows, columns, 3)`` as wanted channels first."""
        if values.ndim == 2:
            return np.stack([values] * (3 if self.colour == "keep" else 1))
        planes = np.moveaxis(values, -1, 0)
        if self.colour == "keep":
            return planes
        apart = float(np.ptp(planes, axis=0).max())
        if apart > _GREY and self.colour == "refuse":
            raise InputError(
                f"'{path}': has colours (channels differ by up to {apart * 255:.0f} of 255); wanted a grey film; "
                "colour='luminance' or 'keep' reads it"
            )
        weights = np.array(_LUMINANCE) if apart > _GREY else np.array([1, 0, 0])
        grey: NDArray[Any] = np.tensordot(weights, planes, 1)
        return grey[None]


class LoadFilmd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Dictionary version of `LoadFilm`.

    Args:
        keys: where the paths are, and the films will be.
        colour: see `LoadFilm`.
        allow_missing_keys: pass where a key is missing.
    """

    def __init__(self, keys: KeysCollection, colour: str = "refuse", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadFilm(colour)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the films of one case.

        Args:
            data: the case.

        Returns:
            a copy of the case with the films in it.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.load(d[key])
        return d


LoadFilmD = LoadFilmDict = LoadFilmd


def picture(path: Path) -> NDArray[np.float64]:
    """Read a PNG or JPEG.

    Args:
        path: of the file.

    Returns:
        ``(rows, columns)``, or ``(rows, columns, 3)`` for colours, from 0 to 1.

    Raises:
        InputError: it cannot be read, or has several pictures, transparent places or pixels of another kind.
    """
    levels, most = levels_of(path)
    return levels / most


def levels_of(path: Path) -> tuple[NDArray[np.int64], int]:
    """Read the levels of a PNG or JPEG as they are stored.

    Args:
        path: of the file.

    Returns:
        ``(rows, columns)``, or ``(rows, columns, 3)`` for colours; and the highest level that its bits can hold.

    Raises:
        InputError: it cannot be read, or has several pictures, transparent places or pixels of another kind.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            frames = int(getattr(file, "n_frames", 1))
            if frames > 1:
                raise InputError(f"'{path}': {frames} pictures in one file; wanted one film")
            mode = file.mode
            shown = file.convert("RGBA") if mode in {"P", "PA", "LA", "RGBA"} else file
            if mode not in {"L", "1", "RGB", "P", "PA", "LA", "RGBA", "YCbCr"} and not mode.startswith("I"):
                raise InputError(f"'{path}': pixels of kind {mode}; wanted grey of 8 or 16 bits, or RGB")
            levels = np.asarray(shown if mode != "YCbCr" else shown.convert("RGB")).astype(np.int64)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(repr(str(path)), "file") or "no reason given"
        raise InputError(f"'{path}': cannot be read as a film ({type(error).__name__}: {reason})") from error
    if mode in {"P", "PA", "LA", "RGBA"}:
        if (levels[..., 3] < 255).any():
            raise InputError(f"'{path}': has transparent places; wanted a film without")
        levels = levels[..., :3]
    most = 65535 if mode.startswith("I") else 1 if mode == "1" else 255
    if levels.min() < 0 or levels.max() > most:
        raise InputError(f"'{path}': levels from {levels.min()} to {levels.max()}; wanted 0 to {most}")
    return levels, most


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in {".dcm", ".dicom"}:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _dicom(path: Path) -> tuple[NDArray[Any], tuple[float, float], str]:
    from medsal.data.films.dicom import read_dicom_film

    read: Callable[[Path], tuple[NDArray[Any], tuple[float, float], str]] = read_dicom_film
    return read(path)
