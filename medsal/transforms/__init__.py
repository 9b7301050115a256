"""MONAI transforms of medsal, under their MONAI names.

Array transforms take a channel-first image without batch; the dictionary versions carry the suffix ``d`` (aliases ``D``
and ``Dict``).
"""

from __future__ import annotations

from medsal.transforms import images, scores
from medsal.transforms.images import *  # noqa: F403  what its __all__ names
from medsal.transforms.scores import *  # noqa: F403  likewise

__all__ = []
__all__ += images.__all__
__all__ += scores.__all__
