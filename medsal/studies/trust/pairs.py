"""Pairs of trained networks: does training anew, or another architecture, give the same map?

Raw similarity of two networks' maps says little, since maps of one anatomy are alike anyway. The null of a pair is the
second network's map of another patient: what is left when only the patient is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medsal.studies.trust.comparison import LEGACY, MEASURES, PRIMARY, Prepared, compare_maps
from medsal.studies.trust.subject import Member

REPEATABILITY, REPRODUCIBILITY = "repeatability", "reproducibility"
RAW = {name: measure for name, measure in MEASURES.items() if name != PRIMARY}
"""Measures that pairs are given; the null of another patient takes the place of that of shifts."""
NAN = float("nan")


def pairs(members: Sequence[Member]) -> Iterator[tuple[str, Member, Member]]:
    """All pairs of trained networks.

    Args:
        members: all networks.

    Yields:
        ``"repeatability"`` for two of one architecture, else ``"reproducibility"``; the two.
    """
    for first, second in itertools.combinations(members, 2):
        yield (REPEATABILITY if first.architecture == second.architecture else REPRODUCIBILITY), first, second


def partners(
    patients: Sequence[str], shapes: Sequence[tuple[int, ...]], at: int, count: int, seed: int = 0
) -> list[int]:
    """Draw cases of other patients, whose images are of the same shape.

    Args:
        patients: whose each case is.
        shapes: of each image.
        at: the case that partners are wanted for.
        count: how many at most.
        seed: of the draw.

    Returns:
        Their places; none where there is no such case.
    """
    others = [
        i for i, (owner, shape) in enumerate(zip(patients, shapes, strict=True))
        if owner != patients[at] and shape == shapes[at]
    ]  # fmt: skip
    order = np.random.default_rng([seed, at]).permutation(len(others))
    return [others[i] for i in order[:count]]


def compare_pair(
    first: Sequence[Tensor], second: Sequence[Tensor], others: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Compare two networks' maps case by case.

    Args:
        first: each ``(1, 1, *space)``, one per case.
        second: of the same cases.
        others: for each case, whose maps of the second network give the null.

    Returns:
        A row per case: each measure, ``<measure>_null`` (mean over the others), ``<measure>_corrected``
        (value - null) / (1 - null): 0 where only anatomy is alike, 1 for equal maps; NaN where there is no answer.
    """
    one, two = [Prepared(relevance) for relevance in first], [Prepared(relevance) for relevance in second]
    rows = []
    for at, strangers in enumerate(others):
        values = compare_maps(one[at], two[at], RAW)
        nulls = [compare_maps(one[at], two[other], RAW) for other in strangers]
        row: dict[str, Any] = {}
        for name, (value,) in values.items():
            null = float(np.mean([found[name][0] for found in nulls])) if nulls else NAN
            row |= {name: value, f"{name}_null": null}
            row[f"{name}_corrected"] = (value - null) / (1 - null) if null < 1 else NAN
        rows.append(row)
    return rows


def random_pairs(
    relevance: Sequence[Tensor], patients: Sequence[str], shapes: Sequence[tuple[int, ...]], count: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare one network's maps of different patients: what any two maps of this method have in common.

    The published rule of Arun 2021 holds the similarity after randomisation against the mean of 50 such pairs.

    Args:
        relevance: maps ``(1, 1, *space)`` of the trained network.
        patients: whose each is.
        shapes: of each image.
        count: how many pairs.
        seed: of the draw.

    Returns:
        A row per pair: ``first`` and ``second``, places of the cases, and each measure.
    """
    able = [(a, b) for a in range(len(relevance)) for b in partners(patients, shapes, a, len(relevance), seed)]
    if not able:
        return []
    chosen = np.random.default_rng(seed).choice(len(able), min(count, len(able)), replace=False)
    prepared = [Prepared(values) for values in relevance]
    rows = []
    for number in chosen:
        a, b = able[int(number)]
        values = {name: value for name, (value,) in compare_maps(prepared[a], prepared[b]).items()}
        rows.append({"first": a, "second": b, **values})
    return rows


__all__ = ["LEGACY", "REPEATABILITY", "REPRODUCIBILITY", "compare_pair", "pairs", "partners", "random_pairs"]
