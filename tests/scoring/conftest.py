"""A table of scores made from a seed: several images of each patient, methods that differ, holes with reasons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medsal.scoring import Settings
from medsal.scoring.table import as_table

METRICS = ("average_precision", "auprc_trapezoid", "pointing_game")
MAPS = (
    ("method", "gradcam", 0.45), ("method", "ig", 0.4), ("method", "saliency", 0.05), ("method", "broken", None),
    ("baseline", "constant", 0.0), ("baseline", "centre prior", 0.2), ("baseline", "edges", None),
    ("baseline", "another patient: gradcam", 0.1), ("baseline", "another patient: ig", 0.6),
    ("adversary", "checkerboard", 0.0), ("adversary", "all ones", 0.0), ("adversary", "planted truth", 1.0),
)  # fmt: skip


def row(case, patient, kind, method, metric, value, **more):
    """One row with a reason where there is no value."""
    reason = "" if value == value else "map not finite"  # noqa: PLR0124  NaN only
    return {"case": case, "patient": patient, "kind": kind, "method": method, "metric": metric, "value": value,
            "side": "absolute", "reason": reason, **more}  # fmt: skip


def scored(rng, kind, method, base, prevalence):
    """Scores of one map by metric, with null and p."""
    noise = rng.normal(0, 0.06)
    for metric in METRICS:
        null = (1 + prevalence) / 2 if metric == "auprc_trapezoid" else prevalence
        if base is None:
            value = math.nan
        elif method in {"constant", "all ones"}:
            value = null
        elif method == "planted truth":
            value = 1.0
        elif metric == "pointing_game":
            value = float(base + noise > 0.35)
        else:
            value = float(np.clip(prevalence + base + noise, 0, 1))
        p = math.nan if base is None else 1.0 if value <= null else float(rng.uniform(0, 0.004 if base > 0.1 else 1))
        yield metric, value, null, p


def synthetic(patients=14, seed=0, maps=MAPS):
    """Rows of 2 to 4 images of each patient."""
    rng = np.random.default_rng(seed)
    rows, images = [], 0
    for patient in range(patients):
        shared = rng.normal(0, 0.04)
        for _ in range(2 + patient % 3):
            prevalence = rng.uniform(0.01, 0.06)
            for kind, method, base in maps:
                level = None if base is None else base + shared * (kind == "method")
                rows += [
                    row(f"case-{images}", f"p{patient}", kind, method, metric, value, null=null, null_sd=0.01, p=p,
                        ceiling=0.8, ceiling_of="box geometry")
                    for metric, value, null, p in scored(rng, kind, method, level, prevalence)
                ]  # fmt: skip
            images += 1
    for at in (75, 150, 400):  # holes of methods that have scores elsewhere
        if rows[at]["value"] == rows[at]["value"]:
            rows[at] |= {"value": math.nan, "p": math.nan, "reason": "truth empty"}
    return rows


@pytest.fixture(scope="session")
def make_row():
    return row


@pytest.fixture(scope="session")
def make_rows():
    return synthetic


@pytest.fixture(scope="session")
def scores():
    return as_table(synthetic())


@pytest.fixture(scope="session")
def settings():
    return Settings(metrics={name: {} for name in METRICS}, resamples=400, seed=5, level=0.9)
