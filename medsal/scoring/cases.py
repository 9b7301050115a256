"""What belongs to the cases that are scored, before anything of it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsal.scoring.arrays import Volume

TRUTH = ("mask", "layers", "regions", "ignore", "body")
"""What a case may have besides maps, each a file on the grid of the maps; boxes and readers too."""
Box = tuple[tuple[float, ...], tuple[float, ...]]
"""Start and stop along each axis, half-open."""


@dataclass(frozen=True, kw_only=True)
class NetworkGrid:
    """The grid that a network saw, as the record of a run tells it.

    Attributes:
        affine: ``(4, 4)``, voxel index to millimetres.
        shape: of the grid.
        slice_axis: the axis that comes first in the NPY files of the run.
        patient_shape: of the image as the bundle read it.
        film: affine of the image where it was read as a film, rows first; None where it was not.
    """

    affine: Any
    shape: tuple[int, ...]
    slice_axis: int
    patient_shape: tuple[int, ...] | None = None
    film: Any = None


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """What belongs to one case on the disk; nothing of it is read before ``CaseReader`` does.

    Attributes:
        case: its name, unique.
        patient: whose it is.
        maps: method -> file.
        truth: of ``TRUTH``, kind -> file.
        boxes: the finding's boxes along the axes of the array; None where truth is no boxes.
        image: the image that was explained: a file, or a function that reads it.
        readers: files of other readers' masks.
        grids: method -> grid of the layer that its map was taken from, for class activation maps.
        grid: of a run's NPY files; None where files say themselves where they lie.
        untrained: method -> file of the map of untrained weights.
        anonymous: whether errors must not name files.
        made: fingerprint of what the maps of a run, and its image, were made from.
    """

    case: str
    patient: str
    maps: Mapping[str, Path]
    truth: Mapping[str, Path] = field(default_factory=dict)
    boxes: tuple[Box, ...] | None = None
    image: Path | Callable[[], Volume] | None = None
    readers: tuple[Path, ...] = ()
    grids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    grid: NetworkGrid | None = None
    untrained: Mapping[str, Path] = field(default_factory=dict)
    anonymous: bool = False
    made: str = ""

    def files(self) -> dict[str, Path]:
        """Every file of the case.

        Returns:
            What it is -> its path.
        """
        found = {f"map {name}": path for name, path in self.maps.items()}
        found |= {f"untrained map {name}": path for name, path in self.untrained.items()}
        found |= {**self.truth, **{f"reader {number}": path for number, path in enumerate(self.readers, 1)}}
        return {**found, "image": self.image} if isinstance(self.image, Path) else found


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The cases that can be scored, and why others cannot.

    Attributes:
        found: in order.
        excluded: case -> reason.
        facts: where they come from, for the record: ``kind``, ``model`` and the like.
        resample: whether truth on another grid than the maps is resampled.
        region_names: code of a region -> its name.
    """

    found: tuple[CaseFiles, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    resample: bool = False
    region_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods, in order of first appearance."""
        return tuple(dict.fromkeys(name for files in self.found for name in files.maps))
