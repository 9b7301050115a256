"""What the region study reads of maps and how it tests groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from medsal.errors import UsageError
from medsal.evaluation.group_tests import PRESETS
from medsal.evaluation.regions import REDUCTIONS
from medsal.scoring.settings import SIDES

DENSITY = "density"
"""Mean relevance in a region by the mean over the whole image: 1 by chance, whatever the scale of the map and the size
of the region."""
DOUBTED = ("leave out", "keep")
"""What is done with films whose lung fields are doubted."""


@dataclass(frozen=True)
class RegionSettings:
    """What is read of maps, and how groups are tested; checked when it is made.

    Attributes:
        reduce: ``density``, and of ``medsal.evaluation.regions.REDUCTIONS``. Means and sums are on the scale of each
            map and network; a share depends on the size of the region, which may differ between groups by itself;
            density on neither.
        side: what is read of signed relevance: ``absolute``, ``positive``, ``negative``, ``as is``.
        tests: of ``medsal.evaluation.group_tests.PRESETS``; the first one is drawn.
        reference: the group that others are tested against; empty: the first one, by name.
        doubted: whether films with doubted lung fields are left out of tests.
        power: chance that ``detectable_d`` is about.
        seed: of bootstraps.
    """

    reduce: tuple[str, ...] = (DENSITY, "share", "mean", "sum")
    side: str = "absolute"
    tests: tuple[str, ...] = ("patients", "suemer2023")
    reference: str = ""
    doubted: str = "leave out"
    power: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("reduce", (DENSITY, *REDUCTIONS)), ("tests", PRESETS)):
            given = getattr(self, name)
            given = (given,) if isinstance(given, str) else tuple(given)
            wrong = [one for one in given if one not in known]
            if wrong or not given or len(set(given)) < len(given):
                raise UsageError(
                    f"{name}: wanted some of {', '.join(known)}, each once, got {', '.join(map(str, given))}"
                )
            object.__setattr__(self, name, given)
        for name, allowed in (("side", SIDES), ("doubted", DOUBTED)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}: wanted one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        divided = [name for name in (DENSITY, "share") if name in self.reduce]
        if self.side == "as is" and divided:
            words = " and ".join(divided)
            raise UsageError(
                f"side: {words} divide by all relevance; wanted absolute, positive or negative, or --reduce mean"
            )
        if not 0 < self.power < 1:
            raise UsageError(f"power: wanted a chance between 0 and 1, got {self.power!r}")

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain types.

        Returns:
            Name -> value.
        """
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RegionSettings:
        """Settings from what ``as_dict`` gave, or a configuration.

        Args:
            given: name -> value; what is left out or None is as by default.

        Returns:
            The settings.

        Raises:
            UsageError: if a name is unknown.
        """
        known = [one.name for one in fields(cls)]
        wrong = [name for name in given if name not in known]
        if wrong:
            raise UsageError(f"settings: wanted some of {', '.join(known)}, got {', '.join(map(str, wrong))}")
        return cls(**{name: value for name, value in given.items() if value is not None})
