"""Ignite handlers around an ``AttributionEvaluator``: results and scores to the disk, and how far the run is."""

from __future__ import annotations

from medsal.handlers.exporter import ExplanationExporter
from medsal.handlers.lungs import LungFieldSaver
from medsal.handlers.progress import ProgressBar, duration
from medsal.handlers.scores import ScoreTable

__all__ = ["ExplanationExporter", "LungFieldSaver", "ProgressBar", "ScoreTable", "duration"]
