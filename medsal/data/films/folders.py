"""What the readers of class folders share: which folders are parts and classes, and whose film a name tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.listing import film_case
from medsal.data.films.loading import find_films
from medsal.errors import UsageError

__all__ = ["PARTS", "class_names", "class_parts", "films_of_folders", "folders_in", "part_name", "subject_of"]

PARTS = ("train", "val", "test")
"""Parts of a split."""

Parts = Sequence[tuple[str, Path]]
"""A part of a split, empty where there is none, and a folder of films of one class."""

_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


def part_name(text: str) -> str:
    """The usual name of a part of a split.

    Args:
        text: as a table or folder calls it.

    Returns:
        ``train``, ``val`` or ``test``; any other text as it is, in lower case.

    Example:
        >>> part_name("Valid"), part_name("TEST")
        ('val', 'test')
    """
    name = text.strip().lower()
    return _ALIASES.get(name, name)


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, by name.

    Args:
        root: the folder.

    Returns:
        Those that are not hidden.

    Raises:
        UsageError: there is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"'{root}': no such folder; wanted a folder with one folder of films per class")
    return sorted(part for part in root.iterdir() if part.is_dir() and not part.name.startswith((".", "__")))


def class_parts(root: Path) -> list[tuple[str, Path]]:
    """The class folders in the parts of a split.

    Args:
        root: a folder with ``train``, ``val``, ``test`` in it, or some of them.

    Returns:
        Part and class folder, in the order of `PARTS`; nothing where the folder has no parts.

    Raises:
        UsageError: beside parts there are other folders, or there is no such folder.
    """
    folders = folders_in(root)
    parts = {part_name(folder.name): folder for folder in folders if part_name(folder.name) in PARTS}
    if parts and len(parts) < len(folders):
        other = next(folder.name for folder in folders if folder not in parts.values())
        raise UsageError(
            f"'{root}': has the folder '{other}' beside {', '.join(parts)}; wanted {', '.join(PARTS)} only"
        )
    return [(part, folder) for part in PARTS if part in parts for folder in folders_in(parts[part])]


def class_names(root: Path, found: Parts, classes: Sequence[str] | None) -> list[str]:
    """The classes, in the order of their numbers.

    Args:
        root: where the folders are.
        found: parts and class folders.
        classes: what they should be; None: the names of the folders in alphabetical order.

    Returns:
        Names of the classes.

    Raises:
        UsageError: there is no folder, or the folders are not the classes.
    """
    there = sorted({folder.name for _, folder in found})
    if not there:
        raise UsageError(f"'{root}': no folders in it; wanted one folder of films per class")
    wanted = there if classes is None else list(classes)
    if sorted(wanted) != there:
        raise UsageError(f"'{root}': has the folders {', '.join(there)}; wanted the classes {', '.join(wanted)}")
    return wanted


def films_of_folders(found: Parts, classes: Sequence[str], pattern: str | None, **more: Any) -> list[dict[str, Any]]:
    """The films of class folders.

    Args:
        found: parts and class folders.
        classes: names of the classes in the order of their numbers.
        pattern: see `subject_of`.
        **more: further entries of each case.

    Returns:
        A case for each film, by part, class and name; ``split`` where there are parts.
    """
    taken: Counter[str] = Counter()
    cases = []
    for label, name in enumerate(classes):
        for part, folder in found:
            if folder.name != name:
                continue
            split = {"split": part} if part else {}
            for film, files in find_films(folder).items():
                for file in files:
                    case = film_case(film, label, name, taken, **split, **more)
                    cases.append({**case, "subject": subject_of(film, pattern), "image": str(file)})
    return sorted(cases, key=lambda case: PARTS.index(case.get("split", PARTS[0])))


def subject_of(name: str, pattern: str | None) -> str:
    """Whose film it is, by its name.

    Args:
        name: of the film, without the ending of its file.
        pattern: a regular expression; its first group, or all that it finds, is the person. None: the name itself.

    Returns:
        The person; the name itself where the pattern does not find one.

    Raises:
        UsageError: the pattern is no regular expression.

    Example:
        >>> subject_of("person7_virus_12", r"person[0-9]+"), subject_of("IM-0005-0001", r"person[0-9]+")
        ('person7', 'IM-0005-0001')
    """
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise UsageError(f"subject_pattern: '{pattern}' is no regular expression ({error})") from error
    if found is None:
        return name
    return str(found.group(1) if found.re.groups else found.group())
