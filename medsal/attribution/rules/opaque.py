"""What rules on operations cannot see into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from medsal.attribution.shared_pass import operations
from medsal.errors import UsageError

OURS = "_ReplacedBackward"


CHECKPOINTED = (
    "the network saves activations by hooks, as checkpointing does, and runs parts again where rules see nothing"
)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Refuse networks that run parts of themselves again in the backward.

    Yields:
        Nothing; forwards inside the ``with`` block are watched.

    Raises:
        UsageError: if the network saves activations by hooks.
        RuntimeError: whatever else the forward raises.
    """
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED):
            yield
    except RuntimeError as error:
        if CHECKPOINTED in str(error):
            raise UsageError(f"{CHECKPOINTED}; switch checkpointing off") from error
        raise


def refuse_opaque(output: Tensor) -> None:
    """Refuse networks that ran functions with a backward of their own, as reentrant checkpointing does.

    Args:
        output: of the network, with its graph.

    Raises:
        UsageError: if there is such a function; the error names it.
    """
    for node in operations(output.grad_fn) if output.grad_fn is not None else ():
        name = type(node).__name__
        if isinstance(node, BackwardCFunction) and name != OURS:
            raise UsageError(
                f"the network uses the autograd function {name.removesuffix('Backward')!r}, inside which rules see "
                "nothing; switch checkpointing off, or choose a method without rules, such as integrated_gradients"
            )
