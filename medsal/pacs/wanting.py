"""What the values of a configuration must be, said once: the same words serve the check and the error."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medsal.errors import UsageError


@dataclass(frozen=True)
class Want:
    """What one value must be.

    Attributes:
        says: in words, after "wanted".
        holds: whether a value is so.
    """

    says: str
    holds: Callable[[Any], bool]


def check(owner: object, wants: Mapping[str, Want]) -> None:
    """Check the attributes of an object.

    Args:
        owner: the object.
        wants: name of an attribute -> what it must be.

    Raises:
        UsageError: naming the first that is something else.
    """
    for name, want in wants.items():
        value = getattr(owner, name)
        if not want.holds(value):
            shown = re.sub(r"//[^/@]*@", "//[removed]@", repr(value))  # a user and a password
            raise UsageError(f"{name}: wanted {want.says}, got {shown}")


def number(least: float, most: float = math.inf, unit: str = "") -> Want:
    """A number within bounds.

    Args:
        least: smallest.
        most: largest.
        unit: it is in, for the error.

    Returns:
        What is wanted.
    """
    bounds = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
    return Want(
        f"a number {bounds}{f' ({unit})' if unit else ''}",
        lambda value: (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and least <= value <= most
        ),
    )


def whole(least: int, most: int) -> Want:
    """A whole number within bounds.

    Args:
        least: smallest.
        most: largest.

    Returns:
        What is wanted.
    """
    return Want(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def one_of(*allowed: str) -> Want:
    """One of a few words.

    Args:
        *allowed: the words.

    Returns:
        What is wanted.
    """
    return Want(f"one of {', '.join(allowed)}", lambda value: isinstance(value, str) and value in allowed)


def some_of(*allowed: str) -> Want:
    """Any of a few words, each once.

    Args:
        *allowed: the words.

    Returns:
        What is wanted.
    """
    return Want(
        f"a list of any of {', '.join(allowed)}, each once",
        lambda value: isinstance(value, tuple) and all(one in allowed and value.count(one) == 1 for one in value),
    )


def many(want: Want) -> Want:
    """A list of values that are all of one kind.

    Args:
        want: what each must be.

    Returns:
        What is wanted.
    """
    return Want(
        f"a list, each {want.says}", lambda value: isinstance(value, tuple) and all(want.holds(one) for one in value)
    )


def optional(want: Want) -> Want:
    """A value that may be absent.

    Args:
        want: what it must be otherwise.

    Returns:
        What is wanted.
    """
    return Want(f"{want.says}, or nothing", lambda value: value is None or want.holds(value))


def instance(kind: type) -> Want:
    """An object of a class.

    Args:
        kind: the class.

    Returns:
        What is wanted.
    """
    return Want(f"a {kind.__name__}", lambda value: isinstance(value, kind))


def _title(value: object) -> bool:
    """PS3.5: 16 characters of the default repertoire, no backslash or control character, not only spaces."""
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= 16
        and all(" " <= character <= "~" and character != "\\" for character in value)
    )


def _url(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and plain


def _network(value: object) -> bool:
    try:
        ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return False
    return isinstance(value, str)


FLAG = Want("true or false", lambda value: isinstance(value, bool))
TEXT = Want("a text", lambda value: isinstance(value, str))
WORDS = Want("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
NAME = Want("a name without control characters", lambda value: WORDS.holds(value) and value.isprintable())
HOST = Want(
    "a name or an address, such as pacs.example",
    lambda value: NAME.holds(value) and not any(one.isspace() or one in "/\\@" for one in value),
)
PORT = whole(1, 65535)
AE_TITLE = Want("an AE title of 1 to 16 plain characters", _title)
URL = Want("a URL such as https://pacs.example:8042/dicom-web, without a user, a password or a query", _url)
NETWORK = Want("an address or a network, such as 10.1.2.0/24", _network)
PATH = instance(Path)
MAPPING = Want("a table", lambda value: isinstance(value, Mapping))


def nearest(name: str, known: Collection[str]) -> str:
    """What somebody may have meant.

    Args:
        name: that is not known.
        known: names that are.

    Returns:
        The end of a sentence.

    Example:
        >>> nearest("prot", ["host", "port"])
        '; did you mean port?'
    """
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else f"; there is {', '.join(sorted(known)) or 'none'}"
