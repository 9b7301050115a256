"""The operations of a forward, sorted by whether they depend on a layer's output.

While a network runs, a ``TorchFunctionMode`` sees every operation. One that reads the layer's output, at whatever
remove, lies *above* it. One that reads the image but not the layer's output lies *below*. The others compute constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medsal.attribution.rules.arguments import tensors_in
from medsal.attribution.rules.operations import in_place, operation_name

SIZES = frozenset("size numel nelement len".split())
"""Queries whose answer depends on how many images there are."""

_MARK = "_medsal_mark"


class CannotReplayError(Exception):
    """The forward is not one whose upper part can be run alone."""


@dataclass
class Mark:
    """What a tape knows of a tensor.

    Attributes:
        tape: the tape that set the mark; those of others say nothing.
        key: which result of which operation below it is; None for a tensor above.
        stands_for: the tensor that was computed in place of this empty one.
    """

    tape: Tape
    key: tuple[int, int] | None = None
    stands_for: Tensor | None = None


@dataclass
class Below:
    """One recorded operation below the layer: its name and what it gave, with shapes in place of tensors."""

    name: str
    writes: bool
    result: Any = None


@dataclass
class Shape:
    """A tensor that was not kept."""

    key: tuple[int, int]
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class Same:
    """A result that is one of the operation's own arguments."""

    argument: int


@dataclass
class Recording:
    """What one forward left behind.

    Attributes:
        batch: how many images it ran.
        below: the operations below the layer, in their order.
        kept: what operations above read from below.
        affine: whether the logits are an affine function of the layer's output.
        numbers: elements per image that the operations above produced.
    """

    batch: int
    below: list[Below] = field(default_factory=list)
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    affine: bool = True
    numbers: int = 0


class Tape(TorchFunctionMode):
    """Sort operations as they run; what is done with each kind, ``Recorder`` and ``Player`` say."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if self._paused or name in SIZES or getattr(func, "__self__", None) is Tensor.shape:
            return func(*args, **kwargs)
        inputs = list(tensors_in([args, kwargs]))
        marks = [mark for mark in map(self.mark_of, inputs) if mark is not None]
        if not marks:
            return func(*args, **kwargs)
        writes = name == "setitem" or in_place(func, kwargs)
        target = inputs[0] if writes else None
        if all(mark.key is not None for mark in marks):
            return self.run_below(name, target, inputs, lambda: func(*args, **kwargs))
        return self.run_above(func, target, args, kwargs)

    def run_below(self, name: str, target: Tensor | None, inputs: list[Tensor], run: Callable[[], Any]) -> Any:
        """Do an operation that depends on the image but not on the layer's output.

        Args:
            name: the operation's.
            target: the tensor that it writes into; None if it writes none.
            inputs: the tensors that it reads.
            run: computes it.
        """
        raise NotImplementedError

    def run_above(self, func: Any, target: Tensor | None, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Do an operation that depends on the layer's output.

        Args:
            func: the operation.
            target: the tensor that it writes into; None if it writes none.
            args: its arguments.
            kwargs: and those by keyword.
        """
        raise NotImplementedError

    def mark_of(self, tensor: Tensor) -> Mark | None:
        """Look a tensor's mark up.

        Args:
            tensor: any tensor.

        Returns:
            The mark that this tape set, or None.
        """
        mark: Mark | None = getattr(tensor, _MARK, None)
        return mark if mark is not None and mark.tape is self else None

    def mark(self, tensor: Tensor, key: tuple[int, int] | None = None, stands_for: Tensor | None = None) -> Tensor:
        """Set a tensor's mark.

        Args:
            tensor: any tensor.
            key: see ``Mark``.
            stands_for: see ``Mark``.

        Returns:
            The same tensor.
        """
        setattr(tensor, _MARK, Mark(self, key, stands_for))
        return tensor

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let operations pass unseen.

        Yields:
            Nothing.
        """
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def mapped(values: Any, change: Callable[[Any], Any], kind: Any = Tensor) -> Any:
    """Change the leaves of nested arguments.

    Args:
        values: leaves, and lists, tuples and dictionaries of them.
        change: what becomes of each leaf of that kind; others stay.
        kind: a type.

    Returns:
        The same structure.
    """
    if isinstance(values, kind):
        return change(values)
    if isinstance(values, dict):
        return {key: mapped(value, change, kind) for key, value in values.items()}
    if isinstance(values, list | tuple) and not isinstance(values, torch.Size):
        items = [mapped(value, change, kind) for value in values]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    return values
