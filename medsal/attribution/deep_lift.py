"""DeepLIFT: differences to a baseline's activations, carried back through operations by multipliers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.classifier import gradients_of
from medsal.attribution.operations import Interception, Kept, Rule, operation_name, refuse_scripts
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
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
BILINEAR = frozenset("mul multiply matmul bmm".split())


def deep_lift(probe: Probe, *, baseline: Baseline = 0.0, channels: str = "sum") -> Tensor:
    r"""Difference to a baseline times the multipliers of the Rescale rule.

    Shrikumar et al. 2017, arXiv:1704.02685. Activations take :math:`\Delta y / \Delta x`; products of two tensors
    that depend on the image, such as gates, the mid-point of both factors; max-pooling sends each window's difference
    to the larger of the two maxima. All of these keep differences, so the map sums to the score of the image minus
    that of the baseline on any network; what is left is claimed as ``completeness_gap``. Operations are replaced as
    they run, hence functional, reused and in-place activations are seen.

    Args:
        probe: the images under study.
        baseline: what the images are compared with, see ``baseline_images``.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript.
    """
    refuse_scripts(probe.network)
    start = baseline_images(probe, baseline)
    if not probe.target.resolved:
        probe.target.resolve(probe.logits)
    memory = _BaselinePass()
    with torch.no_grad(), memory:
        start_score = probe.target.score(probe.forward(start), probe.rows)
    image = probe.image.detach().requires_grad_()
    rescale = _ImagePass(memory.inputs)
    with torch.enable_grad(), rescale:
        score = probe.target.score(probe.forward(image), probe.rows)
    (multipliers,) = gradients_of(score, [image])
    attribution = multipliers * (probe.image - start)
    probe.claim_completeness(attribution, score.detach() - start_score)
    probe.claim(operations=dict(rescale.handled))
    return reduce_channels(attribution, channels)


class _BaselinePass(Interception):
    """Remember what goes into every operation that has a rule when the network sees the baseline."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(RULES, _remember))
        self.inputs: list[tuple[str, list[Kept]]] = []


class _ImagePass(Interception):
    """Replace operations on the way of the image, beside the baseline's values remembered before."""

    def __init__(self, inputs: list[tuple[str, list[Kept]]]) -> None:
        super().__init__(RULES)
        self.inputs = iter(inputs)

    def beside(self, name: str, tensors: list[Tensor]) -> list[Tensor]:
        """The baseline's inputs of the same operation."""
        wanted, kept = next(self.inputs, ("none", []))
        if wanted != name or [k.tensor.shape for k in kept] != [t.shape for t in tensors]:
            raise MedsalError(
                f"deep_lift: the network runs {name!r} for the image where it ran {wanted!r} for the baseline; "
                "its operations must not depend on the image's values"
            )
        return [k.tensor for k in kept]


def _operands(args: tuple[Any, ...]) -> list[Tensor]:
    return [arg for arg in args[:2] if isinstance(arg, Tensor) and arg.is_floating_point()]


def _remember(mode: _BaselinePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.inputs.append((operation_name(func), [mode.keep(tensor) for tensor in _operands(args)]))
    return func(*args, **kwargs)


def _activation(mode: _ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element by element, with one input that depends on the image."""
    name = operation_name(func)
    start = mode.beside(name, _operands(args))[0]
    if not args[0].requires_grad:
        return func(*args, **kwargs)
    if any(isinstance(arg, Tensor) and arg.requires_grad for arg in args[1:]):
        raise UsageError(f"deep_lift: no rule for {name!r} of two tensors that depend on the image")
    mode.handled[name] += 1
    return _Rescale.apply(args[0], lambda z: func(z, *args[1:], **kwargs), mode.keep(args[0]), start, name in SMOOTH)


def _product(mode: _ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Linear in each of two factors."""
    tensors = _operands(args)
    starts = mode.beside(operation_name(func), tensors)
    if len(tensors) < 2 or not all(tensor.requires_grad for tensor in tensors):
        return func(*args, **kwargs)
    mode.handled[operation_name(func)] += 1
    return _Product.apply(*tensors, func, [mode.keep(tensor) for tensor in tensors], starts)


def _quotient(mode: _ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A product with the reciprocal, where the divisor depends on the image."""
    name = operation_name(func)
    starts = mode.beside(name, _operands(args))
    over, under = (args[1], args[0]) if name == "rdiv" else args[:2]
    if not (isinstance(under, Tensor) and under.requires_grad):
        return func(*args, **kwargs)
    if kwargs:
        raise UsageError(f"deep_lift: no rule for {name!r} with {', '.join(kwargs)}")
    mode.handled[name] += 1
    start = starts[0 if name == "rdiv" else -1]
    inverse = _Rescale.apply(under, torch.reciprocal, mode.keep(under), start, True)
    if not (isinstance(over, Tensor) and over.requires_grad):
        return over * inverse
    kept = [mode.keep(over), mode.keep(inverse)]
    return _Product.apply(over, inverse, torch.mul, kept, [starts[0], start.reciprocal()])


def _max_pool(mode: _ImagePass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The largest of each window, windows overlapping or not."""
    name = operation_name(func)
    start = mode.beside(name, _operands(args))[0]
    if not args[0].requires_grad:
        return func(*args, **kwargs)
    mode.handled[name] += 1
    with_indices = getattr(functional, name.removesuffix("_with_indices") + "_with_indices")

    def pool(z: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = with_indices(z, *args[1:], **kwargs)
        return found

    values = _MaxPool.apply(args[0], pool, mode.keep(args[0]), start)
    return (values, pool(args[0].detach())[1]) if name.endswith("_with_indices") else values


RULES: dict[str, Rule] = {
    **dict.fromkeys(PIECEWISE_LINEAR | SMOOTH, _activation),
    **dict.fromkeys(BILINEAR, _product),
    **dict.fromkeys(POOLS, _max_pool),
    **dict.fromkeys(("div", "divide", "true_divide", "rdiv"), _quotient),
}
"""Name of an operation -> its rule; what is not here must be linear in the image."""


class _Rescale(torch.autograd.Function):
    """The quotient of differences; the slope half-way where the difference is too small to divide by."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, function: Callable[[Tensor], Tensor], kept: Kept, start: Tensor, smooth: bool
    ) -> Tensor:
        ctx.rule = function, kept, start, smooth
        return function(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        function, kept, start, smooth = ctx.rule
        z: Tensor = kept.tensor
        difference = z - start
        # A quotient of a piecewise linear function is exact; that of a smooth one loses digits as the difference falls,
        # where the slope half-way is right up to the difference cubed.
        tolerance = torch.finfo(z.dtype).eps ** (1 / 3) * z.abs().clamp_min(1) if smooth else 0.0
        near = difference.abs() <= tolerance
        quotient = (function(z) - function(start)) / difference.masked_fill(near, 1)
        with torch.enable_grad():
            middle = ((z + start) / 2).requires_grad_()
            (slope,) = torch.autograd.grad(function(middle).sum(), middle)
        return gradient * torch.where(near, slope, quotient), None, None, None, None


class _Product(torch.autograd.Function):
    """Each factor's difference times the other factor half-way between baseline and image."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        function: Callable[[Tensor, Tensor], Tensor],
        kept: list[Kept],
        starts: list[Tensor],
    ) -> Tensor:
        ctx.rule = function, kept, starts
        return function(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        function, kept, starts = ctx.rule
        with torch.enable_grad():
            middles = [((k.tensor + s) / 2).requires_grad_() for k, s in zip(kept, starts, strict=True)]
            gradients = torch.autograd.grad(function(*middles), middles, gradient)
        return *gradients, None, None, None


class _MaxPool(torch.autograd.Function):
    """The cross-max rule: with m the larger maximum, m - s goes to the image's winner and y - m to the baseline's."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, pool: Callable[[Tensor], tuple[Tensor, Tensor]], kept: Kept, start: Tensor
    ) -> Tensor:
        ctx.rule = pool, kept, start
        return pool(z)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pool, kept, start = ctx.rule
        z: Tensor = kept.tensor
        (values, winners), (start_values, start_winners) = pool(z), pool(start)
        larger = torch.maximum(values, start_values)
        difference = z - start

        def unpool(share: Tensor, where: Tensor) -> Tensor:
            spread = torch.zeros_like(z).flatten(2)
            return spread.scatter_add_(2, where.flatten(2), share.flatten(2)).view_as(z)

        sent = unpool(gradient * (larger - start_values), winners) + unpool(gradient * (values - larger), start_winners)
        same = difference == 0
        multipliers = torch.where(same, unpool(gradient, winners), sent / difference.masked_fill(same, 1))
        return multipliers, None, None, None
