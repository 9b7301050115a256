"""Numbers of a run: one row per case and method, and the six panels drawn from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsal.export.case import Array, CaseResult, spatial
from medsal.files import write_file

COLUMNS = (
    "method", "shape", "mean", "std", "min", "max", "abs_mean", "positive_ratio", "negative_ratio",
    "subject_id", "true_label", "prediction", "sample_idx",
)  # fmt: skip
"""Columns of ``attribution_statistics.csv``, in order."""

Row = Mapping[str, Any]


def statistics_row(result: CaseResult, method: str, name: str) -> dict[str, Any]:
    """Describe one map on the network's grid.

    Args:
        result: the case.
        method: which of its maps.
        name: what the case is called in its files.

    Returns:
        One value per column of `COLUMNS`; the shape has the slices first. Numbers are NaN where the map is.
    """
    map_ = spatial(result.maps[method], f"map {method}")
    shape = np.moveaxis(map_, result.slice_axis, 0).shape if map_.ndim == 3 else map_.shape
    values = map_.astype(np.float64, copy=False)
    return {
        "method": method,
        "shape": str(tuple(int(n) for n in shape)),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "abs_mean": float(np.abs(values).mean()),
        "positive_ratio": float((values > 0).mean()),
        "negative_ratio": float((values < 0).mean()),
        "subject_id": name,
        "true_label": result.label,
        "prediction": float(result.prediction),
        "sample_idx": result.sample_idx,
    }


def export_summary(output_dir: Path, statistics_rows: Sequence[Row]) -> list[Path]:
    """Write ``attribution_statistics.csv`` and ``attribution_summary.png`` of a run.

    Args:
        output_dir: the run's folder.
        statistics_rows: rows of all cases, in any order; cases without ``sample_idx`` are numbered as they come.

    Returns:
        The files; the picture is left out where there is no row to draw.
    """
    rows = _numbered(statistics_rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = [write_file(Path(output_dir) / "attribution_statistics.csv", text.getvalue().encode())]
    picture = Path(output_dir) / "attribution_summary.png"
    if rows:
        files.append(write_file(picture, draw_statistics(rows)))
    else:
        picture.unlink(missing_ok=True)  # of an earlier run
    return files


def _numbered(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give every case a number and sort by it, methods of a case staying in order."""
    numbers: dict[str, int] = {}
    full = []
    for row in rows:
        first = numbers.setdefault(row["subject_id"], len(numbers))
        given = row.get("sample_idx")
        full.append({**row, "sample_idx": first if given in {None, ""} else given})
    return sorted(full, key=lambda row: int(row["sample_idx"]))


def draw_statistics(rows: Sequence[Row]) -> bytes:
    """Draw the six panels of a run: how large maps are, how they vary, and what goes with it.

    Args:
        rows: at least one, as `statistics_row` makes them.

    Returns:
        The bytes of a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    for ax, column in zip(axes.flat, ("abs_mean", "std", "positive_ratio"), strict=False):
        _boxes(ax, column, {m: _column([r for r in rows if r["method"] == m], column) for m in methods})
        ax.set_title(f"{column} by method")
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        axes[1, 0].scatter(_column(mine, "prediction"), _column(mine, "abs_mean"), label=method, alpha=0.7, s=18)
    axes[1, 0].set(xlabel="prediction", ylabel="abs_mean", title="prediction and abs_mean")
    axes[1, 0].legend(fontsize=8)
    labels: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["true_label"])):
        known = row["true_label"] not in {None, ""}
        labels.setdefault(f"label {row['true_label']}" if known else "label unknown", []).append(row)
    _boxes(axes[1, 1], "abs_mean", {name: _column(found, "abs_mean") for name, found in labels.items()})
    axes[1, 1].set_title("abs_mean by true label")
    _heat_map(axes[1, 2], methods, rows)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _column(rows: Sequence[Row], name: str) -> Array:
    """The finite numbers of one column, NaN kept so that columns stay in step."""
    return np.array([float(row[name]) if row[name] not in {None, ""} else math.nan for row in rows])


def _boxes(ax: Any, column: str, groups: Mapping[str, Array]) -> None:
    """One box per group, of its finite numbers."""
    ax.boxplot([values[np.isfinite(values)] for values in groups.values()], tick_labels=list(groups))
    ax.tick_params(axis="x", rotation=30)
    ax.set_ylabel(column)


def _heat_map(ax: Any, methods: Sequence[str], rows: Sequence[Row]) -> None:
    """Mean of each statistic by method; a column is coloured by its own largest value, numbers are written in."""
    columns = ("mean", "std", "abs_mean", "positive_ratio", "negative_ratio")
    means = np.full((len(methods), len(columns)), math.nan)
    for i, method in enumerate(methods):
        for j, column in enumerate(columns):
            values = _column([row for row in rows if row["method"] == method], column)
            values = values[np.isfinite(values)]
            means[i, j] = values.mean() if values.size else math.nan
    largest = np.max(np.abs(np.nan_to_num(means)), axis=0)
    ax.imshow(means / np.where(largest > 0, largest, 1), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=30)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_title("mean of each statistic")
    for i, j in np.ndindex(means.shape):
        strong = abs(means[i, j]) > 0.6 * largest[j]
        ax.text(j, i, f"{means[i, j]:.2g}", ha="center", va="center", fontsize=8, color="white" if strong else "black")
