"""Ignite handlers around an ``AttributionEvaluator``: results to the disk, and how far the run is."""

from __future__ import annotations

from medsal.handlers.exporter import ExplanationExporter
from medsal.handlers.lungs import LungFieldSaver
from medsal.handlers.progress import ProgressBar, duration

__all__ = ["ExplanationExporter", "LungFieldSaver", "ProgressBar", "duration"]
