"""What a run leaves behind: pictures of slices, volumes on the patient's grid, tables.

`prepare_export` once, `export_case` for every finished case, `export_summary` at the end.
"""

from __future__ import annotations

from medsal.export.case import CaseResult, ExportedCase
from medsal.export.choice import SliceChoice, parse_slices
from medsal.export.layout import LAYOUTS, repeated_subjects
from medsal.export.run import ExportOptions, export_case, prepare_export
from medsal.export.tables import COLUMNS, export_summary

__all__ = [
    "COLUMNS",
    "LAYOUTS",
    "CaseResult",
    "ExportOptions",
    "ExportedCase",
    "SliceChoice",
    "export_case",
    "export_summary",
    "parse_slices",
    "prepare_export",
    "repeated_subjects",
]
