"""Values of options as a shell hands them over: text for booleans, nothing where a path was meant, fractions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medsal.bundle.audit import harmless_target
from medsal.errors import UsageError

SEPARATOR = re.compile(r"::|#")
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_WHOLE = {"max_samples", "seed", "embedded_cases", "embedded_seed"}
_PATH = re.compile(r".*_(path|dir)|bundle_root")
_NUMBER = re.compile(r"[+-]?\d*\.\d*(e[+-]?\d+)?")
_UNKNOWN = object()


def read_values(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the values of options by what stands in the config: ``false`` is no true text.

    Args:
        config: the merged config files.
        given: option -> value.

    Returns:
        The options, booleans as booleans.

    Raises:
        UsageError: for an empty path, an option without its value, a fraction where a number is whole, and text that is
            no boolean.

    Example:
        >>> read_values({"anonymise": True}, {"anonymise": "no"})
        {'anonymise': False}
    """
    return {key: _read(config, key, SEPARATOR.split(key.removeprefix("+")), value) for key, value in given.items()}


def check_explanation(config: Mapping[str, Any]) -> None:
    """Refuse a number of cases, a target or a memory format that no run can go with.

    Args:
        config: a merged configuration; looked at only where it explains.

    Raises:
        UsageError: if one cannot be.
    """
    if isinstance(config.get("max_samples"), int) and config["max_samples"] < 0:
        raise UsageError(f"--max_samples: wanted 0 (all) or more, got {config['max_samples']}")
    engine = config.get("evaluator")
    if not isinstance(engine, Mapping) or engine.get("_target_") != "medsal.engines.AttributionEvaluator":
        return
    target = config.get("target")
    whole = isinstance(target, int) and not isinstance(target, bool)
    text = isinstance(target, str) and not _NUMBER.fullmatch(target)
    if not (target is None or whole or text or isinstance(target, list | tuple)):
        raise UsageError(f"--target: wanted a class number, label or predicted, got {target!r}")
    image = config.get("_meta_", {}).get("network_data_format", {}).get("inputs", {}).get("image", {})
    space, layout = len(image.get("spatial_shape", ())), config.get("memory_format")
    if space and (layout, space) in {("channels_last", 3), ("channels_last_3d", 2)}:
        raise UsageError(f"--memory_format: {layout} is not for images in {space}D; use contiguous or auto")


def truth(key: str, value: Any) -> bool:
    """Read a boolean.

    Args:
        key: the option.
        value: a boolean, 0, 1, or text: true, yes, on; false, no, off.

    Returns:
        What it means.

    Raises:
        UsageError: if it is something else.
    """
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise UsageError(f"--{key}: wanted true or false, got {value!r}")
    return word in _TRUE


def component_of(node: Mapping[str, Any]) -> Any:
    """Find the class or function of a part of the config.

    Args:
        node: a part with ``_target_``.

    Returns:
        What it names; None where there is none, or it is not known as harmless.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or not harmless_target(target):
        return None
    from monai.bundle.config_item import ConfigComponent
    from monai.utils import optional_import

    module, _, attribute = str(ConfigComponent(dict(node)).resolve_module_name()).rpartition(".")
    component, there = optional_import(module, name=attribute)
    return component if there else None


def parameters(component: Any) -> Iterator[inspect.Parameter]:
    """List the arguments of a class or function, those of its bases too where it hands keywords on.

    Args:
        component: a class or function; None has none.

    Yields:
        Its parameters.
    """
    for one in getattr(component, "__mro__", (component,)) if component is not None else ():
        found = inspect.signature(one).parameters if one is not object else {}
        yield from found.values()
        if all(p.kind is not p.VAR_KEYWORD for p in found.values()):
            break


def _read(config: Mapping[str, Any], key: str, path: Sequence[str], value: Any) -> Any:
    """Read one value, or each value of a part that is given whole."""
    if isinstance(value, Mapping):
        return {name: _read(config, f"{key}::{name}", [*path, str(name)], part) for name, part in value.items()}
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        return value
    present = _present(config, path)
    if isinstance(present, bool):
        return value if value is None else truth(key, value)
    shown = isinstance(present, str | int | float) and not str(present).startswith("$") and present != ""
    wanted = f" such as {present!r}" if shown else ""
    if _PATH.fullmatch(path[-1]) and isinstance(value, str) and not value.strip():
        raise UsageError(f"--{key}: wanted a path, got nothing; is a variable of the shell unset?")
    if isinstance(value, bool) and (isinstance(present, str | int | float) or _PATH.fullmatch(path[-1])):
        raise UsageError(f"--{key}: wanted a value{wanted}, got {'none' if value else value}")
    if path[-1] in _WHOLE and isinstance(value, float):
        raise UsageError(f"--{key}: wanted a whole number{wanted}, got {value!r}")
    return value


def _present(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at an id, or what its component or method takes where nothing is given."""
    node: Any = config
    for depth, name in enumerate(path):
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif depth == len(path) - 1 and isinstance(node, Mapping):
            return _default(node, path)
        else:
            return _UNKNOWN
    return node


def _default(node: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What an argument is where it is not given; a boolean also where it may be one or None."""
    from medsal.attribution import ALIASES, METHODS

    method = METHODS.get(ALIASES.get(path[1], path[1])) if len(path) == 3 and path[0] == "options" else None
    component = method.function if method else component_of(node)
    if component is None:
        return _UNKNOWN
    for found in parameters(component):
        if found.name == path[-1]:
            return False if "bool" in str(found.annotation) else found.default
    return _UNKNOWN
