"""The long table of scores: one row for each case, map and metric."""

from __future__ import annotations

COLUMNS = (
    "case", "patient", "kind", "method", "metric", "part", "side", "value", "null", "null_sd", "p", "ceiling",
    "ceiling_of", "reason",
)  # fmt: skip
"""Names of the columns, in their order."""
