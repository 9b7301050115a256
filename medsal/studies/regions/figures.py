"""Pictures of a region study: what each group has in each region, and regions coloured by the size of the effect."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.evaluation.outcomes import by_patient

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

SIDE = 160
"""Rows and columns of the picture of regions."""
STRONG = 1.5
"""Cohen's d at the ends of the colours."""
COLOURS = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
CHANCE = "#1c1e21"


def draw_groups(scores: pd.DataFrame, cases: pd.DataFrame, tests: pd.DataFrame) -> bytes:
    """Draw each region's scores by group: a box over patients' means, a dot for each patient, chance as a line.

    Args:
        scores: rows of ``regions.csv`` of one reduction.
        cases: as ``cases.csv`` has them.
        tests: rows of ``tests.csv`` of the same reduction and one kind of test: their corrected p is written above.

    Returns:
        The bytes of a PNG file: one panel for each method.
    """
    used = cases[cases["left_out"] == ""].set_index("case")
    methods = list(dict.fromkeys(scores["method"]))
    regions, groups = list(dict.fromkeys(scores["region"])), sorted(set(used["group"]))
    width = max(6.0, 0.35 * len(regions) * (len(groups) + 1) + 1.2)
    figure, panels = _figure(len(methods), 1, (width, 2.5 * len(methods) + 0.4))
    for ax, method in zip(panels, methods, strict=True):
        own = scores[(scores["method"] == method) & scores["case"].isin(used.index)]
        for at, group in enumerate(groups):
            for place, region in enumerate(regions):
                rows = own[(own["region"] == region) & (own["case"].map(used["group"]) == group)]
                _box(
                    ax, rows, used, place + (at - (len(groups) - 1) / 2) * 0.8 / len(groups), COLOURS[at % len(COLOURS)]
                )
            ax.plot([], [], "s", color=COLOURS[at % len(COLOURS)], label=f"{group} ({_patients(used, group)} patients)")
        ax.plot([], [], color=CHANCE, linewidth=1.6, label="map of one value")
        ax.set_xticks(range(len(regions)), [_label(region, tests, method) for region in regions], fontsize=7)
        ax.set_title(f"{method}: {scores['reduce'].iloc[0]}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return _png(figure)


def _patients(used: pd.DataFrame, group: str) -> int:
    return int(used[used["group"] == group]["patient"].nunique())


def _label(region: str, tests: pd.DataFrame, method: str) -> str:
    """The name of a region, and the smallest corrected p of its tests."""
    p = tests[(tests["method"] == method) & (tests["region"] == region)]["p_corrected"]
    return f"{_folded(region)}\n{_p(float(p.min()))}"


def _folded(region: str) -> str:
    return region.replace(" ", "\n", 1)


def _p(p: float) -> str:
    return "no p" if np.isnan(p) else "p < .001" if p < 0.001 else f"p {p:.2g}"


def _box(ax: Any, rows: pd.DataFrame, used: pd.DataFrame, at: float, colour: str) -> None:
    means = by_patient(rows["value"].to_numpy(), list(rows["case"].map(used["patient"]))).values
    if not len(means):
        return
    ax.boxplot(
        means, positions=[at], widths=0.28, showfliers=False, patch_artist=True, manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.35}, medianprops={"color": "black"},
    )  # fmt: skip
    spread = np.linspace(-0.09, 0.09, len(means)) if len(means) > 1 else np.zeros(1)
    ax.scatter(at + spread, means, s=7, color=colour, linewidths=0, zorder=3)
    chance = by_patient(rows["chance"].to_numpy(), list(rows["case"].map(used["patient"]))).values
    if len(chance):
        ax.plot([at - 0.17, at + 0.17], [chance.mean()] * 2, color=CHANCE, linewidth=1.6, zorder=4)


def draw_effects(tests: pd.DataFrame, labels: Sequence[Tensor], names: Mapping[int, str]) -> bytes:
    """Draw the regions, each where most films have it, in the colour of its effect.

    Args:
        tests: rows of ``tests.csv`` of one reduction and one kind of test.
        labels: regions of the films that were tested, ``(1, 1, rows, columns)`` each.
        names: code -> region.

    Returns:
        The bytes of a PNG file: a row for each group, a column for each method. A region whose corrected p is below the
        level has a thick edge; films are shown with the patient's right side on the left.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    methods, groups = list(dict.fromkeys(tests["method"])), list(dict.fromkeys(tests["group"]))
    common = common_regions(labels)
    figure, panels = _figure(len(groups), len(methods), (3.2 * len(methods) + 0.9, 3.7 * len(groups) + 0.5))
    scale = ScalarMappable(Normalize(-STRONG, STRONG), colormaps["RdBu_r"])
    for index, ax in enumerate(panels):
        group, method = groups[index // len(methods)], methods[index % len(methods)]
        rows = tests[(tests["group"] == group) & (tests["method"] == method)].set_index("region")
        picture = np.full((*common.shape, 4), 0.93)
        for code, name in names.items():
            if name in rows.index and (common == code).any():
                _region(ax, picture, common == code, rows.loc[name], scale)
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(f"{method}\n{group} - {rows['reference'].iloc[0]}", fontsize=9)
        ax.set_axis_off()
    kind, reduce = tests["preset"].iloc[0], tests["reduce"].iloc[0]
    bar = figure.colorbar(scale, ax=panels, shrink=0.75, label=f"Cohen's d of the {reduce}")
    bar.ax.tick_params(labelsize=8)
    figure.supxlabel(f"p of the test {kind!r}, corrected; a black edge: below its level", fontsize=8)
    return _png(figure)


def common_regions(labels: Sequence[Tensor]) -> NDArray[np.int64]:
    """The label that most films have at each place, films of any size laid on each other.

    Args:
        labels: ``(1, 1, rows, columns)`` each.

    Returns:
        ``(SIDE, SIDE)``.
    """
    from torch.nn.functional import interpolate

    stack = np.stack(
        [interpolate(one.float(), (SIDE, SIDE), mode="nearest-exact")[0, 0].long().numpy() for one in labels]
    )
    codes = np.unique(stack)
    return np.asarray(codes[np.stack([(stack == code).sum(0) for code in codes]).argmax(0)])


def _region(ax: Any, picture: NDArray[np.float64], where: NDArray[np.bool_], row: Any, scale: Any) -> None:
    """One region in its colour, with its numbers."""
    d = float(row["cohen_d"])
    colour = np.array([0.8, 0.8, 0.8, 1.0]) if np.isnan(d) else np.array(scale.to_rgba(d))
    picture[where] = colour
    edge = "black" if row["significant"] else "white"
    ax.contour(where, levels=[0.5], colors=[edge], linewidths=2.2 if row["significant"] else 0.7)
    rows, columns = np.nonzero(where)
    dark = abs(d) > 0.65 * STRONG if not np.isnan(d) else False
    text = f"{d:+.2f}\n{_p(float(row['p_corrected']))}"
    ax.text(columns.mean(), rows.mean(), text, ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
