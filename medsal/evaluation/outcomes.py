"""What a statistical test hands back, and how scores of images become scores of patients."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = float("nan")


@dataclass(frozen=True)
class Outcome:
    """The answer of one test or interval.

    Attributes:
        test: its name.
        n: patients that it rests on.
        estimate: of what the test is about.
        low: lower end of the interval; NaN where the test gives none.
        high: upper end.
        p: two-sided unless the name says otherwise; NaN where there is none.
        statistic: of the test.
        left_out: images or pairs without a score.
        reason: why there is no answer; empty where there is one.
    """

    test: str
    n: int
    estimate: float
    low: float = NAN
    high: float = NAN
    p: float = NAN
    statistic: float = NAN
    left_out: int = 0
    reason: str = ""


@dataclass(frozen=True)
class PatientScores:
    """One value for each patient: the mean over the patient's images.

    Attributes:
        patients: in order of appearance.
        values: one for each, or one row for each.
        images: how many images each mean rests on.
        left_out: images that had no score.
    """

    patients: tuple[Hashable, ...]
    values: NDArray[np.float64]
    images: NDArray[np.int64]
    left_out: int


def by_patient(scores: Sequence[Any] | NDArray[Any], patients: Sequence[Hashable] | None = None) -> PatientScores:
    """Mean score of each patient. The patient is the unit: thirty slices of one patient are not thirty samples.

    Args:
        scores: one for each image, or one row for each image; NaN where there is none.
        patients: whose each image is; each image its own patient's if not given.

    Returns:
        The means. An image with NaN anywhere in its row is left out and counted.

    Raises:
        UsageError: if the numbers of scores and patients differ.
    """
    values = np.asarray(scores, dtype=np.float64)
    owners = range(len(values)) if patients is None else patients
    if len(owners) != len(values):
        raise UsageError(f"wanted one patient for each of {len(values)} scores, got {len(owners)}")
    known = np.array([not np.isnan(row).any() for row in values], dtype=bool)
    index: dict[Hashable, int] = {}
    rows = np.array([index.setdefault(o, len(index)) for o, k in zip(owners, known, strict=True) if k], dtype=np.int64)
    images = np.bincount(rows, minlength=len(index))
    sums = np.zeros((len(index), *values.shape[1:]))
    np.add.at(sums, rows, values[known])
    means = sums / images.reshape(-1, *[1] * (values.ndim - 1))
    return PatientScores(tuple(index), means, images, int((~known).sum()))


def pairs_by_patient(
    first: Sequence[float] | NDArray[Any],
    second: Sequence[float] | NDArray[Any],
    patients: Sequence[Hashable] | None = None,
) -> PatientScores:
    """Mean scores of each patient under two methods, over the images that both have scored.

    Args:
        first: one score for each image.
        second: of the same images, in the same order.
        patients: whose each image is.

    Returns:
        Values ``(patients, 2)``.

    Raises:
        UsageError: if the numbers differ.
    """
    if len(first) != len(second):
        raise UsageError(f"wanted scores of the same images, got {len(first)} and {len(second)}")
    return by_patient(np.column_stack([np.asarray(s, dtype=np.float64) for s in (first, second)]), patients)


def answered(
    test: str, unit: PatientScores, least: int, estimate: float, compute: Callable[[], dict[str, Any]]
) -> Outcome:
    """Run a test where it can be answered.

    Args:
        test: its name.
        unit: the patients; their values, or differences of two columns, must not all be one.
        least: patients that it needs.
        estimate: of what the test is about.
        compute: gives what else the outcome holds.

    Returns:
        The outcome, with a reason in place of an answer for too few patients or constant values.
    """
    values = unit.values if unit.values.ndim == 1 else unit.values[:, 0] - unit.values[:, -1]
    n = len(unit.patients)
    reason = ""
    if n < least:
        reason = f"wanted {least} patients or more, got {n}"
    elif np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        reason = "all patients have the same value"
    if reason:
        return Outcome(test, n, estimate, left_out=unit.left_out, reason=reason)
    return replace(Outcome(test, n, estimate, left_out=unit.left_out), **compute())
