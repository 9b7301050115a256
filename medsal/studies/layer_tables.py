"""The tables and figures of a study of layers, from the summaries of all models in its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.errors import NothingToDoError
from medsal.files import write_file

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("positive", "negative", "absolute")
"""Of signed relevance."""
HIT, COVER, DROP, RISE = "layer_hit_rate", "layer_coverage", "drop_in_confidence", "increase_in_confidence"
KEPT = ("kind", "method", "side", "metric", "part", "better", "patients", "images", "left_out", "mean", "low", "high",
        "null", "chance_p", "reason")  # fmt: skip
COLUMNS: Mapping[str, tuple[str, str]] = {
    "HR1": (HIT, "graded"),
    "HR2": (HIT, "signed"),
    "top": (COVER, "255"),
    "background": (COVER, "background"),
    "weighted": (COVER, "weighted"),
    "IoU 0.5": (COVER, "255 at 0.5"),
    "DiC keep": (DROP, "keep heat map"),
    "IiC keep": (RISE, "keep heat map"),
    "DiC remove": (DROP, "remove heat map"),
    "IiC remove": (RISE, "remove heat map"),
}
"""Column of the table -> metric and part. HR1 and HR2 are the hit rates of the study, top to weighted its coverage."""
COLOURS = {"positive": "#2c5f8a", "negative": "#9ec1dd", "absolute": "#b7b7b7"}
CHANCE = "#c0392b"


def write_tables(folder: str | Path) -> list[Path]:
    """Write what all models of a study come to.

    ``study.csv``: every mean with its interval and chance level, a row for each model, map, side, metric and part.
    ``table.csv`` and ``table.md``: a row for each model, map and side, scores beside chance. ``models.csv``: accuracy,
    precision, recall and F1 of the explained cases. ``hits.png``, ``coverage.png``, ``confidence.png``.

    Args:
        folder: of the study, with a folder for each model.

    Returns:
        The files.

    Raises:
        NothingToDoError: if no model has been scored.
    """
    import pandas as pd

    root, found = Path(folder), []
    for path in sorted(root.glob("*/*/summary.csv")):
        side = path.parent.name.removeprefix("confidence_")
        if side in SIDES:
            rows = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in ("mean", "low", "high")})
            found.append(rows[list(KEPT)].assign(side=side).assign(model=path.parent.parent.name))
    if not found:
        raise NothingToDoError(f"{root}: no model has been scored")
    found.sort(key=lambda rows: (rows["model"].iloc[0], SIDES.index(rows["side"].iloc[0])))
    study = pd.concat(found, ignore_index=True)[["model", *KEPT]]
    for name in ("mean", "low", "high", "null", "chance_p"):
        study[name] = pd.to_numeric(study[name])
    table = wide(study)
    written = [write_file(root / f"{name}.csv", _csv(one)) for name, one in (("study", study), ("table", table))]
    written.append(write_file(root / "models.csv", _csv(_models(root))))
    written.append(write_file(root / "table.md", _markdown(table).encode()))
    for name, draw in (("hits", _draw_hits), ("coverage", _draw_coverage), ("confidence", _draw_confidence)):
        picture = draw(study)
        if picture:
            written.append(write_file(root / f"{name}.png", picture))
    return written


def wide(study: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, map and side.

    Args:
        study: as ``study.csv``.

    Returns:
        Columns model, kind, method, side, images, and for each of ``COLUMNS`` the mean and its ``chance``; NaN where it
        was not scored.
    """
    import pandas as pd

    rows = []
    for (model, kind, method, side), own in study.groupby(["model", "kind", "method", "side"], sort=False):
        scored = {(one["metric"], one["part"]): one for one in own.to_dict("records")}
        row = {"model": model, "kind": kind, "method": method, "side": side, "images": int(own["images"].max())}
        for name, key in COLUMNS.items():
            one = scored.get(key, {"mean": float("nan"), "null": float("nan")})
            row |= {name: one["mean"], f"{name} chance": one["null"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _models(root: Path) -> pd.DataFrame:
    """How right each model is on the cases that were explained; precision, recall and F1 weighted by class."""
    import pandas as pd
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    rows = []
    for path in sorted(root.glob("*/model.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        pairs = [pair for pair in zip(said["label"], said["predicted"], strict=True) if pair[0] >= 0]
        row: dict[str, Any] = {"model": path.parent.name, "images": len(pairs)}
        if pairs:
            label, predicted = zip(*pairs, strict=True)
            scores = precision_recall_fscore_support(label, predicted, average="weighted", zero_division=0)
            row |= dict(zip(("precision", "recall", "f1"), scores, strict=False))
            row["accuracy"] = accuracy_score(label, predicted)
        rows.append(row)
    return pd.DataFrame(rows, columns=["model", "images", "accuracy", "precision", "recall", "f1"])


def _markdown(table: pd.DataFrame) -> str:
    """The table for a reader: score, and chance in brackets; no row of a side on which a map has nothing."""
    lines = ["| " + " | ".join(["model", "map", "side", "images", *COLUMNS]) + " |"]
    lines.append("| " + " | ".join(["---"] * (4 + len(COLUMNS))) + " |")
    for row in table.to_dict("records"):
        if not row["images"]:
            continue
        name = row["method"] if row["kind"] == "method" else f"*{row['method']}*"
        cells = [_cell(row[column], row[f"{column} chance"]) for column in COLUMNS]
        lines.append("| " + " | ".join([row["model"], name, row["side"], str(row["images"]), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float, chance: float) -> str:
    if value != value:  # noqa: PLR0124  NaN is not itself
        return ""
    return f"{value:.2f}" + (f" ({chance:.2f})" if chance == chance else "")  # noqa: PLR0124  as above


def _csv(table: pd.DataFrame) -> bytes:
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


def _draw_hits(study: pd.DataFrame) -> bytes:
    """Both hit rates of every map, a bar for each side, chance as a mark on it."""
    return _bars(study, {"hit rate 1 (-1 to 3)": (HIT, "graded"), "hit rate 2 (-1 to 1)": (HIT, "signed")})


def _draw_confidence(study: pd.DataFrame) -> bytes:
    """Drop in confidence with the relevant part kept, and removed."""
    names = {f"drop in confidence, {way} (heat map)": (DROP, f"{way} heat map") for way in ("keep", "remove")}
    return _bars(study, names)


def _bars(study: pd.DataFrame, panels: Mapping[str, tuple[str, str]]) -> bytes:
    shown = study[study["mean"].notna() & (study["kind"] == "method")]
    shown = shown[[key in panels.values() for key in zip(shown["metric"], shown["part"], strict=True)]]
    if not len(shown):
        return b""
    shown = shown.assign(label=shown["model"] + "  " + shown["method"])
    names, sides = list(dict.fromkeys(shown["label"])), [side for side in SIDES if (shown["side"] == side).any()]
    thick = 0.8 / len(sides)
    figure, axes = _figure((12, 1.5 + len(names) * (0.12 + 0.12 * len(sides))), len(panels))
    for ax, (title, (metric, part)) in zip(axes, panels.items(), strict=True):
        own = shown[(shown["metric"] == metric) & (shown["part"] == part)]
        for number, side in enumerate(sides):
            rows = own[own["side"] == side]
            at = [names.index(label) + (number - (len(sides) - 1) / 2) * thick for label in rows["label"]]
            error = [
                (rows["mean"] - rows["low"]).clip(lower=0).fillna(0),
                (rows["high"] - rows["mean"]).clip(lower=0).fillna(0),
            ]
            ax.barh(at, rows["mean"], thick, xerr=error, color=COLOURS[side], label=side, error_kw={"lw": 0.6})
            ax.plot(rows["null"], at, "|", color=CHANCE, ms=7, label="chance" if number == 0 else None)
        ax.set_yticks(range(len(names)), names, fontsize=7)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_title(title, fontsize=10)
        ax.axvline(0, color="black", lw=0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(handles))
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    return _png(figure)


def _draw_coverage(study: pd.DataFrame) -> bytes:
    """Intersection over union with the top layer, by the share of the peak at which maps are cut."""
    own = study[(study["metric"] == COVER) & study["part"].str.startswith("255 at ") & (study["kind"] == "method")]
    own = own[(own["side"] == "positive") & own["mean"].notna()]
    if not len(own):
        return b""
    own = own.assign(cut=own["part"].str.removeprefix("255 at ").astype(float)).sort_values("cut", kind="stable")
    models = list(dict.fromkeys(own["model"]))
    figure, axes = _figure((4 + 5.5 * len(models), 5.5), len(models))
    for ax, model in zip(axes, models, strict=True):
        for number, (method, rows) in enumerate(own[own["model"] == model].groupby("method", sort=False)):
            style = {"color": f"C{number % 10}", "ls": ("-", "--", ":")[number // 10 % 3], "lw": 1}
            ax.plot(rows["cut"], rows["mean"], label=method, **style)
        chance = own[own["model"] == model].groupby("cut")["null"].mean()
        ax.plot(chance.index, chance, color=CHANCE, lw=2.5, alpha=0.5, label="chance, mean of all")
        ax.set(title=f"{model}: IoU with the top layer", xlabel="cut, share of the peak", ylabel="IoU", ylim=(0, None))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside right center")
    return _png(figure)


def _figure(size: tuple[float, float], panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False).flat)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
