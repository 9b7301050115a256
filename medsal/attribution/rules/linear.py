"""Relevance through operations with weights: which input gets how much of what an output was worth.

Everything here is a pure function of tensors: what went in, the operation, and the relevance of what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medsal.attribution.rules.sums import pull, quotient, sign, vanishing


@dataclass(frozen=True)
class Weighted:
    """An operation that is linear in its input and in its weight: a convolution, a linear layer, a matrix product.

    Attributes:
        apply: maps input, weight and bias (or None) to the output.
        weight: its weight.
        bias: its bias where that takes relevance, else None.
        keeps: relevance is kept: where nothing contributed to an output it is spread evenly over what might have, and
            denominators of one sign have no stabiliser.
        inside: makes ones where the input is not padding and zeros where it is; None where none of it is known to be.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    keeps: bool = True
    inside: Callable[[], Tensor] | None = None


LinearRule = Callable[[Weighted, Tensor, Tensor, float], Tensor]
"""Maps operation, input, relevance of the output and stabiliser to the relevance of the input."""


def epsilon_rule(operation: Weighted, x: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """In proportion to ``x w``, whatever its sign.

    Args:
        operation: the operation.
        x: its input.
        relevance: of its output.
        epsilon: the stabiliser; where relevance is kept, relative to the sum of ``|x w|``, in proportion to which
            goes what it takes.

    Returns:
        Relevance of the input.
    """
    side: Side = [(x, operation.weight, operation.bias)]
    if not operation.keeps:
        return _in_proportion(operation, x, side, relevance, epsilon)
    weight, magnitude = operation.weight, operation.weight.abs()

    def signed(z: Tensor) -> Tensor:
        return operation.apply(z, weight, None)

    def unsigned(z: Tensor) -> Tensor:
        return operation.apply(z, magnitude, None)

    with torch.no_grad():
        total, most = signed(x), unsigned(x.abs())
    stabiliser = epsilon * sign(total)
    nothing = most <= vanishing(x.dtype)
    part = quotient(relevance.masked_fill(nothing, 0), total + stabiliser * most, 0)
    (found,), (rest,) = pull(signed, [x], lambda _: part), pull(unsigned, [x.abs()], lambda _: part * stabiliser)
    found = found + rest
    return found + flat_rule(operation, x, relevance * nothing, 0) if (nothing & (relevance != 0)).any() else found


def z_plus_rule(operation: Weighted, x: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """In proportion to what is positive in ``x w``, for inputs of either sign.

    Args:
        operation: the operation.
        x: its input.
        relevance: of its output.
        epsilon: the stabiliser.

    Returns:
        Relevance of the input.
    """
    return _in_proportion(operation, x, _contributions(operation, x, 1), relevance, _stabiliser(operation, epsilon))


def excitation_rule(operation: Weighted, x: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """The z-plus rule, where an output of negative relevance counts as its own negative.

    A score that falls as a logit rises starts with negative relevance; the probability that goes back from there is
    positive and goes to what makes the logit fall.

    Args:
        operation: the operation.
        x: its input.
        relevance: of its output.
        epsilon: the stabiliser.

    Returns:
        Relevance of the input, not negative.
    """
    found = z_plus_rule(operation, x, relevance.clamp_min(0), epsilon)
    if (relevance < 0).any():
        fall = _contributions(operation, x, -1)
        found = found + _in_proportion(operation, x, fall, -relevance.clamp_max(0), _stabiliser(operation, epsilon))
    return found


def alpha2_beta1_rule(operation: Weighted, x: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """Twice to what is positive in ``x w``, minus once to what is negative; all to one side where the other is missing.

    Args:
        operation: the operation.
        x: its input.
        relevance: of its output.
        epsilon: the stabiliser.

    Returns:
        Relevance of the input.
    """
    sides = _contributions(operation, x, 1), _contributions(operation, x, -1)
    stabiliser = _stabiliser(operation, epsilon)
    if not operation.keeps:
        up, down = (_in_proportion(operation, x, side, relevance, stabiliser) for side in sides)
        return 2 * up - down
    with torch.no_grad():
        has_up, has_down = (_total(operation, side) > vanishing(x.dtype) for side in sides)
    both = has_up & has_down
    up = _in_proportion(operation, x, sides[0], relevance * torch.where(both, 2, ~has_down | has_up), stabiliser)
    return up + _in_proportion(operation, x, sides[1], relevance * torch.where(both, -1, has_down), stabiliser)


def flat_rule(operation: Weighted, x: Tensor, relevance: Tensor, epsilon: float = 0) -> Tensor:  # noqa: ARG001  as all
    """Evenly over everything that goes into an output and is not padding.

    Args:
        operation: the operation.
        x: its input.
        relevance: of its output.
        epsilon: the stabiliser, which counts of inputs do not need.

    Returns:
        Relevance of the input.
    """
    ones = torch.ones_like(operation.weight)
    (found,) = pull(
        lambda z: operation.apply(z, ones, None),
        [torch.ones_like(x) if operation.inside is None else operation.inside()],
        lambda count: quotient(relevance, count, 0),
    )
    return found


LINEAR_RULES: dict[str, LinearRule] = {
    "epsilon": epsilon_rule,
    "z_plus": z_plus_rule,
    "excitation": excitation_rule,
    "alpha2_beta1": alpha2_beta1_rule,
    "flat": flat_rule,
}
"""Rules of operations with weights, by name."""

Side = list[tuple[Tensor, Tensor, Tensor | None]]


def _contributions(operation: Weighted, x: Tensor, side: int) -> Side:
    """Pairs of inputs and weights whose products have a sign; the bias of that sign is in the first."""
    weight = operation.weight * side
    bias = None if operation.bias is None else (operation.bias * side).clamp_min(0)
    found: Side = [(x.clamp_min(0), weight.clamp_min(0), bias)]
    if (x < 0).any():
        found.append((-x.clamp_max(0), -weight.clamp_max(0), None))
    return found


def _total(operation: Weighted, side: Side) -> Tensor:
    total = operation.apply(*side[0])
    for more in side[1:]:
        total = total + operation.apply(*more)
    return total


def _stabiliser(operation: Weighted, epsilon: float) -> float:
    """Sums of one sign need none."""
    return 0.0 if operation.keeps else epsilon


def _without_contributions(operation: Weighted, x: Tensor, relevance: Tensor) -> Tensor:
    """By magnitude, and evenly where all that came in is zero."""
    rest = relevance

    def share(output: Tensor) -> Tensor:
        nonlocal rest
        rest = relevance * (output <= vanishing(output.dtype))
        return quotient(relevance - rest, output, 0)

    (found,) = pull(lambda z: operation.apply(z, operation.weight.abs(), None), [x.abs()], share)
    return found + flat_rule(operation, x, rest, 0) if rest.any() else found


def _in_proportion(operation: Weighted, x: Tensor, side: Side, relevance: Tensor, epsilon: float | Tensor) -> Tensor:
    """Share relevance by contributions; if it is to be kept, by magnitudes where there are none, and else evenly."""
    idle = torch.zeros((), dtype=torch.bool)

    def function(*parts: Tensor) -> Tensor:
        return _total(operation, [(part, *rest[1:]) for part, rest in zip(parts, side, strict=True)])

    def share(output: Tensor) -> Tensor:
        nonlocal idle
        idle = (output.abs() <= vanishing(output.dtype)) & (relevance != 0)
        return quotient(relevance.masked_fill(idle, 0), output, epsilon)

    shares = pull(function, [part[0] for part in side], share)
    found = shares[0] if len(shares) == 1 else shares[0] + shares[1]
    if operation.keeps and idle.any():
        found = found + _without_contributions(operation, x, relevance * idle)
    return found
