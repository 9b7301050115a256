"""Tensors among the arguments of an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Find the tensors in arguments or results.

    Args:
        values: a tensor, or tensors nested in lists, tuples and mappings, among whatever else.

    Yields:
        Each, in order.
    """
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def depending(*values: Any) -> list[Tensor]:
    """Find the tensors among arguments that depend on the image.

    Args:
        *values: arguments, nested or not.

    Returns:
        As many as there are, in their order.
    """
    return [tensor for tensor in tensors_in(values) if tensor.requires_grad]


def function_of(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], places: Sequence[Tensor]
) -> Callable[..., Any]:
    """Write a call as a function of some of its tensors.

    Args:
        func: an operation.
        args: its arguments.
        kwargs: its arguments by keyword.
        places: tensors among them, in their order.

    Returns:
        A function of as many tensors, which take their places in this order.
    """
    identities = {id(place) for place in places}

    def put(value: Any, tensors: Iterator[Tensor]) -> Any:
        if id(value) in identities:
            return next(tensors)
        if isinstance(value, Mapping):
            return {key: put(item, tensors) for key, item in value.items()}
        return tuple(put(item, tensors) for item in value) if type(value) in {list, tuple} else value

    def call(*tensors: Tensor) -> Any:
        given = iter(tensors)
        return func(*put(args, given), **put(kwargs, given))

    return call
