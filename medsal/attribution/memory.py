"""Memory is a budget: loops over steps and samples run in chunks that fit, and shrink when they did not."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from medsal.errors import MedsalError

ELEMENTS_PER_PASS = 2**20
"""Image elements in one pass on a CPU: larger batches of steps fall out of its caches and get slower, not faster."""


def free_memory(device: torch.device) -> int:
    """Measure the free memory of a device.

    Args:
        device: where the images are.

    Returns:
        Bytes free now.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system counts its pages
        return 2**32


def chunk_size(elements: int, bytes_per_image: int, device: torch.device, budget: int | None) -> int:
    """Choose how many images go through the network at once.

    Args:
        elements: numbers in one image, ``C * prod(space)``.
        bytes_per_image: what one forward and backward of one image keeps in memory.
        device: where the images are.
        budget: bytes that may be used; None takes half of what is free.

    Returns:
        At least 1.
    """
    budget = free_memory(device) // 2 if budget is None else budget
    fits = budget // max(bytes_per_image, 1)
    if device.type == "cpu":
        fits = min(fits, ELEMENTS_PER_PASS // elements)
    return max(1, fits)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on a CPU.

    Args:
        error: any exception.

    Returns:
        True if less work at once may help.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def in_chunks(count: int, size: int, body: Callable[[slice], None], start: int = 0) -> None:
    """Call ``body`` over ``range(start, count)`` slice by slice; after an out-of-memory go on with half the size.

    Args:
        count: how many things there are, with those before ``start``.
        size: how many to take at once.
        body: works on one slice; it must change nothing that outlives it before its last costly step.
        start: where to begin.

    Raises:
        MedsalError: if even one at a time does not fit.
        Exception: whatever else ``body`` raises.
    """
    while start < count:
        try:
            body(slice(start, min(start + size, count)))
        except Exception as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise MedsalError(f"out of memory with one image at a time: {error}") from error
            size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += size
