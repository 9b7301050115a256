"""P-values corrected for how many of them there are."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsal.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CORRECTIONS = {"holm": "holm", "bonferroni": "bonferroni", "bh": "fdr_bh", "by": "fdr_by"}
"""Names of the corrections, and what statsmodels calls them."""


def corrected(p: Sequence[float] | NDArray[Any], correction: str = "holm") -> NDArray[np.float64]:
    """P-values corrected for their number: statsmodels' ``multipletests``, the method passed by name.

    Args:
        p: of one family; NaN where a test had no answer: it is no part of the family.
        correction: ``"holm"`` or ``"bonferroni"`` (any error among all), ``"bh"`` or ``"by"`` (share of errors).

    Returns:
        Corrected, in their order; NaN stays.

    Raises:
        UsageError: if the correction is unknown.
    """
    from statsmodels.stats.multitest import multipletests

    if correction not in CORRECTIONS:
        raise UsageError(f"correction: wanted one of {', '.join(CORRECTIONS)}, got {correction!r}")
    found = np.array(p, dtype=np.float64)
    known = ~np.isnan(found)
    if not known.any():
        return found
    frozen = gc.get_freeze_count() > 0  # by the caller, who is left with it
    if not frozen:
        gc.freeze()  # statsmodels collects garbage in every Holm correction: most of the time, with torch loaded
    try:
        found[known] = multipletests(found[known], method=CORRECTIONS[correction])[1]
    finally:
        if not frozen:
            gc.unfreeze()
    return found
