"""The borrowed network: quiet while it is used, and afterwards exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from medsal.errors import UsageError


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation without weight gradients, and give it back as it was, also after an error.

    Restored are the training flag of every module, ``requires_grad`` of every parameter, buffers that a forward
    changed or replaced, and the random state of Python, NumPy and torch. ``.grad`` is never touched.

    Args:
        network: any module.

    Yields:
        Nothing.

    Raises:
        UsageError: if a layer would mix the images of a batch.
    """
    named = dict(network.named_modules())  # once: walking a deep network costs as much as some of its layers
    _refuse_mixing(named)
    modes = [(module, module.training) for module in named.values()]
    weights = {id(weight): weight for module in named.values() for weight in module._parameters.values()}
    flags = [(weight, weight.requires_grad) for weight in weights.values() if weight is not None]
    held = [(module, name, buffer) for module in named.values() for name, buffer in module._buffers.items()]
    buffers = [(buffer, buffer.clone(), buffer._version) for _, _, buffer in held if buffer is not None]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  the state that the caller's own code uses
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        with torch.random.fork_rng(devices), _uncompiled(list(named.values())):
            network.eval()
            for weight, _ in flags:
                weight.requires_grad_(False)
            yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, flag in flags:
            weight.requires_grad_(flag)
        for module, name, buffer in held:
            module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value, version in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  as above


@contextmanager
def _uncompiled(modules: list[nn.Module]) -> Iterator[None]:
    """Run what was compiled as it was written: inside a compiled part neither layers nor operations can be seen."""
    calls = [(module, module._compiled_call_impl) for module in modules if module._compiled_call_impl]
    parts = any("_orig_mod" in module._modules for module in modules)
    try:
        for module, _ in calls:
            module._compiled_call_impl = None
        with torch.compiler.set_stance("force_eager") if parts else nullcontext():
            yield
    finally:
        for module, implementation in calls:
            module._compiled_call_impl = implementation


def _refuse_mixing(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        if isinstance(module, _BatchNorm) and module.running_mean is None and not isinstance(module, _InstanceNorm):
            raise UsageError(
                f"network: {name or 'it'} normalises by the batch that it sees (no running statistics), so that a map "
                "would depend on the images beside its own; use a batch normalisation with track_running_stats=True"
            )


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


def gradients_of(score: Tensor, sources: list[Tensor], *, retain: bool = False) -> list[Tensor]:
    """Gradients of the sum of scores with respect to images or features, and to nothing else.

    Args:
        score: ``(N,)``.
        sources: tensors with a graph to the score.
        retain: keep the graph for another call.

    Returns:
        As many gradients, of the same shapes.

    Raises:
        UsageError: if the score does not depend on one of them.
    """
    if not score.requires_grad:
        raise UsageError("the score does not depend on the image by operations with a gradient")
    found = torch.autograd.grad(score, sources, torch.ones_like(score), retain_graph=retain, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise UsageError("the score does not depend on the image, or on a target layer, by operations with a gradient")
    return list(found)
