"""Rules by which relevance goes back through each operation of a network, for every name under which it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medsal.attribution.rules.arguments import depending, function_of, tensors_in
from medsal.attribution.rules.composites import multi_head_attention
from medsal.attribution.rules.linear import LINEAR_RULES, Weighted
from medsal.attribution.rules.operations import SINGLY_LINEAR, Rule, operation_name
from medsal.attribution.rules.propagation import SUMS, Propagation
from medsal.attribution.rules.sums import quotient, share_sum
from medsal.errors import UsageError

PASSING = frozenset(
    """
    neg relu relu6 leaky_relu rrelu prelu threshold hardtanh clamp clip clamp_min clamp_max abs
    silu gelu sigmoid tanh softplus elu selu celu mish hardswish hardsigmoid hardshrink softshrink tanhshrink logsigmoid
    log_sigmoid softsign exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal square pow float_power sin cos erf sign
    softmax log_softmax softmin batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm normalize
    """.split()
)
"""Element by element, or a scaling: what came out is worth what went in."""

ELEMENTWISE_PRODUCTS = frozenset(["mul", "multiply"])
PRODUCTS = ELEMENTWISE_PRODUCTS | frozenset("matmul bmm mm mv dot einsum".split())


def _as_is(values: list[Tensor], relevance: Tensor) -> list[Tensor]:
    """Pass relevance on, summed where the operation repeated its input."""
    return [relevance.sum_to_size(value.shape) for value in values]


def _pass(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = operation_name(func)
    depend = depending(args, kwargs)
    if not depend:
        return func(*args, **kwargs)
    if len(depend) > 1:
        raise UsageError(f"the network uses {name!r} of several tensors that depend on the image; there is no rule")
    return mode.replace(name, function_of(func, args, kwargs, depend), depend, _as_is)


def _batch_norm(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Passes relevance, unless the epsilon rule holds everywhere and biases take theirs: then its shift is a bias."""
    composite = mode.composite
    depend = depending(args, kwargs)
    if not (composite.absorb and composite.convolution == "epsilon") or len(depend) != 1:
        return _pass(mode, func, args, kwargs)
    function = function_of(func, args, kwargs, depend)

    def propagate(values: list[Tensor], relevance: Tensor) -> list[Tensor]:
        with torch.no_grad():
            normalised = function(values[0])
            scaled = normalised - function(torch.zeros_like(values[0]))
        return [scaled * quotient(relevance, normalised, composite.epsilon)]

    return mode.replace(operation_name(func), function, depend, propagate)


def _weighted(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Convolutions and linear layers."""
    depend = depending(args, kwargs)
    if not depend:
        return func(*args, **kwargs)
    name = operation_name(func)
    given = dict(zip(("input", "weight", "bias"), args[:3], strict=False)) | kwargs
    x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    if len(depend) > 1 or depend[0] is not x:
        raise UsageError(f"the network uses {name!r} with weights that depend on the image; there is no rule")

    def apply(z: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = func(z, w, b, *args[3:], **given)
        return result

    return _linear(mode, name, Weighted(apply, weight, bias), x)


def _linear(mode: Propagation, name: str, operation: Weighted, x: Tensor) -> Tensor:
    composite, bias = mode.composite, operation.bias
    rule = LINEAR_RULES[mode.linear_rule(name, len(x))]
    seen = Weighted(
        operation.apply,
        operation.weight,
        bias if composite.absorb else None,
        keeps=not composite.absorb,
        inside=mode.inside.get(x, None),
    )
    return mode.replace(
        name,
        lambda z: operation.apply(z, operation.weight, bias),
        [x],
        lambda values, relevance: [rule(seen, values[0], relevance, composite.epsilon)],
    )


def _addmm(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``bias + x weight``."""
    depend = depending(args, kwargs)
    if not depend:
        return func(*args, **kwargs)
    if len(args) != 3 or kwargs or len(depend) > 1 or depend[0] is not args[1]:
        raise UsageError("the network uses 'addmm' in a way for which there is no rule; use a linear layer")

    def apply(z: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return z @ w if b is None else z @ w + b

    return _linear(mode, "addmm", Weighted(apply, args[2], args[0]), args[1])


def _sum(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Sums, means and pools of one tensor."""
    depend = depending(args, kwargs)
    if not depend:
        return func(*args, **kwargs)
    return _shared(mode, operation_name(func), function_of(func, args, kwargs, depend), depend[0])


def _shared(mode: Propagation, name: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    composite = mode.composite
    return mode.replace(
        name,
        function,
        [x],
        lambda values, relevance: share_sum(function, values, relevance, composite.sums, composite.epsilon),
    )


def _add(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Sums and differences of two tensors."""
    a, b = args[0], args[1] if len(args) > 1 else kwargs["other"]
    if len(depending(a, b)) < 2:
        return _pass(mode, func, args, kwargs)
    name, composite = operation_name(func), mode.composite
    factor = kwargs.get("alpha", 1) * (1 if name == "add" else -1)

    def propagate(values: list[Tensor], relevance: Tensor) -> tuple[Tensor, ...]:
        first, second = values[::-1] if name == "rsub" else values
        found = share_sum(torch.add, [first, second * factor], relevance, composite.sums, composite.epsilon)
        return found[::-1] if name == "rsub" else found

    options = {key: value for key, value in kwargs.items() if key == "alpha"}
    return mode.replace(name, lambda one, other: func(one, other, **options), [a, b], propagate)


def _quotient(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is divided takes all; a divisor that is all that depends on the image takes all too."""
    under = 0 if operation_name(func) == "rdiv" else 1
    if len(depending(args)) > 1:
        args = tuple(arg.detach() if i == under else arg for i, arg in enumerate(args))
    return _pass(mode, func, args, kwargs)


def _product(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Signal takes all where the other factor is a gate; else each factor takes the same."""
    depend = depending(args, kwargs)
    if not depend:
        return func(*args, **kwargs)
    name = operation_name(func)
    signals = [tensor for tensor in depend if tensor not in mode.gates] or depend
    if len(depend) == 1 and name not in ELEMENTWISE_PRODUCTS:
        return _constant_product(mode, func, args, kwargs)
    gates = {id(tensor): mode.keep(tensor) for tensor in depend if not any(tensor is signal for signal in signals)}
    call = function_of(func, args, kwargs, depend)
    order = [gates.get(id(tensor)) for tensor in depend]

    def function(*values: Tensor) -> Any:
        left = iter(values)
        return call(*(next(left) if gate is None else gate.tensor for gate in order))

    if name in ELEMENTWISE_PRODUCTS:
        return mode.replace(name, function, signals, _equally)
    if len(signals) == 1:
        return _shared(mode, name, function, signals[0])
    epsilon = mode.composite.epsilon
    return mode.replace(name, function, signals, lambda v, relevance: _uniform(function, v, relevance, epsilon))


def _equally(values: list[Tensor], relevance: Tensor) -> list[Tensor]:
    return [relevance.sum_to_size(value.shape) / len(values) for value in values]


def _uniform(function: Callable[..., Tensor], values: list[Tensor], relevance: Tensor, epsilon: float) -> list[Tensor]:
    """Each factor takes the same, shared by its contributions."""
    found: list[Tensor] = []
    for i, value in enumerate(values):
        one = lambda z, i=i: function(*values[:i], z, *values[i + 1 :])  # noqa: E731  one factor varies
        found += share_sum(one, [value], relevance / len(values), "signed", epsilon)
    return found


def _constant_product(
    mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """A matrix product with a constant is a linear layer."""
    (x,), tensors, name = depending(args, kwargs), list(tensors_in([args, kwargs])), operation_name(func)
    if len(tensors) == 1:
        return _shared(mode, name, function_of(func, args, kwargs, tensors), x)
    if len(tensors) > 2:
        raise UsageError(f"the network uses {name!r} of one tensor that depends on the image and several constants")
    call, left = function_of(func, args, kwargs, tensors), tensors[0] is x

    def apply(z: Tensor, w: Tensor, _: Tensor | None) -> Tensor:
        result: Tensor = call(z, w) if left else call(w, z)
        return result

    return _linear(mode, name, Weighted(apply, tensors[1 if left else 0]), x)


def _attention(mode: Propagation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Attention weights are gates: the values take all."""
    query, key, value = args[:3] if len(args) > 2 else (kwargs.pop(name) for name in ("query", "key", "value"))
    query, key = mode.keep(query), mode.keep(key)

    def function(z: Tensor) -> Tensor:
        result: Tensor = func(query.tensor, key.tensor, z, *args[3:], **kwargs)
        return result

    return _shared(mode, operation_name(func), function, value) if value.requires_grad else function(value)


def _multi_head(mode: Propagation, _func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with mode:
        return multi_head_attention(*args, **kwargs)


RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING, _pass),
    **dict.fromkeys(SINGLY_LINEAR, _weighted),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(("add", "sub", "subtract", "rsub"), _add),
    **dict.fromkeys(("div", "divide", "true_divide", "rdiv"), _quotient),
    "batch_norm": _batch_norm,
    "addmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
}
"""Name of an operation -> its rule; what is not here must move values only."""
