"""Maps that methods are held against: baselines that know nothing, and adversarial maps that must not do well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from medsal.evaluation import baselines
from medsal.evaluation.truth import bare
from medsal.scoring.case import ScoredCase
from medsal.scoring.settings import Settings

PLANTED = "planted truth"
"""Name of the map that must do best: the truth, a little smoothed."""
PLANTED_SD = 0.5
"""Its smoothing: standard deviation in voxels."""
Maker = Callable[[], Tensor | None]


@dataclass(frozen=True)
class Candidate:
    """A map to be scored, made when it is its turn.

    Attributes:
        kind: ``method``, ``baseline`` or ``adversary``.
        name: of the map.
        make: gives relevance ``(1, *space)``, or None where there is none.
        signed: whether one side of it is read; a map without signs is read as it is.
        reason: why there is none.
    """

    kind: str
    name: str
    make: Maker
    signed: bool = True
    reason: str = ""


def case_seed(seed: int, case: str) -> int:
    """A seed for one case, whatever other cases there are.

    Args:
        seed: of the study.
        case: its name.

    Returns:
        A whole number of 32 bits.

    Example:
        >>> case_seed(0, "a") == case_seed(0, "a") != case_seed(0, "b")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{case}".encode()).digest()[:4], "big")


def candidates(case: ScoredCase, settings: Settings) -> Iterator[Candidate]:
    """All maps of a case in the order of the table: methods, baselines, adversaries.

    Args:
        case: the case.
        settings: which baselines, whether adversaries.

    Yields:
        One map after the other.
    """
    for name in case.maps:
        yield Candidate("method", name, partial(case.maps.__getitem__, name))
    for name, reason in case.missing.items():
        yield Candidate("method", name, lambda: None, reason=reason)
    rivals = Rivals(case, case_seed(settings.seed, case.case))
    for name in settings.baselines:
        yield from rivals.baseline(name)
    if settings.adversaries:
        yield from rivals.adversaries()


class Rivals:
    """Baselines and adversaries of one case.

    Args:
        case: the case.
        seed: of those that are random.
    """

    def __init__(self, case: ScoredCase, seed: int) -> None:
        self.case, self.seed = case, seed
        self.blank = torch.zeros(()).expand(1, 1, *case.space)

    @cached_property
    def edges(self) -> Tensor:
        """Edges of the image, looked for once."""
        image = self.blank if self.case.image is None else bare(self.case.image)[None]
        return baselines.edge_filter(image)[0]

    def baseline(self, name: str) -> Iterator[Candidate]:
        """Baselines of one name, where the case has what they are made from.

        Args:
            name: of ``settings.BASELINES``.

        Yields:
            One map, none, or one for each method.
        """
        simple = self._simple()
        if name in simple:
            yield Candidate("baseline", name, simple[name], signed=False)
        elif name in {"another patient", "untrained"}:
            maps = self.case.others if name == "another patient" else self.case.untrained
            for method in maps:
                yield Candidate("baseline", f"{name}: {method}", partial(maps.__getitem__, method))

    def _simple(self) -> dict[str, Maker]:
        case = self.case
        found: dict[str, Maker] = {
            "constant": lambda: torch.ones(1, *case.space),  # not zeros: they are no relevance to take a share of
            "random": lambda: baselines.random(self.blank, seed=self.seed)[0],
            "centre prior": lambda: baselines.centre_prior(self.blank)[0],
        }
        if case.image is not None:
            found["edges"] = lambda: self.edges
        if case.prior is not None:
            found["mean training mask"] = partial(_prior, case)
        return found

    def adversaries(self) -> Iterator[Candidate]:
        """The maps of ``evaluation.baselines.adversaries``, made one by one, and the planted truth.

        Yields:
            One map after the other; those of an image or another patient's truth only where there is one.
        """
        found: dict[str, Maker] = {
            "constant": lambda: baselines.constant(self.blank)[0],
            "all ones": lambda: torch.ones(1, *self.case.space),
            "one outlier": lambda: baselines.one_outlier(self.blank, seed=self.seed)[0],
            "checkerboard": lambda: baselines.checkerboard(self.blank)[0],
            "centre blob": lambda: baselines.centre_prior(self.blank, spread=0.1)[0],
        }
        if self.case.image is not None:
            found["edges"] = lambda: self.edges
            found["shuffled"] = lambda: baselines.shuffled(self.edges[None], seed=self.seed)[0]
        other = self.case.other_mask
        if other is not None:
            found["another patient's mask"] = lambda: bare(other).float()
        if self.case.mask is not None:
            found[PLANTED] = partial(planted, self.case.mask)
        for name, make in found.items():
            yield Candidate("adversary", name, make, signed=False)


def planted(mask: Tensor) -> Tensor:
    """The truth as a map, a little smoothed: what a metric must not fail to reward.

    Args:
        mask: truth ``(1, *space)``.

    Returns:
        Of that shape.
    """
    from scipy import ndimage

    return torch.from_numpy(ndimage.gaussian_filter(bare(mask).bool().float()[0].numpy(), PLANTED_SD))[None]


def other_grid(candidate: Candidate, relevance: Tensor, space: Sequence[int]) -> str:
    """Why a rival that was made elsewhere cannot be scored here; a method's own map is no matter of this.

    Args:
        candidate: the map's name and kind.
        relevance: the map.
        space: grid of the case.

    Returns:
        The reason; empty where the grids are one, or the map is a method's.
    """
    if candidate.kind == "method" or tuple(relevance.shape) == (1, *space):
        return ""
    return f"its grid is {'x'.join(map(str, relevance.shape[1:]))}, not {'x'.join(map(str, space))}"


def _prior(case: ScoredCase) -> Tensor | None:
    return None if case.prior is None else case.prior(case.case)[0]
