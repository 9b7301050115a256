"""Exit codes and the one line that a user sees."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medsal.bundle.exits import CasesFailedError, exit_code, reason, root_cause
from medsal.errors import InputError, MedsalError, NothingToDoError, UsageError


def wrapped(cause: BaseException) -> BaseException:
    """As MONAI wraps: twice, each in a RuntimeError."""
    middle, outer = RuntimeError("Failed to instantiate component"), RuntimeError("Failed to evaluate ConfigExpression")
    middle.__cause__, outer.__cause__ = cause, middle
    return outer


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (UsageError("x"), 2),
        (NothingToDoError("x"), 3),
        (CasesFailedError("x", 4), 4),
        (CasesFailedError("x", 5), 5),
        (KeyboardInterrupt(), 130),
        (InputError("x"), 1),
        (MedsalError("x"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_the_cause_is_found_through_what_monai_wraps_around_it(cause: BaseException, code: int) -> None:
    assert root_cause(wrapped(cause)) is cause
    assert exit_code(root_cause(wrapped(cause))) == code


def test_an_error_of_medsal_is_shown_and_not_the_one_below_it() -> None:
    shown = UsageError("ckpt_path: no file")
    shown.__cause__ = FileNotFoundError("deep")
    assert root_cause(wrapped(shown)) is shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("a\n  b"), "a b"),
        (ValueError("a\nb"), "ValueError: a b"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_reason_is_one_line(error: BaseException, text: str) -> None:
    assert reason(error) == text


@pytest.mark.parametrize(
    ("statement", "quiet", "debug", "code", "last", "traceback"),
    [
        ("raise UsageError('bad option')", False, "", 2, "medsal: error: bad option", False),
        ("raise UsageError('bad option')", True, "1", 2, "medsal: error: bad option", True),
        ("raise KeyboardInterrupt", False, "", 130, "medsal: interrupted", False),
        (
            "1 / 0",
            True,
            "",
            1,
            "medsal: error: ZeroDivisionError: division by zero (MEDSAL_DEBUG=1 shows where)",
            False,
        ),
        (
            "1 / 0",
            False,
            "",
            1,
            "medsal: error: ZeroDivisionError: division by zero (MEDSAL_DEBUG=1 shows where)",
            True,
        ),
    ],
)
def test_a_process_ends_with_one_line_and_the_code(
    statement: str, quiet: bool, debug: str, code: int, last: str, traceback: bool
) -> None:
    program = (
        "from medsal.bundle import exits\nfrom medsal.errors import UsageError\n"
        f"exits.install(quiet={quiet})\n{statement}\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env={"MEDSAL_DEBUG": debug}, capture_output=True, text=True, check=False
    )
    assert result.returncode == code
    assert result.stderr.strip().splitlines()[-1] == last
    assert ("Traceback" in result.stderr) is traceback
