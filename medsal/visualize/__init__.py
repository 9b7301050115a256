"""Drop-in classes with the names and calls of ``monai.visualize``, over medsal's methods.

Change the import, and batches are right, maps are not turned round, ``MetaTensor`` stays ``MetaTensor``, and the
network is given back as it was found. ``docs/from-monai.md`` says what changes.
"""

from __future__ import annotations

from medsal.visualize.cams import CAM, GradCAM, GradCAMpp
from medsal.visualize.gradients import GuidedBackpropGrad, GuidedBackpropSmoothGrad, SmoothGrad, VanillaGrad
from medsal.visualize.occlusion import OcclusionSensitivity
from medsal.visualize.upsampling import default_upsampler

__all__ = [
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "GuidedBackpropGrad",
    "GuidedBackpropSmoothGrad",
    "OcclusionSensitivity",
    "SmoothGrad",
    "VanillaGrad",
    "default_upsampler",
]
