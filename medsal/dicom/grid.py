"""The grid of the DICOM images themselves, and the way of a map back to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsal.dicom.reasons import Reason, Refusal
from medsal.geometry import full_affine, placed, to_grid

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medsal.dicom.safe import Opened

META_KEY = "dicom"
"""Where the meta of an image holds its `NativeGrid`, as JSON text: texts survive MONAI's collation."""


@dataclass(frozen=True, kw_only=True)
class NativeGrid:
    """Which pixel of which DICOM object a voxel of an image came from.

    A series has axes (column, row, slice), a film (row, column).

    Attributes:
        affine: ``(4, 4)``, voxel index to millimetres, RAS+; for a film its pixel spacing only.
        shape: of the image.
        study_uid: study instance UID.
        series_uid: series instance UID.
        frame_of_reference_uid: empty for films.
        instances: SOP instance UID of each slice, in the order of the last axis; one for a multi-frame object or film.
        frames: frame number (from 1) of each slice of a multi-frame object, else empty.
        files: where the instances lie.
        notes: what a user should know, in plain words, for example that copies were left out.
        facts: what else was read: for example view position, spacing_from, burned_in, voi.
    """

    affine: tuple[tuple[float, ...], ...]
    shape: tuple[int, ...]
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str = ""
    instances: tuple[str, ...]
    frames: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any]

    def as_json(self) -> str:
        """Write it as one text, for the meta of an image.

        Returns:
            JSON.
        """
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, image: MetaTensor) -> NativeGrid:
        """The grid of an image that was read from DICOM.

        Args:
            image: whatever was done to it since, as long as its meta came along.

        Returns:
            The grid.

        Raises:
            Refusal: ``not_native``, where the image was not read by medsal.dicom.
        """
        text = getattr(image, "meta", {}).get(META_KEY)
        if not isinstance(text, str):
            raise Refusal(Reason.NOT_NATIVE, "no DICOM grid in the meta of the image")
        entries = json.loads(text)
        entries["affine"] = tuple(tuple(row) for row in entries["affine"])
        for name in ("shape", "instances", "frames", "files", "notes"):
            entries[name] = tuple(entries[name])
        return cls(**entries)

    @property
    def paths(self) -> list[Path]:
        """Where the instances lie."""
        return [Path(file) for file in self.files]


def dressed(values: Any, grid: NativeGrid) -> MetaTensor:
    """Give voxels their grid, as MONAI's ``LoadImage`` would.

    Args:
        values: ``(*space)``.
        grid: theirs.

    Returns:
        ``(1, *space)`` float32 with ``affine``, ``original_affine``, ``spatial_shape``, a ``filename_or_obj`` that says
        nothing about the patient, and the grid.
    """
    from medsal.dicom.phi import pseudonym

    affine = full_affine(grid.affine)
    kind = "film" if len(grid.shape) == 2 else "series"
    meta: dict[str, Any] = {
        "original_affine": affine.numpy().copy(),
        "spatial_shape": np.array(grid.shape),
        "filename_or_obj": pseudonym(grid.instances[0] if kind == "film" else grid.series_uid, kind),
        "original_channel_dim": float("nan"),
        "space": "RAS",
        META_KEY: grid.as_json(),
    }
    if kind == "film":
        meta.update(sform_code=0, qform_code=0)  # a film has no place in the world
    voxels = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32))[None]
    return placed(voxels, affine, meta)


def facts_of(opened: Opened) -> dict[str, Any]:
    """What a result should say of its images besides their place.

    Args:
        opened: one of the headers.

    Returns:
        Modality, units and whether anything is burned in.
    """
    return {
        "modality": opened.text("Modality"),
        "units": opened.text("RescaleType"),
        "burned_in": opened.text("BurnedInAnnotation").upper() == "YES",
        "lossy": opened.text("LossyImageCompression") == "01",
    }


def map_to_native(relevance: MetaTensor, grid: NativeGrid, *, mode: str = "linear", covered: float = 0.0) -> MetaTensor:
    """Bring a map to the grid of its DICOM images: what the network did not see is 0.

    Args:
        relevance: ``(1, *space)`` with the affine of whatever grid the network had.
        grid: of the images.
        mode: ``linear`` for values, ``nearest`` for labels.
        covered: least part of the images that the map's field of view must cover, 0..1.

    Returns:
        ``(1, *grid.shape)`` with the affine of the grid.

    Raises:
        Refusal: ``not_native``: the affine has no inverse, the dimensions differ, the map lies elsewhere, or covers
            less than ``covered``.
    """
    affine = full_affine(relevance.affine)
    if relevance.ndim != len(grid.shape) + 1 or len(relevance) != 1:
        raise Refusal(Reason.NOT_NATIVE, f"map of shape {tuple(relevance.shape)}, images of {grid.shape}")
    if not torch.isfinite(affine).all() or abs(float(torch.linalg.det(affine))) < 1e-9:
        raise Refusal(Reason.NOT_NATIVE, "the affine of the map has no inverse")
    if not torch.isfinite(relevance.as_tensor()).all():
        raise Refusal(Reason.NOT_NATIVE, "values that are not finite")
    share = covered_share(affine, relevance.shape[1:], grid)
    if share <= max(covered - 1e-9, 0.0):
        raise Refusal(Reason.NOT_NATIVE, f"the map covers {share:.0%} of the images")
    native = to_grid(relevance, grid.affine, grid.shape, mode=mode)
    native.meta[META_KEY] = grid.as_json()
    return native


def covered_share(affine: Any, shape: Sequence[int], grid: NativeGrid) -> float:
    """Part of the images' voxels whose centre lies in the field of view of a map.

    Args:
        affine: of the map.
        shape: of the map.
        grid: of the images.

    Returns:
        0 to 1.
    """
    steps = [np.unique(np.linspace(0, size - 1, min(size, 64)).round()) for size in grid.shape]
    places = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, len(steps))
    homogeneous = np.zeros((4, len(places)))
    homogeneous[: len(steps)], homogeneous[3] = places.T, 1
    there = (np.linalg.inv(full_affine(affine).numpy()) @ full_affine(grid.affine).numpy() @ homogeneous)[: len(steps)]
    sizes = np.asarray(shape)[:, None]
    return float(((there > -0.5 - 1e-6) & (there < sizes - 0.5 + 1e-6)).all(0).mean())
