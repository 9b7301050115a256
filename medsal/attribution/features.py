"""Target layers: found by name or as the last with spatial extent, and read as they run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medsal.attribution.layouts import layout, spatial, uneven
from medsal.attribution.rules.operations import refuse_scripts
from medsal.errors import UsageError

_LAST_SPATIAL: WeakKeyDictionary[nn.Module, dict[tuple[torch.Size, int], str]] = WeakKeyDictionary()


class FeatureReader:
    """Hooks that keep the output of target layers, safe from later in-place operations.

    A hook keeps the layer's own output and hands a clone on, so that an in-place activation behind the layer changes
    the clone alone (the value a plain hook would keep is overwritten without a word). Outputs of transformers,
    tokens ``(N, L, C)`` and channels-last maps ``(N, *layer_space, C)``, are laid out as ``(N, C, *layer_space)``.

    Args:
        network: the borrowed network.
        layers: names of layers; None finds the last layer with spatial extent in the same pass. Of a transformer that
            is the last normalisation whose image tokens the score depends on.
        image: ``(N, C, *space)``, as the network will see it.
        detach: cut the graph in front of the first layer that is reached, so that nothing below it is kept.

    Attributes:
        features: name of the layer -> its raw output; the last one of a layer that ran often.
    """

    def __init__(
        self, network: nn.Module, layers: tuple[str, ...] | None, image: Tensor, *, detach: bool = False
    ) -> None:
        self.network = network
        self.layers = layers
        self.image = image
        self.detach = detach and layers is not None
        self.features: dict[str, Tensor] = {}
        self._came: dict[str, str] = {}
        self._handed: Tensor | None = None
        self._kept = torch.empty(0)
        self._version = 0

    @contextmanager
    def reading(self) -> Iterator[FeatureReader]:
        """Read during the forwards inside the ``with`` block.

        Yields:
            Itself.
        """
        if self.layers == ():
            yield self
            return
        refuse_scripts(self.network)
        modules = dict(self.network.named_modules())
        names = [name for name in modules if name] if self.layers is None else self.layers
        hook = self._find if self.layers is None else self._read
        handles = [modules[name].register_forward_hook(hook(name)) for name in names]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._handed = None

    def _read(self, name: str) -> Any:
        """Hook of a layer that was named."""

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or layout(self.network, output, self.image) is None:
                self._came[name] = str(tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__)
                return None  # a module that is used again may have spatial extent the next time
            return self._keep(name, output)

        return hook

    def check(self) -> None:
        """Check what was read.

        Raises:
            UsageError: if a layer was not run, has no spatial extent, or ran on images one by one.
        """
        for name in set(self.layers or ()) - set(self.features):
            if name in self._came:
                came = self._came[name]
                raise UsageError(f"target_layer {name!r}: wanted an output (B, C, *space) or tokens, got {came}")
            raise UsageError(f"target_layer {name!r}: the network did not run it for this image")
        if not self.features:
            raise UsageError("target_layer: no layer of the network has an output with spatial extent; name one")
        for name, output in self.features.items():
            if len(output) != len(self.image):
                raise UsageError(
                    f"target_layer {name!r}: the network ran it on {len(output)} images of a batch of "
                    f"{len(self.image)}; explain the images one by one"
                )

    def _find(self, name: str) -> Any:
        """Hook of every layer, where the last one with spatial extent is looked for."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or output.ndim < 3:
                return None
            tokens = output.ndim == 3
            if (tokens and not isinstance(module, nn.LayerNorm)) or _enlarges(inputs, output):
                return None
            space = layout(self.network, output, self.image)
            if space is None or (not tokens and self._inside_attention(space)):
                return None
            if output is self._handed and output._version == self._version:  # a container around the last layer
                self.features.pop(next(reversed(self.features)))
                self.features[name] = self._kept
                return None
            if not (tokens and all(kept.ndim == 3 for kept in self.features.values())):
                self.features.clear()
            return self._keep(name, output)

        return hook

    def _inside_attention(self, space: tuple[int, ...]) -> bool:
        """Heads and weights of attention look like maps, of more positions than there are tokens or oddly shaped."""
        if not self.features or any(kept.ndim != 3 for kept in self.features.values()):
            return False
        return math.prod(space) > next(reversed(self.features.values())).shape[1] or uneven(self.image, space) > 1.5

    def _keep(self, name: str, output: Tensor) -> Tensor:
        if self.detach and not output.requires_grad:
            output = output.detach().requires_grad_()
        self._kept = self.features[name] = output
        self._handed = output.clone()
        self._version = self._handed._version
        return self._handed

    def spatial(self, gradients: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Lay features and their gradients out in space.

        Args:
            gradients: of the features, in their order.

        Returns:
            Layer -> features and gradients, ``(N, C, *layer_space)``; where the layer was looked for, one layer.
        """
        found = {}
        for (name, raw), gradient in zip(self.features.items(), gradients, strict=True):
            found[name] = spatial(self.network, raw.detach(), self.image), spatial(self.network, gradient, self.image)
        if self.layers is None:
            reached = [name for name, (_, gradient) in found.items() if gradient.any()] or list(found)
            return {reached[-1]: found[reached[-1]]}
        return found


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
        Its name, or None, also where modules were exchanged since.
    """
    name = _LAST_SPATIAL.get(network, {}).get((shape, _structure(network)))
    return None if name is None else (name,)


def remember_last_layer(network: nn.Module, shape: torch.Size, name: str) -> None:
    """Keep the name that a pass found, for as long as the network lives.

    Args:
        network: the network.
        shape: shape of one image, ``(C, *space)``.
        name: the layer.
    """
    _LAST_SPATIAL.setdefault(network, {})[shape, _structure(network)] = name


def _structure(network: nn.Module) -> int:
    return hash(tuple((name, id(module)) for name, module in network.named_modules()))
