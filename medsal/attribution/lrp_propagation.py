"""A forward whose backward carries relevance instead of gradients.

The backward of an operation here is handed the relevance of what came out and returns the relevance of what went in.
So relevance also passes values that are exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from medsal.attribution.operations import LINEAR, SINGLY_LINEAR, Interception, Kept, Rule, operation_name, tensors_in

CONVOLUTIONS = frozenset(name for name in SINGLY_LINEAR if name.startswith("conv"))
SUMS = frozenset(
    """
    sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample fold
    """.split()
)
ROUTING = (LINEAR - SINGLY_LINEAR - SUMS - frozenset("add sub rsub neg batch_norm".split())) | frozenset(
    [
        *"max min amax amin maximum minimum topk sort where masked_fill masked_select".split(),
        *"fmax fmin msort take take_along_dim hstack vstack dstack".split(),
        *(f"{adaptive}max_pool{n}d{suffix}" for adaptive in ("", "adaptive_") for n in (1, 2, 3)
          for suffix in ("", "_with_indices")),
    ]
)  # fmt: skip
"""Operations that move values, or pick them: their own backward moves relevance."""

GATING = frozenset("sigmoid hardsigmoid softmax softmin rsqrt reciprocal".split())
"""What makes a gate or a divisor: a factor that says how much passes, not what."""

FOLLOWED = ROUTING | SUMS | frozenset("neg mul multiply div divide true_divide add sub rsub".split())
"""Operations after which a gate is still a gate, where all that goes in is a gate or does not depend on the image."""


@dataclass(frozen=True)
class Composite:
    """Which rule acts where.

    Attributes:
        convolution: rule of convolutions, a name of ``LINEAR_RULES``.
        linear: rule of linear layers and products with a constant.
        sums: what the terms of sums count for, a name of ``SUM_RULES``.
        first: rule of the first convolution or linear layer that runs; None where it is as the others.
        epsilon: the stabiliser.
        absorb: whether biases take relevance.
    """

    convolution: str
    linear: str
    sums: str
    first: str | None = None
    epsilon: float = 1e-6
    absorb: bool = False


class Propagation(Interception):
    """Run a forward whose backward carries relevance.

    Args:
        composite: which rule acts where.
        rules: name of an operation -> its rule; operations of ``ROUTING`` need none.

    Attributes:
        gates: what says how much of something else passes, and takes no relevance in products.
    """

    def __init__(self, composite: Composite, rules: Mapping[str, Rule]) -> None:
        super().__init__(rules, ROUTING)
        self.composite = composite
        self.started = False
        self.gates = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation_name(func)
        gate = name in GATING or (name in FOLLOWED and self._all_gates(args, kwargs))
        result = super().__torch_function__(func, types, args, kwargs)
        if gate:
            for tensor in tensors_in(result):
                self.gates[tensor] = True
        return result

    def _all_gates(self, args: Any, kwargs: Any) -> bool:
        depend = depending(args, kwargs)
        return bool(depend) and all(tensor in self.gates for tensor in depend)

    def linear_rule(self, name: str) -> str:
        """Choose the rule of an operation with weights.

        Args:
            name: the operation.

        Returns:
            A name of ``LINEAR_RULES``.
        """
        first, self.started = not self.started, True
        if first and self.composite.first:
            return self.composite.first
        return self.composite.convolution if name in CONVOLUTIONS else self.composite.linear

    def replace(
        self,
        name: str,
        compute: Callable[..., Tensor],
        tensors: Sequence[Tensor],
        propagate: Callable[[list[Tensor], Tensor], Sequence[Tensor]],
    ) -> Tensor:
        """Run an operation and carry relevance back through it.

        Args:
            name: the operation, to be counted.
            compute: the operation as a function of the tensors.
            tensors: those that depend on the image.
            propagate: maps the values of the tensors and the relevance of the output to that of each tensor.

        Returns:
            What the operation gives.
        """
        self.handled[name] += 1
        result: Tensor = _Propagate.apply(compute, propagate, [self.keep(tensor) for tensor in tensors], *tensors)
        return result


class _Propagate(torch.autograd.Function):
    """An operation whose backward is a rule."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Tensor], propagate: Callable[..., Any], kept: list[Kept], *tensors: Tensor
    ) -> Tensor:
        ctx.rule = propagate, kept
        return compute(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        propagate, kept = ctx.rule
        return None, None, None, *propagate([k.tensor for k in kept], relevance)


def depending(*values: Any) -> list[Tensor]:
    """The tensors among arguments that depend on the image.

    Args:
        *values: arguments, nested or not.

    Returns:
        As many as there are.
    """
    return [tensor for tensor in tensors_in(values) if tensor.requires_grad]


def function_of(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], places: Sequence[Tensor]
) -> Callable[..., Any]:
    """Write a call as a function of some of its tensors.

    Args:
        func: an operation.
        args: its arguments.
        kwargs: its arguments by keyword.
        places: tensors among them, in their order.

    Returns:
        A function of as many tensors, which take their places in this order.
    """
    identities = {id(place) for place in places}

    def put(value: Any, tensors: Iterator[Tensor]) -> Any:
        if id(value) in identities:
            return next(tensors)
        if isinstance(value, Mapping):
            return {key: put(item, tensors) for key, item in value.items()}
        return tuple(put(item, tensors) for item in value) if type(value) in {list, tuple} else value

    def call(*tensors: Tensor) -> Any:
        given = iter(tensors)
        return func(*put(args, given), **put(kwargs, given))

    return call
