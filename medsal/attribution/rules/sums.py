"""Relevance through sums, means, pools and interpolations: which term gets how much of what a sum was worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def vanishing(dtype: torch.dtype) -> float:
    """The size below which a denominator counts as zero.

    Args:
        dtype: a floating point type.

    Returns:
        A number whose reciprocal, times any relevance, is finite.
    """
    return float(torch.finfo(dtype).tiny ** 0.75)


def sign(total: Tensor) -> Tensor:
    """The sign of numbers, plus for zero.

    Args:
        total: any numbers.

    Returns:
        1 or -1, of their type.
    """
    return 1 - 2 * (total < 0).to(total.dtype)


def quotient(relevance: Tensor, total: Tensor, epsilon: float | Tensor) -> Tensor:
    """Divide relevance by what an output is made of, kept away from zero.

    Args:
        relevance: of the outputs.
        total: sum of the contributions to each output.
        epsilon: added to the total, away from zero; the sign of zero is plus.

    Returns:
        Their quotient; zero where the total and the stabiliser vanish.
    """
    stable = total + epsilon * sign(total)
    empty = stable.abs() <= vanishing(total.dtype)
    return torch.where(empty, 0, relevance / stable.masked_fill(empty, 1))


def pull(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], share: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Each input times what flows back to it.

    Args:
        function: a linear operation.
        inputs: what goes in.
        share: maps the output to what is sent back.

    Returns:
        For each input ``input * (transposed operation)(share(output))``.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    sent = torch.autograd.grad(output, leaves, share(output.detach()))
    return tuple(leaf.detach() * back for leaf, back in zip(leaves, sent, strict=True))


SUM_RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda x: x,
    "magnitude": torch.abs,
    "positive": lambda x: x.clamp_min(0),
}
"""What a term of a sum counts for: itself (the norm rule, which is the epsilon rule without weights), its magnitude
(nothing can explode where terms of either sign cancel each other), or itself where it is positive."""


def share_sum(
    function: Callable[..., Tensor], terms: Sequence[Tensor], relevance: Tensor, counts: str, epsilon: float
) -> tuple[Tensor, ...]:
    """Share the relevance of a weighted sum, its weights not negative, by what its terms count for.

    Args:
        function: the sum, mean, pool or interpolation of the terms.
        terms: what is summed.
        relevance: of the sum.
        counts: a name of ``SUM_RULES``.
        epsilon: the stabiliser, of signed sums alone.

    Returns:
        Relevance of each term; evenly where no term counts.
    """
    idle = torch.zeros((), dtype=torch.bool)

    def share(total: Tensor) -> Tensor:
        nonlocal idle
        idle = (total.abs() <= vanishing(total.dtype)) & (relevance != 0)
        return quotient(relevance.masked_fill(idle, 0), total, epsilon if counts == "signed" else 0.0)

    found = pull(function, [SUM_RULES[counts](term) for term in terms], share)
    if idle.any():
        even = pull(function, [torch.ones_like(term) for term in terms], lambda n: quotient(relevance * idle, n, 0))
        found = tuple(one + more for one, more in zip(found, even, strict=True))
    return found
