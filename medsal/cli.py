"""The command ``medsal``: thin; what it does lies in the functions it calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from medsal._version import __version__
from medsal.dicom import command_line as dicom
from medsal.errors import MedsalError
from medsal.pacs import command_line as pacs

MISMATCH = 6
"""Exit code where stored numbers do not follow from the stored scores."""
SHOWN = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: those behind ``medsal``; of the process if not given.

    Returns:
        The exit code: 0, 2 usage, 6 mismatch; 1 for any other error of medsal. ``medsal dicom`` and
        ``medsal pacs`` have more.
    """
    asked = _parser().parse_args(arguments)
    from medsal.bundle.exits import exit_code, reason

    try:
        code: int = asked.run(asked)
    except MedsalError as error:
        sys.stderr.write(f"medsal: error: {reason(error)}\n")
        return exit_code(error)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medsal", description="Where did a medical image classifier look?")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    verify = commands.add_parser(
        "verify",
        help="compute every number of an evaluation again from its stored scores",
        description="Exit code 0: all numbers follow from the scores; 6: some do not; 2: no evaluation there.",
    )
    verify.add_argument("folder", help="of an evaluation, with evaluation.json")
    verify.set_defaults(run=_verify)
    dicom.add_commands(commands)
    pacs.add_commands(commands)
    return parser


def _verify(asked: argparse.Namespace) -> int:
    from medsal.scoring.verification import examine

    folder = asked.folder
    found = examine(folder)
    for line in found.checked:
        sys.stdout.write(f"checked {line}\n")
    for line in found.mismatches[:SHOWN]:
        sys.stdout.write(f"MISMATCH {line}\n")
    if len(found.mismatches) > SHOWN:
        sys.stdout.write(f"and {len(found.mismatches) - SHOWN} more\n")
    count = len(found.mismatches)
    sys.stdout.write(f"medsal verify: {count or 'no'} mismatch{'' if count == 1 else 'es'} in {folder}\n")
    return MISMATCH if found.mismatches else 0
