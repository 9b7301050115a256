"""Splits and folds by patient, by scikit-learn: all films of a person are on one side, classes in like shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsal.errors import UsageError

__all__ = ["patient_folds", "patient_split"]

_MOST_FOLDS = 20


def patient_folds(
    cases: Sequence[Mapping[str, Any]], folds: int = 5, *, stratified: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """Deal cases out into folds, all films of a person into one.

    Args:
        cases: with subject and label.
        folds: how many.
        stratified: keep the shares of the classes alike (``StratifiedGroupKFold``); else only the sizes
            (``GroupKFold``).
        seed: of the order in which persons are dealt out.

    Returns:
        new dictionaries with ``fold`` from 1 to folds.

    Raises:
        UsageError: there are fewer persons than folds, or fewer films of a class.
    """
    dealt = _dealt(cases, folds, stratified=stratified, seed=seed)
    return [{**case, "fold": int(fold) + 1} for case, fold in zip(cases, dealt, strict=True)]


def patient_split(
    cases: Sequence[Mapping[str, Any]],
    shares: Mapping[str, float] | None = None,
    *,
    stratified: bool = True,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Split cases at random into parts, all films of a person into one.

    Args:
        cases: with subject and label.
        shares: part and its share of the cases; train 0.7, val 0.1 and test 0.2 if None.
        stratified: keep the shares of the classes alike.
        seed: of the order in which persons are dealt out.

    Returns:
        new dictionaries with ``split``.

    Raises:
        UsageError: the shares do not sum to 1, or there are too few persons or films of a class for them.
    """
    wanted = {"train": 0.7, "val": 0.1, "test": 0.2} if shares is None else dict(shares)
    values = np.array(list(wanted.values()), float)
    if len(values) < 2 or not (values > 0).all() or abs(values.sum() - 1) > 1e-6:
        raise UsageError(f"shares: wanted two or more numbers above 0 that sum to 1, got {wanted}")
    # as many folds as make each share a whole number of them, or nearly so
    folds = min(range(2, _MOST_FOLDS + 1), key=lambda n: (np.abs(values - _whole(values, n) / n).max().round(9), n))
    ends = _whole(values, folds).cumsum()
    dealt = _dealt(cases, folds, stratified=stratified, seed=seed)
    parts = [list(wanted)[int(np.searchsorted(ends, fold, side="right"))] for fold in dealt]
    return [{**case, "split": part} for case, part in zip(cases, parts, strict=True)]


def _whole(shares: NDArray[np.float64], folds: int) -> NDArray[np.int64]:
    """Whole numbers near shares of folds, at least 1 each, that sum to folds; the first takes what is left."""
    counts = np.maximum(np.rint(shares * folds), 1).astype(np.int64)
    counts[0] = folds - counts[1:].sum()
    return counts


def _dealt(cases: Sequence[Mapping[str, Any]], folds: int, *, stratified: bool, seed: int) -> NDArray[np.int64]:
    """The fold of each case, from 0."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    groups = [str(case["subject"]) for case in cases]
    labels = [case["label"] for case in cases]
    people = len(set(groups))
    if not 2 <= folds <= people:
        raise UsageError(f"folds: wanted from 2 to as many as there are persons ({people}), got {folds}")
    label, least = min(Counter(labels).items(), key=lambda item: item[1])
    if stratified and least < folds:
        raise UsageError(f"{least} films of class {label} for {folds} folds; wanted as many, or stratified=False")
    kind = StratifiedGroupKFold if stratified else GroupKFold
    dealt = np.full(len(cases), -1)
    for fold, (_, held_out) in enumerate(kind(folds, shuffle=True, random_state=seed).split(groups, labels, groups)):
        dealt[held_out] = fold
    empty = folds - len(set(dealt.tolist()))
    if empty:
        raise UsageError(f"{empty} of {folds} folds would be empty; wanted fewer folds, or stratified=False")
    return dealt
