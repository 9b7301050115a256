"""The shell of a MONAI bundle: checked options and configs, strict weights, runs that end with the right exit code.

Everything here is loaded on first use, so that naming ``medsal.bundle.Workflow`` on a command line costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsal.bundle.audit import refuse_unsafe, unsafe_items
    from medsal.bundle.exits import CasesFailedError
    from medsal.bundle.options import check_command_line, run_configuration
    from medsal.bundle.results import slice_choice
    from medsal.bundle.running import end_run, run_cases
    from medsal.bundle.weights import load_weights, weights_record
    from medsal.bundle.workflow import Workflow

_HOMES = {
    "CasesFailedError": "exits",
    "Workflow": "workflow",
    "check_command_line": "options",
    "end_run": "running",
    "load_weights": "weights",
    "refuse_unsafe": "audit",
    "run_cases": "running",
    "slice_choice": "results",
    "run_configuration": "options",
    "unsafe_items": "audit",
    "weights_record": "weights",
}

__all__ = [
    "CasesFailedError",
    "Workflow",
    "check_command_line",
    "end_run",
    "load_weights",
    "refuse_unsafe",
    "run_cases",
    "run_configuration",
    "slice_choice",
    "unsafe_items",
    "weights_record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
