"""What biases do to a score: seen as the network runs, and weighed by the gradient at their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medsal.attribution.layouts import channels_last
from medsal.attribution.rules.operations import operation_name

CONVOLUTIONS = frozenset(f"conv{form}{n}d" for form in ("", "_transpose") for n in (1, 2, 3))


class BiasTerms:
    r"""Sums of :math:`b \odot \partial s / \partial z` over the operations :math:`z = \dots + b` of a network.

    Args:
        image: the images, ``(B, C, *space)``.
        dims: number of axes that maps of layers have.

    Attributes:
        total: sum of all terms of each image, ``(B,)``; 0.0 where there is none.
        signed: layer_space -> sum of the terms of layers of this size, ``(B, 1, *layer_space)``.
        rescaled: the same of terms whose magnitudes were brought to [0, 1] for each layer and image first.
        count: number of operations with a bias.
    """

    def __init__(self, image: Tensor, dims: int) -> None:
        self.image = image
        self.dims = dims
        self.total: Tensor | float = 0.0
        self.signed: dict[torch.Size, Tensor] = {}
        self.rescaled: dict[torch.Size, Tensor] = {}
        self.count = 0

    def add(self, bias: Tensor, gradient: Tensor) -> None:
        """Add the term of one operation.

        Args:
            bias: broadcasts to the gradient.
            gradient: of the score with respect to the operation's output, ``(B, ...)``.
        """
        self.count += 1
        if gradient.ndim != self.dims + 2 or len(gradient) != len(self.image):  # of a vector, tokens or windows
            term = (bias * gradient).reshape(len(self.image), -1)  # windows of an image lie side by side
            self.total = self.total + term.sum(1, dtype=torch.float64)
            return
        if channels_last(gradient, self.image):
            gradient = gradient.movedim(-1, 1)
            bias = bias.view(-1, *[1] * self.dims) if bias.ndim == 1 else bias.movedim(-1, 1)
        size = gradient.shape[2:]
        signed, magnitude = _sums(bias, gradient)
        self.total = self.total + signed.flatten(1).sum(1, dtype=torch.float64)
        for sums, values in ((self.signed, signed), (self.rescaled, magnitude)):
            sums[size] = sums[size] + values if size in sums else values


def _sums(bias: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over channels of a term, and of its rescaled magnitudes; ``(B, 1, *space)`` each."""
    if bias.numel() != gradient.shape[1] or bias.ndim != gradient.ndim - 1:
        term = bias * gradient
        return term.sum(1, keepdim=True), rescaled(term)
    weights = bias.flatten()
    flat = gradient.flatten(2)
    shape = (len(gradient), 1, *gradient.shape[2:])
    signed, size = weights @ flat, flat.abs()
    low, high = (size.amin(2) * weights.abs()).amin(1), (size.amax(2) * weights.abs()).amax(1)
    return signed.view(shape), _scaled((weights.abs() @ size).view(shape), low, high, flat.shape[1])


def rescaled(term: Tensor) -> Tensor:
    r"""Bring magnitudes to [0, 1] for each image and sum the channels, :math:`\sum_c (|t| - \min) / (\max - \min)`.

    Args:
        term: ``(B, C, *space)``.

    Returns:
        ``(B, 1, *space)``; zero where an image's term is the same everywhere.
    """
    magnitude = term.abs()
    flat = magnitude.flatten(1)
    return _scaled(magnitude.sum(1, keepdim=True), flat.amin(1), flat.amax(1), term.shape[1])


def _scaled(total: Tensor, low: Tensor, high: Tensor, channels: int) -> Tensor:
    """The sum of ``channels`` values that were each brought from ``low`` to ``high`` to [0, 1]."""
    low, extent = (edge.view(-1, *[1] * (total.ndim - 1)) for edge in (low, high - low))
    summed = total - channels * low
    return torch.where(extent > 0, summed / extent.clamp_min(torch.finfo(total.dtype).tiny), 0)


class BiasWatch(TorchFunctionMode):
    """See the biases of a forward: of convolutions and linear layers, of normalisations, and added constants.

    The bias of a normalisation with running statistics is implicit, ``beta - gamma mu / sigma``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[Any, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        find = FINDERS.get(operation_name(func))
        if find is not None and isinstance(result, Tensor) and result.requires_grad:
            bias = find(args, kwargs)
            if bias is not None and not bias.requires_grad:
                self._seen.append((result.grad_fn, bias if bias.ndim == 0 else _aligned(bias, result, func)))
        return result

    @contextmanager
    def collecting(self, terms: BiasTerms) -> Iterator[None]:
        """Collect the terms of a backward.

        Args:
            terms: where to.

        Yields:
            Nothing; collects from a backward inside the ``with`` block.
        """

        def collect(bias: Tensor, gradients: Any) -> None:
            if gradients[0] is not None:
                terms.add(bias, gradients[0])

        handles = [node.register_prehook(partial(collect, bias)) for node, bias in self._seen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _aligned(bias: Tensor, result: Tensor, func: Callable[..., Any]) -> Tensor:
    """Shape a bias per channel so that it multiplies a gradient of the result."""
    if operation_name(func) in {"linear", "addmm", "layer_norm", "add", "sub", "rsub"} or bias.ndim != 1:
        return bias
    return bias.view(-1, *[1] * (result.ndim - 2))


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _batch_norm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (_argument(args, kwargs, i + 1, name) for i, name in enumerate(names))
    if mean is None or variance is None:
        return bias if isinstance(bias, Tensor) else None
    eps = _argument(args, kwargs, 7, "eps")
    shift: Tensor = -mean * torch.rsqrt(variance + (1e-5 if eps is None else eps))
    shift = shift if weight is None else shift * weight
    return shift if bias is None else shift + bias


def _constant(sign: float, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The constant of a sum of a constant and something that depends on the image."""
    left, right = args[0], _argument(args, kwargs, 1, "other")
    for value, factor in ((left, 1.0), (right, sign * kwargs.get("alpha", 1))):
        if not (isinstance(value, Tensor) and value.requires_grad):
            return torch.as_tensor(value) * factor
    return None


FINDERS: dict[str, Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor | None]] = {
    **dict.fromkeys((*CONVOLUTIONS, "linear"), lambda args, kwargs: _argument(args, kwargs, 2, "bias")),
    "addmm": lambda args, kwargs: _argument(args, kwargs, 0, "input"),
    "batch_norm": _batch_norm,
    "instance_norm": lambda args, kwargs: _argument(args, kwargs, 4, "bias"),
    "group_norm": lambda args, kwargs: _argument(args, kwargs, 3, "bias"),
    "layer_norm": lambda args, kwargs: _argument(args, kwargs, 3, "bias"),
    "add": partial(_constant, 1.0),
    "sub": partial(_constant, -1.0),
    "rsub": partial(_constant, 1.0),
}
"""Name of an operation -> what finds its bias among its arguments."""
