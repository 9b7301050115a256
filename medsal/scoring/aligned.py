"""Scores of one metric, brought side by side: the same cases in the same order for every map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsal.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

OF_ONE_METHOD = ("another patient: ", "untrained: ")
"""Baselines that belong to the method which is named behind these words."""
ABSENT = "no row in the table"


@dataclass(frozen=True)
class Scored:
    """One map's rows for one metric and part.

    Attributes:
        kind: ``method``, ``baseline`` or ``adversary``.
        method: its name.
        side: what was read of signed relevance.
        value: a score for each case; NaN where there is none.
        null: what chance gives, NaN where there is no score.
        p: of the score against its null.
        ceiling: the best that a perfect map can score, NaN where there is no score.
        ceiling_of: what the ceilings are of, without those of other cases than the scored ones.
        reasons: for each case why there is no score; empty where there is one.
    """

    kind: str
    method: str
    side: str
    value: Floats
    null: Floats
    p: Floats
    ceiling: Floats
    ceiling_of: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Aligned:
    """All maps' scores of one metric and part.

    Attributes:
        metric: its name.
        part: region, layer or variant; empty where there is one number only.
        better: ``higher`` or ``lower``.
        patients: whose each case is.
        maps: in the order of the table.
    """

    metric: str
    part: str
    better: str
    patients: tuple[str, ...]
    maps: tuple[Scored, ...]

    @property
    def sign(self) -> int:
        """1 where higher scores are better, else -1."""
        return 1 if self.better == "higher" else -1

    def of(self, kind: str) -> list[Scored]:
        """The maps of one kind.

        Args:
            kind: ``method``, ``baseline`` or ``adversary``.

        Returns:
            In the order of the table.
        """
        return [one for one in self.maps if one.kind == kind]

    def common_baselines(self) -> list[Scored]:
        """The baselines that belong to no method.

        Returns:
            In the order of the table.
        """
        return [one for one in self.of("baseline") if not one.method.startswith(OF_ONE_METHOD)]

    def baselines_of(self, method: str) -> list[Scored]:
        """The baselines that a map is held against.

        Args:
            method: its name.

        Returns:
            Those of no method, and its own.
        """
        own = {f"{word}{method}" for word in OF_ONE_METHOD}
        return self.common_baselines() + [one for one in self.of("baseline") if one.method in own]


def aligned(scores: pd.DataFrame) -> Iterator[Aligned]:
    """Bring scores side by side, metric by metric and part by part.

    Args:
        scores: the table, as ``read_scores`` gives it.

    Yields:
        One for each metric and part, in the order of the table.

    Raises:
        UsageError: if a metric is unknown: which end of it is better?
    """
    from medsal.evaluation import METRICS

    for (metric, part), rows in scores.groupby(["metric", "part"], sort=False):
        name = str(metric)
        if name not in METRICS:
            raise UsageError(f"scores: unknown metric {metric!r}; there are {', '.join(METRICS)}")
        owners = rows.drop_duplicates("case").set_index("case")["patient"]
        maps = tuple(
            _scored(str(kind), str(method), own.set_index("case"), owners.index)
            for (kind, method), own in rows.groupby(["kind", "method"], sort=False)
        )
        yield Aligned(name, str(part), METRICS[name].better_of(str(part)), tuple(owners), maps)


def _scored(kind: str, method: str, rows: pd.DataFrame, cases: pd.Index) -> Scored:
    there = rows.reindex(cases)
    value, null, p, ceiling = (there[name].to_numpy(dtype=np.float64) for name in ("value", "null", "p", "ceiling"))
    gone = np.isnan(value)
    reasons = tuple(str(why) for why in there["reason"].where(cases.isin(rows.index), ABSENT))
    kinds = dict.fromkeys(rows["ceiling_of"][rows["ceiling"].notna() & rows["value"].notna()])
    return Scored(
        kind, method, str(rows["side"].iloc[0]), value, np.where(gone, np.nan, null), np.where(gone, np.nan, p),
        np.where(gone, np.nan, ceiling), "; ".join(filter(None, map(str, kinds))), reasons,
    )  # fmt: skip
