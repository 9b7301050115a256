"""A forward recorded once and replayed for other features of a layer.

The replay runs the same Python code: operations below the layer give empty tensors of the right shape and cost nothing,
those above run, and what they read from below (the shortcut around a block) is what the recording kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.rules.arguments import tensors_in
from medsal.attribution.rules.operations import LINEAR, SINGLY_LINEAR, operation_name
from medsal.attribution.tape import Below, CannotReplayError, Recording, Same, Shape, Tape, mapped

ONCE_LINEAR = SINGLY_LINEAR | frozenset("mul matmul mm bmm baddbmm".split())
"""Operations that are linear in one argument, where the others do not depend on it."""


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
        each = whole.reshape(self.recording.batch, -1, *whole.shape[1:])
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
