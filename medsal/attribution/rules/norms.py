"""DeepLIFT through softmax and normalisations: operations of whole rows, split into rescalings and products.

Each function here is what an operation hands back to its input: pure, and exact in that multipliers times differences
of the input sum to multipliers times differences of the output.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medsal.attribution.rules.operations import Backward


def logarithmic_mean(one: Tensor, other: Tensor) -> Tensor:
    """Quotient of the differences of two numbers and of their logarithms.

    Args:
        one: logarithm of the one number.
        other: logarithm of the other.

    Returns:
        The logarithmic mean of the numbers, which is the number itself where they are equal.
    """
    distance = (one - other).abs().nan_to_num(0, posinf=torch.inf)  # both are zero where a mask is
    near = distance < torch.finfo(one.dtype).eps
    factor = torch.where(near, 1, -torch.expm1(-distance) / distance.masked_fill(near, 1))
    return torch.maximum(one, other).exp() * factor


def log_sum_exp_slopes(z: Tensor, start: Tensor, dim: int) -> Tensor:
    """Multipliers of the logarithm of a sum of exponentials: both functions rescaled.

    Args:
        z: the input.
        start: the baseline's.
        dim: along which the sum runs.

    Returns:
        As many numbers as ``z`` has; times its difference they sum to that of the result.
    """
    shift = torch.maximum(z, start).amax(dim, keepdim=True)
    one, other = z - shift, start - shift
    total = logarithmic_mean(one.logsumexp(dim, keepdim=True), other.logsumexp(dim, keepdim=True))
    return logarithmic_mean(one, other) / total


def softmax_rule(start: Tensor, dim: int, *, log: bool = False) -> Backward:
    """Softmax, which is ``exp(z - logsumexp(z))``: both functions rescaled.

    Args:
        start: the baseline's input.
        dim: along which the softmax runs.
        log: whether it is the logarithm of it.

    Returns:
        What it hands back.
    """

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        z = values[0]
        if not log:
            gradient = gradient * logarithmic_mean(z.log_softmax(dim), start.log_softmax(dim))
        return [gradient - log_sum_exp_slopes(z, start, dim) * gradient.sum(dim, keepdim=True)]

    return backward


def standardise_rule(
    start: Tensor, rows: Callable[[Tensor], Tensor], weight: Tensor | None, eps: float, *, centred: bool = True
) -> Backward:
    """Normalisation of rows by statistics of their own: a product of distances and of a rescaled ``1 / sqrt``.

    Args:
        start: the baseline's input.
        rows: lays an input out as rows ``(M, N)``, each of which is normalised.
        weight: the factor behind the normalisation, broadcastable to the input.
        eps: added to the variance.
        centred: whether the mean is taken off.

    Returns:
        What it hands back.
    """

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        handed = rows(gradient if weight is None else gradient * weight)
        distances, scales = [], []
        for tensor in (rows(values[0]), rows(start)):
            distance = tensor - tensor.mean(1, keepdim=True) if centred else tensor
            distances.append(distance)
            scales.append((distance.square().mean(1, keepdim=True) + eps).sqrt())
        middle = (distances[0] + distances[1]) / 2
        one, other = scales
        slope = -1 / (one * other * (one + other))  # of 1 / sqrt against the variance
        share = (handed * middle).mean(1, keepdim=True)
        found = handed * (1 / one + 1 / other) / 2 + 2 * slope * share * middle
        if centred:
            found = found - found.mean(1, keepdim=True)
        return [found.reshape(gradient.shape)]

    return backward
