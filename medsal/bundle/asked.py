"""Methods as a command line or a config asks for them: names, maps with names of their own, or a preset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medsal.attribution.choice import MethodsLike, method_rows
from medsal.attribution.presets import PRESETS
from medsal.errors import UsageError
from medsal.export.layout import camel

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def method_names(methods: MethodsLike) -> list[str]:
    """Read names of methods as a command line or a config has them.

    Args:
        methods: ``"a,b"``, any iterable of names, or a mapping from the names of maps to ``method`` and options.

    Returns:
        The names, of maps where they have names of their own, each once.

    Raises:
        UsageError: if a name is not known, there is none, or two maps would have files of the same name.

    Example:
        >>> method_names("saliency, gradcam")
        ['saliency', 'gradcam']
    """
    if not isinstance(methods, Mapping):
        parts = [methods] if isinstance(methods, str) else list(methods)
        return list(method_rows([name.strip() for part in parts for name in str(part).split(",") if name.strip()]))
    named: dict[str, str] = {}
    for label, given in methods.items():
        if not isinstance(given, Mapping):
            raise UsageError(f"methods: wanted {label}: {{method: name, option: value}}, got {given!r}")
        method_rows(str(given.get("method", label)))
        first = named.setdefault(camel(str(label)).lower(), str(label))
        if not _LABEL.fullmatch(str(label)) or first != label:
            like = f"; {first!r} and it would be files of the same name" if first != label else ""
            raise UsageError(f"methods: wanted names of letters, digits and _ - only, got {label!r}{like}")
    return list(named.values()) or method_names([])


def asked_methods(methods: MethodsLike, preset: str | None = None) -> list[str] | dict[str, dict[str, Any]]:
    """What a config asks for: the methods of a preset, where it names one, else its own.

    Args:
        methods: as ``method_names`` takes them, or the name of a preset.
        preset: name of a preset; None, ``""`` or ``"null"`` is none.

    Returns:
        Names, or name of each map -> ``method`` and options.

    Raises:
        UsageError: if a method or the preset does not exist, or a method of the preset is not there.
    """
    if isinstance(methods, str) and methods in PRESETS:
        preset = methods if preset in {None, "", "null"} else preset
    if preset is not None and preset not in {"", "null"}:
        if preset not in PRESETS:
            raise UsageError(f"preset: wanted one of {', '.join(PRESETS)}, got {preset!r}")
        methods = PRESETS[preset].arguments()["methods"]
    names = method_names(methods)
    return {name: dict(methods[name]) for name in names} if isinstance(methods, Mapping) else names
