"""What is known of one case when everything has been computed and nothing has been written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsal.errors import InputError

if TYPE_CHECKING:
    from monai.data import MetaTensor

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One explained case, on two grids: the network's and the patient's own.

    Attributes:
        case: unique and safe as a file name, for example ``sub-0001_ses-01``.
        subject: whose image it is.
        session: which visit; may be empty.
        source: the file the image was loaded from.
        label: true class, None where it is not known.
        label_name: true class in words, for example ``HC``.
        prediction: probability of class 1.
        logits: what the network said.
        target: the class that the maps explain.
        image: ``(1, *space)`` on the network's grid.
        maps: method -> relevance ``(1, *space)`` on the network's grid.
        native: ``(1, *space)``, the image of the file on the patient's grid.
        native_maps: method -> relevance ``(1, *space)`` on the patient's grid.
        records: method -> how its map was made and what it says about itself.
        slice_axis: array axis of the network's grid that plain slice numbers count along.
        regions: label map ``(1, *space)`` on the network's grid, for slices chosen by region.
        sample_idx: place of the case in the data list; None numbers the cases as they come.
        facts: what preparing the image found, such as ``field_of_view``.
        notes: what a reader of this case should be warned of.
    """

    case: str
    subject: str
    session: str
    source: Path
    label: int | None
    label_name: str
    prediction: float
    logits: Sequence[float]
    target: int | None
    image: MetaTensor
    maps: Mapping[str, MetaTensor]
    native: MetaTensor
    native_maps: Mapping[str, MetaTensor]
    records: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    slice_axis: int = 1
    regions: MetaTensor | None = None
    sample_idx: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ExportedCase:
    """What was written for one case.

    Attributes:
        files: every file, as it lies in the output folder.
        statistics: one row per method, for ``attribution_statistics.csv``.
        seconds: wall time by part: ``draw``, ``write``, ``report``.
        maps: method -> ``nifti`` and ``npy``, the files of its map, relative to the output folder.
    """

    files: list[Path]
    statistics: list[dict[str, Any]]
    seconds: dict[str, float]
    maps: dict[str, dict[str, str]] = field(default_factory=dict)


def spatial(volume: Any, what: str = "image") -> Array:
    """The voxels of a one-channel tensor.

    Args:
        volume: ``(1, *space)`` in 2D or 3D, on any device.
        what: its name in the error.

    Returns:
        ``(*space)`` as it lies in memory, not copied where that can be helped.

    Raises:
        InputError: if there is more than one channel, or neither two nor three dimensions.
    """
    tensor = volume.as_tensor() if hasattr(volume, "as_tensor") else volume
    array = np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)
    if array.ndim not in {3, 4} or array.shape[0] != 1:
        raise InputError(f"{what}: wanted one channel in 2D or 3D, (1, *space), got shape {tuple(array.shape)}")
    voxels: Array = array[0]
    return voxels


def finite(volume: Array) -> Array:
    """Put 0 where a voxel is NaN or infinite, for pictures and limits only.

    Args:
        volume: any shape.

    Returns:
        The same array where all of it is finite, else a copy.

    Example:
        >>> finite(np.array([1.0, np.nan])).tolist()
        [1.0, 0.0]
    """
    good = np.isfinite(volume)
    return volume if good.all() else np.where(good, volume, 0)
