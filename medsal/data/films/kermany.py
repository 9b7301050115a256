"""Class folders, such as those of Kermany's pediatric chest X-rays: ``<class>/<film>`` or ``<part>/<class>/<film>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsal.data.films.folders import class_names, class_parts, films_of_folders, folders_in
from medsal.data.films.listing import log_cases

__all__ = ["KERMANY_SUBJECT", "class_folder_cases"]

KERMANY_SUBJECT = r"^person\d+|^(?:NORMAL2-)?IM-\d+"
"""What of a film's name tells the child. Whether bacterial and viral films of one number are of one child is not known;
they are taken for one, so that no child can be on both sides of a split."""


def class_folder_cases(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    subject_pattern: str | None = KERMANY_SUBJECT,
) -> list[dict[str, Any]]:
    """The films of class folders, by part, class and name.

    Args:
        root: a folder of class folders (``NORMAL``, ``PNEUMONIA``), or of ``train``, ``val``, ``test`` with such in
            them.
        classes: names of the classes in the order of their numbers; None: the names of the folders in alphabetical
            order.
        subject_pattern: a regular expression for what in the name of a film tells whose it is; its first group, or all
            that it finds. None: each film is of another person.

    Returns:
        one dictionary per film: case, subject, session, image (path), label, label_name; ``split`` where there are
        parts.

    Raises:
        UsageError: there is no such folder, a class has no folder or a folder is none of the classes, or the pattern is
            wrong.
        NothingToDoError: there is no film.
    """
    path = Path(root).expanduser()
    found = class_parts(path) or [("", folder) for folder in folders_in(path)]
    cases = films_of_folders(found, class_names(path, found, classes), subject_pattern)
    log_cases(path, cases)
    return cases
