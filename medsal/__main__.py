"""``python -m medsal``."""

from __future__ import annotations

from medsal.cli import main

raise SystemExit(main())
