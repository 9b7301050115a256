"""The blocks of a network in the order in which they run: every parameter and buffer in one block, once.

What runs, and when, is seen in a forward: the first operation that takes a weight tells where its layer stands,
whatever order the layers were written in. Layers that a forward never uses (auxiliary heads of training) are named
apart.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from medsal.errors import UsageError
from medsal.studies.trust.execution import Owned, execution_times, owned_tensors

WRAPPER = 0.6
"""A module that holds a greater share of all layers than this is looked into, whatever its kind."""
FOLLOWERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
"""Layers that belong to the one before them."""


@dataclass(frozen=True)
class Block:
    """Layers that are looked at together.

    Attributes:
        name: dotted name in the network; ``a+b`` for a layer with its normalisation, ``a..b`` for blocks put together.
        modules: names of the modules that own its weights, in the order in which they run.
        parameters: full names of its parameters.
        buffers: full names of its buffers, such as the statistics of a batch normalisation.
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class Blocks:
    """All blocks of a network.

    Attributes:
        steps: those that a forward uses, from the image to the logits.
        unused: those that it does not, e.g. auxiliary heads; they are counted and take no part in a study.
    """

    steps: tuple[Block, ...]
    unused: tuple[Block, ...]

    @property
    def names(self) -> list[str]:
        """Names of the steps."""
        return [block.name for block in self.steps]

    def counts(self, network: nn.Module) -> list[dict[str, Any]]:
        """Count what each block holds.

        Args:
            network: the network that the blocks are of, or one like it.

        Returns:
            A row per block, the unused ones last: ``block``, ``used``, ``parameters`` and ``buffers`` (tensors), and
            ``parameter_values`` and ``buffer_values`` (numbers in them).
        """
        tensors = dict([*network.named_parameters(), *network.named_buffers()])
        return [
            {
                "block": block.name,
                "used": block in self.steps,
                "parameters": len(block.parameters),
                "buffers": len(block.buffers),
                "parameter_values": sum(tensors[name].numel() for name in block.parameters),
                "buffer_values": sum(tensors[name].numel() for name in block.buffers),
            }
            for block in (*self.steps, *self.unused)
        ]


def find_blocks(network: nn.Module, image: Tensor, blocks: int | Sequence[str] | None = None) -> Blocks:
    """Find the blocks of any network by one forward.

    Without a wish, containers (``nn.Sequential``, ``nn.ModuleList``) and modules that hold most of the network are
    divided and everything else is one block: the mixed blocks of an Inception, the residual blocks of a ResNet, the
    dense blocks and transitions of a DenseNet. A normalisation goes with the layer in front of it.

    Args:
        network: any classifier; it is left as found.
        image: ``(B, C, *space)``, for the forward; one image is enough.
        blocks: how many, at most one per layer (neighbours are put together, the last block stays alone); or names of
            modules, each of which becomes a block, with what lies between them in blocks of its own.

    Returns:
        The blocks.

    Raises:
        UsageError: if the network has no weights, there are fewer layers than blocks wanted, or a name is unknown.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
        >>> find_blocks(network, torch.rand(1, 1, 8, 8)).names
        ['0+1', '3']
    """
    if isinstance(blocks, str) or (isinstance(blocks, int) and blocks < 1):
        raise UsageError(f"blocks: wanted a number of 1 or more, or names of modules, got {blocks!r}")
    times = execution_times(network, image)
    owned = owned_tensors(network)
    if not owned:
        raise UsageError("blocks: the network has no parameter and no buffer")
    groups = _by_name(network, owned, times, blocks) if isinstance(blocks, Sequence) else _natural(network, owned)
    used, unused = _ordered(groups, times)
    if not isinstance(blocks, Sequence):
        used = _followers_joined(used, network)
    if isinstance(blocks, int):
        if blocks > len(used):
            used, _ = _ordered([(name or "(own)", [name]) for name in owned], times)
        used = _put_together(used, blocks)
    return Blocks(tuple(_block(g, owned) for g in used), tuple(_block(g, owned) for g in unused))


Group = tuple[str, list[str]]
"""Name of a block, and the modules that own its tensors."""


def _natural(network: nn.Module, owned: Owned) -> list[Group]:
    """Divide containers and what holds most of the network."""
    found: list[Group] = []

    def divide(name: str, module: nn.Module) -> None:
        inside = [owner for owner in owned if not name or _holds(name, owner)]
        if not inside:
            return
        plain = type(module) in {nn.Sequential, nn.ModuleList, nn.ModuleDict}
        wraps = len(inside) > WRAPPER * len(owned) and inside != [name]
        if name and not plain and not wraps:
            found.append((name, inside))
            return
        if name in owned:
            found.append((name or "(own)", [name]))
        for key, child in module.named_children():
            divide(f"{name}.{key}".lstrip("."), child)

    divide("", network)
    return found


def _by_name(network: nn.Module, owned: Owned, times: dict[str, int], names: Sequence[str]) -> list[Group]:
    """A block for each module that was named, and for each run of layers between them."""
    _known(network, names)
    found: dict[str, list[str]] = {name: [] for name in names}
    runs: list[list[str]] = []
    before: str | None = ""
    for owner in sorted(owned, key=lambda owner: times.get(owner, len(owned) + max(times.values()))):
        holder = max((name for name in names if _holds(name, owner)), key=len, default=None)
        if holder is not None:
            found[holder].append(owner)
        elif before is None and owner in times:
            runs[-1].append(owner)
        else:
            runs.append([owner])
        before = holder
    for name, inside in found.items():
        if not inside:
            raise UsageError(f"blocks: {name!r} has no parameter and no buffer that no other block has")
    return [*found.items(), *((_span(run), run) for run in runs)]


def _known(network: nn.Module, names: Sequence[str]) -> None:
    modules = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"blocks: the network has no module {name!r}.{hint}")


def _holds(name: str, owner: str) -> bool:
    return owner == name or owner.startswith(f"{name}.")


def _span(names: list[str]) -> str:
    shown = [name or "(own)" for name in names]
    return shown[0] if len(shown) == 1 else f"{shown[0]}..{shown[-1]}"


def _ordered(groups: list[Group], times: dict[str, int]) -> tuple[list[Group], list[Group]]:
    """Used groups by when they first run, and unused ones; what a group does not use of itself goes apart."""
    last = max(times.values(), default=0) + 1
    runs = [(name, [owner for owner in inside if owner in times]) for name, inside in groups]
    used = [(name, sorted(inside, key=times.__getitem__)) for name, inside in runs if inside]
    used.sort(key=lambda group: times.get(group[1][0], last))
    unused = []
    for name, inside in groups:
        idle = [owner for owner in inside if owner not in times]
        if idle:
            unused.append((name if len(idle) == len(inside) else f"{name} (unused part)", idle))
    return used, unused


def _followers_joined(groups: list[Group], network: nn.Module) -> list[Group]:
    """Put each lone normalisation with the block that runs before it."""
    found: list[Group] = []
    for name, inside in groups:
        alone = len(inside) == 1 and isinstance(network.get_submodule(inside[0]), FOLLOWERS)
        if alone and found:
            before, others = found[-1]
            found[-1] = (f"{before}+{name.rsplit('.', 1)[-1]}", [*others, *inside])
        else:
            found.append((name, inside))
    return found


def _put_together(groups: list[Group], count: int) -> list[Group]:
    """Join neighbours until there are ``count`` groups; the last stays alone, as the logits do in published studies."""
    if count > len(groups):
        raise UsageError(f"blocks: wanted at most {len(groups)}, as many as the network has layers, got {count}")
    if count == 1:
        return [(_joined(groups), [owner for _, inside in groups for owner in inside])]
    rest, parts = groups[:-1], count - 1
    edges = [round(i * len(rest) / parts) for i in range(parts + 1)]
    pieces = [rest[low:high] for low, high in itertools.pairwise(edges)]
    return [*((_joined(piece), [o for _, inside in piece for o in inside]) for piece in pieces), groups[-1]]


def _joined(groups: list[Group]) -> str:
    return groups[0][0] if len(groups) == 1 else f"{groups[0][0]}..{groups[-1][0]}"


def _block(group: Group, owned: Owned) -> Block:
    name, modules = group
    parameters, buffers = (tuple(key for module in modules for key in owned[module][kind]) for kind in (0, 1))
    return Block(name, tuple(modules), parameters, buffers)
