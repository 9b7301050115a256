"""What the server that forks workers imports and reads before the first of them: it need not be done for each study."""

from __future__ import annotations

import contextlib
from importlib import import_module

for _name in (
    "highdicom",
    "medsal.bundle.workflow",
    "medsal.dicom.explaining",
    "medsal.engines",
    "medsal.handlers.exporter",
    "medsal.pacs.inside",
):
    import_module(_name)

with contextlib.suppress(ImportError, AttributeError):  # a table of highdicom's own, 0.8 s; without it all goes on
    import_module("highdicom._standard_utils").get_module_attribute_map()
