"""The words of ``python -m monai.bundle run ...`` as Fire reads them, and the config files that they name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsal.errors import UsageError


@dataclass(frozen=True)
class CommandLine:
    """The words behind ``monai.bundle run``.

    Attributes:
        positional: words in front of the first option.
        options: option -> its text, as Fire names it; True where it stands alone.
        stray: option -> the words that stand behind its value.
    """

    positional: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    stray: dict[str, list[str]] = field(default_factory=dict)


def split_command_line(words: Sequence[str]) -> CommandLine:
    """Read words as Fire reads them.

    Args:
        words: what stands behind ``monai.bundle run``.

    Returns:
        The command line.

    Example:
        >>> split_command_line(["--methods", "a", "b", "--seed=3", "--output-dir", "x"])
        CommandLine(positional=[], options={'methods': 'a', 'seed': '3', 'output_dir': 'x'}, stray={'methods': ['b']})
    """
    found = CommandLine()
    words = list(words[: words.index("--")] if "--" in words else words)
    last, open_ = None, False
    for word in words:
        if re.match(r"--|-[a-zA-Z]", word):
            key, equals, value = word.lstrip("-").partition("=")
            last, open_ = key.replace("-", "_"), not equals
            found.options[last] = value if equals else True
        elif last is None:
            found.positional.append(word)
        elif open_:
            found.options[last], open_ = word, False
        else:
            found.stray.setdefault(last, []).append(word)
    return found


def is_bundle_run(argv: Sequence[str]) -> bool:
    """Whether a command line is ``python -m monai.bundle run ...``.

    Args:
        argv: like ``sys.argv``.

    Returns:
        True if it is.
    """
    return len(argv) > 1 and Path(argv[0]).parts[-3:-1] == ("monai", "bundle") and argv[1] in {"run", "run_workflow"}


def check_words(argv: Sequence[str]) -> CommandLine:
    """Refuse lists with blanks on the command line of a bundle run.

    Args:
        argv: like ``sys.argv``.

    Returns:
        The command line.

    Raises:
        UsageError: saying how the list is written.
    """
    found = split_command_line(argv[2:])
    for key, words in found.stray.items():
        whole = ",".join([str(found.options[key]), *words])
        raise UsageError(f"--{key} takes one value, got {len(words) + 1}; write --{key} {whole}")
    return found


def read_config(files: Any, meta: Any = None) -> dict[str, Any]:
    """Merge config files, the metadata under ``_meta_``.

    Args:
        files: a path, or several in order.
        meta: path(s) of the metadata; by default ``metadata.json`` beside the first file.

    Returns:
        The merged configuration, nothing of it evaluated.

    Raises:
        UsageError: if a file is missing or cannot be read.
    """
    from monai.bundle import ConfigParser

    paths = [str(path) for path in (files if isinstance(files, list | tuple) else [files])]
    beside = Path(paths[0]).parent / "metadata.json"
    meta = meta or (str(beside) if beside.is_file() else None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Duplicate key")
            config: dict[str, Any] = ConfigParser.load_config_files(paths)
            config["_meta_"] = ConfigParser.load_config_files(meta) if meta else {}
    except Exception as error:
        raise UsageError(f"config_file: cannot read {', '.join(paths)} ({' '.join(str(error).split())})") from error
    return config


def with_args_file(given: dict[str, Any]) -> dict[str, Any]:
    """Put what an ``args_file`` says behind what the command line says.

    Args:
        given: option -> value of the command line.

    Returns:
        The options of both.

    Raises:
        UsageError: if the file cannot be read.
    """
    if not given.get("args_file"):
        return given
    from monai.bundle import ConfigParser

    try:
        return {**ConfigParser.load_config_files(given["args_file"]), **given}
    except Exception as error:
        raise UsageError(f"args_file: cannot read {given['args_file']} ({error})") from error


def value_of(text: Any) -> Any:
    """Read a value as Fire does.

    Args:
        text: one word.

    Returns:
        A number, list, dictionary, None or text.
    """
    from fire.parser import DefaultParseValue

    return DefaultParseValue(text) if isinstance(text, str) else text
