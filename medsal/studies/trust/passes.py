"""What a study costs: forwards and backwards of one image, counted as the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.classifier import borrowed


@dataclass
class Passes:
    """Passes of one image.

    Attributes:
        forwards: of the network; one in which a share of the layers was remembered counts as the rest.
        backwards: from the logits.
    """

    forwards: float = 0.0
    backwards: float = 0.0

    @property
    def total(self) -> float:
        """Forwards and backwards."""
        return self.forwards + self.backwards


class PassCounter:
    """Counts the passes of a network.

    Args:
        network: any module.
        image: ``(B, C, *space)``; one forward tells how many layers with weights a whole pass runs.
        remembered: tells how many layers have been called so far without running, see ``Replay``.
    """

    def __init__(self, network: nn.Module, image: Tensor, remembered: Callable[[], int] = lambda: 0) -> None:
        self.network, self.remembered = network, remembered
        self.passes = Passes()
        self._calls = self._before = 0
        self._whole = 0
        with self.counting(), borrowed(network), torch.no_grad():
            network(image[:1].as_subclass(Tensor))
        self._whole, self.passes = self._calls, Passes()

    @contextmanager
    def counting(self) -> Iterator[Passes]:
        """Count inside the ``with`` block.

        Yields:
            The counts so far.
        """
        layers = [m for m in self.network.modules() if next(m.parameters(recurse=False), None) is not None]
        handles = [self.network.register_forward_pre_hook(self._begin)]
        handles += [layer.register_forward_pre_hook(self._layer) for layer in layers]
        handles.append(self.network.register_forward_hook(self._end))
        try:
            yield self.passes
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> Passes:
        """Take the counts and begin anew.

        Returns:
            What was counted since the last time.
        """
        found, self.passes = self.passes, Passes()
        return found

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        self._calls, self._before = 0, self.remembered()

    def _layer(self, _module: nn.Module, _inputs: Any) -> None:
        self._calls += 1

    def _end(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        logits = _first(output)
        if logits is None:
            return
        ran = self._calls - (self.remembered() - self._before)
        self.passes.forwards += len(logits) * (ran / self._whole if self._whole else 1.0)
        if logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _backward(self, gradient: Tensor) -> None:
        self.passes.backwards += len(gradient)


def _first(output: Any) -> Tensor | None:
    """The logits themselves, not a view of them: a hook on a view would see no gradient."""
    if isinstance(output, Tensor):
        return output
    items = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)
