"""The tables of a study, made from the files of its steps: the same files give the same tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsal.evaluation.intervals import bootstrap_mean
from medsal.studies.trust.comparison import MEASURES, PRIMARY, probabilities
from medsal.studies.trust.explainers import predicted
from medsal.studies.trust.pairs import pairs
from medsal.studies.trust.records import slug
from medsal.studies.trust.settings import PAIRS, RANDOMISATION, UTILITY

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from medsal.studies.trust.studied import Studied
    from medsal.studies.trust.subject import Member

NAN = float("nan")


def all_tables(study: Studied) -> dict[str, pd.DataFrame]:
    """Every table that the steps of a study give.

    Args:
        study: whose steps are done.

    Returns:
        Name -> table.
    """
    found = {
        "networks": _frame(list(_networks(study))),
        "blocks": _frame(list(_blocks(study))),
        "passes": _frame(list(_passes(study))),
        "random_pairs": _frame(list(_random_pairs(study))),
    }
    if study.cases.left_out:
        found["left_out"] = _frame([{"case": case, "reason": why} for case, why in study.cases.left_out.items()])
    if UTILITY in study.settings.parts:
        found["utility"] = _frame(list(_utility(study)))
    if PAIRS in study.settings.parts:
        found["pairs"] = _frame(list(_pairs(study)))
    if RANDOMISATION in study.settings.parts:
        found["states"] = _frame(list(_states(study)))
        found["randomisation"] = _frame(list(_randomisation(study)))
        found["curves"] = curves(found["randomisation"], study.settings.level, study.settings.resamples)
    return found


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table in which what JSON could not say is NaN again."""
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in table.columns:
        values = [value for value in table[name].tolist() if value is not None]
        if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            table[name] = pd.to_numeric(table[name])
        elif not values:
            table[name] = table[name].astype("float64")
    return table


def _read(study: Studied, key: str) -> dict[str, Any]:
    found = study.records.read(key)
    assert found is not None, f"the step {key} was done"
    return found


def _logits(study: Studied, member: Member, kind: str, number: str = "") -> tuple[list[list[float]], list[int]]:
    """Logits of all cases, and which of them are right (1), wrong (0) or of unknown label (-1)."""
    logits: list[list[float]] = []
    for batch in study.cases.batches:
        found = _read(study, study.key(kind, member, batch) + number)["logits"]
        logits += [[NAN if value is None else value for value in row] for row in found]
    classes = [predicted(torch.tensor([row]))[0] if np.isfinite(row).all() else -2 for row in logits]
    right = [-1 if k is None else int(k == c) for k, c in zip(study.cases.labels, classes, strict=True)]
    return logits, right


def performance(logits: list[list[float]], labels: list[int | None]) -> dict[str, Any]:
    """How well logits tell the labels.

    Args:
        logits: a row for each case.
        labels: of the same cases; those without one are left out.

    Returns:
        ``auroc`` (scikit-learn's; of several classes the mean over each against the rest), ``accuracy``, ``cases``, and
        ``auroc_reason`` where there is none.
    """
    from sklearn.metrics import roc_auc_score

    known = [(row, k) for row, k in zip(logits, labels, strict=True) if k is not None and np.isfinite(row).all()]
    if not known:
        return {"auroc": NAN, "accuracy": NAN, "cases": 0, "auroc_reason": "no labels, or no finite logits"}
    values = torch.tensor([row for row, _ in known])
    truth, p = np.array([k for _, k in known]), probabilities(values).numpy()
    accuracy = float(np.mean(np.array(predicted(values)) == truth))
    row = {"auroc": NAN, "accuracy": accuracy, "cases": len(known), "auroc_reason": ""}
    if set(truth.tolist()) != set(range(p.shape[1])):
        return {**row, "auroc_reason": "not every class has a case"}
    score = roc_auc_score(truth, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(truth, p, multi_class="ovr")
    return {**row, "auroc": float(score)}


def _networks(study: Studied) -> Iterator[dict[str, Any]]:
    for member in study.members:
        about, (logits, _) = _read(study, f"about/{slug(member.name)}"), _logits(study, member, "trained")
        yield {
            "architecture": member.architecture,
            "network": member.name,
            **performance(logits, study.cases.labels),
            "target_layer": ", ".join(about["layers"]),
            "features_not_remembered": about["not_remembered"],
        }


def _blocks(study: Studied) -> Iterator[dict[str, Any]]:
    for member in study.members:
        for row in _read(study, f"about/{slug(member.name)}")["blocks"]:
            yield {"architecture": member.architecture, "network": member.name, **row}


def _states(study: Studied) -> Iterator[dict[str, Any]]:
    for member in study.members:
        about = _read(study, f"about/{slug(member.name)}")
        numbers = {(s.draw, s.randomised): number for number, s in enumerate(study.distinct(member))}
        for state, changes in zip(study.states(member), about["changes"], strict=True):
            at = numbers[state.draw, state.randomised]
            logits, _ = _logits(study, member, "states", f"-{at}")
            steps = [_read(study, f"{study.key('states', member, batch)}-{at}") for batch in study.cases.batches]
            distance = [NAN if value is None else value for step in steps for value in step["distance"]]
            yield {
                "architecture": member.architecture, "network": member.name, "order": state.order, "draw": state.draw,
                "step": state.step, "block": state.block, "blocks_randomised": len(state.randomised),
                "reinitialise": study.settings.reinitialise,
                **{k: ", ".join(v) if isinstance(v, list) else v for k, v in changes.items()},
                **performance(logits, study.cases.labels),
                "jensen_shannon": float(np.mean(distance)),
                "reason": "; ".join(sorted({step["reason"] for step in steps} - {""})),
            }  # fmt: skip


def _randomisation(study: Studied) -> Iterator[dict[str, Any]]:
    for member in study.members:
        numbers = {(s.draw, s.randomised): number for number, s in enumerate(study.distinct(member))}
        for state in study.states(member):
            for batch in study.cases.batches:
                key = f"{study.key('states', member, batch)}-{numbers[state.draw, state.randomised]}"
                for method, values in _read(study, key)["similarity"].items():
                    for row, at in enumerate(batch.at):
                        yield {
                            "architecture": member.architecture, "network": member.name, "order": state.order,
                            "draw": state.draw, "step": state.step, "block": state.block, "method": method,
                            "case": study.cases.names[at], "patient": study.cases.patients[at],
                            **{measure: values[measure][row] for measure in MEASURES},
                        }  # fmt: skip


def _random_pairs(study: Studied) -> Iterator[dict[str, Any]]:
    for number, method in enumerate(study.explainers.names):
        for member in study.members:
            for row in _read(study, f"random_pairs/{slug(member.name)}-{number}")["rows"]:
                cases = {which: study.cases.names[row[which]] for which in ("first", "second")}
                yield {"architecture": member.architecture, "network": member.name, "method": method, **row, **cases}


def _utility(study: Studied) -> Iterator[dict[str, Any]]:
    prior = _read(study, "prior/prior")["rows"]
    for number, method in enumerate(study.explainers.names):
        for member in study.members:
            rows = _read(study, f"utility/{slug(member.name)}-{number}")["rows"]
            for at, (row, other) in enumerate(zip(rows, prior, strict=True)):
                yield {
                    "architecture": member.architecture, "network": member.name, "method": method,
                    "case": study.cases.names[at], "patient": study.cases.patients[at], **row, "prior": other["prior"],
                    "prior_reason": other["reason"],
                }  # fmt: skip


def _pairs(study: Studied) -> Iterator[dict[str, Any]]:
    right = {member.name: _logits(study, member, "trained")[1] for member in study.members}
    for number, method in enumerate(study.explainers.names):
        for kind, first, second in pairs(study.members):
            key = f"pairs/{slug(first.name)}--{slug(second.name)}-{number}"
            for at, row in enumerate(_read(study, key)["rows"]):
                one, two = right[first.name][at], right[second.name][at]
                yield {
                    "kind": kind, "method": method, "first": first.name, "second": second.name,
                    "case": study.cases.names[at], "patient": study.cases.patients[at], "first_right": one,
                    "second_right": two, "both_right": int(one == 1 and two == 1), **row,
                }  # fmt: skip


def _passes(study: Studied) -> Iterator[dict[str, Any]]:
    """What was run, beside a loop that makes each map alone: method by method, step by step, pair by pair."""
    members = study.members
    ran = 0.0
    for member in members:
        keys = [study.key("trained", member, batch) for batch in study.cases.batches]
        if RANDOMISATION in study.settings.parts:
            distinct = range(len(study.distinct(member)))
            keys += [f"{study.key('states', member, b)}-{n}" for b in study.cases.batches for n in distinct]
        ran += sum(sum(_read(study, key)["passes"].values()) for key in keys)
    loops, shares = [], []
    for method in study.explainers.names:
        costs = [_read(study, f"about/{slug(member.name)}")["costs"][method] for member in members]
        maps = [_maps_of_a_loop(study, member) for member in members]
        loops.append(sum(cost["alone"] * count for cost, count in zip(costs, maps, strict=True)))
        shares.append(sum(cost["shared"] for cost in costs))
    every = [*zip(study.explainers.names, loops, shares, strict=True), ("all", sum(loops), sum(shares))]
    for name, loop, share in every:
        passes = ran * share / sum(shares) if sum(shares) else ran
        ratio = loop / passes if passes else NAN
        yield {"method": name, "passes_of_the_loop": loop, "passes": passes, "ratio": ratio}


def _maps_of_a_loop(study: Studied, member: Member) -> int:
    """How many maps of one method a loop makes of a network: one for each state, and for the trained one each time."""
    parts = study.settings.parts
    maps = len(study.states(member)) + 1 if RANDOMISATION in parts else 0
    maps += 1 if UTILITY in parts else 0
    maps += len(study.members) - 1 if PAIRS in parts else 0
    return maps * len(study.cases)


def curves(randomisation: pd.DataFrame, level: float, resamples: int) -> pd.DataFrame:
    """Mean similarity after each step, over the draws and networks of an architecture.

    Args:
        randomisation: a row per network, state, method and case.
        level: of the intervals.
        resamples: of the bootstrap.

    Returns:
        A row per architecture, method, order and step: the mean of each measure over patients, the interval of the
        null-corrected SSIM, and the standard deviation of its mean over draws and networks.
    """
    import pandas as pd

    rows = []
    names = ["architecture", "method", "order", "step", "block"]
    for key, part in randomisation.groupby(names, sort=False):
        patients = part.groupby("patient", sort=False)[list(MEASURES)].mean()
        outcome = bootstrap_mean(part[PRIMARY].to_numpy(), part["patient"].tolist(), level=level, resamples=resamples)
        runs = part.groupby(["network", "draw"], sort=False)[PRIMARY].mean()
        rows.append(
            {
                **dict(zip(names, key, strict=True)),
                **{measure: _mean(patients[measure].to_numpy()) for measure in MEASURES},
                "low": outcome.low, "high": outcome.high, "patients": outcome.n, "left_out": outcome.left_out,
                "sd_of_runs": float(runs.std(ddof=1)) if len(runs) > 1 else NAN, "reason": outcome.reason,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else NAN
