"""A network with some of its blocks drawn anew: from the top down, from the bottom up, or one block alone.

Each layer has a generator of its own, seeded by the study's seed, the draw and the layer's name: what a layer is given
does not depend on which others are drawn, nor on their order, and no two layers of one shape are given equal numbers.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medsal.errors import UsageError
from medsal.studies.trust.blocks import Block, Blocks

RESET, TRUNCATED, LEGACY = "reset_parameters", "truncated_normal", "legacy_scaled"
WAYS = (RESET, TRUNCATED, LEGACY)
"""How weights are drawn anew, see ``fresh_tensors``."""
TOP_DOWN, BOTTOM_UP, INDEPENDENT = "top_down", "bottom_up", "independent"
ORDERS = (TOP_DOWN, BOTTOM_UP, INDEPENDENT)
"""From the logits down, from the image up (both keep what was drawn before), and one block at a time."""
RUNNING = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Statistics of a normalisation; other buffers hold constants that the network cannot do without."""


@dataclass(frozen=True)
class State:
    """One network of a study: which of its blocks are drawn anew.

    Attributes:
        order: of ``ORDERS``.
        draw: number of the draw, from 0.
        step: how many steps were done, from 1.
        block: the block of this step.
        randomised: all blocks that are drawn anew, in the order in which they run.
    """

    order: str
    draw: int
    step: int
    block: str
    randomised: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """What a state differs by from the trained network, in numbers that weights and statistics hold.

    Attributes:
        parameters: in the network, unused ones too.
        parameters_drawn: in the blocks drawn anew.
        parameters_changed: of those, how many are not what they were.
        buffers: in the network.
        buffers_drawn: statistics in the blocks drawn anew.
        buffers_changed: of those, how many are not what they were.
        other_way: modules that cannot draw their own weights and were given a truncated normal.
    """

    parameters: int
    parameters_drawn: int
    parameters_changed: int
    buffers: int
    buffers_drawn: int
    buffers_changed: int
    other_way: tuple[str, ...]


def states(blocks: Blocks, orders: Sequence[str] = ORDERS, draws: int = 1) -> Iterator[State]:
    """All states of a study in a fixed order: order by order, draw by draw, step by step.

    Args:
        blocks: of the network.
        orders: of ``ORDERS``.
        draws: how many.

    Yields:
        The states.

    Raises:
        UsageError: if an order is unknown.
    """
    names = blocks.names
    for order in orders:
        if order not in ORDERS:
            raise UsageError(f"orders: wanted some of {', '.join(ORDERS)}, got {order!r}")
        walk = range(len(names)) if order == BOTTOM_UP else range(len(names) - 1, -1, -1)
        for draw in range(draws):
            for step, at in enumerate(walk, 1):
                drawn = {TOP_DOWN: names[at:], BOTTOM_UP: names[: at + 1], INDEPENDENT: [names[at]]}[order]
                yield State(order, draw, step, names[at], tuple(drawn))


class Randomiser:
    """Makes the networks of a study from a trained one.

    Args:
        network: trained; it is left alone.
        blocks: its blocks.
        way: how weights are drawn: ``"reset_parameters"``, ``"truncated_normal"`` or ``"legacy_scaled"``, see
            ``fresh_tensors``.
        seed: of all draws.

    Attributes:
        network: the copy that is worked on.

    Raises:
        UsageError: if the way is unknown.
    """

    def __init__(self, network: nn.Module, blocks: Blocks, way: str = RESET, seed: int = 0) -> None:
        if way not in WAYS:
            raise UsageError(f"reinitialise: wanted one of {', '.join(WAYS)}, got {way!r}")
        self.blocks, self.way, self.seed = blocks, way, seed
        self.network = copy.deepcopy(network)
        self._parts = {block.name: block for block in blocks.steps}
        self._trained = {name: tensor.detach().clone() for name, tensor in _tensors(network).items()}
        self._now: dict[str, int | None] = dict.fromkeys(self._parts)
        self._other_way: dict[str, tuple[str, ...]] = {}

    def trained(self) -> nn.Module:
        """The working copy with its trained weights.

        Returns:
            ``self.network``.
        """
        for name in self._parts:
            self._bring(name, None)
        return self.network

    def at(self, state: State) -> nn.Module:
        """The working copy in a state, whatever state it was in before.

        Args:
            state: see ``states``.

        Returns:
            ``self.network``.
        """
        for name in self._parts:
            self._bring(name, state.draw if name in state.randomised else None)
        return self.network

    def changes(self, state: State) -> Changes:
        """Count what a state changes.

        Args:
            state: see ``states``.

        Returns:
            The counts.
        """
        network = self.at(state)
        now, parameters = _tensors(network), {name for name, _ in network.named_parameters()}
        parts = [self._parts[name] for name in state.randomised]
        drawn = [[name for part in parts for name in part.parameters], [n for part in parts for n in _running(part)]]
        every = [sum(t.numel() for n, t in now.items() if (n in parameters) is kind) for kind in (True, False)]
        sizes = [sum(now[name].numel() for name in names) for names in drawn]
        changed = [sum(int((now[name] != self._trained[name]).sum()) for name in names) for names in drawn]
        other = tuple(module for name in state.randomised for module in self._other_way.get(name, ()))
        return Changes(every[0], sizes[0], changed[0], every[1], sizes[1], changed[1], other)

    def _bring(self, name: str, draw: int | None) -> None:
        """Give a block its trained weights, or those of a draw."""
        if self._now[name] == draw:
            return
        part, tensors = self._parts[name], _tensors(self.network)
        wanted = {key: self._trained[key] for key in (*part.parameters, *part.buffers)}
        if draw is not None:
            drawn, other = self._draw(part, draw)
            wanted, self._other_way[name] = wanted | drawn, other
        with torch.no_grad():
            for key, value in wanted.items():
                tensors[key].copy_(value)
        self._now[name] = draw

    def _draw(self, part: Block, draw: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        found: dict[str, Tensor] = {}
        other = []
        mine = {*part.parameters, *_running(part)}
        for name in part.modules:
            module = self.network.get_submodule(name)
            own = {key.rsplit(".", 1)[-1]: self._trained[key] for key in mine if key.rpartition(".")[0] == name}
            fresh = fresh_tensors(module, own, _seed(self.seed, draw, name), self.way)
            found |= {f"{name}.{key}".lstrip("."): value for key, value in fresh.items()}
            if self.way == RESET and not _can_reset(module):
                other.append(name or type(module).__name__)
        return found, tuple(other)


def fresh_tensors(module: nn.Module, trained: dict[str, Tensor], seed: int, way: str) -> dict[str, Tensor]:
    r"""Draw a module's own weights anew.

    - ``"reset_parameters"``: the module's own initialisation, as its library wrote it; statistics of a normalisation
      become 0 and 1. A module without one is given a truncated normal.
    - ``"truncated_normal"``: tensors of two axes or more are drawn from a normal of standard deviation
      :math:`\sqrt{2 / \mathrm{fan\ in}}` cut at two standard deviations; of a normalisation the weights become 1, other
      vectors 0, and statistics 0 and 1.
    - ``"legacy_scaled"``: each weight times a number from 0 to 1. A published re-creation of Arun 2021 did this; it
      keeps every sign and all statistics, so that it randomises little. For comparison only.

    Args:
        module: the module; it is left alone.
        trained: its own tensors by their names in it, those that are to be drawn.
        seed: of the draw.
        way: as above.

    Returns:
        The same names -> new tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    if way == LEGACY:
        kept = {key: value for key, value in trained.items() if key not in RUNNING}
        return {
            key: value * torch.rand(value.shape, generator=generator, dtype=value.dtype).to(value.device)
            for key, value in kept.items()
        }
    if way == RESET and _can_reset(module):
        return _reset(module, trained, seed)
    return {key: _truncated(module, key, value, generator) for key, value in trained.items()}


def _reset(module: nn.Module, trained: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """By the module's own initialisation, on the CPU so that a draw is the same on every device."""
    fresh = copy.deepcopy(module).cpu()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for weight in fresh.parameters():
            weight.requires_grad_(False)
        initialise = _initialiser(fresh)
        assert initialise is not None
        initialise()
    drawn = {**fresh._parameters, **fresh._buffers}
    return {key: value.detach() for key in trained if (value := drawn[key]) is not None}


def _truncated(module: nn.Module, key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    fresh = torch.zeros(value.shape, dtype=value.dtype)
    if key == "running_var" or (key == "weight" and value.ndim == 1 and "Norm" in type(module).__name__):
        return fresh.fill_(1)
    if value.ndim < 2 or key in RUNNING or not value.is_floating_point():
        return fresh
    sd = math.sqrt(2 / max(1, value[0].numel()))
    return nn.init.trunc_normal_(fresh, 0, sd, -2 * sd, 2 * sd, generator=generator)


def _initialiser(module: nn.Module) -> Callable[[], None] | None:
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def _can_reset(module: nn.Module) -> bool:
    return _initialiser(module) is not None


def _running(part: Block) -> list[str]:
    return [name for name in part.buffers if name.rsplit(".", 1)[-1] in RUNNING]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])


def _seed(seed: int, draw: int, name: str) -> int:
    """A seed of its own for each layer and draw."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw}/{name}".encode()).digest()[:7])
