"""One trained network under study: explained as it is, and in every state of its randomisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsal.errors import MedsalError, UsageError
from medsal.studies.trust.blocks import Blocks, find_blocks
from medsal.studies.trust.explainers import Explainers, logits_of
from medsal.studies.trust.passes import PassCounter
from medsal.studies.trust.randomisation import Randomiser, State
from medsal.studies.trust.records import slug
from medsal.studies.trust.replay import Replay

NetworkLike = nn.Module | Callable[[], nn.Module]
"""A trained network, or a function that loads it."""


@dataclass(frozen=True)
class Member:
    """One trained network of a study.

    Attributes:
        architecture: its name.
        index: number among those of its architecture: another seed of the training.
        network: itself, or a function that loads it.
    """

    architecture: str
    index: int
    network: NetworkLike

    @property
    def name(self) -> str:
        """``architecture/index``."""
        return f"{self.architecture}/{self.index}"

    def load(self) -> nn.Module:
        """The network.

        Returns:
            It, loaded where it has to be.

        Raises:
            UsageError: if what was given or loaded is no network.
        """
        given: Any = self.network
        found = given() if callable(given) and not isinstance(given, nn.Module) else given
        if not isinstance(found, nn.Module):
            what = f"{type(found).__name__} {found!r}"[:80]
            raise UsageError(f"networks: wanted {self.name} to be a network, got {what}; see checkpoints for files")
        return found


def members_of(networks: Mapping[str, Sequence[NetworkLike] | NetworkLike]) -> list[Member]:
    """List the networks of a study.

    Args:
        networks: architecture -> its trained networks or functions that load them, one for each seed.

    Returns:
        Them, in order.

    Raises:
        UsageError: if there is none, or two would keep their results in one file.
    """
    found: list[Member] = []
    for name, given in networks.items():
        several = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
        found += [Member(name, index, network) for index, network in enumerate(several)]
    if not found:
        raise UsageError("networks: wanted at least one, got none")
    files: dict[str, Member] = {}
    for member in found:
        other = files.setdefault(slug(member.name), member)
        if other is not member:
            raise UsageError(
                f"networks: {other.architecture!r} and {member.architecture!r} are one name as a file's; wanted names "
                "that differ in letters, digits, points or hyphens"
            )
    return found


@dataclass(frozen=True)
class Wishes:
    """How a network is divided and drawn anew.

    Attributes:
        blocks: as ``find_blocks`` takes them.
        target_layer: of the CAM methods; None for the last with spatial extent.
        way: how weights are drawn, see ``fresh_tensors``.
        seed: of the draws.
        budget: bytes that remembered features may take.
    """

    blocks: int | Sequence[str] | None = None
    target_layer: str | None = None
    way: str = "reset_parameters"
    seed: int = 0
    budget: int = 2**30


class Subject:
    """A network at hand, with what is known of it.

    Args:
        network: trained; a copy is worked on.
        image: ``(1, C, *space)``, to see how the network runs.
        explainers: what it is explained with.
        wishes: how it is divided and drawn anew.

    Attributes:
        blocks: of the network.
        layers: target layers of the CAM methods.
        counter: of the passes.
    """

    def __init__(self, network: nn.Module, image: Tensor, explainers: Explainers, wishes: Wishes) -> None:
        first = next(network.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        image = image[:1].to(self.device)
        self.explainers = explainers
        self.blocks: Blocks = find_blocks(network, image, wishes.blocks)
        self.layers = explainers.layers(network, image, wishes.target_layer)
        self._modules = {block.name: block.modules for block in self.blocks.steps}
        self._randomiser = Randomiser(network, self.blocks, wishes.way, wishes.seed)
        self.replay = Replay(
            self._randomiser.trained(), image, list(self._modules.values()), self.layers, wishes.budget
        )
        self.counter = PassCounter(self._randomiser.network, image, lambda: self.replay.skipped)

    def explain(
        self, image: Tensor, target: list[int] | None, state: State | None = None
    ) -> tuple[dict[str, Tensor], Tensor, str]:
        """Explain images.

        Args:
            image: ``(B, C, *space)``.
            target: a class for each image; None for the predicted ones.
            state: of the randomisation; None for the trained network.

        Returns:
            Method -> relevance ``(B, 1, *space)``; logits ``(B, K)``; and why there is no answer where there is none,
            with maps and logits of NaN.

        Raises:
            UsageError: if a method does not suit the network.
            MedsalError: if the trained network gives no answer.
        """
        image = image.to(self.device)
        network, features = self._at(state)
        with features, self.counter.counting():
            try:
                return (*self.explainers.maps(network, image, target, self.layers), "")
            except UsageError:
                raise
            except MedsalError as error:  # random weights may give logits that are not finite
                if state is None:
                    raise
                blank = torch.full((len(image), 1, *image.shape[2:]), torch.nan)
                logits = torch.full((len(image), 1), torch.nan)
                return dict.fromkeys(self.explainers.names, blank), logits, str(error)

    def logits(self, image: Tensor, state: State | None = None) -> Tensor:
        """Logits of images in a state.

        Args:
            image: ``(B, C, *space)``.
            state: of the randomisation; None for the trained network.

        Returns:
            ``(B, K)`` on the CPU.
        """
        network, features = self._at(state)
        with features, self.counter.counting():
            return logits_of(network, image.to(self.device)).cpu()

    def _at(self, state: State | None) -> tuple[nn.Module, Any]:
        if state is None:
            return self._randomiser.trained(), nullcontext()
        network = self._randomiser.at(state)
        return network, self.replay.below([m for name in state.randomised for m in self._modules[name]])

    def changes(self, state: State) -> dict[str, Any]:
        """Count what a state changes.

        Args:
            state: of the randomisation.

        Returns:
            See ``Changes``.
        """
        return asdict(self._randomiser.changes(state))

    def counts(self) -> list[dict[str, Any]]:
        """Count what each block holds.

        Returns:
            See ``Blocks.counts``.
        """
        return self.blocks.counts(self._randomiser.network)

    def costs(self, image: Tensor) -> dict[str, dict[str, float]]:
        """What each method costs without the others, and with them, measured on one image.

        With the others a method costs what is saved where it alone is left out, and an equal share of what is common
        to those that run the network at all.

        Args:
            image: ``(1, C, *space)``.

        Returns:
            Method -> passes of one map, ``alone`` and ``shared``.
        """
        names = self.explainers.names
        alone = {name: self._cost([name], image) for name in names}
        every = self._cost(names, image)
        own = {name: every - self._cost([n for n in names if n != name], image) for name in names}
        using = sum(cost > 0 for cost in alone.values())
        common = (every - sum(own.values())) / max(using, 1)
        return {name: {"alone": cost, "shared": own[name] + common if cost else 0.0} for name, cost in alone.items()}

    def _cost(self, names: list[str], image: Tensor) -> float:
        """Passes of one image's maps by some of the methods."""
        if not names:
            return 0.0
        network, one, chosen = self._randomiser.trained(), image[:1].to(self.device), self.explainers.only(names)
        self.counter.take()
        with self.counter.counting():
            if chosen.table:
                chosen.maps(network, one, [0], self.layers)
            else:
                for function in chosen.functions.values():
                    function(network, one, [0])
        return self.counter.take().total
