"""One offline page per run: every case, its slices, its maps under a slider, and what went wrong.

`case_page` turns a case into a small file; `write_index` puts those files on one page.
"""

from __future__ import annotations

from medsal.report.case import case_page
from medsal.report.page import write_index

__all__ = ["case_page", "write_index"]
