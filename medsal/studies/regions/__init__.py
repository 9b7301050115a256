"""The region study: in which region does a map put its relevance, and do groups of patients differ there?

From stored maps, a label map of regions for each film (or a grid of cells), and the group of each patient. Everything
here is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsal.studies.regions.cases import StudyCases, study_cases
    from medsal.studies.regions.comparison import (
        compare_groups,
        compare_readers,
        detectable_difference,
        read_tables,
    )
    from medsal.studies.regions.figures import draw_effects, draw_groups
    from medsal.studies.regions.settings import RegionSettings
    from medsal.studies.regions.study import RegionStudy

_HOMES = {
    "RegionSettings": "settings",
    "RegionStudy": "study",
    "StudyCases": "cases",
    "compare_groups": "comparison",
    "compare_readers": "comparison",
    "detectable_difference": "comparison",
    "draw_effects": "figures",
    "draw_groups": "figures",
    "read_tables": "comparison",
    "study_cases": "cases",
}

__all__ = [
    "RegionSettings",
    "RegionStudy",
    "StudyCases",
    "compare_groups",
    "compare_readers",
    "detectable_difference",
    "draw_effects",
    "draw_groups",
    "read_tables",
    "study_cases",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
