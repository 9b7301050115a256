"""Studies: questions that need many maps."""

from __future__ import annotations

from medsal.studies.layers import LayerStudy
from medsal.studies.planted import PlantedTruth, random_weights
from medsal.studies.trust.blocks import Block, Blocks, find_blocks
from medsal.studies.trust.cases import Keys
from medsal.studies.trust.loaders import checkpoints, training_prior
from medsal.studies.trust.randomisation import Randomiser, State, states
from medsal.studies.trust.settings import StudySettings
from medsal.studies.trust.study import Study

__all__ = [
    "Block",
    "Blocks",
    "Keys",
    "LayerStudy",
    "PlantedTruth",
    "Randomiser",
    "State",
    "Study",
    "StudySettings",
    "checkpoints",
    "find_blocks",
    "random_weights",
    "states",
    "training_prior",
]
