"""The anatomy under the planted-truth set: the MNI152 T1 template of nilearn's wheel and regions derived from it.

Nothing is downloaded: the maps (T1 and grey matter; McGill's MNI ICBM152 2009a symmetric, 1 mm) are files of the
installed package. The hippocampus is a tube about six points in MNI space, cut with the grey matter map (Dice 0.73 with
a histological atlas); the temporal lobe is a coarse tube of larger radius, cut with the brain. Both are rough on
purpose: they say where things lie. The template is exactly left-right symmetric and free of the skull; see
`medsal.data.phantoms.heads` for what breaks the symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import ArrayLike

__all__ = ["REGIONS", "SIDES", "Template", "along_hippocampus", "load_template", "within"]

REGIONS: dict[int, str] = {
    1: "left hippocampus",
    2: "right hippocampus",
    3: "left temporal lobe",
    4: "right temporal lobe",
}
"""What the values of a region map mean; the temporal lobes are counted without their hippocampus."""

SIDES: dict[str, int] = {"left": -1, "right": 1}
"""The sign of the world's first axis on each side: world coordinates grow to the right."""

_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Right side; (x, y, z) in mm, radius in mm across the tube. Left is the mirror image.
_HIPPOCAMPUS = np.array(
    [
        [21, -8, -24, 4.4],
        [25, -14, -21, 6.0],
        [28, -22, -17, 4.5],
        [27, -30, -10, 4.2],
        [25, -36, -4, 4.2],
        [20, -40, 1, 4.0],
    ],
    dtype=np.float32,
)
_FLATNESS = np.array([0.65, 0.8, 1.0], dtype=np.float32)  # the section is wider than high
_TEMPORAL = np.array(
    [[38, 12, -32, 17], [44, -4, -28, 23], [48, -22, -18, 24], [50, -38, -8, 22], [50, -50, -4, 18]], dtype=np.float32
)
_GREY = 0.5


@dataclass(frozen=True, eq=False)
class Template:
    """The template as arrays on one 1 mm grid.

    Attributes:
        t1: T1 intensities, 0..255, zero outside the brain.
        grey: grey matter fraction, 0..1.
        labels: 0 outside the brain, 1 to 4 as in `REGIONS`, 5 elsewhere in the brain.
        origin: world position of voxel (0, 0, 0), in mm.
        candidates: world positions (n, 3) where a distractor may lie: near the temporal lobes, off the hippocampus.
    """

    t1: torch.Tensor
    grey: torch.Tensor
    labels: np.ndarray
    origin: np.ndarray
    candidates: np.ndarray


def _along_tube(points: np.ndarray, tube: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to a chain of segments in radii, position along it (0..1), and the nearest point of the chain."""
    nodes, radii = tube[:, :3], tube[:, 3]
    lengths = np.linalg.norm(np.diff(nodes, axis=0), axis=1)
    starts = np.concatenate([[0.0], np.cumsum(lengths)]).astype(np.float32)
    distance = np.full(len(points), np.inf, dtype=np.float32)
    position = np.zeros(len(points), dtype=np.float32)
    nearest = np.zeros_like(points)
    for i, (start, step) in enumerate(zip(nodes[:-1], np.diff(nodes, axis=0), strict=True)):
        u = np.clip(((points - start) * stretch**2) @ step / np.sum((step * stretch) ** 2), 0, 1).astype(np.float32)
        foot = start + u[:, None] * step
        away = (points - foot) * stretch
        here = np.sqrt(np.einsum("ij,ij->i", away, away)) / (radii[i] + u * (radii[i + 1] - radii[i]))
        closer = here < distance
        distance[closer] = here[closer]
        position[closer] = ((starts[i] + u * lengths[i]) / starts[-1])[closer]
        nearest[closer] = foot[closer]
    return distance, position, nearest


def along_hippocampus(points: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Where template points lie with respect to one hippocampus.

    Args:
        points: world positions (n, 3) in the template's space, in mm.
        side: ``"left"`` or ``"right"``.

    Returns:
        the distance from the hippocampus' axis in units of its radius (1 on the tube's surface), the position along the
        axis from 0 (head, anterior) to 1 (tail), and the nearest point of the axis (n, 3).

    Example:
        >>> rho, s, axis = along_hippocampus(np.array([[-21.0, -8.0, -24.0]], dtype=np.float32), "left")
        >>> float(rho[0]), float(s[0])
        (0.0, 0.0)
    """
    mirror = np.array([SIDES[side], 1, 1], dtype=np.float32)
    rho, position, nearest = _along_tube(points.astype(np.float32) * mirror, _HIPPOCAMPUS, _FLATNESS)
    return rho, position, nearest * mirror


def within(points: np.ndarray, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Which points lie inside a box, its surface not included.

    Args:
        points: positions (n, 3).
        low: the box's lower corner.
        high: the box's upper corner.

    Returns:
        one truth value per point (n,).

    Example:
        >>> within(np.array([[1, 1, 1], [1, 1, 3]]), (0, 0, 0), (2, 2, 3)).tolist()
        [True, False]
    """
    inside = np.ones(len(points), dtype=bool)
    for column, lower, upper in zip(points.T, np.asarray(low), np.asarray(high), strict=True):
        inside &= (column > lower) & (column < upper)  # column by column: ten times faster than all(axis=1)
    return inside


def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    import nibabel  # here: only the embedded set needs it

    with resources.as_file(resources.files("nilearn") / "datasets" / "data" / _FILE.format(name)) as path:
        image = nibabel.load(path)
        return np.asarray(image.dataobj), np.asarray(image.affine)


def _regions(brain: np.ndarray, grey: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.where(brain, 5, 0).astype(np.uint8)
    voxels = np.argwhere(brain)
    points = (voxels + origin).astype(np.float32)
    near = within(points, (-76, -76, -62), (76, 34, 24))
    voxels, points = voxels[near], points[near]
    mirrored = np.abs(points) * [1, 0, 0] + points * [0, 1, 1]
    left = points[:, 0] < 0
    lobe = _along_tube(mirrored.astype(np.float32), _TEMPORAL, np.ones(3, dtype=np.float32))[0] < 1
    rho = _along_tube(mirrored.astype(np.float32), _HIPPOCAMPUS, _FLATNESS)[0]
    hippocampus = (rho < 1) & (grey[tuple(voxels.T)] >= _GREY)
    value = np.full(len(voxels), 5, dtype=np.uint8)
    value[lobe] = np.where(left, 3, 4)[lobe]
    value[hippocampus] = np.where(left, 1, 2)[hippocampus]
    labels[tuple(voxels.T)] = value
    inner = within(points, (-46, -52, -40), (46, 8, 12))
    return labels, points[inner & (rho > 1.9)]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template from the installed nilearn wheel and derive the regions, once per process.

    Returns:
        the template on its own 1 mm grid.
    """
    t1, affine = _read("t1")
    grey = _read("gm")[0].astype(np.float32) / 255
    origin = affine[:3, 3].astype(np.float64)
    labels, candidates = _regions(t1 > 0, grey, origin)
    return Template(torch.from_numpy(t1.astype(np.float32)), torch.from_numpy(grey), labels, origin, candidates)
