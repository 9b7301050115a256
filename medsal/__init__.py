"""Where did a medical image classifier look, and can that answer be trusted?

``medsal.explain`` gives relevance maps, ``medsal.METHODS`` lists the methods, ``medsal.PRESETS`` those of published
studies, ``medsal.METRICS`` the scores of maps. All load on first use, so that ``import medsal`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medsal._version import __version__

if TYPE_CHECKING:
    from medsal.attribution import METHODS
    from medsal.attribution.explain import Explanation, explain
    from medsal.attribution.presets import PRESETS
    from medsal.evaluation import METRICS

__all__ = ["METHODS", "METRICS", "PRESETS", "Explanation", "__version__", "explain"]

_HOMES = {
    "METHODS": "medsal.attribution",
    "METRICS": "medsal.evaluation",
    "PRESETS": "medsal.attribution.presets",
    "Explanation": "medsal.attribution.explain",
    "explain": "medsal.attribution.explain",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
