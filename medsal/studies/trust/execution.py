"""When the modules of a network and their weights are used, seen in a forward and not read off how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medsal.attribution.classifier import borrowed

Owned = dict[str, tuple[list[str], list[str]]]
"""Module -> full names of its own parameters and buffers."""


def owned_tensors(network: nn.Module) -> Owned:
    """Find who owns each tensor; one that two modules share belongs to the first.

    Args:
        network: any module.

    Returns:
        Every module that has tensors of its own, and their names.
    """
    parameters, buffers = {n for n, _ in network.named_parameters()}, {n for n, _ in network.named_buffers()}
    found: Owned = {}
    for name, module in network.named_modules():
        own = [[f"{name}.{key}".lstrip(".") for key in held] for held in (module._parameters, module._buffers)]
        kept = [key for key in own[0] if key in parameters], [key for key in own[1] if key in buffers]
        if any(kept):
            found[name] = kept
    return found


def execution_times(network: nn.Module, image: Tensor) -> dict[str, int]:
    """See in one forward when each module that owns tensors is first used.

    Args:
        network: any network; it is left as found.
        image: ``(B, C, *space)``.

    Returns:
        Name of the module -> when an operation first took one of its tensors, or, where none was seen to, when it was
        called. Modules that were not used are not in it.
    """
    watch = Uses(network)
    with borrowed(network), watch.listening(), torch.no_grad(), watch:
        network(image[:1].as_subclass(Tensor))
    return {**watch.called, **watch.used}


class Uses(TorchFunctionMode):
    """Notes when the tensors of modules are first taken by an operation that gives a tensor.

    Args:
        network: any module.

    Attributes:
        used: module -> when one of its own tensors was first taken.
        called: module -> when it was first called.
        clock: counts operations and calls.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.owner = {
            id(tensor): name
            for name, module in reversed(list(network.named_modules()))  # a shared tensor is the first module's
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        }
        self.used: dict[str, int] = {}
        self.called: dict[str, int] = {}
        self.clock = 0

    def listening(self) -> _Calls:
        """Note calls too.

        Returns:
            A context in which calls are noted.
        """
        return _Calls(self.network, self._note_call)

    def _note_call(self, name: str) -> None:
        self.clock += 1
        self.called.setdefault(name, self.clock)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.clock += 1
        if next(_tensors(found), None) is not None:  # reading a shape or a device is no use of a weight
            for tensor in _tensors((args, list((kwargs or {}).values()))):
                if (name := self.owner.get(id(tensor))) is not None:
                    self.used.setdefault(name, self.clock)
        return found


class _Calls:
    """Hooks that tell when each module that owns tensors is called."""

    def __init__(self, network: nn.Module, note: Callable[[str], None]) -> None:
        self.network, self.note = network, note
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name in owned_tensors(self.network):
            if name:  # the network itself is called, whether it uses its own tensors or not
                module = self.network.get_submodule(name)
                self.handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: self.note(name)))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for item in found:
            yield from _tensors(item)
