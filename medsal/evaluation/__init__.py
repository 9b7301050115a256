"""Evaluation: scores of relevance against truth, each with what chance gives."""

from __future__ import annotations

from medsal.evaluation.localisation import average_precision, pointing_game, prevalence

__all__ = ["average_precision", "pointing_game", "prevalence"]
