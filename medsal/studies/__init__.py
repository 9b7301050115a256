"""Studies: questions that need many maps."""

from __future__ import annotations

from medsal.studies.planted import PlantedTruth, random_weights

__all__ = ["PlantedTruth", "random_weights"]
