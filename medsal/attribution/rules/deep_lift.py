"""Rules by which multipliers go back through operations, beside what the baseline gave in the same places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medsal.attribution.rules.arguments import depending, function_of, tensors_in
from medsal.attribution.rules.composites import COMPOSITES
from medsal.attribution.rules.norms import softmax_rule, standardise_rule
from medsal.attribution.rules.operations import Backward, Interception, Kept, Rule, operation_name
from medsal.errors import MedsalError, UsageError

PIECEWISE_LINEAR = frozenset(
    "relu relu6 leaky_relu rrelu prelu threshold hardtanh clamp clip clamp_min clamp_max abs".split()
)
SMOOTH = frozenset(
    "silu gelu sigmoid tanh softplus elu selu celu mish hardswish hardsigmoid hardshrink softshrink logsigmoid "
    "log_sigmoid softsign exp expm1 log log1p sqrt rsqrt reciprocal square pow sin cos erf".split()
)
POOLS = frozenset(f"{adaptive}max_pool{n}d{suffix}" for adaptive in ("", "adaptive_") for n in (1, 2, 3)
                  for suffix in ("", "_with_indices"))  # fmt: skip
BILINEAR = frozenset("mul multiply matmul bmm mm einsum".split())
COMPARISONS = frozenset(
    "gt ge lt le eq ne greater less isnan isinf isfinite logical_and logical_or logical_not logical_xor any all "
    "argmax argmin argsort sign sgn round floor ceil trunc floor_divide bucketize".split()
)
"""Operations without a gradient: constants, where baseline and image agree on them."""

NORMALISATIONS = {
    "layer_norm": "input normalized_shape weight bias eps".split(),
    "rms_norm": "input normalized_shape weight eps".split(),
    "group_norm": "input num_groups weight bias eps".split(),
    "instance_norm": "input running_mean running_var weight bias use_input_stats momentum eps".split(),
}
"""Normalisations by statistics of the image itself -> their arguments."""


class BaselinePass(Interception):
    """Remember what goes into every operation that has a rule when the network sees the baseline."""

    def __init__(self) -> None:
        rules: dict[str, Rule] = dict.fromkeys(RULES, _remember)
        super().__init__(rules | dict.fromkeys(COMPOSITES, _apart) | dict.fromkeys(COMPARISONS, _remember_result))
        self.inputs: list[tuple[str, list[Kept]]] = []


class ImagePass(Interception):
    """Replace operations on the way of the image, beside the baseline's values remembered before.

    Args:
        memory: the pass of the baseline.
    """

    def __init__(self, memory: BaselinePass) -> None:
        super().__init__(RULES | dict.fromkeys(COMPOSITES, _apart) | dict.fromkeys(COMPARISONS, _compare))
        self.inputs = iter(memory.inputs)

    def beside(self, name: str, tensors: list[Tensor]) -> list[Tensor]:
        """Find the baseline's inputs of the same operation.

        Args:
            name: the operation.
            tensors: the image's inputs.

        Returns:
            The baseline's.

        Raises:
            MedsalError: if the network ran something else there.
        """
        wanted, kept = next(self.inputs, ("none", []))
        if wanted != name or [k.tensor.shape for k in kept] != [t.shape for t in tensors]:
            raise MedsalError(
                f"deep_lift: the network runs {name!r} for the image where it ran {wanted!r} for the baseline; "
                "its operations must not depend on the image's values"
            )
        return [k.tensor for k in kept]


def _operands(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What a rule needs to know of the baseline."""
    if name in NORMALISATIONS or name in SOFTMAXES:
        return [args[0] if args else kwargs["input"]]
    if name == "einsum":
        return list(tensors_in(args))
    return [arg for arg in args[:2] if isinstance(arg, Tensor) and arg.is_floating_point()]


def _remember(mode: BaselinePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = operation_name(func)
    mode.inputs.append((name, [mode.keep(tensor) for tensor in _operands(name, args, kwargs)]))
    return func(*args, **kwargs)


def _remember_result(
    mode: BaselinePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    result = func(*args, **kwargs)
    mode.inputs.append((operation_name(func), [mode.keep(tensor) for tensor in tensors_in(result)]))
    return result


def _compare(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A constant, if it came out the same for the baseline."""
    name, result = operation_name(func), func(*args, **kwargs)
    found = list(tensors_in(result))
    same = all(torch.equal(one, other) for one, other in zip(found, mode.beside(name, found), strict=True))
    if depending(args, kwargs) and not same:
        raise UsageError(
            f"deep_lift: the network's {name!r} comes out otherwise for the image than for the baseline, and there is "
            "no rule for it; choose a method without rules, such as integrated_gradients"
        )
    return result


def _apart(mode: Interception, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that is made of others."""
    with mode:
        return COMPOSITES[operation_name(func)](*args, **kwargs)


def _activation(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element by element, with one input that depends on the image."""
    name = operation_name(func)
    start = mode.beside(name, _operands(name, args, kwargs))[0]
    if not args[0].requires_grad:
        return func(*args, **kwargs)
    if depending(args[1:]):
        raise UsageError(f"deep_lift: no rule for {name!r} of two tensors that depend on the image")

    def function(z: Tensor) -> Tensor:
        result: Tensor = func(z, *args[1:], **kwargs)
        return result

    rule = _rescale_relu(start) if name == "relu" else _rescale(function, start, smooth=name in SMOOTH)
    return mode.replace(name, function, args[:1], rule)


def _product(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Linear in each of two factors."""
    name = operation_name(func)
    tensors = _operands(name, args, kwargs)
    starts, depend = mode.beside(name, tensors), depending(tensors)
    if len(depend) < 2:
        return func(*args, **kwargs)
    if len(tensors) > 2:
        raise UsageError(f"deep_lift: no rule for {name!r} of more than two tensors, of which two depend on the image")
    function = function_of(func, args, kwargs, tensors)
    return mode.replace(name, function, tensors, _middle(function, starts))


def _quotient(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A product with the reciprocal, where the divisor depends on the image."""
    name = operation_name(func)
    starts = mode.beside(name, _operands(name, args, kwargs))
    over, under = (args[1], args[0]) if name == "rdiv" else args[:2]
    if not (isinstance(under, Tensor) and under.requires_grad):
        return func(*args, **kwargs)
    if kwargs:
        raise UsageError(f"deep_lift: no rule for {name!r} with {', '.join(kwargs)}")
    start = starts[0 if name == "rdiv" else -1]
    inverse = mode.replace(name, torch.reciprocal, [under], _rescale(torch.reciprocal, start, smooth=True))
    if not (isinstance(over, Tensor) and over.requires_grad):
        return over * inverse
    return mode.replace(name, torch.mul, [over, inverse], _middle(torch.mul, [starts[0], start.reciprocal()]))


def _max_pool(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The largest of each window, windows overlapping or not."""
    name = operation_name(func)
    start = mode.beside(name, _operands(name, args, kwargs))[0]
    if not args[0].requires_grad:
        return func(*args, **kwargs)
    with_indices = getattr(functional, name.removesuffix("_with_indices") + "_with_indices")

    def pool(z: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = with_indices(z, *args[1:], **kwargs)
        return found

    values = mode.replace(name, lambda z: pool(z)[0], args[:1], _cross_max(pool, start))
    return (values, pool(args[0].detach())[1]) if name.endswith("_with_indices") else values


def _softmax(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = operation_name(func)
    (start,), (x,) = mode.beside(name, _operands(name, args, kwargs)), _operands(name, args, kwargs)
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    if not x.requires_grad:
        return func(*args, **kwargs)
    if dim is None:
        raise UsageError(f"deep_lift: no rule for {name!r} without dim")
    rule = softmax_rule(start, dim, log=name == "log_softmax")
    return mode.replace(name, function_of(func, args, kwargs, [x]), [x], rule)


def _normalisation(mode: ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Statistics are taken of each row: of the last axes, of a group of channels, or of a channel."""
    name = operation_name(func)
    (start,), (x,) = mode.beside(name, _operands(name, args, kwargs)), _operands(name, args, kwargs)
    given = dict(zip(NORMALISATIONS[name], args, strict=False)) | kwargs
    if not x.requires_grad or not given.get("use_input_stats", True):
        return func(*args, **kwargs)
    eps, weight = given.get("eps"), given.get("weight")
    if eps is None:
        eps = torch.finfo(x.dtype).eps if name == "rms_norm" else 1e-5
    if name in {"group_norm", "instance_norm"}:
        groups = given.get("num_groups", x.shape[1])
        weight = None if weight is None else weight.view(-1, *[1] * (x.ndim - 2))
        first = len(x) * groups
    else:
        first = x.flatten(-len(given["normalized_shape"])).shape[:-1].numel()
    rule = standardise_rule(start, lambda z: z.reshape(first, -1), weight, eps, centred=name != "rms_norm")
    return mode.replace(name, function_of(func, args, kwargs, [x]), [x], rule)


SOFTMAXES = frozenset(["softmax", "log_softmax"])

RULES: dict[str, Rule] = {
    **dict.fromkeys(PIECEWISE_LINEAR | SMOOTH, _activation),
    **dict.fromkeys(BILINEAR, _product),
    **dict.fromkeys(POOLS, _max_pool),
    **dict.fromkeys(("div", "divide", "true_divide", "rdiv"), _quotient),
    **dict.fromkeys(SOFTMAXES, _softmax),
    **dict.fromkeys(NORMALISATIONS, _normalisation),
}
"""Name of an operation -> its rule; what is not here must be linear in the image, or made of others."""


def _rescale(function: Callable[[Tensor], Tensor], start: Tensor, *, smooth: bool) -> Backward:
    """The quotient of differences; the slope half-way where the difference is too small to divide by."""

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        z = values[0]
        difference = z - start
        quotient = (function(z) - function(start)).div_(difference)
        # A quotient of a piecewise linear function is exact; that of a smooth one loses digits as the difference falls,
        # where the slope half-way is right up to the difference cubed.
        if smooth:
            near = difference.abs_() <= z.abs().clamp_min_(1).mul_(torch.finfo(z.dtype).eps ** (1 / 3))
        else:
            near = difference == 0
        where = near.flatten().nonzero()[:, 0]
        if not len(where):
            return [quotient.mul_(gradient)]
        # Smooth functions are of each element alone; among the others some have a parameter for each channel.
        with torch.enable_grad():
            middle = ((z.flatten()[where] + start.flatten()[where]) / 2 if smooth else z.clone()).requires_grad_()
            (slope,) = torch.autograd.grad(function(middle).sum(), middle)
        slope = slope if smooth else slope.flatten()[where]
        return [quotient.flatten().index_copy(0, where, slope).view_as(z).mul_(gradient)]

    return backward


def _rescale_relu(start: Tensor) -> Backward:
    """The same for ReLU in few sweeps over memory: the larger input over the distance of both, from 0 to 1."""

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        distance = (values[0] - start).abs_().add_(torch.finfo(start.dtype).tiny)
        return [torch.maximum(values[0], start).div_(distance).clamp_(0, 1).mul_(gradient)]

    return backward


def _middle(function: Callable[..., Tensor], starts: list[Tensor]) -> Backward:
    """Each factor's difference times the other factor half-way between baseline and image."""

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            middles = [((value + start) / 2).requires_grad_() for value, start in zip(values, starts, strict=True)]
            return list(torch.autograd.grad(function(*middles), middles, gradient))

    return backward


def _cross_max(pool: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor) -> Backward:
    """With m the larger maximum, m - s goes to the image's winner and y - m to the baseline's."""

    def backward(values: list[Tensor], gradient: Tensor) -> list[Tensor]:
        z = values[0]
        (largest, winners), (start_largest, start_winners) = pool(z), pool(start)
        larger = torch.maximum(largest, start_largest)
        difference = z - start

        def unpool(share: Tensor, where: Tensor) -> Tensor:
            spread = torch.zeros_like(z).flatten(2)
            return spread.scatter_add_(2, where.flatten(2), share.flatten(2)).view_as(z)

        sent = unpool(gradient * (larger - start_largest), winners)
        sent = sent + unpool(gradient * (largest - larger), start_winners)
        same = difference == 0
        return [torch.where(same, unpool(gradient, winners), sent / difference.masked_fill(same, 1))]

    return backward
