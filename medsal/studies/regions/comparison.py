"""Groups compared region by region, and regions set against readers, from the tables of a region study alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError
from medsal.evaluation.corrections import corrected
from medsal.evaluation.group_tests import PRESETS, reader_correlation, region_tests
from medsal.evaluation.outcomes import NAN, by_patient

if TYPE_CHECKING:
    import pandas as pd

    from medsal.evaluation.group_tests import RegionTest
    from medsal.studies.regions.settings import RegionSettings

TESTS = (
    "method", "reduce", "preset", "group", "reference", "region", "test", "unit", "n_group", "n_reference", "left_out",
    "mean_group", "mean_reference", "chance_group", "chance_reference", "difference", "low", "high", "p", "p_corrected",
    "p_all_methods", "significant", "alpha", "correction", "cohen_d", "cliffs_delta", "detectable_d", "reason",
)  # fmt: skip
"""Columns of ``tests.csv``; differences and effects are of the group less the reference."""
READERS = (
    "method",
    "reduce",
    "region",
    "reader",
    "patients",
    "left_out",
    "rho",
    "low",
    "high",
    "p",
    "p_corrected",
    "reason",
)
"""Columns of ``readers.csv``."""


def read_tables(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what a study has stored, to test it again or otherwise.

    Args:
        folder: with ``regions.csv`` and ``cases.csv``.

    Returns:
        Both, as ``compare_groups`` and ``compare_readers`` take them.

    Raises:
        UsageError: if they are not there.
    """
    import pandas as pd

    found = []
    for name, texts in (
        ("regions.csv", ("reason",)),
        ("cases.csv", ("case", "patient", "group", "doubts", "left_out")),
    ):
        path = Path(folder) / name
        if not path.is_file():
            raise UsageError(f"no {name} in {folder}; wanted the folder of a region study")
        table = pd.read_csv(  # a group may be called None, or NA
            path, dtype=dict.fromkeys(("case", *texts), str), keep_default_na=False, na_values=[""]
        )
        found.append(table.assign(**{text: table[text].fillna("") for text in texts}))
    return found[0], found[1]


def compare_groups(scores: pd.DataFrame, cases: pd.DataFrame, settings: RegionSettings) -> pd.DataFrame:
    """Test every group against the reference in every region.

    P-values are corrected over all regions and groups of one method, reduction and kind of test (Sümer et al. 2023: 5
    groups of 3 regions); ``p_all_methods`` over all methods too.

    Args:
        scores: as ``regions.csv`` has them.
        cases: as ``cases.csv`` has them; films with ``left_out`` are not tested.
        settings: tests and reference.

    Returns:
        The table ``tests.csv``, see ``TESTS``.

    Raises:
        UsageError: if there are not two groups, or the reference is none of them.
    """
    import pandas as pd

    used = cases[cases["left_out"] == ""]
    names = sorted(set(used["group"]))
    reference = settings.reference or (names[0] if names else "")
    if len(names) < 2 or reference not in names:
        raise UsageError(
            f"groups: wanted two or more, the reference {reference!r} among them, got {', '.join(names) or 'none'}"
        )
    rows = []
    for (method, reduce), table in _tables(scores):
        for preset in settings.tests:
            family = []
            for group in (name for name in names if name != reference):
                family += list(_pair(table, used, (group, reference), preset))
            alpha, correction = PRESETS[preset]
            for row, q in zip(family, corrected([row["p"] for row in family], correction), strict=True):
                row.update(
                    method=method, reduce=reduce, preset=preset, p_corrected=float(q), significant=bool(q < alpha),
                    alpha=alpha, correction=correction,
                    detectable_d=detectable_difference(
                        row["n_group"], row["n_reference"], chance=settings.power, alpha=alpha / len(family)
                    ),
                )  # fmt: skip
            rows += family
    found = pd.DataFrame(rows)
    found["p_all_methods"] = NAN
    for (_, kind), part in found.groupby(["reduce", "preset"], sort=False):
        found.loc[part.index, "p_all_methods"] = corrected(part["p"].to_numpy(), PRESETS[str(kind)][1])
    return found[list(TESTS)]


def _tables(scores: pd.DataFrame) -> Iterator[tuple[tuple[str, str], dict[str, pd.DataFrame]]]:
    """For each method and reduction the scores of each region, by case."""
    for (method, reduce), part in scores.groupby(["method", "reduce"], sort=False):
        yield (
            (str(method), str(reduce)),
            {
                str(region): rows.set_index("case")[["value", "chance"]]
                for region, rows in part.groupby("region", sort=False)
            },
        )


def _pair(
    table: dict[str, pd.DataFrame], used: pd.DataFrame, pair: tuple[str, str], preset: str
) -> Iterator[dict[str, Any]]:
    """The tests of one group against the reference, a row for each region, not corrected yet."""
    one, two = (used[used["group"] == name] for name in pair)
    order = [*one["case"], *two["case"]]
    patients = [*one["patient"], *two["patient"]]
    groups = [pair[0]] * len(one) + [pair[1]] * len(two)
    values = {region: rows["value"].reindex(order).to_numpy() for region, rows in table.items()}
    if set(one["patient"]) & set(two["patient"]) and preset == "patients":
        owner = min(set(one["patient"]) & set(two["patient"]))
        raise UsageError(
            f"patient {owner} is in the groups {pair[0]} and {pair[1]}; use --tests mixed, or one group each"
        )
    found = region_tests(values, groups, patients, preset=preset)
    for test in found:
        flat = table[test.region]["chance"].reindex(order).to_numpy()
        units = range(len(order)) if preset == "suemer2023" else patients
        sides = [slice(0, len(one)), slice(len(one), None)]
        yield {
            **_facts(test),
            "group": pair[0],
            "reference": pair[1],
            "unit": "image" if preset == "suemer2023" else "patient",
            **_sides(values[test.region], flat, [list(units)[side] for side in sides], sides),
        }


def _facts(test: RegionTest) -> dict[str, Any]:
    outcome = test.outcome
    return {
        "region": test.region, "test": outcome.test, "left_out": outcome.left_out, "difference": outcome.estimate,
        "low": outcome.low, "high": outcome.high, "p": outcome.p, "cohen_d": test.effect,
        "cliffs_delta": test.cliffs_delta, "reason": outcome.reason,
    }  # fmt: skip


def _sides(values: Any, flat: Any, owners: list[list[Any]], sides: list[slice]) -> dict[str, Any]:
    """How many there are of each group, and the means of what they score and of what chance gives."""
    found: dict[str, Any] = {}
    for name, side, of in zip(("group", "reference"), sides, owners, strict=True):
        for what, numbers in (("mean", values), ("chance", flat)):
            unit = by_patient(numbers[side], of)
            found[f"{what}_{name}"] = float(unit.values.mean()) if len(unit.values) else NAN
            if what == "mean":
                found[f"n_{name}"] = len(unit.values)
    return found


def detectable_difference(first: int, second: int, *, chance: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest Cohen's d that a two-sided t-test of two groups sees with a given chance: statsmodels' power.

    Args:
        first: patients of one group.
        second: of the other.
        chance: power that is wanted.
        alpha: level of the test; of a family, divide it by the number of tests.

    Returns:
        d; NaN for a group of fewer than two.

    Example:
        >>> round(detectable_difference(20, 20), 2), round(detectable_difference(20, 20, alpha=0.05 / 6), 2)
        (0.91, 1.15)
    """
    from scipy import optimize
    from statsmodels.stats.power import TTestIndPower

    if min(first, second) < 2:
        return NAN
    power = TTestIndPower().power

    def short(d: float) -> float:
        """How far the power is from what is wanted; past the largest noncentralities SciPy knows, it is 1."""
        found = float(power(d, first, alpha, ratio=second / first))
        return (1.0 if np.isnan(found) else found) - chance

    return float(optimize.brentq(short, 1e-6, 100.0)) if chance > alpha else 0.0


def compare_readers(scores: pd.DataFrame, cases: pd.DataFrame, settings: RegionSettings) -> pd.DataFrame:
    """Spearman's correlation of every region with every reader, over patients.

    P-values are corrected by Holm over all regions and readers of one method and reduction.

    Args:
        scores: as ``regions.csv`` has them.
        cases: as ``cases.csv`` has them: readers are its columns that begin with ``reader ``.
        settings: the seed.

    Returns:
        The table ``readers.csv``, see ``READERS``; empty without readers.
    """
    import pandas as pd

    used = cases[cases["left_out"] == ""]
    readers = [str(name) for name in cases.columns if str(name).startswith("reader ")]
    rows: list[dict[str, Any]] = []
    for (method, reduce), table in _tables(scores):
        family: list[dict[str, Any]] = []
        for region, values in table.items():
            for reader in readers:
                found = reader_correlation(
                    values["value"].reindex(used["case"]).to_numpy(), used[reader].to_numpy(), used["patient"].tolist(),
                    seed=settings.seed,
                )  # fmt: skip
                family.append({
                    "method": method, "reduce": reduce, "region": region, "reader": reader.removeprefix("reader "),
                    "patients": found.n, "left_out": found.left_out, "rho": found.estimate, "low": found.low,
                    "high": found.high, "p": found.p, "reason": found.reason,
                })  # fmt: skip
        p: list[float] = [row["p"] for row in family]
        for row, q in zip(family, corrected(p, "holm"), strict=True):
            row["p_corrected"] = float(q)
        rows += family
    return pd.DataFrame(rows, columns=list(READERS))
