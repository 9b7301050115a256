"""What the page of a run shows of one case: a few slices of image and maps in eight bits, and the facts beside them."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsal.export.case import Array, CaseResult, finite, spatial
from medsal.export.choice import Sliceable, slice_mm
from medsal.export.colours import grey_levels, largest
from medsal.export.views import Cut, View, axis_directions, view_of
from medsal.geometry import PLANES, full_affine, plane_axis, position_known

SLICES, PIXELS, GAP_LIMIT = 7, 100, 0.05
"""Slices per case, the longest side of one in pixels, and the relative completeness gap from which the page warns."""
FILM_PIXELS = 200
"""The longest side of an image that has no slices: it is shown larger, and needs fewer bytes than seven slices."""
_AIR, _RIM = 12, 3  # grey level that counts as something to see; voxels left around it


def case_page(
    result: CaseResult, nifti: Mapping[str, str] | None = None, chosen: Sequence[Cut] | None = None
) -> dict[str, Any]:
    """Make the small file that the page of the run shows a case from.

    Slices are those of the patient's grid, in the anatomical plane nearest to the case's slice axis, evenly over
    the part where there is relevance, with the strongest one among them; or the chosen ones of one plane. They are
    shrunk by averaging blocks of voxels. Relevance is kept as ``sign(a) * sqrt(|a| / limit)`` in eight bits, so
    that small values stay apart.

    Args:
        result: the case.
        nifti: method -> path of its map inside the output folder.
        chosen: slices of the network's grid that the user asked for; those in the plane of the first one are shown.

    Returns:
        A JSON-able dictionary; nothing in it names the input file.
    """
    image = grey_levels(spatial(result.native, "native image"))
    maps = {m: finite(spatial(v, f"map {m}")) for m, v in result.native_maps.items() if m in result.maps}
    cuts = _asked(result, image.shape, chosen or ()) or _cuts(result, image.shape, maps)
    view = view_of(result.native.affine, cuts[0], known=position_known(result.native.meta))
    frame = _frame([(image, _AIR), *((relevance, 0.0) for relevance in maps.values())], cuts, view)
    picture = _stack(image, frame)
    facts = {m: _method(result, m, maps[m], frame, (nifti or {}).get(m, "")) for m in maps}
    grid = Sliceable(result.native.affine, image.shape, 0)
    affine = np.asarray(full_affine(result.native.affine))
    return {
        "case": result.case,
        "subject": result.subject,
        "session": result.session,
        "label": result.label,
        "label_name": result.label_name,
        "prediction": float(result.prediction),
        "logits": [float(v) for v in result.logits],
        "target": result.target,
        "plane": cuts[0].plane or "",
        "slices": [
            {"index": c.index, "mm": 0.0 if c.axis is None else round(slice_mm(grid, c.axis, c.index), 1)} for c in cuts
        ],
        "pixels": list(picture.shape[1:]),
        "block": frame.block,
        "start": [rows.start for rows in frame.window],
        "stop": [rows.stop for rows in frame.window],
        "spacing": [mm * frame.block for mm in view.spacing],
        "letters": list(view.letters),
        "axes": [cuts[0].axis, *view.axes],
        "flips": list(view.flips),
        "shape": list(image.shape),
        "affine": affine.round(6).tolist(),
        "image": _pack(np.rint(picture).astype(np.uint8) & 0xFC),
        "notes": list(result.notes),
        "methods": facts,
    }


def _asked(result: CaseResult, shape: tuple[int, ...], chosen: Sequence[Cut]) -> list[Cut]:
    """The slices of the patient's grid where those chosen on the network's grid lie, in the order of the world."""
    if len(shape) == 2 or not chosen or chosen[0].axis is None:
        return []
    native, network = (np.asarray(full_affine(volume.affine)) for volume in (result.native, result.image))
    across = chosen[0].axis
    world = axis_directions(network)[across][0]
    plane = next(name for name, axis in PLANES.items() if axis == world)
    axis = plane_axis(native, plane)
    centre = [(size - 1) / 2 for size in spatial(result.image).shape]
    places = [[*centre[:across], cut.index, *centre[across + 1 :], 1.0] for cut in chosen if cut.axis == across]
    found = {round(float((np.linalg.inv(native) @ network @ place)[axis])) for place in places}
    towards = axis_directions(native)[axis][1]
    inside = sorted((index for index in found if 0 <= index < shape[axis]), reverse=towards < 0)
    return [Cut(axis, index, str(index), plane) for index in inside]


def _cuts(result: CaseResult, shape: tuple[int, ...], maps: Mapping[str, Array]) -> list[Cut]:
    """The slices to show, in the order of the world: evenly over the relevant part, the strongest among them."""
    if len(shape) == 2:
        return [Cut(None, 0, "00")]
    world = axis_directions(result.image.affine)[result.slice_axis][0]
    plane = next(name for name, axis in PLANES.items() if axis == world)
    axis = plane_axis(result.native.affine, plane)
    others = tuple(other for other in range(3) if other != axis)
    height = np.zeros(shape[axis])
    for relevance in maps.values():
        top = np.maximum(relevance.max(axis=others), -relevance.min(axis=others))
        height += top / (top.max() or 1.0)
    relevant = np.flatnonzero(height) if height.any() else np.arange(shape[axis])
    first, size = int(relevant[0]), int(relevant[-1] - relevant[0]) + 1
    count = min(SLICES, size)
    picks = [first + int((part + 0.5) * size / count) for part in range(count)]
    if height.any():
        peak = int(height.argmax())
        picks[int(np.argmin(np.abs(np.array(picks) - peak)))] = peak
    towards = axis_directions(result.native.affine)[axis][1]  # from back to front, whatever the order in the file
    return [Cut(axis, index, str(index), plane) for index in sorted(picks, reverse=towards < 0)]


@dataclass(frozen=True)
class _Frame:
    """What of the patient's grid is shown: slices, how they lie, the part of them that holds something, block size."""

    cuts: list[Cut]
    view: View
    window: tuple[slice, slice]
    block: int


def _frame(shown: list[tuple[Array, float]], cuts: list[Cut], view: View) -> _Frame:
    """Find the part of the slices that holds image or relevance, and the blocks that make it small enough."""
    seen = np.any([np.abs(view.show(cut.take(part))) > floor for part, floor in shown for cut in cuts], axis=0)
    window = []
    for axis in (0, 1):
        used = np.flatnonzero(seen.any(axis=1 - axis))
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, seen.shape[axis] - 1)
        window.append(slice(max(first - _RIM, 0), min(last + 1 + _RIM, seen.shape[axis])))
    longest = max(part.stop - part.start for part in window)
    block = math.ceil(longest / (FILM_PIXELS if cuts[0].axis is None else PIXELS))
    return _Frame(cuts, view, (window[0], window[1]), block)


def _stack(volume: Array, frame: _Frame) -> Array:
    """Cut the slices out as they are seen and shrink them by block means."""
    block = frame.block
    stack = np.stack([frame.view.show(cut.take(volume))[frame.window] for cut in frame.cuts]).astype(np.float32)
    if block == 1:
        return stack
    rows, columns = (np.arange(0, size, block) for size in stack.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(stack, rows, axis=1), columns, axis=2)
    high, wide = (np.diff(starts, append=size) for starts, size in zip((rows, columns), stack.shape[1:], strict=True))
    return np.asarray(sums / (high[:, None] * wide))


def _method(result: CaseResult, method: str, relevance: Array, frame: _Frame, nifti: str) -> dict[str, Any]:
    """One map: its slices, its scale, how it was made and what is doubtful about it."""
    limit = largest(relevance)
    stack = _stack(relevance, frame)
    levels = np.sign(stack) * np.sqrt(np.abs(stack) / (limit or 1.0)) * 127
    record = dict(result.records.get(method, {}))
    return {
        "limit": limit,
        "data": _pack((np.rint(levels) + 128).astype(np.uint8)),
        "nifti": nifti,
        "facts": {key: value for key, value in record.items() if key != "claims"},
        "claims": record.get("claims", {}),
        "warnings": _warnings(spatial(result.maps[method], f"map {method}"), record.get("claims", {})),
    }


def _warnings(relevance: Array, claims: Mapping[str, Any]) -> list[str]:
    """What should make a reader doubt a map."""
    found = []
    bad = int((~np.isfinite(relevance)).sum())
    if bad:
        found.append(f"{bad} of {relevance.size} voxels are not finite; they are shown as 0")
    elif relevance.size and relevance.max() == relevance.min():
        found.append(f"the map is constant: every voxel is {float(relevance.flat[0]):g}")
    gaps = np.abs(np.atleast_1d(np.asarray(claims.get("relative_gap", 0.0), dtype=np.float64)))
    gap = gaps.max() if gaps.size else 0.0
    if not gap <= GAP_LIMIT:
        found.append(f"completeness gap {gap:.1%} of the score difference, above {GAP_LIMIT:.0%}: use more steps")
    return found


def _pack(stack: Array) -> str:
    """Differences from byte to byte, deflated, as base64."""
    flat = stack.ravel()
    steps = np.diff(flat, prepend=np.uint8(0)).astype(np.uint8)
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()
