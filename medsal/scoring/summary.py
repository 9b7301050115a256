"""What a table of scores amounts to: every map's mean and interval, comparisons of methods, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.files import write_file
from medsal.scoring.aligned import aligned
from medsal.scoring.contrasts import COMPARISONS_COLUMNS, VERDICTS_COLUMNS, comparisons, verdicts
from medsal.scoring.describe import METHODS_COLUMNS, describe
from medsal.scoring.table import csv_bytes

if TYPE_CHECKING:
    import pandas as pd

    from medsal.scoring.aligned import Aligned
    from medsal.scoring.settings import Settings

__all__ = ["FILES", "Summary", "count_left_out", "summarise", "write_summary"]

FILES = {"summary.csv": "methods", "comparisons.csv": "comparisons", "verdicts.csv": "verdicts"}
"""File -> which table of the summary it holds."""
LEFT_OUT_COLUMNS = ("kind", "method", "metric", "part", "reason", "images")
TEXT = frozenset({
    "kind", "method", "metric", "part", "side", "better", "reason", "chance_reason", "ceiling_of",
    "gap_reason", "prior", "hit_reason", "first", "second", "correction", "bootstrap_reason", "wilcoxon_reason",
    "sign_flip_reason", "verdict", "against", "test",
})  # fmt: skip
COUNTS = frozenset({"patients", "images", "left_out", "null_images", "ceiling_images", "images_tested", "family"})


@dataclass(frozen=True)
class Summary:
    """What a table of scores amounts to. The patient is the unit; a number without an answer is NaN with a reason.

    Attributes:
        methods: one row for each map (kind and method), metric and part. ``patients`` and ``images`` with a score,
            images ``left_out``; ``mean`` over patients of their means with its BCa interval ``low`` to ``high`` and the
            percentile interval; ``median`` of the patients; ``null``, mean of the chance levels, and the test of the
            score against it over patients; mean ``ceiling`` and ``gap_closed``, (score - null) / (ceiling - null) of
            the patients' means; shares of the ``images_tested`` with p below alpha, as they are and after Holm's
            correction over these images; ``prior``, the best baseline, and its mean. For the pointing game the
            interval of the rate of hits, and ``hit_p``, the chance of so many hits.
        comparisons: one row for every two methods of each metric and part: all of
            ``medsal.evaluation.statistics.Comparison``, corrected among the pairs of that metric and part.
        verdicts: for each method and each adversary what it was held against on the primary metric, and its verdict;
            differences are positive where the map is better.
        left_out: images without a score, counted by map, metric, part and reason.
    """

    methods: pd.DataFrame
    comparisons: pd.DataFrame
    verdicts: pd.DataFrame
    left_out: pd.DataFrame


def summarise(scores: pd.DataFrame, settings: Settings) -> Summary:
    """Summarise a table of scores: the same table and settings give the same numbers.

    Args:
        scores: as ``read_scores`` gives it.
        settings: level, alpha, resamples, seed, correction, and the primary metric.

    Returns:
        The summary.
    """
    tables = list(aligned(scores))
    primary = [table for table in tables if table.metric == settings.primary]
    compared = tables if settings.compared else []
    return Summary(
        _frame(METHODS_COLUMNS, (describe(one, table, settings) for table in tables for one in table.maps)),
        _frame(COMPARISONS_COLUMNS, (row for table in compared for row in comparisons(table, settings))),
        _frame(VERDICTS_COLUMNS, (row for table in primary for row in verdicts(table, settings))),
        _left_out(tables),
    )


def count_left_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Count the images that have no score.

    Args:
        scores: as ``read_scores`` gives it.

    Returns:
        As ``Summary.left_out``.
    """
    return _left_out(list(aligned(scores)))


def write_summary(folder: str | Path, summary: Summary) -> list[Path]:
    """Write ``summary.csv``, ``comparisons.csv`` and ``verdicts.csv``.

    Args:
        folder: made where it is missing.
        summary: as ``summarise`` gives it.

    Returns:
        The files.
    """
    return [write_file(Path(folder) / name, csv_bytes(getattr(summary, of))) for name, of in FILES.items()]


def _left_out(tables: Sequence[Aligned]) -> pd.DataFrame:
    counts: dict[tuple[str, ...], int] = {}
    for table in tables:
        for one in table.maps:
            for reason in filter(None, one.reasons):
                key = one.kind, one.method, table.metric, table.part, reason
                counts[key] = counts.get(key, 0) + 1
    rows = (dict(zip(LEFT_OUT_COLUMNS, (*key, count), strict=True)) for key, count in counts.items())
    return _frame(LEFT_OUT_COLUMNS, rows)


def _frame(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    found = pd.DataFrame(list(rows), columns=list(columns))
    types = {name: "str" if name in TEXT else "int64" if name in COUNTS else "float64" for name in columns}
    return found.astype(types)
