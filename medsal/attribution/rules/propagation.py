"""A forward whose backward carries relevance instead of gradients.

The backward of an operation here is handed the relevance of what came out and returns the relevance of what went in.
So relevance also passes values that are exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from medsal.attribution.rules.arguments import depending, tensors_in
from medsal.attribution.rules.operations import LINEAR, SINGLY_LINEAR, Interception, Rule, in_place, operation_name
from medsal.errors import UsageError

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
        batch: number of images.

    Attributes:
        gates: what says how much of something else passes, and takes no relevance in products.
        inside: padded tensor -> makes ones padded with zeros in the same way.
    """

    def __init__(self, composite: Composite, rules: Mapping[str, Rule], batch: int) -> None:
        super().__init__(rules, ROUTING)
        self.batch = batch
        self.composite = composite
        self.started = False
        self.gates: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self.inside: MutableMapping[Tensor, Callable[[], Tensor]] = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = operation_name(func), kwargs or {}
        gate = name in GATING or (name in FOLLOWED and self._all_gates(args, kwargs))
        result = super().__torch_function__(func, types, args, kwargs)
        if in_place(func, kwargs) and isinstance(result, Tensor):  # what it was known to be it may be no more
            self.gates.pop(result, None)
            self.inside.pop(result, None)
        if name == "pad" and args and not (args[3] if len(args) > 3 else kwargs.get("value")):
            like = partial(torch.ones, args[0].shape, dtype=args[0].dtype, device=args[0].device)
            self.inside[result] = lambda: func(like(), *args[1:], **kwargs)
        if gate:
            for tensor in tensors_in(result):
                self.gates[tensor] = True
        return result

    def _all_gates(self, args: Any, kwargs: Any) -> bool:
        depend = depending(args, kwargs)
        return bool(depend) and all(tensor in self.gates for tensor in depend)

    def linear_rule(self, name: str, rows: int) -> str:
        """Choose the rule of an operation with weights.

        Args:
            name: the operation.
            rows: what it is run on at once.

        Returns:
            A name of ``LINEAR_RULES``.

        Raises:
            UsageError: if the first operation is run on images one by one, where it needs a rule of its own.
        """
        first, self.started = not self.started, True
        if first and self.composite.first:
            if rows < self.batch:
                raise UsageError("the network takes the images of a batch one by one; explain them one by one")
            return self.composite.first
        return self.composite.convolution if name in CONVOLUTIONS else self.composite.linear
