"""Which slices to draw: by number, by plane and millimetres, evenly, at the peak, or where a region is largest.

A choice is written as a number or a list of numbers, which count slices of the network's grid along the case's
``slice_axis``, or as text; several choices are joined by ``;``::

    30,40,50                slices by number
    evenly=7                evenly along the slice axis
    coronal@-20mm,-10mm     the coronal slices nearest to y = -20 mm and -10 mm
    axial:evenly=7          seven axial slices
    axial:peak              the axial slice that holds the largest |relevance|; peak=3: the three largest
    coronal:region=1        the coronal slice in which label 1 of the region map is largest
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsal.errors import InputError, UsageError
from medsal.export.case import Array
from medsal.export.views import Cut
from medsal.geometry import PLANES, full_affine, plane_axis

_FORMS = "30,40,50 | evenly=7 | coronal@-20mm,-10mm | axial:evenly=7 | axial:peak | coronal:region=1"
_NUMBER = r"[+-]?\d+(?:\.\d+)?"


class NoSuchSliceError(InputError):
    """A position or region that slices were asked at is not in the image."""


@dataclass(frozen=True)
class SliceChoice:
    """One rule that picks slices.

    Attributes:
        kind: ``index``, ``mm``, ``evenly``, ``peak`` or ``region``.
        values: slice numbers or millimetres, how many slices, or the region's labels.
        plane: anatomical plane; None means the slice axis of the network's grid.
    """

    kind: str
    values: tuple[float, ...]
    plane: str | None = None


@dataclass(frozen=True)
class Sliceable:
    """What a choice looks at.

    Attributes:
        affine: of the grid.
        shape: of the grid, two or three sizes.
        slice_axis: the axis that plain numbers count along.
        relevance: on that grid, for ``peak``.
        regions: label map on that grid, for ``region``.
    """

    affine: Any
    shape: tuple[int, ...]
    slice_axis: int
    relevance: Array | None = None
    regions: Array | None = None


def parse_slices(value: Any) -> tuple[SliceChoice, ...]:
    """Read a choice of slices from a configuration or a command line.

    Args:
        value: a number, text, a list of both, choices already read; None means ``evenly=7``.

    Returns:
        The choices in order.

    Raises:
        UsageError: if it cannot be understood.

    Example:
        >>> parse_slices([30, 40])
        (SliceChoice(kind='index', values=(30.0, 40.0), plane=None),)
        >>> parse_slices("coronal@-20mm,-10mm")
        (SliceChoice(kind='mm', values=(-20.0, -10.0), plane='coronal'),)
    """
    items = ["evenly=7"] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    choices: list[SliceChoice] = []
    numbers: list[float] = []
    for item in items:
        if isinstance(item, SliceChoice):
            choices.append(item)
        elif isinstance(item, int) and not isinstance(item, bool):
            numbers.append(float(item))
        elif isinstance(item, str):
            choices += [_parse(part.strip()) for part in item.split(";") if part.strip()]
        else:
            raise UsageError(f"slices: wanted {_FORMS}, got {item!r}")
    if numbers:
        choices.insert(0, SliceChoice("index", tuple(numbers)))
    if not choices:
        raise UsageError(f"slices: wanted {_FORMS}, got {value!r}")
    return tuple(choices)


def _parse(text: str) -> SliceChoice:
    """Read one choice."""
    if re.fullmatch(r"[+-]?\d+(\s*,\s*[+-]?\d+)*", text):
        return SliceChoice("index", tuple(float(n) for n in text.split(",")))
    found = re.fullmatch(r"(?:(\w+):)?(evenly|region)=(\d+(?:\s*,\s*\d+)*)|(?:(\w+):)?(peak)(?:=(\d+))?", text)
    if found:
        plane, kind = found[1] or found[4], found[2] or found[5]
        values = tuple(float(n) for n in (found[3] or found[6] or "1").split(","))
    else:
        found = re.fullmatch(rf"(\w+)@({_NUMBER}(?:\s*mm)?(?:\s*,\s*{_NUMBER}(?:\s*mm)?)*)", text)
        if not found:
            raise UsageError(f"slices: wanted {_FORMS}, got {text!r}")
        plane, kind, values = found[1], "mm", tuple(float(n.replace("mm", "")) for n in found[2].split(","))
    if plane is not None and plane not in PLANES:
        raise UsageError(f"slices: wanted the plane {', '.join(PLANES)}, got {plane!r} in {text!r}")
    if kind in {"evenly", "peak"} and (len(values) != 1 or values[0] < 1):
        raise UsageError(f"slices: wanted one number of at least 1 after {kind}=, got {text!r}")
    return SliceChoice(kind, values, plane)


def select(choices: tuple[SliceChoice, ...], grid: Sliceable) -> list[Cut]:
    """Find the slices that choices mean on one grid.

    Args:
        choices: as `parse_slices` reads them.
        grid: what they are looked for in; an image in the plane is its own only slice.

    Returns:
        The slices in the order they were asked for, each once.

    Raises:
        UsageError: if a slice number is outside the grid, or a region is asked for without a region map.
        InputError: if a position or a region is not in this case.
    """
    if len(grid.shape) == 2:
        return [Cut(None, 0, "00")]
    cuts: dict[tuple[int | None, int, str | None], Cut] = {}
    for choice in choices:
        axis = grid.slice_axis if choice.plane is None else plane_axis(grid.affine, choice.plane)
        for index in _INDEXES[choice.kind](choice, grid, axis):
            name = f"{index:02d}" if choice.plane is None else f"{choice.plane}_{slice_mm(grid, axis, index):+.1f}mm"
            cuts.setdefault((axis, index, choice.plane), Cut(axis, index, name, choice.plane))
    return list(cuts.values())


def slice_mm(grid: Sliceable, axis: int, index: float) -> float:
    """Where a slice lies along the world axis it is nearest to.

    Args:
        grid: affine and shape.
        axis: array axis the slice is cut across.
        index: its number.

    Returns:
        Millimetres, at the centre of the slice.
    """
    affine = np.asarray(full_affine(grid.affine))
    world = next(world for plane, world in PLANES.items() if plane_axis(grid.affine, plane) == axis)
    centre = (np.array(grid.shape) - 1) / 2
    centre[axis] = index
    return float(affine[world, :3] @ centre + affine[world, 3])


def _by_index(choice: SliceChoice, grid: Sliceable, axis: int) -> list[int]:
    size = grid.shape[axis]
    outside = [int(n) for n in choice.values if not 0 <= n < size]
    if outside:
        raise UsageError(
            f"key_slices: slice {', '.join(map(str, outside))} is not in the image: axis {axis} has the slices 0 to "
            f"{size - 1} on the network's grid"
        )
    return [int(n) for n in choice.values]


def _by_mm(choice: SliceChoice, grid: Sliceable, axis: int) -> list[int]:
    first, last = (slice_mm(grid, axis, index) for index in (0, grid.shape[axis] - 1))
    step = (last - first) / max(grid.shape[axis] - 1, 1) or slice_mm(grid, axis, 1) - first
    places = [(mm - first) / step for mm in choice.values]
    if not all(-0.5 <= place <= grid.shape[axis] - 0.5 for place in places):
        low, high = sorted((first, last))
        raise NoSuchSliceError(
            f"slices: wanted {choice.plane} slices at {', '.join(f'{mm:g}' for mm in choice.values)} mm, but the image "
            f"lies between {low:.1f} and {high:.1f} mm"
        )
    return [min(max(round(place), 0), grid.shape[axis] - 1) for place in places]


def _evenly(choice: SliceChoice, grid: Sliceable, axis: int) -> list[int]:
    size, count = grid.shape[axis], int(min(choice.values[0], grid.shape[axis]))
    return [int((part + 0.5) * size / count) for part in range(count)]


def _at_peak(choice: SliceChoice, grid: Sliceable, axis: int) -> list[int]:
    if grid.relevance is None:
        raise UsageError("slices: peak needs a relevance map, and there is none")
    others = tuple(other for other in range(3) if other != axis)
    height = np.abs(np.nan_to_num(grid.relevance, posinf=0, neginf=0)).max(axis=others)
    return [int(index) for index in np.argsort(-height, kind="stable")[: int(choice.values[0])]]


def _by_region(choice: SliceChoice, grid: Sliceable, axis: int) -> list[int]:
    if grid.regions is None:
        raise UsageError("slices: region needs a region map, and the cases have none; give the datalist key regions")
    others = tuple(other for other in range(3) if other != axis)
    found = []
    for label in choice.values:
        size = (np.rint(grid.regions) == label).sum(axis=others)
        if not size.any():
            raise InputError(f"slices: wanted region {label:g}, but the region map of this case does not hold it")
        found.append(int(size.argmax()))
    return found


_INDEXES = {"index": _by_index, "mm": _by_mm, "evenly": _evenly, "peak": _at_peak, "region": _by_region}
