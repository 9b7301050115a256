"""The verdict on each method, by rule: five questions, each with an interval over patients.

- *beats chance*: average precision less its mean over shifted truths is above 0;
- *beats the prior*: and so it is less the average precision of the mean training mask;
- *depends on the weights*: with all weights drawn anew, null-corrected SSIM with the trained map is below ``alike``;
- *repeats*: two trainings of one architecture agree, null-corrected SSIM is above ``alike`` where both are right;
- *reproduces*: and so do two architectures.

The answer is yes where the whole interval is on that side and a t-test over patients agrees after Holm's correction
over the methods, no where not, and "not testable" where there are too few patients. A gate, not a ranking: a map that
depends on the weights need not be right. Beside them stands the rule of Arun 2021, doi:10.1148/ryai.2021200267, as
``legacy``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.evaluation.corrections import corrected
from medsal.evaluation.intervals import bootstrap_mean
from medsal.evaluation.outcomes import by_patient
from medsal.evaluation.verdict import judge
from medsal.studies.trust.comparison import LEGACY, PRIMARY
from medsal.studies.trust.pairs import REPEATABILITY, REPRODUCIBILITY
from medsal.studies.trust.randomisation import BOTTOM_UP, TOP_DOWN

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

YES, NO, NOT_TESTABLE = "yes", "no", "not testable"
CHANCE, PRIOR, WEIGHTS = "beats chance", "beats the mean training mask", "depends on the weights"
REPEATS, REPRODUCES = "repeats", "reproduces"
ARUN = "legacy: Arun 2021, randomisation"
QUESTIONS = (CHANCE, PRIOR, WEIGHTS, REPEATS, REPRODUCES)
FEWEST = 3
"""Fewer patients than this decide nothing."""
BROKEN = 1e-6
"""Mean Jensen-Shannon divergence, in bits, below which drawing all weights anew did not change the outputs."""
NAN = float("nan")


@dataclass(frozen=True)
class Rule:
    """Settings of the verdict.

    Attributes:
        alike: null-corrected similarity from which maps count as alike.
        level: of the intervals.
        resamples: of the bootstrap.
    """

    alike: float = 0.2
    level: float = 0.95
    resamples: int = 2000


def verdicts(tables: Mapping[str, pd.DataFrame], methods: list[str], rule: Rule) -> pd.DataFrame:
    """Judge every method.

    Args:
        tables: those of a study; questions whose table is missing are not testable.
        methods: names.
        rule: settings.

    Returns:
        A row per method and question: ``answer``, ``estimate``, ``low``, ``high``, ``threshold``, ``p`` and
        ``p_corrected`` (Holm, over the methods), ``patients``, ``left_out`` (images without a score) and ``reason``.
    """
    import pandas as pd

    rows = [row for method in methods for row in _judged(tables, method, rule)]
    for question in QUESTIONS:
        own = [row for row in rows if row["question"] == question]
        for row, p in zip(own, corrected([row["p"] for row in own]).tolist(), strict=True):
            row["p_corrected"] = p
            if row["answer"] == YES and not p < 1 - rule.level:
                row["answer"] = NO
                row["reason"] = "the t-test over patients, corrected for the number of methods, does not agree"
    return pd.DataFrame(rows)


def _judged(tables: Mapping[str, pd.DataFrame], method: str, rule: Rule) -> Iterator[dict[str, Any]]:
    own = {name: table[table["method"] == method] for name, table in tables.items() if "method" in table and len(table)}
    utility = own.get("utility")
    for question, other in ((CHANCE, "null"), (PRIOR, "prior")):
        found = None if utility is None else (utility["average_precision"] - utility[other], utility)
        yield {"method": method, "question": question, **_answer(found, rule, 0.0, above=True)}
    full = _fully_randomised(own.get("randomisation"))
    answer = _answer(None if full is None else (full[PRIMARY], full), rule, rule.alike, above=False)
    yield {"method": method, "question": WEIGHTS, **_unless_unbroken(answer, tables.get("states"))}
    every = own.get("pairs")
    for question, kind in ((REPEATS, REPEATABILITY), (REPRODUCES, REPRODUCIBILITY)):
        some = None if every is None else every[(every["kind"] == kind) & (every["both_right"] == 1)]
        found = None if some is None or not len(some) else (some["ssim_corrected"], some)
        yield {"method": method, "question": question, **_answer(found, rule, rule.alike, above=True)}
    yield {"method": method, "question": ARUN, **arun_rule(full, own.get("random_pairs"))}


def _fully_randomised(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """The last step of a cascade, in which every block is drawn anew."""
    if table is None:
        return None
    for order in (TOP_DOWN, BOTTOM_UP):
        some = table[table["order"] == order]
        if len(some):
            return some[some["step"] == some.groupby("network")["step"].transform("max")]
    return None


def _answer(
    found: tuple[pd.Series[Any], pd.DataFrame] | None, rule: Rule, threshold: float, *, above: bool
) -> dict[str, Any]:
    """Hold the mean over patients and its interval against a threshold."""
    blank = {
        "estimate": NAN, "low": NAN, "high": NAN, "threshold": threshold, "p": NAN, "p_corrected": NAN, "patients": 0,
        "left_out": 0,
    }  # fmt: skip
    if found is None:
        return {"answer": NOT_TESTABLE, **blank, "reason": "this part was not run, or no case qualifies"}
    scores = found[0].to_numpy(dtype=np.float64)
    patients = found[1]["patient"].tolist()
    estimate, low, high, n, left_out = interval(scores, patients, rule)
    tested = judge(scores, np.full(len(scores), threshold), {}, patients).differences["chance"]
    row = {
        "estimate": estimate, "low": low, "high": high, "threshold": threshold, "p": tested.p, "p_corrected": NAN,
        "patients": n, "left_out": left_out,
    }  # fmt: skip
    if n < FEWEST:
        return {"answer": NOT_TESTABLE, **row, "reason": f"wanted {FEWEST} patients or more with a score, got {n}"}
    good = low > threshold if above else high < threshold
    return {"answer": YES if good else NO, **row, "reason": ""}


def interval(scores: NDArray[np.float64], patients: list[Any], rule: Rule) -> tuple[float, float, float, int, int]:
    """Mean over patients and its interval; where all have one value, that value is the interval.

    Args:
        scores: one for each image, NaN where there is none.
        patients: whose each is.
        rule: settings.

    Returns:
        Mean, low, high, patients, images left out.
    """
    unit = by_patient(scores, patients)
    outcome = bootstrap_mean(scores, patients, level=rule.level, resamples=rule.resamples)
    low, high = outcome.low, outcome.high
    if len(unit.values) >= FEWEST and not (np.isfinite(low) and np.isfinite(high)):
        low, high = float(unit.values.min()), float(unit.values.max())
    return outcome.estimate, low, high, outcome.n, outcome.left_out


def _unless_unbroken(answer: dict[str, Any], states: pd.DataFrame | None) -> dict[str, Any]:
    """Weights whose drawing anew does not change what the network says test nothing."""
    if states is None or answer["answer"] == NOT_TESTABLE:
        return answer
    full = _fully_randomised(states)
    distance = NAN if full is None else float(full["jensen_shannon"].mean())
    if distance < BROKEN:
        reason = f"outputs are those of the trained network ({distance:.1e} bits): nothing was broken"
        return {**answer, "answer": NOT_TESTABLE, "reason": reason}
    return answer


def arun_rule(full: pd.DataFrame | None, random_pairs: pd.DataFrame | None) -> dict[str, Any]:
    """The published rule: passed if SSIM after full randomisation is below the mean of random pairs of trained maps.

    Neither an interval nor a null; raw SSIM in the published form. For comparison only.

    Args:
        full: rows of one method with every block drawn anew.
        random_pairs: rows of random pairs of the same method.

    Returns:
        The columns of a verdict; the threshold is the mean of the random pairs.
    """
    none = full is None or random_pairs is None or not len(random_pairs)
    estimate = NAN if none or full is None else float(full[LEGACY].mean())
    threshold = NAN if none or random_pairs is None else float(random_pairs[LEGACY].mean())
    known = np.isfinite(estimate) and np.isfinite(threshold)
    answer = (YES if estimate < threshold else NO) if known else NOT_TESTABLE
    return {
        "answer": answer, "estimate": estimate, "low": NAN, "high": NAN, "threshold": threshold, "p": NAN,
        "p_corrected": NAN, "patients": 0 if full is None else int(full["patient"].nunique()),
        "left_out": 0 if full is None else int(full[LEGACY].isna().sum()),
        "reason": "" if known else "no fully randomised network, no pair of patients, or maps of one value",
    }  # fmt: skip


def pair_summary(pairs: pd.DataFrame, networks: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Every pair of networks with the performance of both, over all cases and over those that both have right.

    Args:
        pairs: a row per pair, method and case.
        networks: a row per network, with ``auroc``.
        rule: settings.

    Returns:
        A row per kind, method, pair and subset.
    """
    import pandas as pd

    auroc = dict(zip(networks["network"], networks["auroc"], strict=True))
    rows = []
    for key, part in pairs.groupby(["kind", "method", "first", "second"], sort=False):
        kind, method, first, second = key
        for subset, some in (("all", part), ("both right", part[part["both_right"] == 1])):
            scores = some["ssim_corrected"].to_numpy(dtype=np.float64)
            estimate, low, high, n, left_out = interval(scores, some["patient"].tolist(), rule)
            rows.append(
                {
                    "kind": kind, "method": method, "first": first, "second": second, "subset": subset,
                    "ssim": float(some["ssim"].mean()), "ssim_null": float(some["ssim_null"].mean()),
                    "ssim_corrected": estimate, "low": low, "high": high, "patients": n, "left_out": left_out,
                    "spearman": float(some["spearman"].mean()), "top_k_overlap": float(some["top_k_overlap"].mean()),
                    "ssim_arun2021": float(some[LEGACY].mean()), "first_auroc": auroc[first],
                    "second_auroc": auroc[second], "auroc_difference": abs(auroc[first] - auroc[second]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def render(found: pd.DataFrame) -> str:
    """The verdicts as text for a log, at most 120 columns.

    Args:
        found: as ``verdicts`` gives them.

    Returns:
        A line per method.
    """
    shown = {CHANCE: "chance", PRIOR: "prior", WEIGHTS: "weights", REPEATS: "repeats", REPRODUCES: "reproduces"}
    shown[ARUN] = "legacy"
    lines = [f"{'method':<28}" + "".join(f"{name:>15}" for name in shown.values())]
    for method, part in found.groupby("method", sort=False):
        by_question = {row["question"]: row for row in part.to_dict("records")}
        cells = [_cell(by_question[question]) for question in shown]
        lines.append(f"{str(method)[:28]:<28}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _cell(row: Mapping[Any, Any]) -> str:
    return "n.t." if row["answer"] == NOT_TESTABLE else f"{row['answer']} ({row['estimate']:.2f})"
