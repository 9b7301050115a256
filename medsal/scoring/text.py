"""The summary as text for a log, no wider than 120 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from medsal.scoring.summary import Summary

WIDTH = 120
NAME = 34
MOST_PAIRS = 20
RIGHT, LEGACY = "average_precision", "auprc_trapezoid"


def render(summary: Summary) -> str:
    """Write a summary as text.

    Args:
        summary: as ``summarise`` gives it.

    Returns:
        A table for each metric and part, comparisons and verdicts on the primary metric, what was left out, and a
        warning where a published metric rewards a blank map; lines of 120 characters or less.
    """
    lines: list[str] = []
    methods = summary.methods
    for (metric, part), rows in methods.groupby(["metric", "part"], sort=False):
        if metric == LEGACY and (methods["metric"] == RIGHT).any():
            continue  # stands beside average precision, never by itself
        beside = methods[methods["metric"] == LEGACY] if metric == RIGHT else methods.iloc[:0]
        lines += [*_table(str(metric), str(part), rows, beside), ""]
    lines += _trapezoid(methods)
    lines += _comparisons(summary)
    lines += _verdicts(summary.verdicts)
    lines += _left_out(summary.left_out)
    return "\n".join(line[:WIDTH].rstrip() for line in lines).rstrip() + "\n"


def _table(metric: str, part: str, rows: pd.DataFrame, beside: pd.DataFrame) -> Iterator[str]:
    """One metric: a line for each map, methods first as they come."""
    better = rows["better"].iloc[0]
    yield f"{metric}{f' of {part}' if part else ''} ({better} is better; mean over patients, BCa interval)"
    legacy = dict(zip(zip(beside["kind"], beside["method"], strict=True), beside["mean"], strict=True))
    extra = f" {'trapezoid*':>10}" if len(beside) else ""
    yield (
        f"  {'map':<{NAME}} {'patients':>8} {'images':>6} {'out':>5} {'mean':>7} {'interval':>16} {'chance':>7} "
        f"{'p':>7} {'ceiling':>7}{extra}"
    )
    for row in rows.to_dict("records"):
        name = row["method"] if row["kind"] == "method" else f"{row['kind']}: {row['method']}"
        extra = f" {_number(legacy.get((row['kind'], row['method']), np.nan)):>10}" if len(beside) else ""
        yield (
            f"  {_short(str(name)):<{NAME}} {row['patients']:>8} {row['images']:>6} {row['left_out']:>5} "
            f"{_number(row['mean']):>7} {_interval(row['low'], row['high']):>16} {_number(row['null']):>7} "
            f"{_above(row):>7} {_number(row['ceiling']):>7}{extra}"
        )


def _trapezoid(methods: pd.DataFrame) -> list[str]:
    """What a blank map gets by the legacy metric in this data: that of the constant baseline, else the chance level."""
    rows = methods[methods["metric"] == LEGACY]
    if not len(rows):
        return []
    constant = rows[(rows["kind"] == "baseline") & (rows["method"] == "constant")]["mean"].dropna()
    blank = float(constant.iloc[0] if len(constant) else rows["null"].mean())
    own = rows[(rows["kind"] == "method") & rows["mean"].notna()]
    below = int((own["mean"] < blank).sum())
    return [
        "* WARNING: auprc_trapezoid is for comparison with published numbers only: a blank map scores (1 + p) / 2,",
        f"  here {_number(blank)}: more than {below} of {len(own)} methods. Judge by average_precision.",
        "",
    ]  # fmt: skip


def _comparisons(summary: Summary) -> list[str]:
    """The methods pair by pair on the metric of the verdicts; without verdicts on the first that was compared."""
    pairs = summary.comparisons
    if not len(pairs):
        return []
    wanted = summary.verdicts["metric"] if len(summary.verdicts) else pairs["metric"]
    pairs = pairs[pairs["metric"] == wanted.iloc[0]]
    shown = pairs.sort_values("p_corrected", kind="stable").iloc[:MOST_PAIRS]
    metric, correction, family = (pairs[name].iloc[0] for name in ("metric", "correction", "family"))
    lines = [f"paired differences of {metric} (p corrected by {correction} among {_count(family, 'pair')})"]
    for row in shown.to_dict("records"):
        name = _named(f"{_short(row['first'], 26)} - {_short(row['second'], 26)}", row["part"])
        answer = (
            f"{row['difference']:>8.4f} {_interval(row['low'], row['high']):>18} p {_p(row['p_corrected'])}"
            if not row["reason"] else f"no answer: {row['reason']}"
        )  # fmt: skip
        lines.append(f"  {name:<60} {answer}")
    hidden = len(pairs) - len(shown)
    return [*lines, *([f"  and {hidden} more in comparisons.csv"] if hidden else []), ""]


def _verdicts(verdicts: pd.DataFrame) -> list[str]:
    if not len(verdicts):
        return ["no verdict: the table has no score of the primary metric", ""]
    lines = [f"verdicts by {verdicts['metric'].iloc[0]}"]
    for row in verdicts.drop_duplicates(["kind", "method", "part"]).to_dict("records"):
        name = row["method"] if row["kind"] == "method" else f"{row['kind']}: {row['method']}"
        lines.append(f"  {_short(_named(name, row['part']), 44):<44} {row['verdict']}")
    return [*lines, ""]


def _left_out(left_out: pd.DataFrame) -> list[str]:
    """What has no score, and why: counted over maps."""
    if not len(left_out):
        return []
    lines = ["left out (scores that could not be computed)"]
    for (metric, reason), rows in left_out.groupby(["metric", "reason"], sort=False):
        lines.append(f"  {rows['images'].sum():>6} of {metric}, {_count(len(rows), 'map')}: {reason}")
    return lines


def _named(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(name: str, most: int = NAME) -> str:
    return name if len(name) <= most else name[: most - 1] + "~"


def _number(value: Any) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}" if abs(value) < 100 else f"{value:.4g}"


def _interval(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{_number(low)} to {_number(high)}"


def _above(row: Mapping[Any, Any]) -> str:
    """Write p of a score above chance; a score below it has none."""
    return "below" if row["chance_difference"] < 0 else _p(row["chance_p"])


def _p(value: float) -> str:
    return "-" if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}"
