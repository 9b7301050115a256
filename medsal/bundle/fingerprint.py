"""What the result of a case depends on, as one digest; and the name of a case."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medsal._version import __version__
from medsal.errors import UsageError

ROOTS = ("evaluator", "exporter", "dataset")
"""Config ids that, with all that they refer to, make the result of a case."""

IRRELEVANT = frozenset({
    "bundle_root", "cases", "ckpt_path", "csv_path", "dataloader", "datalist", "dataset_dir", "device", "finalize",
    "handlers", "imports", "initialize", "ledger", "max_samples", "output_dir", "pending", "progress", "run",
})  # fmt: skip
"""Ids that cannot change the result of a case: inputs and weights count by their content, not by their place."""

_REFERENCE = re.compile(r"[@%](\w+)")
_NAME = re.compile(r"[A-Za-z0-9+-][A-Za-z0-9+._-]*")


NO_CASES = "the list of cases is empty; set --dataset_dir or --csv_path to where images are"


def contents(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a case is made from.

    Args:
        item: the case as the data list has it.

    Returns:
        Its entries, files by the digest of their content; None where a file cannot be read.
    """
    try:
        return {str(key): _content(value, wanted=key == "image") for key, value in item.items()}
    except OSError:
        return None


def digest(what: Any) -> str:
    """The sha256 of anything that JSON can say.

    Args:
        what: plain types.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(
    item: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    model_sha256: str,
    inputs: Mapping[str, Any] | None = None,
) -> str:
    """Digest of everything that the result of a case depends on.

    ``sha256(contents of its files, its label and names, relevant configuration, weights, version of medsal)``.

    Args:
        item: the case as the data list has it.
        config: the raw merged configuration, None where it is unknown.
        model_sha256: digest of the weights.
        inputs: ``contents`` of the item, where they are known already.

    Returns:
        64 hexadecimal digits; never the same twice where the configuration is unknown or a file cannot be read.
    """
    inputs = inputs or contents(item)
    if config is None or inputs is None:
        return _never()
    return digest([inputs, setup_digest(config, model_sha256)])


def setup_digest(config: Mapping[str, Any] | None, model_sha256: str) -> str:
    """Digest of what the results of all cases of a run depend on: configuration, weights, version of medsal.

    Args:
        config: the raw merged configuration, None where it is unknown.
        model_sha256: digest of the weights.

    Returns:
        64 hexadecimal digits.
    """
    return digest([relevant(config or {}), model_sha256, __version__])


def identified(item: Any) -> dict[str, Any]:
    """Give an item of a data list a name that is safe as a file name.

    Args:
        item: a dictionary with ``image``, or a path.

    Returns:
        A new dictionary with ``image``, ``case``, ``subject`` and ``session``; by the name of the file where
        the item has no names of its own.

    Raises:
        UsageError: if there is no image, or the given name is not safe.

    Example:
        >>> identified("/data/sub-01_ses-2_T1w.nii.gz")["case"]
        'sub-01_ses-2_T1w'
    """
    found = dict(item) if isinstance(item, Mapping) else {"image": item}
    if "image" not in found:
        raise UsageError(f"datalist: wanted items with the key 'image', got the keys {', '.join(map(str, found))}")
    parts = found["image"] if isinstance(found["image"], list | tuple) else [found["image"]]
    if not parts or not all(isinstance(part, str | os.PathLike) for part in parts):
        raise UsageError(f"datalist: wanted a path, or paths, under 'image', got {found['image']!r}")
    if "case" not in found:
        image = found["image"][0] if isinstance(found["image"], list | tuple) else found["image"]
        stem = re.sub(r"(\.nii)?\.[A-Za-z0-9]+$", "", Path(str(image)).name)
        found["case"] = re.sub(r"[^A-Za-z0-9+._-]", "-", stem).strip(".") or "case"
    if not _NAME.fullmatch(str(found["case"])):
        raise UsageError(f"case {found['case']!r} is no safe file name; wanted letters, digits and . _ + - only")
    return {"subject": found["case"], "session": "", **found}


def named_apart(items: Iterable[Any]) -> list[dict[str, Any]]:
    """Name the items of a data list; files of one name in several folders by their folders too.

    Args:
        items: as ``identified`` takes them.

    Returns:
        Items with ``image``, ``case``, ``subject`` and ``session``. Names that the items bring themselves stay.

    Example:
        >>> [item["case"] for item in named_apart(["a/1.png", "b/1.png", "b/2.png"])]
        ['a_1', 'b_1', '2']
    """
    given = [dict(item) if isinstance(item, Mapping) else {"image": item} for item in items]
    found = [identified(item) for item in given]
    times = Counter(item["case"] for item in found)
    for index, item in enumerate(given):
        if times[found[index]["case"]] > 1 and "case" not in item:
            image = item["image"][0] if isinstance(item["image"], list | tuple) else item["image"]
            folder = re.sub(r"[^A-Za-z0-9+-]", "-", Path(str(image)).parent.name)
            found[index] = identified({**item, "case": f"{folder or 'case'}_{found[index]['case']}"})
    return found


def file_sha256(file: Path) -> str:
    """The sha256 of a file's content.

    Args:
        file: the file.

    Returns:
        64 hexadecimal digits.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that can change the result of a case.

    Args:
        config: a raw merged configuration.

    Returns:
        What ``ROOTS`` refer to, over any number of steps, without ``IRRELEVANT`` ids, and of the metadata only the
        format of the data; everything but ``IRRELEVANT`` where there is none of the roots.
    """
    wanted = [root for root in ROOTS if root in config] or list(config)
    kept: dict[str, Any] = {}
    while wanted:
        key = wanted.pop()
        if key in config and key not in kept and key not in IRRELEVANT and key != "_meta_":
            kept[key] = config[key]
            if key == "dataset" and isinstance(config[key], Mapping):  # its items count by their content
                kept[key] = {name: part for name, part in config[key].items() if name != "data"}
            wanted += _REFERENCE.findall(json.dumps(kept[key], default=str))
    if isinstance(kept.get("methods"), str | list | tuple):
        from medsal.bundle.asked import method_names

        kept["methods"] = method_names(kept["methods"])
    meta = config.get("_meta_")
    return {**kept, "_meta_": meta.get("network_data_format") if isinstance(meta, Mapping) else None}


def _content(value: Any, *, wanted: bool) -> Any:
    """A value of an item by its content: the digest of a file, a folder or a list of files, else the value itself."""
    if isinstance(value, list | tuple):
        return [_content(entry, wanted=wanted) for entry in value]
    if not isinstance(value, str | Path) or not str(value) or not (wanted or _exists(value)):
        return value
    path = Path(value)
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    return [file_sha256(file) for file in files]


def _exists(value: str | Path) -> bool:
    """Whether a text is the name of a file; a long one, such as a mask as run lengths, is none."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a null in it
        return False


def _never() -> str:
    """A fingerprint that no record has."""
    return hashlib.sha256(os.urandom(32)).hexdigest()
