"""What adversarial maps get: no metric may take a map that knows nothing for an explanation.

The rule is that of verdicts on methods: above chance, and above every baseline. A map may truly beat chance: where
lesions lie in the middle, a blob in the middle does. What must refuse it then is a baseline that knows as much, so that
three ends are told apart: no better than chance, above chance but refused by a baseline, and not refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.evaluation import METRICS
from medsal.evaluation.chance import SAME
from medsal.evaluation.outcomes import by_patient
from medsal.evaluation.verdict import BEST, CHANCE, NOT_TESTABLE
from medsal.files import write_file
from medsal.scoring.aligned import Aligned, aligned
from medsal.scoring.contrasts import verdicts
from medsal.scoring.rivals import PLANTED
from medsal.scoring.table import ADVERSARIES

if TYPE_CHECKING:
    import pandas as pd

    from medsal.scoring.settings import Settings

ADVERSARIES_COLUMNS = (
    "metric", "part", "map", "patients", "left_out", "value", "null", "difference", "low", "high", "p_corrected",
    "verdict", "refused_by",
)  # fmt: skip
OF_THE_VERDICT = ("patients", "left_out", "difference", "low", "high", "p_corrected", "verdict")
PRIOR = "mean training mask"


@dataclass(frozen=True, eq=False)
class AdversaryReport:
    """What adversarial maps and the planted truth get, metric by metric.

    Attributes:
        table: a row for each metric and map: means over patients of its score and its null, their difference with
            interval and corrected p, the verdict, and what refused it (``chance``, a baseline, nothing).
        taken: ``map (metric)`` of adversaries with the best verdict: the metric took them for an explanation.
        above_chance: those above chance that a baseline refused.
        not_told: metrics by which the planted truth does not get the best verdict.
        statement: the same in words.
    """

    table: pd.DataFrame
    taken: tuple[str, ...]
    above_chance: tuple[str, ...]
    not_told: tuple[str, ...]
    statement: str

    @property
    def refused(self) -> bool:
        """Whether every adversary was refused by every metric."""
        return not self.taken


def report_adversaries(scores: pd.DataFrame, settings: Settings) -> AdversaryReport:
    """Judge the adversarial maps of a table of scores by every metric of localisation but the legacy one.

    Args:
        scores: the table, with rows of kind ``adversary`` and the baselines that they are held against.
        settings: alpha and level.

    Returns:
        The report; without adversaries its table is empty and it says so.
    """
    import pandas as pd

    rows = [row for table in aligned(scores) if _judged(table) for row in _rows(table, settings)]
    table = pd.DataFrame(rows, columns=list(ADVERSARIES_COLUMNS))
    planted = table["map"] == PLANTED
    best, low = table["verdict"] == BEST, table["verdict"].isin([CHANCE, NOT_TESTABLE])
    taken, above = _named(table[~planted & best]), _named(table[~planted & ~best & ~low])
    not_told = tuple(dict.fromkeys(table[planted & ~best]["metric"]))
    held = [] if table.empty else _baselines(scores)
    statement = _statement(table, held, taken, above)
    return AdversaryReport(table, taken, above, not_told, statement)


def render_adversaries(report: AdversaryReport) -> str:
    """Write a report as text for a log.

    Args:
        report: as ``report_adversaries`` gives it.

    Returns:
        A table for each metric and the statement; lines of 120 characters or less.
    """
    lines: list[str] = []
    for (metric, part), rows in report.table.groupby(["metric", "part"], sort=False):
        lines.append(f"adversarial maps by {metric}{f' of {part}' if part else ''} (mean over patients)")
        lines.append(f"  {'map':<28} {'patients':>8} {'mean':>8} {'chance':>8} {'p above':>8}  verdict")
        lines += [_line(row) for row in rows.to_dict("records")]
        lines.append("")
    return "\n".join([*lines, *_wrapped(report.statement)]) + "\n"


def write_adversaries(folder: str | Path, report: AdversaryReport) -> Path:
    """Write a report as ``adversaries.csv``.

    Args:
        folder: made where it is missing.
        report: as ``report_adversaries`` gives it.

    Returns:
        The file.
    """
    text = report.table.to_csv(index=False, lineterminator="\n")
    return write_file(Path(folder) / ADVERSARIES, text.encode())


def _judged(table: Aligned) -> bool:
    row = METRICS[table.metric]
    return row.family == "localisation" and not row.legacy and bool(table.of("adversary"))


def _rows(table: Aligned, settings: Settings) -> Iterator[dict[str, Any]]:
    found = [row for row in verdicts(table, settings) if row["kind"] == "adversary" and row["against"] == "chance"]
    for one, row in zip(table.of("adversary"), found, strict=True):
        value, null = (by_patient(numbers, table.patients).values for numbers in (one.value, one.null))
        yield {
            "metric": table.metric, "part": table.part, "map": one.method,
            "value": value.mean() if len(value) else math.nan,
            "null": null.mean() if len(null) else math.nan, "refused_by": _by(row["verdict"]),
            **{name: row[name] for name in OF_THE_VERDICT},
        }  # fmt: skip


def _by(verdict: str) -> str:
    return "" if verdict in {BEST, NOT_TESTABLE} else verdict.removeprefix("no better than ")


def _named(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(f"{row['map']} ({row['metric']})" for row in rows.to_dict("records"))


def _baselines(scores: pd.DataFrame) -> list[str]:
    """Baselines with a score that belong to no method."""
    known = {one.method for table in aligned(scores) for one in table.common_baselines() if one.value.size}
    there = scores[(scores["kind"] == "baseline") & scores["value"].notna()]["method"]
    return [name for name in dict.fromkeys(there) if name in known]


def _statement(table: pd.DataFrame, held: list[str], taken: tuple[str, ...], above: tuple[str, ...]) -> str:
    maps, metrics = (list(dict.fromkeys(table[name])) for name in ("map", "metric"))
    hostile = [name for name in maps if name != PLANTED]
    if not hostile:
        return "No adversarial map was scored by a metric of localisation."
    said = [f"{len(hostile)} maps that know nothing of the network, by {', '.join(metrics)},"
            f" held against chance and {', '.join(held) or 'no baseline'}."]  # fmt: skip
    if taken:
        cure = "" if PRIOR in held else f" A {PRIOR} among the baselines would tell whether place alone explains it."
        said.append(f"TAKEN FOR AN EXPLANATION: {', '.join(taken)}.{cure}")
    elif above:
        said.append("None beats chance and every baseline.")
    else:
        said.append("None gets a better verdict than chance.")
    if above:
        said.append(f"Above chance, and refused by a baseline that knows as much: {_refusals(table, above)}.")
    untested = _named(table[(table["verdict"] == NOT_TESTABLE) & (table["map"] != PLANTED)])
    if untested:
        said.append(f"Not testable: {', '.join(untested)}.")
    return " ".join([*said, *_of_planted(table)])


def _refusals(table: pd.DataFrame, above: tuple[str, ...]) -> str:
    """Each map with the baselines that refused it, whatever the metric."""
    rows = [row for name, row in zip(_named(table), table.to_dict("records"), strict=True) if name in above]
    by: dict[str, dict[str, None]] = {}
    for row in rows:
        by.setdefault(row["map"], {})[row["refused_by"]] = None
    return "; ".join(f"{name} (by {', '.join(others)})" for name, others in by.items())


def _of_planted(table: pd.DataFrame) -> list[str]:
    planted = table[table["map"] == PLANTED]
    if planted.empty:
        return ["No planted truth was scored, so nothing shows that a right map would have been told apart."]
    lost = planted[planted["verdict"] != BEST]
    if lost.empty:
        return ["The planted truth gets the best verdict by each of them."]
    words = ", ".join(f"{row['metric']} ({row['verdict']})" for row in lost.to_dict("records"))
    n = int(lost["patients"].min())
    return [f"THE PLANTED TRUTH DOES NOT GET THE BEST VERDICT by {words}, over {n} patients: no method could."]


def _line(row: dict[Any, Any]) -> str:
    above = "-" if math.isnan(row["p_corrected"]) else f"{row['p_corrected']:.4f}"
    above = "below" if row["difference"] < -SAME else above
    name = f"  {row['map']:<28} {row['patients']:>8} {row['value']:>8.4f} {row['null']:>8.4f}"
    return f"{name} {above:>8}  {row['verdict']}"


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 118)
