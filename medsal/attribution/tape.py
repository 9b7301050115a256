"""The operations of a forward, sorted by whether they depend on a layer's output: recorded once, then replayed.

While a network runs, a ``TorchFunctionMode`` sees every operation. One that reads the layer's output, at whatever
remove, lies *above* it. One that reads the image but not the layer's output lies *below*. The others compute constants.
A replay runs the same Python code for other features: operations below give empty tensors of the right shape and cost
nothing, those above run, and what they read from below (the shortcut around a block) is what the recording kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medsal.attribution.operations import LINEAR, SINGLY_LINEAR, in_place, operation_name

SIZES = frozenset("size numel nelement len".split())
"""Queries whose answer depends on how many images there are."""

ONCE_LINEAR = SINGLY_LINEAR | frozenset("mul matmul mm bmm baddbmm".split())
"""Operations that are linear in one argument, where the others do not depend on it."""

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


class Recorder(Tape):
    """Run everything, and write down what a replay needs.

    Args:
        batch: how many images will run.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.recording = Recording(batch)
        self._written: list[torch.UntypedStorage] = []

    def run_below(self, name: str, target: Tensor | None, inputs: list[Tensor], run: Callable[[], Any]) -> Any:  # noqa: D102  as in Tape
        result = run()
        if hasattr(result, "__next__"):  # iterating over a tensor
            result = list(result)
        index = len(self.recording.below)
        entry = Below(name, target is not None)
        self.recording.below.append(entry)
        parts = 0

        def describe(tensor: Tensor) -> Shape | Same:
            nonlocal parts
            for i, given in enumerate(inputs):
                if tensor is given:
                    return Same(i)
            parts += 1
            self.mark(tensor, (index, parts))
            return Shape((index, parts), tensor.shape, tensor.dtype, tensor.device)

        entry.result = mapped(result, describe)
        if target is not None:
            self.mark(target, (index, 0))
        return iter(result) if name == "iter" else result

    def run_above(self, func: Any, target: Tensor | None, args: Any, kwargs: Mapping[str, Any]) -> Any:  # noqa: D102  as in Tape
        inputs = list(tensors_in([args, kwargs]))
        above = 0
        for tensor in inputs:
            mark = self.mark_of(tensor)
            if mark is not None and mark.key is not None:
                self._keep(tensor, mark.key)
            above += mark is not None and mark.key is None
        if target is not None and self.mark_of(target) is not None:
            self._written.append(target.untyped_storage())
        result = func(*args, **kwargs)
        made = list(tensors_in(result))
        if made or target is not None:
            first = self.mark_of(inputs[0])
            self.recording.affine &= is_affine(func, above, first_above=first is not None and first.key is None)
        else:  # a value was read out of the features, and may decide what comes next
            self.recording.affine = False
        for tensor in [*made, *([] if target is None else [target])]:
            self.mark(tensor)
            self.recording.numbers += tensor.numel() // self.recording.batch
        return result

    def _keep(self, tensor: Tensor, key: tuple[int, int]) -> None:
        if any(tensor.untyped_storage().data_ptr() == storage.data_ptr() for storage in self._written):
            raise CannotReplayError("an activation is overwritten through another view of it")
        if tensor.ndim == 0 or len(tensor) % self.recording.batch:
            raise CannotReplayError("an activation around the layer does not have the images along its first axis")
        if key not in self.recording.kept:
            self.recording.kept[key] = tensor.detach().clone()


class Player(Tape):
    """Run what lies above the layer, and nothing else.

    Args:
        recording: of a forward of the same network.
        rows: ``(N,)``, the recorded image that each image now belongs to.
    """

    def __init__(self, recording: Recording, rows: Tensor) -> None:
        super().__init__()
        self.recording = recording
        self.rows = rows
        self._next = 0
        self._one = int(rows[0]) if bool((rows == rows[0]).all()) else None

    def empty(self, shape: torch.Size, like: Tensor | Shape, key: tuple[int, int]) -> Tensor:
        """Stand in for a tensor below the layer.

        Args:
            shape: its shape in the recording.
            like: what has its type and device.
            key: which it is.

        Returns:
            A tensor that takes no memory, with the images of this replay along its first axis.
        """
        batch = self.recording.batch
        full = list(shape)
        if full and full[0] % batch == 0:
            full[0] = full[0] // batch * len(self.rows)
        return self.mark(torch.zeros((), dtype=like.dtype, device=like.device).expand(full), key)

    def run_below(self, name: str, target: Tensor | None, inputs: list[Tensor], run: Callable[[], Any]) -> Any:  # noqa: ARG002, D102  as in Tape
        below = self.recording.below
        if self._next >= len(below) or (below[self._next].name, below[self._next].writes) != (name, target is not None):
            raise CannotReplayError(f"the network ran {name!r} where it did not before")
        entry, index = below[self._next], self._next
        self._next += 1
        if target is not None:
            self.mark(target, (index, 0))

        def fill(part: Any) -> Any:
            return inputs[part.argument] if isinstance(part, Same) else self.empty(part.shape, part, part.key)

        result = mapped(entry.result, fill, Shape | Same)
        return iter(result) if name == "iter" else result

    def run_above(self, func: Any, target: Tensor | None, args: Any, kwargs: Mapping[str, Any]) -> Any:  # noqa: D102  as in Tape
        written: list[Tensor] = []

        def fetch(tensor: Tensor) -> Tensor:
            mark = self.mark_of(tensor)
            if mark is None:
                fetched = tensor
            elif mark.key is None:
                fetched = tensor if mark.stands_for is None else mark.stands_for
            else:
                fetched = self._kept(mark.key, copy=tensor is target)
            if tensor is target:
                written.append(fetched)
            return fetched

        args, kwargs = mapped(args, fetch), mapped(kwargs, fetch)
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            self.mark(tensor)
        if target is not None:
            self.mark(written[0])
            if target is not written[0]:
                self.mark(target, stands_for=written[0])
        return result

    def _kept(self, key: tuple[int, int], *, copy: bool) -> Tensor:
        """A tensor of the recording for the images of this replay."""
        whole = self.recording.kept[key]
        each = whole.unflatten(0, (self.recording.batch, -1))
        if self._one is None:
            return each[self.rows].flatten(0, 1)
        spread = each[self._one].expand(len(self.rows), *each.shape[1:]).flatten(0, 1)
        return spread.clone(memory_format=torch.contiguous_format) if copy else spread


def is_affine(func: Any, above: int, *, first_above: bool) -> bool:
    """Tell whether an operation is affine in those of its arguments that depend on the features.

    Args:
        func: the operation.
        above: how many of its tensors depend on them.
        first_above: whether the first one does.

    Returns:
        True if it is; False where that is not known.
    """
    name = operation_name(func)
    if name in ONCE_LINEAR:
        return above == 1
    if name == "div":
        return above == 1 and first_above
    return name in LINEAR or name == "as_subclass"


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Walk nested arguments.

    Args:
        values: tensors, and lists, tuples and dictionaries of them.

    Yields:
        The tensors.
    """
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


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


def run_with(module: nn.Module, hand: Callable[[int, Any], Tensor | None], forward: Callable[[], Tensor]) -> Tensor:
    """Run a forward with the output of a layer replaced.

    Args:
        module: the layer.
        hand: from how often it ran before, and its output, to what replaces that; None leaves it.
        forward: runs the network.

    Returns:
        The logits.
    """
    calls = itertools.count()
    handle = module.register_forward_hook(lambda _module, _inputs, output: hand(next(calls), output))
    try:
        return forward()
    finally:
        handle.remove()
