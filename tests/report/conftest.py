"""The small cases of the export tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("export_cases", Path(__file__).parents[1] / "export" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
make_case, make_tensor = _module.make_case, _module.make_tensor
