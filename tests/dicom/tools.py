"""Programs of other people that tests ask: absent on a user's machine they skip a test, in CI they fail it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str, source: str) -> str:
    """The path of a program, on the search path or beside Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        says = f"needs {name}: {source}"
        if os.environ.get("CI") == "true":
            pytest.fail(says)
        pytest.skip(says)
    return found
