"""Reading one case: its maps when they are asked for, its truth on their grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation.truth import boxes_to_mask
from medsal.geometry import full_affine
from medsal.scoring.arrays import Volume, as_bundle_reads, brought, read_volume
from medsal.scoring.cases import Box, CaseFiles

_LOG = logging.getLogger("medsal")
LOST = 0.1
"""More of a mask than this outside of its map is told; less may come of resampling."""
GREYS = 100
"""Above this the values of a picture of a mask are greys; up to it they may be numbers of findings."""


class LazyMaps(Mapping[str, Tensor]):
    """Maps that are read when they are asked for and not kept: a run over large volumes holds one at a time.

    Args:
        names: their methods.
        read: gives the map of a method, ``(1, *space)``.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], Tensor]) -> None:
        self.names, self.read = tuple(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class CaseReader:
    """Reads one case: its maps when they are asked for, its truth on their grid.

    Args:
        files: what belongs to it.
        resample: whether what lies on another grid than the first map may be resampled.

    Attributes:
        resampled: what was resampled -> how, as far as it was read.
    """

    def __init__(self, files: CaseFiles, *, resample: bool = False) -> None:
        self.files = files
        self.resample = resample or files.grid is not None
        self.resampled: dict[str, str] = {}
        first, grid = next(iter(files.maps)), files.grid
        self._read: dict[str, Volume] = {}
        if grid is not None:
            nothing = torch.zeros(1).expand(1, *grid.shape)
            self.like = Volume(nothing, full_affine(grid.affine), "the network's grid")
        else:
            self.like = self._read[first] = self._map(f"map {first}", files.maps[first])

    @property
    def space(self) -> tuple[int, ...]:
        """The shape of the grid of the maps."""
        return self.like.space

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Millimetres per voxel along each axis; None where no file says."""
        affine = self.like.affine
        return None if affine is None else tuple(affine[:3, : len(self.space)].norm(dim=0).tolist())

    def map(self, method: str) -> Tensor:
        """Read a map.

        Args:
            method: its method.

        Returns:
            ``(1, *space)``.
        """
        what = f"map {method}"
        volume = self._read.pop(method, None) or self._map(what, self.files.maps[method])
        return self._on_grid(what, volume, "linear")

    def untrained(self, method: str) -> Tensor:
        """Read the map of untrained weights.

        Args:
            method: its method.

        Returns:
            ``(1, *space)``.
        """
        what = f"untrained map {method}"
        return self._on_grid(what, self._map(what, self.files.untrained[method]), "linear")

    def mask(self) -> Tensor | None:
        """Read the truth: a mask, or the boxes drawn.

        Returns:
            Boolean ``(1, *space)``; None where there is neither.
        """
        if self.files.boxes is not None:
            return self._boxes(self.files.boxes)
        return self.binary("mask")

    def binary(self, kind: str) -> Tensor | None:
        """Read a mask of one kind.

        Args:
            kind: ``mask``, ``ignore`` or ``body``.

        Returns:
            Boolean ``(1, *space)``; None where the case has none.

        Raises:
            InputError: if it is no mask, or a body is empty.
        """
        path = self.files.truth.get(kind)
        found = None if path is None else self._binary(kind, path)
        if kind == "body" and found is not None and not found.any():
            raise InputError(f"body of {self.files.case}: wanted a body that findings can lie in, got an empty one")
        return found

    def labels(self, kind: str) -> Tensor | None:
        """Read layers or regions.

        Args:
            kind: ``layers`` or ``regions``.

        Returns:
            Codes as whole numbers ``(1, *space)``; None where the case has none.

        Raises:
            InputError: if a code is not a whole number.
        """
        path = self.files.truth.get(kind)
        if path is None:
            return None
        volume = self._volume(kind, path)
        values = self._on_grid(kind, volume, "nearest")
        if not bool((values == values.round()).all()):
            raise InputError(f"{volume.source}: wanted whole numbers as codes, got values between, as resampling makes")
        return values.long()

    def readers(self) -> list[Tensor]:
        """Read the masks of other readers.

        Returns:
            Boolean ``(1, *space)`` each.
        """
        return [self._binary(f"reader {number}", path) for number, path in enumerate(self.files.readers, 1)]

    def image(self) -> Tensor | None:
        """Read the image that was explained.

        Returns:
            ``(1, *space)``; None where it is not known.
        """
        image = self.files.image
        if image is None:
            return None
        volume = image() if callable(image) else self._volume("image", image)
        return self._on_grid("image", volume, "linear")

    def _binary(self, what: str, path: Path) -> Tensor:
        volume = self._volume(what, path)
        check_mask(volume)
        before = volume.values > 0
        found = self._on_grid(what, Volume(before.float(), volume.affine, volume.source, volume.picture), "nearest") > 0
        if what == "mask" and before.any():
            self._check_kept(volume, before, found)
        return found

    def _check_kept(self, volume: Volume, before: Tensor, found: Tensor) -> None:
        """Do not take truth that the map does not cover for no truth; say how much of it was cut off."""
        if not found.any():
            raise InputError(
                f"{volume.source}: nothing of the truth is left on the grid of the map: it lies outside, or between "
                "its voxels, and cannot be judged"
            )
        if volume.affine is None or self.like.affine is None:
            return
        dims = before.ndim - 1
        sizes = [affine[:dims, :dims].double().det().abs() for affine in (volume.affine, self.like.affine)]
        lost = 1 - float(found.sum() * sizes[1] / (before.sum() * sizes[0]))
        if lost > LOST:
            _LOG.warning("%s: about %.0f %% of the truth lies outside of the map", self.files.case, 100 * lost)
            self.resampled["mask"] = f"{self.resampled.get('mask', '')}, about {lost:.0%} outside of the map"

    def _boxes(self, boxes: tuple[Box, ...]) -> Tensor:
        """Draw the boxes in the pixels of the image, and bring them to the grid of the maps."""
        image = self.files.image
        drawn_on = self._volume("image", image) if isinstance(image, Path) else self.like
        space = drawn_on.space
        for start, stop in boxes:
            inside = len(start) == len(space) and all(
                a >= 0 and b <= n for a, b, n in zip(start, stop, space, strict=True)
            )
            if not inside:
                raise InputError(
                    f"boxes: {_words(start, stop)} is not inside an image of {space} pixels; boxes are half-open, in "
                    "pixels of the image: name the image if it is larger than the map"
                )
        corners = torch.tensor(boxes, dtype=torch.float64).reshape(len(boxes), 2, len(space))
        drawn = boxes_to_mask([corners], space)[0].float()
        return self._on_grid("boxes", Volume(drawn, drawn_on.affine, "boxes", drawn_on.picture), "nearest") > 0

    def _volume(self, what: str, path: Path) -> Volume:
        """Read a file; beside a run, pictures as MONAI reads them."""
        source = f"{what} of {self.files.case}" if self.files.anonymous else f"{what} {path}"
        grid = self.files.grid
        volume = read_volume(path, source=source, image=what == "image", whole=grid is not None)
        return volume if grid is None else as_bundle_reads(volume, grid.patient_shape, grid.film)

    def _map(self, what: str, path: Path) -> Volume:
        """Read a map; those of a run lie with their slices first."""
        volume = self._volume(what, path)
        grid = self.files.grid
        if grid is None or path.suffix != ".npy":
            return volume
        values = volume.values
        if values.ndim == 4:
            values = values.movedim(1, 1 + grid.slice_axis)
        if tuple(values.shape[1:]) != grid.shape:
            raise InputError(f"{volume.source}: wanted the network's grid {grid.shape}, got {tuple(values.shape[1:])}")
        return Volume(values.contiguous(), full_affine(grid.affine), volume.source)

    def _on_grid(self, what: str, volume: Volume, mode: str) -> Tensor:
        values, how = brought(volume, self.like, resample=self.resample, mode=mode)
        if how:
            self.resampled[what] = how
        return values


def check_mask(volume: Volume) -> None:
    """Refuse what is no mask: numbers that are not finite, and values between 0 and 1 or, in a picture, 0 and 255.

    Args:
        volume: as it was read.

    Raises:
        InputError: naming what was found.
    """
    values = volume.values
    bad = int((~values.isfinite()).sum())
    if bad:
        raise InputError(f"{volume.source}: {bad} of its values are NaN or infinite; wanted a mask")
    if bool((values != values.round()).any()) or bool((values < 0).any()):
        raise InputError(f"{volume.source}: wanted 0 and whole numbers above, got values between or below")
    most = float(values.max())
    if volume.picture and most > GREYS and bool(((values > 0) & (values < most)).any()):
        raise InputError(
            f"{volume.source}: wanted 0 and {most:g}, got greys between, as resampling makes: cut it first"
        )


def _words(start: Sequence[float], stop: Sequence[float]) -> str:
    return " x ".join(f"{a:g}..{b:g}" for a, b in zip(start, stop, strict=True))
