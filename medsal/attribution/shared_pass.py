"""The shared pass: one forward and one backward for all that is read off gradients, one more backward per ReLU rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.bias_terms import BiasTerms, BiasWatch
from medsal.attribution.classifier import gradients_of
from medsal.attribution.features import FeatureReader
from medsal.errors import MedsalError, UsageError

IMAGE_GRADIENT = "image gradient"
GUIDED = "guided gradient"
DECONV = "deconvnet gradient"
BIASES = "bias gradients"
FEATURES = "features"
FROM_IMAGE = frozenset({IMAGE_GRADIENT, GUIDED, DECONV, BIASES})
"""Needs for which the graph reaches down to the image."""


SHARED = FROM_IMAGE | {FEATURES}


class SharedPass:
    """One forward over a batch of images whose graph is kept for as many backwards as are asked for.

    Args:
        network: the borrowed network.
        forward: runs it, ``(N, C, *space) -> (N, K)``.
        image: plain tensor ``(B, C, *space)``.
        needs: what will be read.
        layers: target layers by name; None finds the last one with spatial extent.

    Attributes:
        logits: ``(B, K)``, with their graph.
        bytes_per_image: what the forward kept for its backwards.
    """

    def __init__(
        self,
        network: nn.Module,
        forward: Callable[[Tensor], Tensor],
        image: Tensor,
        needs: frozenset[str],
        layers: tuple[str, ...] | None,
    ) -> None:
        self.needs = needs
        self.dims = image.ndim - 2 - (getattr(network, "slice_axis", None) is not None)
        self.bytes_per_image = 0
        self.wants_image, self.wants_features = bool(FROM_IMAGE & needs), FEATURES in needs
        names = layers if self.wants_features else ()
        self.reader = FeatureReader(network, names, image, detach=not self.wants_image)
        self.image = image.detach().requires_grad_(self.wants_image or names is None)
        self._watch = BiasWatch() if BIASES in needs else None
        with (
            torch.set_grad_enabled(self.wants_image or self.wants_features),
            self.reader.reading(),
            self._measured(len(image)),
            self._watch or nullcontext(),
        ):
            self.logits = forward(self.image)
        self._check()

    def _check(self) -> None:
        if len(self.logits) != len(self.image):
            raise UsageError(f"network: wanted logits of {len(self.image)} images, got {tuple(self.logits.shape)}")
        if not torch.isfinite(self.logits).all():
            raise MedsalError("the network's logits are not finite for this image")
        if self.wants_features:
            self.reader.check()

    def backward(self, score: Tensor, *, keep: bool) -> dict[str, Any]:
        """Read everything that is needed off the gradients of a score.

        Args:
            score: ``(B,)``, with a graph from ``logits``.
            keep: whether other scores will follow; the graph is freed otherwise.

        Returns:
            Need -> gradient ``(B, C, *space)``, ``BIASES`` -> ``BiasTerms``, ``FEATURES`` -> layer -> (features,
            gradients), each ``(B, C, *layer_space)``.
        """
        more = [need for need in (GUIDED, DECONV) if need in self.needs]
        terms = BiasTerms(self.image, self.dims)
        plain = bool({IMAGE_GRADIENT, BIASES} & self.needs)
        sources = ([self.image] if plain else []) + list(self.reader.features.values())
        with self._watch.collecting(terms) if self._watch else nullcontext():
            gradients = gradients_of(score, sources, retain=keep or bool(more)) if sources else []
        found: dict[str, Any] = {BIASES: terms}
        if plain:
            found[IMAGE_GRADIENT] = gradients.pop(0)
        if self.wants_features:
            found[FEATURES] = self.reader.spatial(gradients)
        for i, need in enumerate(more):
            with rectified(score, need) as found["activations"]:
                (found[need],) = gradients_of(score, [self.image], retain=keep or i + 1 < len(more))
        return found

    def _measured(self, batch: int) -> torch.autograd.graph.saved_tensors_hooks:
        """Count the bytes that the forward keeps for its backward, as the price of one more image."""
        seen: set[int] = set()

        def pack(tensor: Tensor) -> tuple[Tensor, int]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen and not isinstance(tensor, nn.Parameter):
                seen.add(storage.data_ptr())
                self.bytes_per_image += storage.nbytes() // batch
            return tensor, tensor._version

        def unpack(packed: tuple[Tensor, int]) -> Tensor:
            tensor, version = packed
            if tensor._version != version:  # autograd's own check does not run where hooks do
                raise UsageError("the network overwrites, in place, an activation that its gradient needs")
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def operations(root: Any) -> Iterator[Any]:
    """Walk the graph of a score.

    Args:
        root: ``score.grad_fn``.

    Yields:
        Every node once.
    """
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)


def is_relu(node: Any) -> bool:
    """Tell whether a node of a graph is a ReLU or ReLU6, whatever way the network wrote it.

    Args:
        node: a node, see ``operations``.

    Returns:
        True for both.
    """
    name = type(node).__name__.rstrip("0123456789")
    if name == "ReluBackward":
        return True
    if name == "ThresholdBackward":
        return bool(node._saved_threshold == 0)
    if name in {"ClampMinBackward", "ClampBackward"}:
        return getattr(node, "_saved_min", None) == 0
    return name == "HardtanhBackward" and node._saved_min_val == 0


OTHER_ACTIVATIONS = frozenset(
    "silu gelu sigmoid tanh softplus elu leakyrelu prelukernel hardswish hardsigmoid mish celu softmax maximum".split()
)


def activations(score: Tensor) -> tuple[list[Any], dict[str, int]]:
    """Find the activations of a network in the graph of its score.

    Args:
        score: ``(B,)``, with its graph.

    Returns:
        The nodes of its ReLUs, and how often it uses each other activation.
    """
    relus, others = [], Counter[str]()
    for node in operations(score.grad_fn):
        if is_relu(node):
            relus.append(node)
            continue
        name = type(node).__name__.split("Backward")[0].lower().lstrip("_")
        if name in OTHER_ACTIVATIONS:
            others[name] += 1
    return relus, dict(others)


@contextmanager
def rectified(score: Tensor, need: str) -> Iterator[dict[str, int]]:
    """Change what ReLUs do to gradients: guided ones pass the positive part, those of a deconvnet do not gate it.

    The rule sits on the operation's own node of the graph, so a tensor that a shortcut shares keeps its gradient, and
    functional, reused and in-place ReLUs are all found.

    Args:
        score: ``(B,)``, with its graph.
        need: ``GUIDED`` or ``DECONV``.

    Yields:
        How often the network uses each activation; the rule holds for backwards inside the ``with`` block.

    Raises:
        UsageError: if the network has no ReLU.
    """
    relus, others = activations(score)
    if not relus:
        has = ", ".join(f"{name} {count}x" for name, count in others.items()) or "none that can be seen"
        raise UsageError(
            f"the {need} is defined by ReLUs and the network has none (activations: {has}); "
            "choose another method, such as integrated_gradients"
        )

    def guided(inputs: Any, _outputs: Any) -> Any:
        return tuple(None if gradient is None else gradient.clamp_min(0) for gradient in inputs)

    def deconvnet(inputs: Any, outputs: Any) -> Any:
        return (outputs[0].clamp_min(0), *inputs[1:])

    handles = [node.register_hook(guided if need == GUIDED else deconvnet) for node in relus]
    try:
        yield {"relu": len(relus), **others}
    finally:
        for handle in handles:
            handle.remove()
