"""Shifts of a region around the torus: which there are, which stay inside the body, and sums over all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def allowed_shifts(truth: NDArray[np.bool_], body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Shifts that wrap nothing around the border and leave as much of the truth inside the body as there is.

    Args:
        truth: boolean, one image's.
        body: boolean, of the same shape.

    Returns:
        Boolean for each shift; always true for the shift 0.
    """
    inside = np.rint(sums_at_shifts(spectrum_of(body), truth))
    allowed = np.asarray(inside >= inside.flat[0])
    for axis, size in enumerate(truth.shape):
        occupied = np.flatnonzero(truth.any(tuple(other for other in range(truth.ndim) if other != axis)))
        kept = np.zeros(size, dtype=bool)
        kept[: size - occupied[-1]] = True
        kept[size - occupied[0] :] = True
        allowed &= kept.reshape([-1 if other == axis else 1 for other in range(truth.ndim)])
    return allowed


def draw_shifts(
    truth: NDArray[np.bool_],
    count: int,
    seed: int,
    body: NDArray[np.bool_] | None = None,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[list[tuple[int, ...]], bool]:
    """Draw other places of the truth without replacement.

    Args:
        truth: boolean, one image's.
        count: how many; all where there are fewer.
        seed: of the draw.
        body: only places inside it.
        allowed: what ``allowed_shifts`` gave for it, where that is known.

    Returns:
        One shift for each place, as many numbers as axes, never the shift 0; and whether these are all there are.
    """
    if allowed is None and body is not None:
        allowed = allowed_shifts(truth, body)
    candidates = None if allowed is None else np.flatnonzero(allowed)[1:]
    available = truth.size - 1 if candidates is None else len(candidates)
    drawn = np.random.default_rng(seed).choice(available, min(count, available), replace=False)
    flat = drawn + 1 if candidates is None else candidates[drawn]
    places = zip(*np.unravel_index(flat, truth.shape), strict=True)
    return [tuple(int(n) for n in place) for place in places], count >= available


def spectrum_of(values: NDArray[Any]) -> NDArray[np.complex128]:
    """Real Fourier transform of one image, on all cores that the process may use.

    Args:
        values: any real or boolean array.

    Returns:
        Half of its spectrum.
    """
    from scipy import fft

    found: NDArray[np.complex128] = fft.rfftn(values.astype(np.float64, copy=False), workers=_cores())
    return found


def sums_at_shifts(spectrum: NDArray[np.complex128], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of weights inside the truth at every shift, with three copies of the image at most.

    Args:
        spectrum: of the weights; used up, so that the memory is free.
        truth: boolean, or what each voxel counts.

    Returns:
        For each shift, the sum of the weights where the truth rolled by it is true.
    """
    from scipy import fft

    other = spectrum_of(truth)
    spectrum *= np.conj(other, out=other)
    del other
    found: NDArray[np.float64] = fft.irfftn(spectrum, s=truth.shape, overwrite_x=True, workers=_cores())
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
