"""Truth of a film as images on the film's grid: masks from run lengths, boxes and files, and maps of skin layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn.functional import interpolate

from medsal.data.films.loading import levels_of
from medsal.data.films.rle import decode_rle
from medsal.errors import InputError, UsageError
from medsal.evaluation.truth import boxes_to_mask
from medsal.geometry import placed

__all__ = ["SKIN_LAYERS", "DrawBoxesd", "DrawRled", "LoadLayersd", "LoadMaskd"]

SKIN_LAYERS = (0, 32, 64, 128, 255)
"""Codes of a skin layer map: 255 the epidermis, 128, 64 and 32 the bands below (32 also above), 0 the rest."""

_RULES = ("half-open", "arun2021")


class _OnFilm(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Put truth beside a film that was just loaded; the case itself is left as it was."""

    def __init__(self, keys: KeysCollection, image_key: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self._put(d)
        return d

    def _put(self, d: dict[Hashable, Any]) -> None:
        """Put the truth into a copy of the case."""
        raise NotImplementedError

    def film(self, data: Mapping[Hashable, Any]) -> MetaTensor:
        """The film of a case.

        Args:
            data: the case.

        Returns:
            ``(channels, rows, columns)``.

        Raises:
            UsageError: it is not loaded yet.
        """
        film = data.get(self.image_key)
        if not isinstance(film, MetaTensor) or film.ndim != 3:
            raise UsageError(f"{type(self).__name__}: wanted a film under '{self.image_key}'; put LoadFilmd before it")
        return film


class DrawRled(_OnFilm):
    """Draw the mask that a case has as run lengths, on the grid of its film.

    Where the film is not of the size that the lengths were counted on, each of its pixels takes the value of the
    pixel that its centre falls on.

    Args:
        keys: where the masks will be, ``(1, rows, columns)`` of 0 and 1 in uint8.
        rle_key: where the run lengths are; they are taken away, as texts do not belong in a batch.
        image_key: the film, already loaded and not yet resized.
        shape: rows and columns that the lengths were counted on.
        allow_missing_keys: pass where a case has no run lengths.
    """

    def __init__(
        self,
        keys: KeysCollection = "mask",
        rle_key: str = "rle",
        image_key: str = "image",
        shape: Sequence[int] = (1024, 1024),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, image_key, allow_missing_keys)
        self.rle_key = rle_key
        self.shape = (int(shape[0]), int(shape[1]))

    def _put(self, d: dict[Hashable, Any]) -> None:
        text = _taken(d, self.rle_key, type(self).__name__, self.allow_missing_keys)
        if text is not None:
            film = self.film(d)
            mask = torch.from_numpy(decode_rle(text, self.shape, f"run lengths of {d.get('case', 'the film')}"))[None]
            for key in self.keys:
                d[key] = placed(_nearest(mask, film.shape[1:]), film.affine, film.meta)


class DrawBoxesd(_OnFilm):
    """Draw the boxes of a case as one mask, on the grid of its film.

    ``half-open``: a pixel is in a box if its centre is, after the box was scaled from ``shape`` to the film. On a film
    of that shape these are ``width`` x ``height`` pixels.

    ``arun2021``: as the saliency study drew them, for comparison with it only: on the 320 x 320 grid of its networks,
    corners at ``int(320 * c / 1023)``, the last row and column filled too; here at any size of film. Boxes come out
    up to a pixel too large and moved.

    Args:
        keys: where the masks will be, ``(1, rows, columns)`` of 0 and 1 in uint8.
        boxes_key: where the boxes are, as `medsal.data.rsna_cases` gives them; they are taken away, as lists of
            different lengths do not belong in a batch.
        image_key: the film, already loaded and not yet resized (``arun2021``: resized to 320 x 320).
        shape: rows and columns that the boxes were drawn on.
        rule: ``half-open`` or ``arun2021``.
        allow_missing_keys: pass where a case has no boxes.
    """

    def __init__(
        self,
        keys: KeysCollection = "mask",
        boxes_key: str = "boxes",
        image_key: str = "image",
        shape: Sequence[int] = (1024, 1024),
        rule: str = "half-open",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, image_key, allow_missing_keys)
        if rule not in _RULES:
            raise UsageError(f"rule: wanted {' or '.join(_RULES)}, got {rule!r}")
        self.boxes_key, self.rule = boxes_key, rule
        self.shape = (int(shape[0]), int(shape[1]))

    def _put(self, d: dict[Hashable, Any]) -> None:
        given = _taken(d, self.boxes_key, type(self).__name__, self.allow_missing_keys)
        if given is not None:
            film = self.film(d)
            boxes = torch.as_tensor(given, dtype=torch.float64).reshape(-1, 2, 2)
            mask = self._drawn(boxes, film.shape[1:]).to(torch.uint8)
            for key in self.keys:
                d[key] = placed(mask.clone(), film.affine, film.meta)

    def _drawn(self, boxes: Tensor, space: torch.Size) -> Tensor:
        size = torch.tensor(space, dtype=torch.float64)
        shape = torch.tensor(self.shape, dtype=torch.float64)
        if self.rule == "half-open":
            return boxes_to_mask([boxes * size / shape], space)[0]
        corners = (size * boxes / (shape - 1)).trunc()
        corners[:, 1] += 1  # the last one is filled
        return boxes_to_mask([corners], space)[0]


class LoadMaskd(_OnFilm):
    """Read masks from PNG, on the grid of the film.

    Args:
        keys: where the paths are, and the masks will be, ``(1, rows, columns)`` of 0 and 1 in uint8.
        image_key: the film, already loaded and not yet resized.
        allow_missing_keys: pass where a case has no mask.
    """

    def __init__(
        self, keys: KeysCollection = "mask", image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, image_key, allow_missing_keys)

    def _put(self, d: dict[Hashable, Any]) -> None:
        for key in self.key_iterator(d):
            levels = label_picture(Path(d[key]))
            found = np.unique(levels.numpy()).tolist()
            if len(found) > 2 or (len(found) == 2 and found[0] != 0):
                raise InputError(f"'{d[key]}': {len(found)} levels {_few(found)}; wanted a mask: 0 and one other")
            d[key] = _on_grid(d[key], (levels != 0).to(torch.uint8), self.film(d))


class LoadLayersd(_OnFilm):
    """Read maps of skin layers from PNG, on the grid of the film.

    Args:
        keys: where the paths are, and the maps will be, ``(1, rows, columns)`` of codes in uint8.
        image_key: the film, already loaded and not yet resized.
        codes: that a map may hold.
        allow_missing_keys: pass where a case has no map.
    """

    def __init__(
        self,
        keys: KeysCollection = "layers",
        image_key: str = "image",
        codes: Sequence[int] = SKIN_LAYERS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, image_key, allow_missing_keys)
        self.codes = tuple(codes)

    def _put(self, d: dict[Hashable, Any]) -> None:
        for key in self.key_iterator(d):
            levels = label_picture(Path(d[key]))
            for code, times in zip(*np.unique(levels.numpy(), return_counts=True), strict=True):
                if code not in self.codes:
                    known = ", ".join(map(str, sorted(self.codes)))
                    raise InputError(f"'{d[key]}': {times} pixels of the code {code}; wanted the codes {known}")
            d[key] = _on_grid(d[key], levels.to(torch.uint8), self.film(d))


def label_picture(path: Path) -> Tensor:
    """Read a PNG of codes.

    Args:
        path: of the file.

    Returns:
        ``(1, rows, columns)`` in int64, as stored.

    Raises:
        InputError: there is no such file, it is no PNG (JPEG moves codes), cannot be read, or has colours.
    """
    if not path.is_file():
        raise InputError(f"'{path}': no such file; wanted a PNG of codes")
    if path.suffix.lower() != ".png":
        raise InputError(f"'{path}': wanted a PNG; other formats move the codes")
    levels, _ = levels_of(path)
    if levels.ndim == 3:
        if np.ptp(levels, axis=-1).any():
            raise InputError(f"'{path}': has colours; wanted the codes as grey levels")
        levels = levels[..., 0]
    return torch.from_numpy(np.ascontiguousarray(levels))[None]


def _on_grid(path: Any, values: Tensor, film: MetaTensor) -> MetaTensor:
    """A map of codes on the grid of its film, if it shows the same field of view."""
    ratio = (values.shape[1] / values.shape[2]) / (film.shape[1] / film.shape[2])
    if not 0.98 < ratio < 1.02:
        raise InputError(
            f"'{path}': {values.shape[1]} x {values.shape[2]} pixels, its film {film.shape[1]} x {film.shape[2]}; "
            "wanted the same field of view"
        )
    return placed(_nearest(values, film.shape[1:]), film.affine, film.meta)


def _nearest(values: Tensor, space: Sequence[int]) -> Tensor:
    """Bring codes to another size: each pixel takes that on which its centre falls."""
    if tuple(values.shape[1:]) == tuple(space):
        return values
    return interpolate(values[None].float(), tuple(space), mode="nearest-exact")[0].to(values.dtype)


def _taken(data: dict[Hashable, Any], key: str, who: str, may_be_missing: bool) -> Any:
    if key not in data and not may_be_missing:
        raise UsageError(f"{who}: the case has no '{key}'; it has {', '.join(map(str, data))}")
    return data.pop(key, None)


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
