"""DICOM in and out, without a network: safe opening, selection of series, films and volumes with their native grid.

Whatever is not read is refused with a code of `Reason`; nothing is guessed. Needs the extra ``dicom``
(``pip install medsal[dicom]``). Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "LIMITS": "safe",
    "Limits": "safe",
    "Opened": "safe",
    "files_below": "safe",
    "open_file": "safe",
    "REASONS": "reasons",
    "Reason": "reasons",
    "Refusal": "reasons",
    "Scan": "scan",
    "Series": "scan",
    "scan_folder": "scan",
    "PRESETS": "select",
    "Selection": "select",
    "load_rules": "select",
    "select_series": "select",
    "REQUIREMENTS": "matching",
    "read_film": "film",
    "read_series": "series",
    "NativeGrid": "grid",
    "map_to_native": "grid",
    "PhiFilter": "phi",
    "pseudonym": "phi",
    "quiet": "phi",
    "deidentify": "deid",
    "Findings": "save",
    "results": "save",
    "save_results": "save",
    "write_dicom": "save",
    "Study": "sources",
    "open_study": "sources",
    "dciodvfy": "checks",
    "Provenance": "uids",
    "derived_uid": "uids",
    "is_own": "uids",
    "valid_uid": "uids",
    "Shard": "units",
    "find": "units",
    "Job": "explaining",
    "load_model": "model",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medsal.dicom' has no attribute '{name}'; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
