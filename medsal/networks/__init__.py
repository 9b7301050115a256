"""The networks no library has: EfficientNetV2 for images and volumes, slices as channels; and their weights."""

from __future__ import annotations

from medsal.networks.blocks import Stage
from medsal.networks.efficientnet_v2 import EfficientNetV2
from medsal.networks.film_classifier import film_classifier, learning_rate
from medsal.networks.slices import SlicesAsChannels, slices_to_channels
from medsal.networks.torchvision_weights import from_torchvision_state_dict
from medsal.networks.training import LearningCurve, save_weights

__all__ = [
    "EfficientNetV2",
    "LearningCurve",
    "SlicesAsChannels",
    "Stage",
    "film_classifier",
    "from_torchvision_state_dict",
    "learning_rate",
    "save_weights",
    "slices_to_channels",
]
