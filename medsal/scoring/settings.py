"""What is scored, and how it is summarised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What is scored, and how it is summarised.

    Attributes:
        metrics: name -> options.
        side: what is read of signed relevance.
        shifts: places of the truth that sampled nulls look at.
        seed: of every draw.
        level: of intervals.
        alpha: of tests.
        resamples: of bootstraps.
        correction: of comparisons.
        primary: the metric that verdicts are about.
        baselines: names of those that are scored.
        adversaries: whether maps made to fool a metric are scored too.
    """

    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"average_precision": {}})
    side: str = "absolute"
    shifts: int = 199
    seed: int = 0
    level: float = 0.95
    alpha: float = 0.05
    resamples: int = 2000
    correction: str = "holm"
    primary: str = "average_precision"
    baselines: tuple[str, ...] = ()
    adversaries: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them.

        Returns:
            Name -> value.
        """
        return {**asdict(self), "baselines": list(self.baselines)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Settings:
        """Settings from what ``as_dict`` gave.

        Args:
            given: name -> value.

        Returns:
            The settings.
        """
        return cls(**{**given, "baselines": tuple(given.get("baselines", ()))})
