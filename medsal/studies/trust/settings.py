"""The settings of a study of trust, each with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsal.errors import UsageError
from medsal.studies.trust.randomisation import ORDERS, RESET, WAYS

UTILITY, RANDOMISATION, PAIRS = "utility", "randomisation", "pairs"
PARTS = (UTILITY, RANDOMISATION, PAIRS)
TARGETS = ("label", "predicted")


@dataclass(frozen=True)
class StudySettings:
    """What a study does, and how.

    Attributes:
        parts: of ``PARTS``; ``pairs`` are repeatability and reproducibility.
        target: the class that is explained: ``"label"``, ``"predicted"`` (by the trained network; a randomised one is
            asked about the same class), or a class for all.
        batch_size: images explained together.
        seed: of all draws.
        draws: how often weights are drawn anew.
        orders: in which blocks are drawn anew.
        reinitialise: how, see ``medsal.studies.trust.randomisation.fresh_tensors``.
        blocks: as ``find_blocks`` takes them; or architecture -> that.
        target_layer: of the CAM methods; or architecture -> that.
        partners: other patients whose maps give the null of a pair.
        random_pairs: pairs of images of the published baseline.
        null_shifts: other places of the truth that the null of average precision is the mean of.
        alike: null-corrected similarity (0 for unrelated maps, 1 for equal ones) from which maps count as alike.
        level: of all intervals.
        resamples: of all intervals.
        memory_budget: bytes that a method's loops may use; fixed, for the same sums in every run.
        features_budget: bytes that remembered features may take.
        figures: whether they are drawn.
    """

    parts: Sequence[str] = PARTS
    target: str | int = "label"
    batch_size: int = 8
    seed: int = 0
    draws: int = 1
    orders: Sequence[str] = ORDERS
    reinitialise: str = RESET
    blocks: int | Sequence[str] | Mapping[str, Any] | None = None
    target_layer: str | Mapping[str, str] | None = None
    partners: int = 3
    random_pairs: int = 50
    null_shifts: int = 199
    alike: float = 0.2
    level: float = 0.95
    resamples: int = 2000
    memory_budget: int = 2**30
    features_budget: int = 2**30
    figures: bool = field(default=True)

    def __post_init__(self) -> None:
        _one_of("parts", self.parts, PARTS)
        _one_of("orders", self.orders, ORDERS)
        _one_of("reinitialise", [self.reinitialise], WAYS)
        if not isinstance(self.target, int):
            _one_of("target", [self.target], TARGETS)
        for name in ("batch_size", "draws", "partners", "random_pairs", "null_shifts", "resamples"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UsageError(f"{name}: wanted a whole number of 1 or more, got {getattr(self, name)!r}")
        for name in ("alike", "level"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name}: wanted a number between 0 and 1, got {getattr(self, name)!r}")

    def of(self, name: str, architecture: str) -> Any:
        """What is wished for one architecture.

        Args:
            name: ``"blocks"`` or ``"target_layer"``.
            architecture: which.

        Returns:
            The value for it, or that for all.
        """
        value = getattr(self, name)
        return value.get(architecture) if isinstance(value, Mapping) else value


def _one_of(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    for value in values:
        if value not in allowed:
            raise UsageError(f"{name}: wanted one of {', '.join(allowed)}, got {value!r}")
