"""How alike two maps are, in every way that studies report, and in the way of a published study beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from medsal.evaluation.similarity import null_corrected, spearman, ssim, top_k_overlap, unit_range

SHIFTS = 5
"""Shifted partners that the null of a similarity is the mean of."""


def arun_range(relevance: Tensor) -> Tensor:
    """Bring magnitudes to 0 to 1 as Arun 2021 did: the least becomes 0, the 99 % quantile 1, what is above is cut.

    Args:
        relevance: ``(B, 1, *space)``.

    Returns:
        Of the same shape in float64; zero for a constant map, NaN where the map is not finite.
    """
    found = torch.empty(relevance.shape, dtype=torch.float64)
    for row, values in zip(found, relevance.detach().as_subclass(Tensor).double().abs().cpu(), strict=True):
        low, high = float(values.min()), float(np.quantile(values.numpy(), 0.99))
        if not values.isfinite().all():
            row.fill_(torch.nan)
        else:
            row.copy_(((values - low) / (high - low)).clamp(0, 1) if high > low else torch.zeros_like(values))
    return found


def magnitude(relevance: Tensor) -> Tensor:
    """Magnitudes of a map.

    Args:
        relevance: ``(B, 1, *space)``.

    Returns:
        Of the same shape.
    """
    return relevance.abs()


WAYS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"unit": unit_range, "magnitude": magnitude, "arun2021": arun_range}
)
"""How maps are brought to a measure."""


class Prepared:
    """Maps as the measures take them, made when first asked for.

    Args:
        relevance: ``(B, 1, *space)``, raw; magnitudes count.
    """

    def __init__(self, relevance: Tensor) -> None:
        self.raw = relevance.detach().as_subclass(Tensor).cpu()
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, how: str) -> Tensor:
        if how not in self._made:
            self._made[how] = WAYS[how](self.raw)
        return self._made[how]


def _arun2021(first: Tensor, second: Tensor) -> Tensor:
    return ssim(first, second, legacy="arun2021")


def _corrected(first: Tensor, second: Tensor) -> Tensor:
    return null_corrected(ssim, first, second, shifts=SHIFTS)


MEASURES: Mapping[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "ssim": ("unit", ssim),
        "ssim_corrected": ("unit", _corrected),
        "spearman": ("magnitude", spearman),
        "top_k_overlap": ("magnitude", top_k_overlap),
        "ssim_arun2021": ("arun2021", _arun2021),
    }
)
"""Name -> how maps are brought to it, and the measure. Null-corrected SSIM is what verdicts are about."""
PRIMARY, LEGACY = "ssim_corrected", "ssim_arun2021"


def compare_maps(
    first: Prepared, second: Prepared, measures: Mapping[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = MEASURES
) -> dict[str, list[float]]:
    """Compare maps pair by pair.

    Args:
        first: maps.
        second: as many, on the same grid.
        measures: which.

    Returns:
        Measure -> one value per pair; NaN where a measure has no answer, as for two constant maps.
    """
    return {name: function(first[how], second[how]).tolist() for name, (how, function) in measures.items()}


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    r"""Distance of two output distributions, Jensen-Shannon divergence in bits: 0 for equal ones, at most 1.

    Args:
        first: logits ``(B, K)``; a single one is read as binary.
        second: of the same shape.

    Returns:
        ``(B,)`` in float64; NaN where logits are not finite.
    """
    p, q = probabilities(first), probabilities(second)
    middle = (p + q) / 2
    terms = sum(torch.special.xlogy(x, x / middle.clamp_min(1e-300)).sum(1) for x in (p, q))
    found: Tensor = torch.as_tensor(terms) / (2 * torch.log(torch.tensor(2.0, dtype=torch.float64)))
    return found.clamp(0, 1)


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities of the classes.

    Args:
        logits: ``(B, K)``; a single one is read as binary.

    Returns:
        ``(B, max(K, 2))`` in float64.
    """
    logits = logits.double()
    return torch.cat([-logits, logits], 1).sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
