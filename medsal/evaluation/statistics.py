"""Statistics of scores, with the patient as the unit: intervals, paired tests, groups, corrections, power.

Results are frozen and say on how many patients they rest, what was left out, and why there is no answer where there is
none. SciPy and statsmodels compute; nothing here switches from one test to another by itself, but for the published
tree that does so by design.
"""

from __future__ import annotations

from medsal.evaluation.corrections import corrected
from medsal.evaluation.group_tests import (
    RegionTest,
    group_difference,
    mixed_difference,
    reader_correlation,
    region_tests,
    suemer_2023,
)
from medsal.evaluation.intervals import (
    bootstrap_difference,
    bootstrap_mean,
    cliffs_delta,
    cohen_d,
    cohen_dz,
    detectable,
    hit_rate,
    patients_needed,
    power,
)
from medsal.evaluation.outcomes import Outcome, PatientScores, by_patient, pairs_by_patient
from medsal.evaluation.paired_tests import (
    Comparison,
    compare,
    friedman,
    mcnemar,
    normality,
    paired_t,
    sign_flip,
    wilcoxon,
)

__all__ = [
    "Comparison",
    "Outcome",
    "PatientScores",
    "RegionTest",
    "bootstrap_difference",
    "bootstrap_mean",
    "by_patient",
    "cliffs_delta",
    "cohen_d",
    "cohen_dz",
    "compare",
    "corrected",
    "detectable",
    "friedman",
    "group_difference",
    "hit_rate",
    "mcnemar",
    "mixed_difference",
    "normality",
    "paired_t",
    "pairs_by_patient",
    "patients_needed",
    "power",
    "reader_correlation",
    "region_tests",
    "sign_flip",
    "suemer_2023",
    "wilcoxon",
]
