"""Names of cases: safe as file names, each its own, and without a person's where that is asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["anonymise_cases", "number_cases", "safe_case_name"]


def safe_case_name(text: str) -> str:
    """Write any name so that it can be a file name.

    Args:
        text: a name.

    Returns:
        Letters, digits and ``. _ + -`` only, not empty, no dot or underscore at its ends.

    Example:
        >>> safe_case_name("P 1/7"), safe_case_name("__")
        ('P-1-7', 'case')
    """
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9.+_-]", "-", text)).strip("._") or "case"


def number_cases(cases: Sequence[dict[str, Any]]) -> None:
    """Give each case a name of its own that can be a file name: by subject, session and the ``rest`` of a BIDS name.

    Args:
        cases: with subject, session and, where there is one, rest, which is taken away; case is put in. What is wrong
            with an anonymous case no longer names its files.
    """
    taken: Counter[str] = Counter()
    for case in cases:
        session = case["session"]
        parts = (case["subject"], session if not session or session.startswith("ses-") else f"ses-{session}")
        whole = "_".join(part for part in (*parts, case.pop("rest", "")) if part)
        case["case"] = own_name(safe_case_name(whole), taken)
        if case.get("anonymous") and "fault" in case:
            case["fault"] = without_paths(case["fault"], case)


def own_name(name: str, taken: Counter[str]) -> str:
    """Number a name that was given before.

    Args:
        name: the name.
        taken: how often each name in lower case was asked for; is counted on.

    Returns:
        The name, or the name with a number.
    """
    found = name
    while taken[found.lower()]:
        taken[found.lower()] += 1
        found = f"{found}_{taken[found.lower()]}"
    taken[found.lower()] += 1
    return found


def anonymise_cases(cases: Sequence[dict[str, Any]]) -> None:
    """Number the subjects, and within each subject the sessions, in order of first appearance.

    Args:
        cases: with subject and session; ``anonymous`` is put in. Their names are still to be made, by `number_cases`.
    """
    sessions: dict[str, dict[str, int]] = {}
    for case in cases:
        known = sessions.setdefault(case["subject"], {})
        known.setdefault(case["session"], len(known) + 1)
    people = {subject: number for number, subject in enumerate(sessions, start=1)}
    for case in cases:
        subject, session = case["subject"], case["session"]
        case["subject"] = f"anon-{people[subject]:04d}"
        case["session"] = f"ses-{sessions[subject][session]:02d}" if session else ""
        case["anonymous"] = True
        case.pop("rest", None)


def without_paths(text: str, case: dict[str, Any]) -> str:
    """Take the files of a case out of a message.

    Args:
        text: the message.
        case: its files by key.

    Returns:
        The message with ``image of anon-0001`` and the like in their place.
    """
    for key in ("image", "lesion", "regions", "mask", "layers"):
        if isinstance(case.get(key), str) and case[key]:
            path, hidden = Path(case[key]), f"{key} of {case.get('case', '')}"
            text = re.sub("|".join(map(re.escape, (str(path), path.name))), hidden, text)
            # other files of the same name, in quotes
            text = re.sub(rf"'(?:[^']*[^'\w])?{re.escape(path.stem)}(?:[^'\w][^']*)?'", f"'{hidden}'", text)
    return text
