"""Scoring stored maps: a table of scores, its summary, figures, and a record by which all of it can be verified.

Everything here is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsal.scoring.case import ScoredCase
    from medsal.scoring.confidence import ConfidenceEvaluation
    from medsal.scoring.figures import draw_differences, draw_scores
    from medsal.scoring.record import write_record
    from medsal.scoring.run import Evaluation
    from medsal.scoring.runs import run_cases, scored_cases
    from medsal.scoring.score import score_case
    from medsal.scoring.settings import Settings
    from medsal.scoring.sources import folder_cases
    from medsal.scoring.summary import summarise, write_summary
    from medsal.scoring.table import COLUMNS, read_scores, write_scores
    from medsal.scoring.text import render
    from medsal.scoring.verification import verify

_HOMES = {
    "COLUMNS": "table",
    "ConfidenceEvaluation": "confidence",
    "Evaluation": "run",
    "ScoredCase": "case",
    "Settings": "settings",
    "draw_differences": "figures",
    "draw_scores": "figures",
    "folder_cases": "sources",
    "read_scores": "table",
    "render": "text",
    "run_cases": "runs",
    "score_case": "score",
    "scored_cases": "runs",
    "summarise": "summary",
    "verify": "verification",
    "write_record": "record",
    "write_scores": "table",
    "write_summary": "summary",
}

__all__ = [
    "COLUMNS",
    "ConfidenceEvaluation",
    "Evaluation",
    "ScoredCase",
    "Settings",
    "draw_differences",
    "draw_scores",
    "folder_cases",
    "read_scores",
    "render",
    "run_cases",
    "score_case",
    "scored_cases",
    "summarise",
    "verify",
    "write_record",
    "write_scores",
    "write_summary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
