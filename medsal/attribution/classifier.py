"""The borrowed network: quiet while it is used, and afterwards exactly as it was."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from medsal.errors import UsageError

_LAST_SPATIAL: WeakKeyDictionary[nn.Module, dict[torch.Size, str]] = WeakKeyDictionary()


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation without weight gradients, and give it back as it was, also after an error.

    Restored are the training flag of every module, ``requires_grad`` of every parameter, buffers that a forward
    changed, and the random state of Python, NumPy and torch. ``.grad`` is never touched.

    Args:
        network: any module.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in network.modules()]
    flags = [(weight, weight.requires_grad) for weight in network.parameters()]
    buffers = [(buffer, buffer.clone(), buffer._version) for buffer in network.buffers() if buffer.numel() <= 2**16]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  the state that the caller's own code uses
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        with torch.random.fork_rng(devices):
            network.eval()
            for weight, _ in flags:
                weight.requires_grad_(False)
            yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, flag in flags:
            weight.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value, version in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  as above


def first_tensor(output: Any) -> Tensor:
    """Take the logits from what a network returns: a tensor, or the first tensor of a tuple, list or dictionary.

    Args:
        output: what ``network(image)`` gave.

    Returns:
        Logits ``(N, K)``; a plain tensor also where the network gave a subclass.

    Raises:
        UsageError: if there is no tensor, or it is not ``(N, K)`` or ``(N,)``.
    """
    found = output
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, tuple | list):
        found = next((item for item in found if isinstance(item, Tensor)), None)
    if not isinstance(found, Tensor):
        raise UsageError(f"network: wanted logits (B, K), got {type(output).__name__} with no tensor")
    found = found.as_subclass(Tensor)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2:
        raise UsageError(f"network: wanted logits (B, K), got shape {tuple(found.shape)}; is it a classifier?")
    return found


def gradients_of(score: Tensor, sources: list[Tensor]) -> list[Tensor]:
    """Gradients of the sum of scores with respect to images or features, and to nothing else.

    Args:
        score: ``(N,)``.
        sources: tensors with a graph to the score.

    Returns:
        As many gradients, of the same shapes.

    Raises:
        UsageError: if the score does not depend on one of them.
    """
    if not score.requires_grad:
        raise UsageError("the score does not depend on the image by operations with a gradient")
    found = torch.autograd.grad(score, sources, torch.ones_like(score), allow_unused=True)
    if any(gradient is None for gradient in found):
        raise UsageError("the score does not depend on the image, or on a target layer, by operations with a gradient")
    return list(found)


class FeatureReader:
    """Hooks that keep the output of target layers, safe from later in-place operations.

    A hook keeps the layer's own output and hands a clone on, so that an in-place activation behind the layer changes
    the clone alone (the value a plain hook would keep is overwritten without a word).

    Args:
        network: the borrowed network.
        layers: names of layers; None finds the last layer with spatial extent in the same pass.
        detach: cut the graph in front of the first layer that is reached, so that nothing below it is kept.

    Attributes:
        features: name of the layer -> its output ``(N, C, *layer_space)``; the last one of a layer that ran often.
    """

    def __init__(self, network: nn.Module, layers: tuple[str, ...] | None, *, detach: bool = False) -> None:
        self.network = network
        self.layers = layers
        self.detach = detach and layers is not None
        self.features: dict[str, Tensor] = {}
        self._handed: Tensor | None = None
        self._kept = torch.empty(0)
        self._version = 0

    @contextmanager
    def reading(self) -> Iterator[FeatureReader]:
        """Read during the forwards inside the ``with`` block.

        Yields:
            Itself.
        """
        modules = dict(self.network.named_modules())
        names = [name for name in modules if name] if self.layers is None else self.layers
        handles = [modules[name].register_forward_hook(self._hook(name)) for name in names]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._handed = None

    def _hook(self, name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or output.ndim < 3 or output.shape[2:].numel() <= 1:
                if self.layers is None:
                    return None
                came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise UsageError(f"target_layer {name!r}: wanted an output (B, C, *space), got {came}")
            if self.layers is None:
                if _enlarges(inputs, output):
                    return None
                self.features.clear()
                if output is self._handed and output._version == self._version:  # a container around the last layer
                    self.features[name] = self._kept
                    return None
            if self.detach and not output.requires_grad:
                output = output.detach().requires_grad_()
            self._kept = self.features[name] = output
            self._handed = output.clone()
            self._version = self._handed._version
            return self._handed

        return hook


def _enlarges(inputs: Any, output: Tensor) -> bool:
    """Padding, not a feature map: more positions come out than went in."""
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor) or first.ndim != output.ndim:
        return False
    return output.shape[2:].numel() > first.shape[2:].numel()


def layer_names(network: nn.Module, wanted: Any) -> tuple[str, ...] | None:
    """Turn what a user gave as target layer into names of layers.

    Args:
        network: the network.
        wanted: None (found in the first pass), a dotted name, a module, a callable from the network to one of these,
            or a sequence of them.

    Returns:
        Names, or None.

    Raises:
        UsageError: if a layer does not exist; the error says which come near.
    """
    if wanted is None:
        return None
    if callable(wanted) and not isinstance(wanted, nn.Module):
        return layer_names(network, wanted(network))
    if isinstance(wanted, str | nn.Module):
        wanted = [wanted]
    modules = dict(network.named_modules())
    names = {module: name for name, module in modules.items()}
    found = []
    for item in wanted:
        name = names.get(item) if isinstance(item, nn.Module) else str(item)
        if not name or name not in modules:
            near = difflib.get_close_matches(str(name), modules, 5, 0.4)
            top = [child for child, _ in network.named_children()]
            hint = f"did you mean {', '.join(near)}?" if near else f"the network has {', '.join(top)}"
            raise UsageError(f"target_layer: the network has no layer {name or type(item).__name__!r}; {hint}")
        found.append(name)
    return tuple(found)


def known_last_layer(network: nn.Module, shape: torch.Size) -> tuple[str, ...] | None:
    """Recall the last layer with spatial extent that an earlier pass over images of this shape found.

    Args:
        network: the network.
        shape: shape of one image, ``(C, *space)``.

    Returns:
        Its name, or None.
    """
    name = _LAST_SPATIAL.get(network, {}).get(shape)
    return None if name is None else (name,)


def remember_last_layer(network: nn.Module, shape: torch.Size, name: str) -> None:
    """Keep the name that a pass found, for as long as the network lives.

    Args:
        network: the network.
        shape: shape of one image, ``(C, *space)``.
        name: the layer.
    """
    _LAST_SPATIAL.setdefault(network, {})[shape] = name
