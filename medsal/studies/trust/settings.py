"""The settings of a study of trust, each with its default."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from medsal.errors import UsageError
from medsal.studies.trust.randomisation import ORDERS, RESET, WAYS

UTILITY, RANDOMISATION, PAIRS = "utility", "randomisation", "pairs"
PARTS = (UTILITY, RANDOMISATION, PAIRS)
TARGETS = ("label", "predicted")
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class StudySettings:
    """What a study does, and how.

    Attributes:
        parts: of ``PARTS``, also as one text with commas; ``pairs`` are repeatability and reproducibility.
        target: the class that is explained: ``"label"``, ``"predicted"`` (by the trained network; a randomised one is
            asked about the same class), or a class for all.
        batch_size: images explained together.
        seed: of all draws.
        draws: how often weights are drawn anew.
        orders: in which blocks are drawn anew, likewise.
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
        for name, known in (("parts", PARTS), ("orders", ORDERS)):
            object.__setattr__(self, name, _listed(getattr(self, name)))
            _one_of(name, getattr(self, name), known)
        _one_of("reinitialise", [self.reinitialise], WAYS)
        if not isinstance(self.target, int):
            _one_of("target", [self.target], TARGETS)
        for name in ("seed", "batch_size", "draws", "partners", "random_pairs", "null_shifts", "resamples"):
            least = 0 if name == "seed" else 1
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise UsageError(f"{name}: wanted a whole number of {least} or more, got {getattr(self, name)!r}")
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


def settings_of(given: StudySettings | Mapping[str, Any] | None) -> StudySettings:
    """Settings from what a user gave.

    Args:
        given: settings, some of them by name, or None for the defaults.

    Returns:
        The settings.

    Raises:
        UsageError: if a name is unknown or a value is wrong.
    """
    return named(StudySettings, given or {}, "settings") if isinstance(given, Mapping | None) else given


def named(kind: type[Kind], given: Mapping[str, Any], what: str) -> Kind:
    """A dataclass from its entries by name.

    Args:
        kind: the dataclass.
        given: name -> value.
        what: it is called in an error.

    Returns:
        One of that kind.

    Raises:
        UsageError: if it has no entry of a name.
    """
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"{what}: wanted some of {', '.join(known)}, got {name!r}.{hint}")
    return kind(**given)


def _listed(given: str | Sequence[str]) -> list[str]:
    return [one.strip() for one in given.split(",")] if isinstance(given, str) else list(given)


def _one_of(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    for value in values:
        if value not in allowed:
            raise UsageError(f"{name}: wanted one of {', '.join(allowed)}, got {value!r}")
