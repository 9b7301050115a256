"""Options of a bundle run, checked before anything heavy happens: MONAI takes typos and stray words in silence."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from medsal.bundle.audit import without_macros
from medsal.bundle.command_line import check_words, is_bundle_run, read_config, value_of, with_args_file
from medsal.bundle.requirements import check_meaning, check_references, check_versions
from medsal.bundle.values import SEPARATOR, check_explanation, component_of, parameters, read_values
from medsal.errors import UsageError

CONTRACT = frozenset({
    "bundle_root", "ckpt_path", "csv_path", "dataloader", "dataset", "dataset_dir", "datalist", "device", "evaluator",
    "finalize", "handlers", "inferer", "initialize", "max_samples", "network", "network_def", "output_dir",
    "postprocessing", "preprocessing", "run",
})  # fmt: skip
"""Ids that every bundle may be asked for, whether its own config names them or not."""

ALSO_KNOWN_AS = {
    "model_path": "ckpt_path", "model": "ckpt_path", "weights": "ckpt_path", "checkpoint": "ckpt_path",
    "csv": "csv_path", "output": "output_dir", "out_dir": "output_dir", "data_dir": "dataset_dir", "method": "methods",
    "parameters_path": "network_def", "n_samples": "max_samples", "slice": "slices",
}  # fmt: skip
"""What the same options are called elsewhere."""


@dataclass
class _Run:
    """The configuration of the run in this process, and whether a workflow object vouches for it."""

    config: dict[str, Any] | None = None
    owned: bool = False


_RUN = _Run()


def check_command_line(argv: Sequence[str] | None = None) -> None:
    """Refuse what ``python -m monai.bundle run`` would take in silence; a step for a config's ``initialize``.

    Checked are names of options, lists with blanks, values that cannot be, and names of methods. From here on an error
    ends the process with one line and the right exit code. Does nothing where the process is no bundle run.

    Args:
        argv: the command line; ``sys.argv`` by default.

    Raises:
        UsageError: in one line, with a suggestion.
    """
    argv = list(sys.argv if argv is None else argv)
    if _RUN.owned:
        return
    _RUN.config = None
    if not is_bundle_run(argv):
        return
    from medsal.bundle import exits

    exits.install(quiet=False)
    found = check_words(argv)
    given = with_args_file({key: value_of(text) for key, text in found.options.items()})
    files = given.get("config_file")
    if files:
        config = read_config(files, given.get("meta_file"))
        _RUN.config = check_options(config, given, found.positional)
        for key, value in read_values(config, given).items():
            if value != given[key]:
                raise UsageError(f"--{key}: plain monai.bundle takes {given[key]!r} as text; write {value}")


@contextmanager
def configured(config: dict[str, Any]) -> Iterator[None]:
    """Vouch for the configuration of what runs inside the ``with`` block.

    Args:
        config: the raw configuration, options put in.

    Yields:
        Nothing.
    """
    before = _RUN.config, _RUN.owned
    _RUN.config, _RUN.owned = config, True
    try:
        yield
    finally:
        _RUN.config, _RUN.owned = before


def check_options(
    config: Mapping[str, Any], given: Mapping[str, Any], positional: Iterable[str] = ()
) -> dict[str, Any]:
    """Check options against the config that they change.

    Args:
        config: the merged config files.
        given: option -> value.
        positional: ids of the steps to run, as words without an option.

    Returns:
        The configuration with options and macros put in.

    Raises:
        UsageError: in one line, with a suggestion.
    """
    from monai.bundle import ConfigParser

    for word in positional:
        if word not in config:
            raise UsageError(f"unknown word {word!r} in front of the options; an option is written --name value")
    overrides = {key: value for key, value in given.items() if key not in run_arguments()}
    if overrides.get("methods") is not None and overrides.get("preset") not in {None, "", "null"}:
        raise UsageError(f"--preset {overrides['preset']} names the methods: leave --methods out")
    labels = _labels({**config, **overrides})
    for key, value in overrides.items():
        if not (isinstance(value, Mapping) and SEPARATOR.split(key) in [["options", label] for label in labels]):
            _check_one(config, key, value)
    overrides = read_values(config, overrides)
    parser = ConfigParser(deepcopy(dict(config)), globals=False)
    for key, value in overrides.items():
        if value is not None:
            parser[key.removeprefix("+")] = value
    merged: dict[str, Any] = without_macros(parser.get())
    check_meaning(merged)
    check_references(merged)
    check_versions(merged.get("_meta_") or {})
    _check_values(merged)
    check_explanation(merged)
    return merged


def run_configuration() -> dict[str, Any] | None:
    """The raw configuration of this run, options put in.

    Returns:
        The configuration; None in a process that is no bundle run, which cannot know what went into a config.
    """
    return _RUN.config


def run_arguments() -> frozenset[str]:
    """What ``monai.bundle run`` and ``medsal.bundle.Workflow`` take besides ids of a config.

    Returns:
        Names of arguments.
    """
    from monai.bundle import scripts

    own = {"workflow_name", "workflow_type", "properties_path", "audit"}
    return frozenset(own | (set(inspect.signature(scripts.run).parameters) - {"override"}))


def _check_one(config: Mapping[str, Any], key: str, value: Any) -> None:
    """Refuse one option that does not exist or would have no effect."""
    path = SEPARATOR.split(key.removeprefix("+"))
    if not _exists(config, path):
        raise UsageError(f"unknown option --{key}{_suggestion(config, key, path)}")
    present = _at(config, path)
    if value is None and present is not None:
        raise UsageError(f"--{key} None has no effect in monai.bundle, the config's own {present!r} would stay")
    number = isinstance(present, int | float) and not isinstance(present, bool)
    if number and isinstance(value, str) and not value.startswith(("$", "@", "%")):
        raise UsageError(f"--{key}: wanted a number such as {present!r}, got {value!r}")


def _labels(config: Mapping[str, Any]) -> list[str]:
    """Names of maps that are no names of methods: those of the config's own, or of its preset."""
    from medsal.attribution.presets import PRESETS

    preset, methods = str(config.get("preset")), config.get("methods")
    named: Any = PRESETS.get(preset, PRESETS.get(methods, methods) if isinstance(methods, str) else methods)
    return [str(label) for label in named] if isinstance(named, Mapping) else []


def _exists(config: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether an id is in the config, or is a new argument that its component takes."""
    node: Any = config
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, Mapping):
            if name not in node:
                return last and (name in CONTRACT if depth == 0 else _accepts(node, name, path[:depth]))
            node = node[name]
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            return False
    return True


def _accepts(node: Mapping[str, Any], name: str, parent: Sequence[str]) -> bool:
    """Whether a new key may stand in a part of the config."""
    if parent[0] == "options" or parent[0] == "_meta_":
        return len(parent) == 2 or parent[0] == "_meta_"
    if name.startswith("_"):
        return name in {"_disabled_", "_mode_"} and "_target_" in node
    return any(p.name == name for p in parameters(component_of(node)) if p.name not in {"self", "args", "kwargs"})


def _at(config: Any, path: Sequence[str]) -> Any:
    """What stands at an id; None where nothing does."""
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else config[int(name)]
    return config


def _suggestion(config: Mapping[str, Any], key: str, path: Sequence[str]) -> str:
    """The nearest id, in words."""
    if len(path) == 1 and key in ALSO_KNOWN_AS:
        return f"; did you mean --{ALSO_KNOWN_AS[key]}?"
    if len(path) == 1 and "." in key:
        path = key.split(".")
    node: Any = config
    for depth, name in enumerate(path):
        names = [str(one) for one in (node if isinstance(node, Mapping) else range(len(node)))]
        if name not in names:
            known = [one for one in names if not one.startswith("_")] + (
                list(run_arguments() | CONTRACT) if depth == 0 else []
            )
            near = difflib.get_close_matches(name, known, 1, 0.6)
            where = f"{'::'.join(path[:depth])} has" if depth else "the config has"
            hint = "::".join([*path[:depth], *near])
            return f"; did you mean --{hint}?" if near else f"; {where} {', '.join(sorted(known)) or 'nothing below'}"
        node = _at(node, [name])
        if not isinstance(node, Mapping | list):
            break
    known_path = "::".join(path)
    return f"; did you mean --{known_path}?" if known_path != key and _exists(config, path) else ""


def _check_values(config: Mapping[str, Any]) -> None:
    """Refuse methods and devices that do not exist, before weights are loaded and images are read."""
    methods, preset, device = config.get("methods"), config.get("preset"), config.get("device")
    later = any(isinstance(one, str) and one.startswith(("$", "@")) for one in (methods, preset))
    if methods is not None and not later:
        from medsal.bundle.asked import asked_methods

        asked_methods(methods, preset)
    if isinstance(device, str) and not device.startswith(("$", "@", "%")):
        import torch

        try:
            torch.empty(0, device=device)
        except Exception as error:
            text = str(error).split("\n", maxsplit=1)[0]
            raise UsageError(f"device: cannot compute on {device!r} ({text}); try --device cpu") from error
