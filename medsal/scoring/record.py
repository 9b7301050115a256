"""The ``evaluation.json`` that goes with a table of scores: what was asked, what was left out, digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.errors import UsageError
from medsal.files import json_bytes, write_file
from medsal.scoring.summary import FILES, count_left_out
from medsal.scoring.table import ADVERSARIES, CSV, PARQUET, read_scores

if TYPE_CHECKING:
    from medsal.scoring.settings import Settings

RECORD = "evaluation.json"
OF_THE_MACHINE = frozenset({"bundle_root", "device", "output_dir"})
"""Ids of a configuration that say where a run took place."""
PATH = "(path)"


def write_record(
    folder: str | Path,
    settings: Settings,
    *,
    config: Mapping[str, Any] | None = None,
    exclusions: Mapping[str, str] | None = None,
    sources: Any = None,
    **facts: Any,
) -> Path:
    """Write ``evaluation.json`` beside the scores and the summary, which must lie there, and adversaries where asked.

    Args:
        folder: of ``write_scores`` and ``write_summary``.
        settings: that the summary was made with.
        config: the raw merged configuration; kept and hashed without absolute paths and ids of the machine, so that the
            same evaluation has the same hash everywhere.
        exclusions: case -> why it was not scored.
        sources: where maps and truth came from.
        **facts: more of them, such as ``seeds``, ``model`` or ``resampled``; of what JSON can say.

    Returns:
        The file.

    Raises:
        UsageError: if scores or summary are not there, or a fact has the name of another entry.
    """
    folder = Path(folder)
    missing = [name for name in (CSV, PARQUET, *FILES) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{RECORD}: wanted {', '.join(missing)} in the folder: write scores and summary first")
    from medsal.bundle.fingerprint import file_sha256

    more = [ADVERSARIES] if settings.adversaries and (folder / ADVERSARIES).is_file() else []
    scores = read_scores(folder / CSV)
    plain = portable(config or {})
    content = {
        "medsal": __version__,
        "settings": settings.as_dict(),
        "seeds": {"settings": settings.seed},
        "config": plain,
        "config_sha256": digest(plain),
        "exclusions": dict(exclusions or {}),
        "sources": sources,
        "counts": {"rows": len(scores), "cases": scores["case"].nunique(), "patients": scores["patient"].nunique()},
        "left_out": count_left_out(scores).to_dict("records"),
        "files": {name: file_sha256(folder / name) for name in (CSV, PARQUET, *FILES, *more)},
        "versions": versions(),
    }
    taken = [name for name in facts if name in content and name != "seeds"] + [n for n in facts if n == "record_sha256"]
    if taken:
        raise UsageError(f"{RECORD}: {', '.join(taken)} cannot be given, it is written by itself")
    whole = json.loads(json_bytes({**content, **facts}))
    whole["record_sha256"] = digest(whole)
    return write_file(folder / RECORD, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read ``evaluation.json``.

    Args:
        folder: that holds it.

    Returns:
        Its content.

    Raises:
        UsageError: if it is not there, or is no JSON object.
    """
    path = Path(folder) / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; wanted the folder of an evaluation") from error
    except ValueError as error:
        raise UsageError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: wanted an object, got {type(found).__name__}")
    return found


def digest(what: Any) -> str:
    """The sha256 of canonical JSON: sorted keys, no spaces, numbers that are not finite as null.

    Args:
        what: plain types.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest({"b": 1, "a": 2.5}) == digest({"a": 2.5, "b": 1})
        True
    """
    import hashlib

    plain = json.loads(json_bytes(what))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def portable(config: Any) -> Any:
    """A configuration without what belongs to one machine.

    Args:
        config: raw, of plain types.

    Returns:
        The same with JSON's types, without ``OF_THE_MACHINE``, absolute paths replaced by ``(path)``.

    Example:
        >>> portable({"maps_dir": "/data/maps", "device": "cuda", "metrics": ["iou"]})
        {'maps_dir': '(path)', 'metrics': ['iou']}
    """
    if isinstance(config, Mapping):
        return {str(key): portable(value) for key, value in config.items() if key not in OF_THE_MACHINE}
    if isinstance(config, list | tuple):
        return [portable(value) for value in config]
    text = str(config) if isinstance(config, str | Path) else ""
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return PATH
    return json.loads(json_bytes(config))


def versions() -> dict[str, str]:
    """The versions of what the scores and their summary depend on.

    Returns:
        Name -> version.
    """
    from medsal.bundle.summary import versions as of_a_run

    more = ("scipy", "statsmodels", "scikit-learn", "scikit-image", "pandas", "pyarrow")
    return {**of_a_run(), **{name: version(name) for name in more}}
