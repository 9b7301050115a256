"""Features below the first block that was drawn anew: computed once, and handed out again where that is exact.

What has run before the first operation that takes a changed weight cannot have changed. The outermost modules that had
ended by then give the output that they gave before, for the same images, without running. It holds for every network,
with skips and branches too, since it is read off when modules and weights were used and not off how they are written.

Not done where it would hide something: a pass whose gradient goes down to the image runs whole, since its graph is
needed; so does one in which operations are watched. A module that changes its input in place runs too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.classifier import borrowed, first_tensor
from medsal.studies.trust.execution import Uses

MOST = 2**30
"""Bytes that remembered features may take."""


@dataclass
class _Call:
    """One call of a module in the forward that was watched."""

    name: str
    end: int = 0
    versions: tuple[int, ...] = ()
    exact: bool = False


class Replay:
    """Remembers what the modules of a network gave for the images at hand.

    Args:
        network: the working copy, with its trained weights; it is left as found.
        image: ``(1, C, *space)``, for the forward that is watched.
        cuts: sets of modules that will be changed together; None checks for every module that has weights.
        layers: names of target layers, whose outputs others read: no module around one of them is left out.
        budget: bytes that remembered features may take; nothing more is remembered then.

    Attributes:
        skipped: how many layers with weights gave a remembered output so far.
        reason: why nothing is remembered; empty where something is.
    """

    def __init__(
        self,
        network: nn.Module,
        image: Tensor,
        cuts: Iterable[Sequence[str]] | None = None,
        layers: Iterable[str] = (),
        budget: int = MOST,
    ) -> None:
        self.network, self.budget = network, budget
        self.skipped = 0
        self.reason = ""
        self._layers = tuple(layers)
        self._known: dict[tuple[Any, str], Tensor] = {}
        self._bytes = 0
        self._key: Any = None
        self._watch(image)
        self._check(image, [[name] for name in self._times] if cuts is None else cuts)

    def _watch(self, image: Tensor) -> None:
        """One forward: when each module had ended, and when each one's weights were first used."""
        uses = Uses(self.network)
        stack: list[_Call] = []
        calls: list[_Call] = []

        def begin(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: Any) -> None:
                stack.append(_Call(name, versions=_versions(inputs)))

            return hook

        def end(_module: nn.Module, inputs: Any, output: Any) -> None:
            call = stack.pop()
            call.end = uses.clock
            call.exact = isinstance(output, Tensor) and call.versions == _versions(inputs)
            calls.append(call)

        named = [(name, module) for name, module in self.network.named_modules() if name]
        handles = [module.register_forward_pre_hook(begin(name)) for name, module in named]
        handles += [module.register_forward_hook(end) for _, module in named]
        try:
            with borrowed(self.network), uses.listening(), torch.no_grad(), uses:
                self.network(image[:1].as_subclass(Tensor))
        finally:
            for handle in handles:
                handle.remove()
        often = Counter(call.name for call in calls)
        self._ends = {call.name: call.end for call in calls if call.exact and often[call.name] == 1}
        self._times = {**uses.called, **uses.used}

    def _check(self, image: Tensor, cuts: Iterable[Sequence[str]]) -> None:
        """Hold the logits against those of a whole forward, for every place where the network may be cut."""
        with borrowed(self.network), torch.no_grad():
            whole = first_tensor(self.network(image[:1].as_subclass(Tensor)))
            for cut in {self.units(changed): changed for changed in cuts}.values():
                with self.below(cut):
                    twice = [first_tensor(self.network(image[:1].as_subclass(Tensor))) for _ in range(2)]
                self.forget()
                if not all(torch.equal(whole, found) for found in twice):
                    self.reason = f"remembered features below {cut[0]} gave other logits than a whole forward"
                    self._ends = {}
                    return
        self.skipped = 0

    def units(self, changed: Iterable[str]) -> tuple[str, ...]:
        """The modules that need not run.

        Args:
            changed: names of the modules whose weights are not the trained ones.

        Returns:
            The outermost modules that had ended before the first of them was used.
        """
        first = min((self._times[name] for name in changed if name in self._times), default=0)
        done = {name for name, end in self._ends.items() if end < first and not self._around_layer(name)}
        return tuple(n for n in self._ends if n in done and not any(n.startswith(f"{other}.") for other in done))

    def _around_layer(self, name: str) -> bool:
        return any(layer.startswith(f"{name}.") for layer in self._layers)

    @contextmanager
    def below(self, changed: Iterable[str]) -> Iterator[None]:
        """Hand out remembered features inside the ``with`` block.

        Args:
            changed: names of the modules whose weights are not the trained ones.

        Yields:
            Nothing.
        """
        modules = {name: self.network.get_submodule(name) for name in self.units(changed)}
        handle = self.network.register_forward_pre_hook(self._begin)
        for name, module in modules.items():
            module.forward = self._standing_in(name, module)
        try:
            yield
        finally:
            handle.remove()
            for module in modules.values():
                del module.forward
            self._key = None

    def forget(self) -> None:
        """Forget the features of the images so far."""
        self._known.clear()
        self._bytes = 0

    def _begin(self, _module: nn.Module, inputs: Any) -> None:
        image = next((item for item in inputs if isinstance(item, Tensor)), None)
        watched = torch._C._len_torch_function_stack() > 0 or torch.is_autocast_enabled()
        if image is None or watched or (torch.is_grad_enabled() and image.requires_grad):
            self._key = None
            return
        values = image.detach().as_subclass(Tensor).cpu().contiguous().numpy().tobytes()
        self._key = (tuple(image.shape), image.dtype, hashlib.blake2b(values).digest())

    def _standing_in(self, name: str, module: nn.Module) -> Callable[..., Any]:
        own = module.forward
        layers = int(next(module.parameters(recurse=False), None) is not None)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._key is None or _needs_graph(args):
                return own(*args, **kwargs)
            known = self._known.get((self._key, name))
            if known is not None:
                self.skipped += layers
                return known.clone()
            found = own(*args, **kwargs)
            if self._bytes + found.nbytes <= self.budget:
                with torch.inference_mode(False):
                    self._known[self._key, name] = found.detach().clone()
                self._bytes += found.nbytes
            return found

        return forward


def _needs_graph(args: Any) -> bool:
    return torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _versions(inputs: Any) -> tuple[int, ...]:
    return tuple(item._version for item in inputs if isinstance(item, Tensor))
