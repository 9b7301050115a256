"""Studies: questions that need many maps."""

from __future__ import annotations

from medsal.studies.blocks import Block, Blocks, find_blocks
from medsal.studies.cases import Keys
from medsal.studies.layers import LayerStudy
from medsal.studies.loaders import checkpoints, training_prior
from medsal.studies.planted import PlantedTruth, random_weights
from medsal.studies.randomisation import Randomiser, State, states
from medsal.studies.settings import StudySettings
from medsal.studies.study import Study

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
