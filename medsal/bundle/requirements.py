"""What a config asks for without MONAI looking: versions, and values that do not mean what they seem to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from medsal.bundle.audit import leaves
from medsal.errors import UsageError

_PACKAGES = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
_SEVERAL = re.compile(r"\$\s*(from\s+\S+\s+)?import\s.*,")
_REFERENCE = re.compile(r"(?<!\w)@(\w+)")
_ENTRIES = ("initialize", "run", "finalize")
_HINTS = {"ckpt_path": "models/model.pt", "output_dir": "out"}
_POWER = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)


def check_versions(meta: Mapping[str, Any]) -> None:
    """Refuse a bundle whose metadata wants packages that are not there, or newer ones; ``monai.bundle run`` ignores it.

    Args:
        meta: the metadata.

    Raises:
        UsageError: naming the package, what is wanted and what is there.
    """
    from monai.utils import version_leq

    wanted = {package: meta[key] for key, package in _PACKAGES.items() if key in meta}
    wanted |= dict(meta.get("required_packages_version") or {})
    for package, least in wanted.items():
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise UsageError(f"metadata: the bundle needs {package} {least}; it is not installed") from error
        if not version_leq(str(least), found):
            raise UsageError(f"metadata: the bundle needs {package} {least} or newer, installed is {found}")


def check_meaning(config: Mapping[str, Any]) -> None:
    """Refuse values that read like something they are not.

    Args:
        config: a merged configuration.

    Raises:
        UsageError: for ``_disabled_`` with a text that does not disable, numbers that YAML reads as text, and imports
            of several names at once.
    """
    for key, value in leaves({name: part for name, part in config.items() if name != "_meta_"}):
        if isinstance(value, str) and _SEVERAL.match(value):
            raise UsageError(f"{key}: of {value!r} MONAI imports the first name only; write one import per name")
        if not isinstance(value, str) or value.startswith(("$", "@", "%")):
            continue
        if key.endswith("::_disabled_") and value.strip().lower() not in {"true", "false"}:
            raise UsageError(f"{key}: wanted true or false, got {value!r}, which would not disable")
        if _POWER.fullmatch(value):
            raise UsageError(f"{key}: {value!r} is text, not a number; in YAML write {float(value)}")


def check_references(config: Mapping[str, Any]) -> None:
    """Refuse a config of which a part that will be used refers to an id that is not there.

    Args:
        config: a merged configuration without macros.

    Raises:
        UsageError: naming the part, the id, and the option that gives it.
    """
    wanted = [entry for entry in _ENTRIES if entry in config]
    seen = {"_meta_", *wanted}
    while wanted:
        part = wanted.pop()
        for key, value in leaves({part: config[part]}):
            for name in _REFERENCE.findall(value) if isinstance(value, str) and value.startswith(("@", "$")) else ():
                if name not in config:
                    raise UsageError(
                        f"config: {key} wants the id {name}, which the bundle does not have; "
                        f"add --{name} {_HINTS.get(name, '...')}"
                    )
                if name not in seen:
                    seen.add(name)
                    wanted.append(name)
