"""Between medsal and a hospital's archive: ask, fetch, listen, send back, and keep books of it.

Needs the extra ``pacs`` (``pip install medsal[pacs]``). Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Client": "client",
    "Sent": "client",
    "Study": "client",
    "Wanted": "client",
    "connect": "connecting",
    "DimseClient": "dimse",
    "STATES": "jobs",
    "Job": "jobs",
    "State": "jobs",
    "Ledger": "ledger",
    "Listener": "listener",
    "Listening": "nodes",
    "Node": "nodes",
    "Site": "nodes",
    "Tls": "nodes",
    "Work": "nodes",
    "load_site": "nodes",
    "Run": "running",
    "explain_pulled": "running",
    "Held": "spool",
    "Spool": "spool",
    "object_name": "spool",
    "PROBLEMS": "troubles",
    "Problem": "troubles",
    "Trouble": "troubles",
    "Watch": "watching",
    "WebClient": "web",
    "explain_study": "worker",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medsal.pacs' has no attribute '{name}'; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
