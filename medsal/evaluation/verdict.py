"""One word on a method, by rule: does it beat chance, and every map that knows nothing of the network?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from medsal.evaluation.corrections import corrected
from medsal.evaluation.intervals import Patients, Scores
from medsal.evaluation.outcomes import Outcome, pairs_by_patient
from medsal.evaluation.paired_tests import paired_t

NOT_TESTABLE = "not testable"
CHANCE = "no better than chance"
BEST = "beats chance and every baseline"


@dataclass(frozen=True)
class Verdict:
    """What a method's scores amount to.

    Attributes:
        verdict: ``"not testable"``, ``"no better than chance"``, ``"no better than <baseline>"`` (the first of those
            not beaten), or ``"beats chance and every baseline"``. What cannot be tested hides none that was not beaten.
        differences: what it was held against (``"chance"`` first) -> mean difference over patients, with its test.
        p_corrected: the same -> p after Holm's correction.
    """

    verdict: str
    differences: Mapping[str, Outcome]
    p_corrected: Mapping[str, float]


def judge(
    scores: Scores,
    chance: Scores,
    baselines: Mapping[str, Scores],
    patients: Patients = None,
    *,
    alpha: float = 0.05,
) -> Verdict:
    """Hold a method's scores against its null and against baselines, patient by patient.

    A difference counts if it is above 0 with p below alpha in a paired t-test after Holm's correction over all that the
    method is held against; where all patients have one difference, in a sign test.

    Args:
        scores: of the method, one for each image, the higher the better; NaN where there is none.
        chance: mean of each image's null.
        baselines: name -> scores of the same images.
        patients: whose each image is.
        alpha: level of the whole family.

    Returns:
        The verdict.
    """
    found = {"chance": _difference(scores, chance, patients)}
    found |= {name: _difference(scores, other, patients) for name, other in baselines.items()}
    p = dict(zip(found, corrected([outcome.p for outcome in found.values()]).tolist(), strict=True))
    beaten = {name: outcome.estimate > 0 and p[name] < alpha for name, outcome in found.items()}
    untested = [name for name, outcome in found.items() if np.isnan(outcome.p)]
    left = [name for name, good in beaten.items() if not good and name not in untested]
    verdict = NOT_TESTABLE if untested else BEST
    if left and "chance" not in untested:
        verdict = f"no better than {left[0]}"
    return Verdict(verdict, found, p)


def _difference(first: Scores, second: Scores, patients: Patients) -> Outcome:
    outcome = paired_t(first, second, patients)
    if outcome.n < 2 or not outcome.reason:
        return outcome
    unit = pairs_by_patient(first, second, patients)
    above = float(np.median(unit.values[:, 0] - unit.values[:, 1]))
    p = min(1.0, 2 * 0.5**outcome.n) if abs(above) > 1e-12 else 1.0
    return replace(outcome, test="sign", p=p, reason="")
