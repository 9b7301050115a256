"""What a user asks for: methods by name, each with its options."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from medsal.attribution import ALIASES, METHODS, Method
from medsal.errors import UsageError

MethodsLike = str | Iterable[str] | Mapping[str, Mapping[str, Any]]
"""A name, names, or the name of each map -> its ``method`` and options."""

KINDS: Mapping[str, tuple[str, Any]] = {
    "int": ("a whole number", int),
    "float": ("a number", int | float),
    "bool": ("true or false", bool),
    "str": ("text", str),
}
"""Annotation of an option -> what it wants, in words and as types."""


def chosen_methods(
    methods: MethodsLike, options: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[dict[str, Method], dict[str, dict[str, Any]]]:
    """Look up methods and check their options.

    Args:
        methods: as ``explain`` takes them.
        options: method -> its options by keyword.

    Returns:
        Name of each map -> its method's row, and name -> options.

    Raises:
        UsageError: if a method or option does not exist.
    """
    own = {name: dict(given) for name, given in methods.items()} if isinstance(methods, Mapping) else {}
    names = {name: str(own[name].pop("method", name)) for name in own}
    if own:
        rows = {name: next(iter(method_rows(method).values())) for name, method in names.items()}
    else:
        rows = method_rows(methods)
    unknown = set(options or {}) - set(rows)
    if unknown:
        raise UsageError(f"options: given for {', '.join(sorted(unknown))}, which is not among the methods")
    given = {name: {**own.get(name, {}), **(options or {}).get(name, {})} for name in rows}
    return rows, {name: method_options(name, row, given[name]) for name, row in rows.items()}


def method_rows(methods: str | Iterable[str]) -> dict[str, Method]:
    """Look methods up.

    Args:
        methods: a name, or names, of ``METHODS`` or ``ALIASES``.

    Returns:
        Name as given -> row, each once, in the order given.

    Raises:
        UsageError: if there is none, or one is not known; the error says which exist.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if ALIASES.get(name, name) not in METHODS:
            near = difflib.get_close_matches(str(name), [*METHODS, *ALIASES], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"methods: unknown method {name!r}.{hint} There are {', '.join(METHODS)}")
    if not names:
        raise UsageError(f"methods: wanted at least one of {', '.join(METHODS)}, got none")
    return {name: METHODS[ALIASES.get(name, name)] for name in names}


def method_options(name: str, row: Method, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the options of a method.

    Args:
        name: the method's name as given.
        row: its row.
        options: what the user gave.

    Returns:
        The options.

    Raises:
        UsageError: if the method has no such option, the error says which it has; or a value is of the wrong kind.
    """
    allowed = [p.name for p in inspect.signature(row.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options or {}:
        if key not in allowed:
            raise UsageError(f"options: {name} has no option {key!r}; it has {', '.join(allowed) or 'none'}")
    annotations = inspect.get_annotations(row.function)
    for key, value in (options or {}).items():
        kind = KINDS.get(str(annotations[key]).removesuffix(" | None"))
        if kind is not None and not (value is None and str(annotations[key]).endswith("None")):
            wanted, types = kind
            if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
                raise UsageError(f"options: {name} wants {key} to be {wanted}, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"options: {name} wants {key} to be finite, got {value!r}")
    return dict(options or {})
