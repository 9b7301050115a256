"""Similarity of two maps: raw, and with what two unrelated maps of the same kind score taken off.

Two independent maps that are mostly zero have a structural similarity of 0.9: no raw score means anything by itself.
The null of a pair is the first map against the second rolled around the torus: same values, same texture, no relation.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.ties import CHUNK, ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = float("nan")
SLAB = 8
"""Slices that are filtered at a time."""
SMALL = 2**16
"""Voxels of a map for which starting threads takes longer than what they do."""


@dataclass(frozen=True)
class _Window:
    """The window of a structural similarity: Gaussian or uniform, its radius, and n/(n-1) or 1 for the covariances."""

    gaussian: bool
    radius: int
    unbiased: bool

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Local means where the whole window lies inside."""
        from scipy import ndimage

        size = 2 * self.radius + 1
        if self.gaussian:
            found = ndimage.gaussian_filter(values, 1.5, truncate=3.5)
        else:
            found = ndimage.uniform_filter(values, size)
        inner: NDArray[np.float64] = found[(slice(self.radius, -self.radius),) * values.ndim]
        return inner


PINNED = _Window(gaussian=True, radius=5, unbiased=False)
ARUN_2021 = _Window(gaussian=False, radius=3, unbiased=True)


def ssim(relevance: Tensor, other: Tensor, *, data_range: float = 1.0, legacy: str | None = None) -> Tensor:
    r"""Structural similarity, Wang et al. 2004, doi:10.1109/TIP.2003.819861, in float64, in 2D and 3D.

    :math:`\frac{(2\mu_x\mu_y + C_1)(2\sigma_{xy} + C_2)}{(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}`,
    averaged where the window lies inside; :math:`C_k = (K_k L)^2`, K = 0.01 and 0.03. Window: Gaussian of
    :math:`\sigma` 1.5 cut at 5 voxels, population covariance: scikit-image's ``structural_similarity`` with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. Range [-1, 1]; chance depends on the maps.

    Args:
        relevance: ``(B, 1, *space)``; see ``unit_range``.
        other: of the same shape.
        data_range: :math:`L`, from the lowest value that there may be to the highest.
        legacy: ``"arun2021"`` for the published variant: uniform window of 7, range 2, sample covariance.

    Returns:
        ``(B,)`` in float64; NaN for two constant maps of one value, for maps that are not finite, and for
        maps smaller than the window, axes of one voxel aside: a volume of one slice is a picture.

    Raises:
        UsageError: if the shapes differ, the maps span more than the range, or the variant is unknown.
    """
    if legacy not in {None, "arun2021"}:
        raise UsageError(f"legacy: wanted 'arun2021' or None, got {legacy!r}")
    window, span = (ARUN_2021, 2.0) if legacy else (PINNED, data_range)
    return torch.tensor(
        [_ssim(a.squeeze(), b.squeeze(), window, span) for a, b in _pairs(relevance, other)], dtype=torch.float64
    )


def _ssim(first: NDArray[Any], second: NDArray[Any], window: _Window, span: float) -> float:
    lowest = min(float(first.min()), float(second.min()))
    highest = max(float(first.max()), float(second.max()))
    if (
        not np.isfinite([lowest, highest]).all()
        or highest == lowest
        or min(first.shape, default=0) <= 2 * window.radius
    ):
        return NAN
    if highest - lowest > span * (1 + 1e-6):
        raise UsageError(f"ssim: wanted maps within a data range of {span:g}, got {highest - lowest:g}; see unit_range")
    inside = np.prod([size - 2 * window.radius for size in first.shape])
    if first.size <= SMALL:
        return float(_ssim_sum(first, second, window, span) / inside)
    starts = range(0, len(first) - 2 * window.radius, SLAB)
    slabs = [slice(start, min(start + SLAB + 2 * window.radius, len(first))) for start in starts]
    with ThreadPoolExecutor(2) as pool:
        sums = pool.map(lambda at: _ssim_sum(first[at], second[at], window, span), slabs)
        return float(sum(sums) / inside)


def _ssim_sum(first: NDArray[Any], second: NDArray[Any], window: _Window, span: float) -> float:
    """Sum of the local similarities of one slab."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    n = (2 * window.radius + 1) ** first.ndim
    scale = n / (n - 1) if window.unbiased else 1.0
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_1, mean_2 = window.mean(first), window.mean(second)
    product = mean_1 * mean_2
    squares = mean_1**2 + mean_2**2
    covariance = scale * (window.mean(first * second) - product)
    variances = scale * (window.mean(first**2 + second**2) - squares)
    found = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(found.sum())


def unit_range(relevance: Tensor, *, quantile: float = 0.995) -> Tensor:
    """Bring the magnitude of maps to 0 to 1 by a quantile: dividing by the maximum makes one outlier decide all.

    Args:
        relevance: ``(B, 1, *space)``.
        quantile: of the magnitudes, that becomes 1; what is above is cut.

    Returns:
        Of the same shape in float64; zero where the quantile is zero, NaN where the map is not finite.
    """
    found = torch.empty(relevance.shape, dtype=torch.float64)
    for row, values in zip(found, relevance.detach().as_subclass(Tensor), strict=True):
        magnitude = values.double().abs()
        top = float(np.quantile(magnitude.cpu().numpy(), quantile))
        if not magnitude.isfinite().all():
            row.fill_(NAN)
        else:
            row.copy_(magnitude.div_(top).clamp_(max=1) if top > 0 else magnitude.zero_())
    return found


def spearman(relevance: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps, ties by their average rank: SciPy's ``spearmanr``.

    Args:
        relevance: ``(B, 1, *space)``.
        other: of the same shape.

    Returns:
        ``(B,)`` in float64 from -1 to 1; 0 by chance; NaN where either map is constant or has NaN.

    Raises:
        UsageError: if the shapes differ.
    """
    return torch.tensor([_spearman(a.ravel(), b.ravel()) for a, b in _pairs(relevance, other)], dtype=torch.float64)


def _spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    if not _rankable(first) or not _rankable(second):
        return NAN
    one, two = ranks(first), ranks(second)
    middle, sums = len(one) + 1, np.zeros(3)
    for start in range(0, len(one), CHUNK):  # no double copy of the maps is held
        a, b = (values[start : start + CHUNK].astype(np.float64) - middle for values in (one, two))
        sums += a @ b, a @ a, b @ b
    return float(np.clip(sums[0] / np.sqrt(sums[1] * sums[2]), -1, 1))


def top_k_overlap(relevance: Tensor, other: Tensor, *, share: float = 0.1) -> Tensor:
    r"""Share of the most relevant voxels that two maps have in common, :math:`\sum_x \min(a_x, b_x) / k`.

    :math:`a_x` is 1 for the k highest voxels; voxels tied at the threshold share what is left of k equally.

    Args:
        relevance: ``(B, 1, *space)``.
        other: of the same shape.
        share: of the voxels that are taken; k is rounded to at least one voxel.

    Returns:
        ``(B,)`` in float64 from 0 to 1; ``share`` by chance; NaN where either map is constant or has NaN.

    Raises:
        UsageError: if the shapes differ or the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"share: wanted a number between 0 and 1, got {share:g}")
    pairs = [(a.ravel(), b.ravel()) for a, b in _pairs(relevance, other)]
    return torch.tensor([_overlap(a, b, max(1, round(share * len(a)))) for a, b in pairs], dtype=torch.float64)


def _overlap(first: NDArray[Any], second: NDArray[Any], k: int) -> float:
    if not _rankable(first) or not _rankable(second):
        return NAN
    (above, tied, share), (above_2, tied_2, share_2) = _top(first, k), _top(second, k)
    common = np.count_nonzero(above & above_2) + share_2 * np.count_nonzero(above & tied_2)
    common += share * np.count_nonzero(tied & above_2) + min(share, share_2) * np.count_nonzero(tied & tied_2)
    return float(common / k)


def _top(values: NDArray[Any], k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], float]:
    """The voxels above the threshold, those at it, and what each of the latter counts."""
    threshold = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > threshold, values == threshold
    return above, tied, float((k - np.count_nonzero(above)) / np.count_nonzero(tied))


def null_corrected(
    metric: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, *, shifts: int = 5, seed: int = 0
) -> Tensor:
    """A similarity with its null taken off, (score - null) / (1 - null): 0 for unrelated maps, 1 for equal ones.

    The null is the mean score of the first map and the second rolled by a quarter to three quarters of each axis.

    Args:
        metric: ``metric(first, second) -> (B,)``, at most 1.
        first: ``(B, 1, *space)``.
        second: of the same shape.
        shifts: how many are drawn.
        seed: of the draw; each pair of a batch is given the shifts that it has alone.

    Returns:
        ``(B,)`` in float64; NaN where the metric or a null is, and where the null leaves no room.
    """
    score = metric(first, second)
    dims = tuple(axis for axis in range(2, first.ndim) if first.shape[axis] > 1)
    if not dims:
        return torch.full_like(score, NAN)
    low = [-(-first.shape[axis] // 4) for axis in dims]
    high = [3 * first.shape[axis] // 4 for axis in dims]
    places = np.random.default_rng(seed).integers(low, high, endpoint=True, size=(shifts, len(dims))).tolist()
    null = sum((metric(first, torch.roll(second, place, dims)) for place in places), torch.zeros(())) / shifts
    return torch.where(null < 1, (score - null) / (1 - null), torch.nan)


def ssim_corrected(
    relevance: Tensor, other: Tensor, *, data_range: float = 1.0, shifts: int = 5, seed: int = 0
) -> Tensor:
    """``ssim`` with its null taken off, see ``null_corrected``.

    Args:
        relevance: ``(B, 1, *space)``.
        other: of the same shape.
        data_range: as in ``ssim``.
        shifts: how many are drawn.
        seed: of the draw.

    Returns:
        ``(B,)`` in float64, at most 1; 0 by chance.
    """
    return null_corrected(lambda a, b: ssim(a, b, data_range=data_range), relevance, other, shifts=shifts, seed=seed)


def spearman_corrected(relevance: Tensor, other: Tensor, *, shifts: int = 5, seed: int = 0) -> Tensor:
    """``spearman`` with its null taken off, see ``null_corrected``.

    Args:
        relevance: ``(B, 1, *space)``.
        other: of the same shape.
        shifts: how many are drawn.
        seed: of the draw.

    Returns:
        ``(B,)`` in float64, at most 1; 0 by chance.
    """
    return null_corrected(spearman, relevance, other, shifts=shifts, seed=seed)


def top_k_overlap_corrected(
    relevance: Tensor, other: Tensor, *, share: float = 0.1, shifts: int = 5, seed: int = 0
) -> Tensor:
    """``top_k_overlap`` with its null taken off, see ``null_corrected``.

    Args:
        relevance: ``(B, 1, *space)``.
        other: of the same shape.
        share: as in ``top_k_overlap``.
        shifts: how many are drawn.
        seed: of the draw.

    Returns:
        ``(B,)`` in float64, at most 1; 0 by chance.
    """
    return null_corrected(lambda a, b: top_k_overlap(a, b, share=share), relevance, other, shifts=shifts, seed=seed)


def _rankable(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all()) and values.min() != values.max()


def _pairs(first: Tensor, second: Tensor) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    if first.shape != second.shape:
        raise UsageError(f"wanted two maps on one grid, got {tuple(first.shape)} and {tuple(second.shape)}")
    bare = (maps.detach().as_subclass(Tensor).cpu() for maps in (first, second))
    plain = ((maps.float() if maps.dtype == torch.bfloat16 else maps).numpy() for maps in bare)
    return [(a[0], b[0]) for a, b in zip(*plain, strict=True)]
