"""How a run ends: its exit code, and one line that says why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import TracebackType

from medsal.errors import MedsalError, NothingToDoError, UsageError

DONE, ERROR, USAGE, NOTHING, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class CasesFailedError(MedsalError):
    """A run came to its end, but cases of it failed; ``exit_code`` says whether some (4) or all (5)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk from an error to what caused it.

    Args:
        error: the error as it arrived.

    Yields:
        The error, its cause, the cause of that, and so on.
    """
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def root_cause(error: BaseException) -> BaseException:
    """Find what a user can act on: the error that medsal raised on purpose, else the innermost declared cause.

    MONAI wraps whatever goes wrong in a configuration into "Failed to evaluate ...", several times over.

    Args:
        error: the error as it arrived.

    Returns:
        The error to show.

    Example:
        >>> try:
        ...     try:
        ...         raise UsageError("ckpt_path: no such file")
        ...     except UsageError as inner:
        ...         raise RuntimeError("Failed to instantiate component") from inner
        ... except RuntimeError as outer:
        ...     print(root_cause(outer))
        ckpt_path: no such file
    """
    for found in chain(error):
        if isinstance(found, MedsalError | KeyboardInterrupt | SystemExit):
            return found
    found = error
    while found.__cause__ is not None:
        found = found.__cause__
    return found


def reason(error: BaseException) -> str:
    """Say in one line what went wrong.

    Args:
        error: any error.

    Returns:
        The text of an error of medsal; the type and the text of any other.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MedsalError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def exit_code(error: BaseException) -> int:
    """The exit code that belongs to an error.

    Args:
        error: a root cause.

    Returns:
        2 usage, 3 nothing to do, 4 some cases failed, 5 all failed, 130 interrupted, 1 anything else.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, CasesFailedError):
        return error.exit_code
    if isinstance(error, NothingToDoError):
        return NOTHING
    return USAGE if isinstance(error, UsageError) else ERROR


def install(*, quiet: bool) -> None:
    """Let the process end with one line and the right exit code when an error reaches the top.

    Only the entry of a command line calls this: in a notebook or a program errors stay errors.

    Args:
        quiet: leave out the traceback also of errors that medsal did not raise itself. ``MEDSAL_DEBUG=1`` shows every
            traceback.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = root_cause(error)
        known = isinstance(cause, MedsalError | KeyboardInterrupt)
        if os.environ.get("MEDSAL_DEBUG", "") not in {"", "0"} or not (known or quiet):
            sys.__excepthook__(kind, error, trace)
        text = "interrupted" if isinstance(cause, KeyboardInterrupt) else reason(cause)
        hint = "" if known else " (MEDSAL_DEBUG=1 shows where)"
        sys.stderr.write(f"medsal: {'' if text == 'interrupted' else 'error: '}{text}{hint}\n")
        raise SystemExit(exit_code(cause))

    sys.excepthook = hook
