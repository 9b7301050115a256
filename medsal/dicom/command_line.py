"""The words of `medsal dicom`: thin; what each command does lies in the functions it calls."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medsal.bundle.exits import DONE, ERROR, INTERRUPTED, NOTHING, exit_code, reason
from medsal.errors import MedsalError

MISMATCH = 6
"""Exit code of ``check`` where something is wrong with a file."""
LEVELS = ("debug", "info", "warning", "error")
"""Of the log."""


def add_commands(commands: Any) -> None:
    """Add ``dicom`` and what it can do to the command line.

    Args:
        commands: the subparsers of ``medsal``.
    """
    dicom = commands.add_parser("dicom", help="DICOM folders: what they hold, research copies, explanations")
    dicom.set_defaults(run=run)
    inner = dicom.add_subparsers(required=True, metavar="command", dest="command")
    listing = _command(inner, "inspect", "read every series and film of a folder and say what it is", _inspect)
    listing.description = "Exit code 0: a table was made; 3: no DICOM there."
    choice = _command(inner, "select", "say which series rules take, and why not the others", _select)
    choice.description = "Exit code 0: some are taken; 3: none."
    _rules(choice)
    _explain_words(_command(inner, "explain", "explain what a bundle takes of a folder, into another folder", _explain))
    copies = _command(inner, "deid", "write copies without the patient's identity", _deid)
    copies.description = "Exit code 0: all copied; 3: nothing there; 4: some were refused; 5: all."
    copies.add_argument("output", metavar="OUT", help="folder of the copies")
    copies.add_argument(
        "--key-file", required=True, help="file with a secret of 16 bytes or more; the same gives the same UIDs"
    )
    copies.add_argument("--dry-run", action="store_true", help="only say what would be copied")
    check = inner.add_parser("check", help="check DICOM results, also with dciodvfy where it is installed")
    check.description = "Exit code 0: nothing is wrong; 6: something is; 3: no DICOM there."
    check.set_defaults(does=_check)
    check.add_argument("sources", nargs="+", metavar="FILE", help="files or folders")
    _common(check)


def _explain_words(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Exit code 0: every selected series is done; 3: none was selected; 4: some could not be read or explained; "
        "5: none could; 130: interrupted, run again to go on."
    )
    command.add_argument("output", metavar="OUT", help="folder of the results, one folder for each series")
    command.add_argument("--bundle", required=True, help="folder of the model's bundle")
    _rules(command)
    for name, text in (
        ("methods", "names with commas; by default those of configs/explain.yaml"),
        ("preset", "methods of a published study"),
        ("target", "class number; by default the predicted class"),
        ("target-layer", "of the CAM methods"),
        ("ckpt-path", "weights; by default those of the bundle"),
        ("device", "cpu or cuda"),
        ("kinds", "DICOM results of sc, seg, pm, sr, with commas"),
    ):
        command.add_argument(f"--{name}", help=text)
    command.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="any other id of the bundle's configuration"
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be taken, and why the rest not")


def _command(inner: Any, name: str, help_text: str, does: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = inner.add_parser(name, help=help_text)
    command.set_defaults(does=does)
    command.add_argument("source", metavar="IN", help="folder (with everything below), DICOMDIR, or one file")
    command.add_argument("--shard", metavar="I/N", default="1/1", help="only this part of the studies, such as 2/8")
    _common(command)
    return command


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="write JSON for programs to standard output")
    command.add_argument("--identified", action="store_true", help="name files by their paths; these may name patients")
    command.add_argument("--log-level", choices=LEVELS, default="warning", help="of the log on standard error")


def _rules(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rules", help="mr_volume, chest_film, a JSON file, or JSON")
    command.add_argument("--all", action="store_true", help="take all series of a study that meet a rule, not only one")


def run(asked: argparse.Namespace) -> int:
    """Run a command of ``medsal dicom``.

    Args:
        asked: the words.

    Returns:
        The exit code. What is no error of medsal ends with its class only: the text may quote a header.
    """
    with logged(asked.log_level):
        try:
            code: int = asked.does(asked)
        except MedsalError as error:
            sys.stderr.write(f"medsal: error: {reason(error)}\n")
            return exit_code(error)
        except KeyboardInterrupt:
            sys.stderr.write("medsal: interrupted\n")
            return INTERRUPTED
        except Exception as error:
            logging.getLogger("medsal").debug("ended", exc_info=error)
            sys.stderr.write(f"medsal: error: {type(error).__name__} (--log-level debug shows where)\n")
            return ERROR
    return code


@contextmanager
def logged(level: str) -> Iterator[None]:
    """Log to standard error, without what identifies patients, while a command runs.

    Args:
        level: of the root logger.

    Yields:
        Nothing.
    """
    from medsal.dicom.phi import CLEANER

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(CLEANER)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _say(asked: argparse.Namespace, text: str, content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n" if asked.json else text)


def _inspect(asked: argparse.Namespace) -> int:
    from medsal.dicom.listing import inspected, inspection, table
    from medsal.dicom.progress import Lines
    from medsal.dicom.units import Shard, find

    found = find(asked.source, Shard.parse(asked.shard))
    lines, rows = Lines(len(found.series)), []
    for series in found.series:
        rows.append(inspected(series, identified=asked.identified))
        lines.say(rows[-1].series, rows[-1].status)
    _say(asked, table(rows, found.refused), inspection(rows, found))
    return DONE if rows else NOTHING


def _select(asked: argparse.Namespace) -> int:
    from medsal.dicom import listing
    from medsal.dicom.select import select_series
    from medsal.dicom.units import Shard, find
    from medsal.errors import UsageError

    if not asked.rules:
        raise UsageError("select: wanted --rules: mr_volume, chest_film, a JSON file, or JSON")
    found = find(asked.source, Shard.parse(asked.shard))
    chosen = select_series(found.series, asked.rules, all_matched=asked.all)
    lines = [*listing.selection_lines(chosen), *listing.refused_lines(found.refused)]
    _say(asked, "".join(f"{line}\n" for line in lines), listing.selection(chosen, found))
    return DONE if chosen.chosen else NOTHING


def _deid(asked: argparse.Namespace) -> int:
    from medsal.dicom.copies import copy_all, read_key
    from medsal.dicom.listing import refused_lines
    from medsal.dicom.units import Shard, find

    key = read_key(asked.key_file)
    found = find(asked.source, Shard.parse(asked.shard), asked.output)
    done = copy_all(found, asked.output, key, dry_run=asked.dry_run)
    would = "would be " if asked.dry_run else ""
    lines = [f"medsal dicom deid: {done.files} images {would}copied", *refused_lines(done.refused)]
    _say(asked, "".join(f"{line}\n" for line in lines), done.as_dict())
    return done.exit_code


def _check(asked: argparse.Namespace) -> int:
    from medsal.dicom.checking import as_dict, check_files, dciodvfy_there

    found = check_files(asked.sources, identified=asked.identified)
    lines = [f"{one.file}: {problem}" for one in found for problem in one.problems]
    bad = sum(bool(one.problems) for one in found)
    asked_too = "with dciodvfy" if dciodvfy_there() else "without dciodvfy, which is not installed"
    lines.append(f"medsal dicom check: {bad or 'no'} of {len(found)} files with problems ({asked_too})")
    _say(asked, "".join(f"{line}\n" for line in lines), as_dict(found))
    return MISMATCH if bad else DONE if found else NOTHING


def _explain(asked: argparse.Namespace) -> int:
    from medsal.dicom import listing
    from medsal.dicom.model import load_model, rules_of
    from medsal.dicom.select import select_series
    from medsal.dicom.units import Shard, find

    shard = Shard.parse(asked.shard)
    rules = asked.rules or rules_of(asked.bundle)
    found = find(asked.source, shard, asked.output)
    chosen = select_series(found.series, rules, all_matched=asked.all)
    if asked.dry_run:
        lines = [*listing.selection_lines(chosen), *listing.refused_lines(found.refused)]
        _say(asked, "".join(f"{line}\n" for line in lines), listing.selection(chosen, found))
        return DONE if chosen.chosen else NOTHING
    from medsal.dicom.explaining import Job

    kinds = asked.kinds and [kind.strip() for kind in asked.kinds.split(",")]
    job = Job(load_model(asked.bundle, **_overrides(asked)), asked.output, found, chosen, kinds=kinds, shard=shard)
    try:
        code = job.run()
    finally:
        sys.stderr.write(f"{job.closing()}\n")
    if asked.json:
        _say(asked, "", job.as_dict())
    return code


def _overrides(asked: argparse.Namespace) -> dict[str, Any]:
    """Ids of the configuration that were given."""
    from medsal.bundle.command_line import value_of
    from medsal.errors import UsageError

    found: dict[str, Any] = {}
    for name in ("methods", "preset", "target", "target_layer", "ckpt_path", "device"):
        if getattr(asked, name) is not None:
            found[name] = value_of(getattr(asked, name))
    for given in asked.set:
        name, equals, value = given.partition("=")
        if not equals:
            raise UsageError(f"set: wanted ID=VALUE, got {given!r}")
        found[name] = value_of(value)
    return found
