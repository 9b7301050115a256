"""Figures of a study: similarity after each block with the random baseline, and matrices of pairs of networks."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.studies.trust.comparison import PRIMARY
from medsal.studies.trust.records import slug

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {"top_down": "#0072b2", "bottom_up": "#d55e00", "independent": "#009e73"}
WORDS = {"top_down": "from the top down", "bottom_up": "from the bottom up", "independent": "one block alone"}
PANEL = 3.1
"""Inches of a panel."""


def draw_curves(curves: pd.DataFrame, states: pd.DataFrame, random_pairs: pd.DataFrame) -> dict[str, bytes]:
    """Draw similarity with the trained map after each step, one panel per method, one figure per architecture.

    Args:
        curves: see ``medsal.studies.trust.tables.curves``.
        states: a row per network and state, for the AUROC.
        random_pairs: pairs of trained maps of different patients: the baseline.

    Returns:
        Architecture -> PNG.
    """
    found = {}
    for architecture, part in curves.groupby("architecture", sort=False):
        own = states[states["architecture"] == architecture]
        pairs = random_pairs[random_pairs["architecture"] == architecture] if len(random_pairs) else random_pairs
        found[slug(str(architecture))] = _figure(str(architecture), part, own, pairs)
    return found


def _figure(architecture: str, curves: pd.DataFrame, states: pd.DataFrame, random_pairs: pd.DataFrame) -> bytes:
    methods = list(dict.fromkeys(curves["method"]))
    blocks = _execution_order(curves)
    figure, axes = _panels(len(methods), 1.35, 1.6 + 0.02 * max(len(b) for b in blocks))
    places = {block: at for at, block in enumerate(blocks)}
    for ax, method in zip(axes, methods, strict=False):
        for order, part in curves[curves["method"] == method].groupby("order", sort=False):
            at = part["block"].map(places)
            ax.fill_between(at, part["low"], part["high"], color=COLOURS[str(order)], alpha=0.15, lw=0)
            ax.plot(at, part[PRIMARY], color=COLOURS[str(order)], marker="o", ms=3, label=WORDS[str(order)])
        if len(random_pairs):
            baseline = random_pairs.loc[random_pairs["method"] == method, PRIMARY].mean()
            ax.axhline(baseline, color="0.35", ls="--", lw=1, label="maps of two patients")
        top = states[states["order"] == states["order"].iloc[0]].groupby("block", sort=False)["auroc"].mean()
        if top.notna().any():
            words = f"AUROC of the network, {WORDS[str(states['order'].iloc[0])]}"
            ax.plot(top.index.map(places), top, color="0.6", ls=":", lw=1.2, label=words)
        lowest = min(-0.15, ax.dataLim.y0 - 0.05) if np.isfinite(ax.dataLim.y0) else -0.15
        ax.set(title=method, ylim=(max(lowest, -1.05), 1.08), xticks=range(len(blocks)))
        if curves.loc[curves["method"] == method, PRIMARY].isna().all():
            ax.text(0.5, 0.5, "no answer: maps of one value", ha="center", transform=ax.transAxes, fontsize=8)
        ax.set_xticklabels(blocks, rotation=90, fontsize=6)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("SSIM with the trained map,\nnull taken off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(
        f"{architecture}: similarity after each block that is drawn anew (blocks from the image to the logits)"
    )
    return _png(figure)


def _execution_order(curves: pd.DataFrame) -> list[str]:
    order = curves["order"].iloc[0]
    names = curves[curves["order"] == order].sort_values("step")["block"]
    found = list(dict.fromkeys(names))
    return found if order == "bottom_up" else found[::-1]


def draw_pairs(summary: pd.DataFrame) -> bytes:
    """Draw how alike the maps of every two trained networks are, one matrix per method.

    Args:
        summary: see ``medsal.studies.trust.verdicts.pair_summary``; the rows over all cases are drawn.

    Returns:
        A PNG.
    """
    part = summary[summary["subset"] == "all"]
    methods = list(dict.fromkeys(part["method"]))
    names = list(dict.fromkeys([*part["first"], *part["second"]]))
    figure, axes = _panels(len(methods), 1.0, 1.0)
    image = None
    for ax, method in zip(axes, methods, strict=False):
        matrix = np.full((len(names), len(names)), math.nan)
        for row in part[part["method"] == method].to_dict("records"):
            i, j = names.index(row["first"]), names.index(row["second"])
            matrix[i, j] = matrix[j, i] = row["ssim_corrected"]
        image = ax.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        for i, j in np.ndindex(matrix.shape):
            if np.isfinite(matrix[i, j]):
                colour = "black" if matrix[i, j] > 0.6 else "white"
                ax.text(
                    j,
                    i,
                    f"{matrix[i, j] + 0.0:.2f}".replace("-0.00", "0.00"),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color=colour,
                )
        ax.set(title=method, xticks=range(len(names)), yticks=range(len(names)))
        ax.set_xticklabels(names, rotation=90, fontsize=6)
        ax.set_yticklabels(names, fontsize=6)
        ax.set_facecolor("0.85")
        if np.isnan(matrix).all():
            ax.text(0.5, 0.5, "no answer: maps of one value", ha="center", transform=ax.transAxes, fontsize=7)
    assert image is not None, "there is at least one method"
    figure.colorbar(image, ax=axes, shrink=0.6, label="SSIM, that of another patient's map taken off")
    figure.suptitle("How alike the maps of two trained networks are (mean over patients)")
    return _png(figure)


def _panels(count: int, wide: float, high: float) -> tuple[Any, list[Any]]:
    """A figure with as many panels, those that are left over taken away."""
    from matplotlib.figure import Figure

    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure = Figure(
        figsize=(max(6.0, PANEL * wide * columns), 1.0 + PANEL * high * rows), dpi=110, layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.ravel())
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
