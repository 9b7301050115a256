"""Pictures of a summary: scores of the methods beside chance, prior and ceiling, and differences of every two."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError
from medsal.evaluation.outcomes import by_patient
from medsal.scoring.aligned import Aligned, Scored, aligned
from medsal.scoring.describe import patient_mean

if TYPE_CHECKING:
    import pandas as pd

    from medsal.scoring.summary import Summary

WIDTH, ROW, MARGIN = 9.0, 0.34, 1.3
"""Inches: of a figure, for each line, and for title, axis and legend of each panel."""
CHANCE, PRIOR, CEILING, BOX, DOT = "#c0392b", "#8e44ad", "#1e8449", "#d6e4f0", "#2c5f8a"
LEGEND = 3
"""Entries of a legend beside each other."""


def draw_scores(scores: pd.DataFrame, summary: Summary, metric: str) -> bytes:
    """Draw the methods' scores: a box over the patients' means, a dot for each patient.

    Beside every box lie the mean chance level and the mean ceiling of its own images; a line through all marks the best
    baseline, by name. A method without a score says so in its place.

    Args:
        scores: as ``read_scores`` gives them.
        summary: of these scores.
        metric: which of them; one panel for each of its parts.

    Returns:
        The bytes of a PNG file.
    """
    tables = [table for table in aligned(scores[scores["metric"] == metric]) if table.of("method")]
    figure, panels = _panels(metric, [len(table.of("method")) for table in tables])
    for ax, table in zip(panels, tables, strict=True):
        rows = summary.methods[(summary.methods["metric"] == metric) & (summary.methods["part"] == table.part)]
        _box_panel(ax, table, {row["method"]: row for row in rows[rows["kind"] == "method"].to_dict("records")})
    return _png(figure)


def draw_differences(summary: Summary, metric: str, *, alpha: float = 0.05) -> bytes:
    """Draw the paired differences of every two methods: mean over patients and its t interval, corrected p beside it.

    Args:
        summary: as ``summarise`` gives it.
        metric: which one; one panel for each of its parts.
        alpha: level of the family of comparisons.

    Returns:
        The bytes of a PNG file. A filled mark is a difference whose corrected p is below alpha.
    """
    pairs = summary.comparisons[summary.comparisons["metric"] == metric]
    groups = [rows for _, rows in pairs.groupby("part", sort=False)]
    figure, panels = _panels(f"differences of {metric}", [len(rows) for rows in groups])
    for ax, rows in zip(panels, groups, strict=True):
        _forest_panel(ax, rows, alpha)
    return _png(figure)


def _panels(metric: str, lines: Sequence[int]) -> tuple[Any, list[Any]]:
    """A figure with one panel above the other, each as high as its lines need."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not lines:
        raise UsageError(f"figure: the table has nothing to draw of {metric}")
    heights = [ROW * count + MARGIN for count in lines]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(len(lines), 1, squeeze=False, height_ratios=heights).flat)


def _box_panel(ax: Any, table: Aligned, rows: Mapping[str, Mapping[Any, Any]]) -> None:
    methods = table.of("method")
    own = _prior_line(ax, table, rows)
    for at, one in enumerate(methods):
        means = by_patient(one.value, table.patients).values
        if not len(means):
            _say(ax, at, _why(one))
            continue
        ax.boxplot(
            means, positions=[at], orientation="horizontal", widths=0.5, showfliers=False, patch_artist=True,
            boxprops={"facecolor": BOX}, medianprops={"color": "black"}, manage_ticks=False,
        )  # fmt: skip
        spread = np.linspace(-0.17, 0.17, len(means)) if len(means) > 1 else np.zeros(1)
        ax.scatter(means, at + spread, s=9, color=DOT, alpha=0.6, linewidths=0, zorder=3)
        row = rows[one.method]
        for value, colour in ((row["null"], CHANCE), (row["ceiling"], CEILING), (own.get(one.method, np.nan), PRIOR)):
            ax.plot([value] * 2, [at - 0.4, at + 0.4], color=colour, linewidth=2.2, zorder=4)
    if not all(np.isnan(rows[one.method]["null"]) for one in methods):
        ax.plot([], [], color=CHANCE, linewidth=2.2, label="chance (mean of the nulls)")
    ceilings = ", ".join(dict.fromkeys(filter(None, (rows[one.method]["ceiling_of"] for one in methods))))
    if ceilings:
        ax.plot([], [], color=CEILING, linewidth=2.2, label=f"ceiling: {ceilings}")
    most = max(rows[one.method]["patients"] for one in methods)
    _finish(
        ax, f"{_title(table.metric, table.part)}: a dot for each patient (n {most})", [one.method for one in methods]
    )
    ax.set_xlabel(f"{table.metric} ({table.better} is better)")


def _prior_line(ax: Any, table: Aligned, rows: Mapping[str, Mapping[Any, Any]]) -> dict[str, float]:
    """Draw the best baseline that is common to all methods.

    Returns:
        Methods whose best baseline is one of their own, such as their map of another patient, and what it scores.
    """
    known = {one.method: patient_mean(one.value, table.patients) for one in table.common_baselines()}
    means = {name: mean for name, mean in known.items() if not np.isnan(mean)}
    if means:
        best = max(means, key=lambda name: table.sign * means[name])
        ax.axvline(means[best], color=PRIOR, linestyle="--", linewidth=1.3, label=f"best baseline: {best}")
    own = {name: float(row["prior_mean"]) for name, row in rows.items() if row["prior"] and row["prior"] not in known}
    if own:
        ax.plot([], [], color=PRIOR, linewidth=2.2, label="a better one of the method's own")
    return own


def _say(ax: Any, at: int, text: str) -> None:
    """Write in the place of a method or pair without an answer."""
    ax.text(
        0.01, at, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8, color="0.3", zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _title(metric: str, part: str) -> str:
    return f"{metric} of {part}" if part else metric


def _why(one: Scored) -> str:
    """The commonest reason for no score."""
    reasons = [reason for reason in one.reasons if reason]
    most = max(dict.fromkeys(reasons), key=reasons.count)
    return f"no score: {most} ({reasons.count(most)} of {len(one.reasons)} images)"


def _forest_panel(ax: Any, rows: pd.DataFrame, alpha: float) -> None:
    first = rows.iloc[0]
    place = ax.get_yaxis_transform()
    for at, row in enumerate(rows.to_dict("records")):
        if np.isnan(row["difference"]):
            _say(ax, at, f"no answer: {row['reason']}")
            continue
        known = not np.isnan(row["low"])
        if known:
            ax.plot([row["low"], row["high"]], [at, at], color=DOT, linewidth=1.6)
        filled = known and row["p_corrected"] < alpha
        ax.plot(row["difference"], at, "o", color=DOT, markerfacecolor=DOT if filled else "white", markersize=6)
        note = f"p {_p(row['p_corrected'])}, n {row['patients']}" if known else row["reason"]
        ax.text(1.01, at, note, transform=place, va="center", fontsize=8)
    ax.axvline(0, color="0.5", linewidth=1)
    title = f"{_title(first['metric'], first['part'])}: mean difference over patients, p by {first['correction']}"
    _finish(ax, title, [f"{row['first']} - {row['second']}" for row in rows.to_dict("records")])
    ax.set_xlabel(f"difference of {first['metric']} ({first['better']} is better)")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _finish(ax: Any, title: str, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    labels = ax.get_legend_handles_labels()[1]
    ax.set_title(title, fontsize=10, pad=6 + 14 * math.ceil(len(labels) / LEGEND))  # above the legend
    if labels:
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "borderaxespad": 0.2}
        ax.legend(fontsize=8, ncols=LEGEND, frameon=False, **place)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
