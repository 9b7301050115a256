"""The words of `medsal pacs`: thin; what each command does lies in the functions it calls."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.bundle.exits import DONE, ERROR, NOTHING, SOME_FAILED, USAGE
from medsal.dicom import command_line as words

if TYPE_CHECKING:
    from medsal.pacs.client import Wanted
    from medsal.pacs.jobs import Job
    from medsal.pacs.nodes import Site
    from medsal.pacs.running import Run
    from medsal.pacs.troubles import Trouble

SITE = "medsal-pacs.toml"
"""Where the configuration lies unless ``--site`` or ``$MEDSAL_PACS`` says otherwise."""
UNREACHABLE = 7
"""Exit code where a node does not answer, or refuses us."""
_EXTRA = {"pynetdicom", "dicomweb_client", "requests", "highdicom"}
_ENDS = f"0 all done; 2 the configuration is wrong; 3 nothing to do; 4 some are in quarantine or wait; 5 none is done; \
{UNREACHABLE} the node does not answer; 130 interrupted, run again to go on"


def add_commands(commands: Any) -> None:
    """Add ``pacs`` and what it can do to the command line.

    Args:
        commands: the subparsers of ``medsal``.
    """
    pacs = commands.add_parser("pacs", help="archives: ask, fetch, explain, send back, and keep books of it")
    pacs.set_defaults(run=words.run)
    inner = pacs.add_subparsers(required=True, metavar="command", dest="command")
    _node(_command(inner, "echo", "ask whether a node is there and speaks with us", _echo))
    find = _node(_command(inner, "find", "count the studies of a node", _find))
    find.add_argument("--identified", action="store_true", help="show study instance UIDs")
    _keys(find)
    for name, text in (
        ("pull", "fetch studies into the spool"),
        ("explain", "explain what is in the spool"),
        ("push", "send results that are not at the node yet"),
        ("run", "find, fetch, explain, send and confirm"),
    ):
        command = _node(_command(inner, name, text, _work))
        command.description = f"Exit code {_ENDS}."
        if name in {"pull", "run"}:
            _keys(command)
        if name == "run":
            command.add_argument("--until-done", action="store_true", help="stay until nothing waits for another try")
        command.add_argument("--dry-run", action="store_true", help="only say what would be done, and why not more")
    watch = _node(_command(inner, "watch", "run again and again, and listen for what is sent to us", _watch))
    watch.description = "Ends by SIGTERM with exit code 0, interrupted with 130; 2: the configuration is wrong."
    _keys(watch)
    watch.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two looks at the node")
    watch.add_argument(
        "--days", type=int, default=2, help="how far back to look, today counting as one; not with --date"
    )
    watch.add_argument("--no-poll", action="store_true", help="only listen")
    _books(inner)


def _books(inner: Any) -> None:
    """Commands that look at the ledger, or change it."""
    status = _command(inner, "status", "say where all studies stand", _status)
    status.description = "Exit code 0: nothing waits or is in quarantine; 3: there are no jobs; 4: some are."
    aside = _command(inner, "quarantine", "list the studies that were put aside, and why", _quarantine)
    aside.description = "Exit code 0: none was; 4: some were."
    again = _command(inner, "retry", "let studies in quarantine, and those that wait, go on", _retry)
    again.description = "Exit code 0: some go on at the next run; 3: there are none."
    again.add_argument("--job", action="append", default=[], metavar="JOB", help="as status names it; all otherwise")
    again.add_argument("--reason", help="only those that were put aside for this reason")
    for command in (status, aside, again):
        command.add_argument("node", metavar="NODE", nargs="?", default="", help="only jobs of this node")
    status.add_argument("--all", action="store_true", help="name finished jobs too")


def _command(inner: Any, name: str, help_text: str, step: Callable[..., int]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = inner.add_parser(name, help=help_text)
    command.set_defaults(does=_told, step=step)
    command.add_argument("--site", help=f"configuration; otherwise $MEDSAL_PACS, or {SITE} here")
    command.add_argument("--json", action="store_true", help="write JSON for programs to standard output")
    command.add_argument("--log-level", choices=words.LEVELS, default="warning", help="of the log on standard error")
    return command


def _node(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("node", metavar="NODE", help="its name in the configuration")
    return command


def _keys(command: argparse.ArgumentParser) -> None:
    """Which studies; what is not given matches all."""
    command.add_argument("--study", action="append", default=[], metavar="UID", help="study instance UID; repeatable")
    command.add_argument("--patient-id", default="", help="other users of this machine may see what you type")
    command.add_argument("--accession", default="", help="accession number")
    command.add_argument("--date", default="", help="YYYYMMDD, or a range such as 20260101-20260131")
    command.add_argument("--modality", default="", help="that a study must hold, such as MR")
    command.add_argument("--description", default="", help="of the study, with * and ?")


def _told(asked: argparse.Namespace) -> int:
    """Run a command; what went wrong with a node has exit codes of its own."""
    from medsal.dicom.phi import quiet
    from medsal.pacs.troubles import Trouble

    try:
        with quiet():
            return int(asked.step(asked, _site(asked)))
    except Trouble as trouble:
        sys.stderr.write(f"medsal: error: {trouble}\n")
        return _code(trouble)
    except ImportError as error:
        if str(error.name).partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f"medsal: error: no {error.name}; install it with: pip install 'medsal[pacs]'\n")
        return USAGE


def _code(trouble: Trouble) -> int:
    from medsal.pacs.troubles import Problem

    at_home = ("disk_full", "busy", "crashed", "too_slow", "too_much_memory")
    ours = {Problem.NOT_ALLOWED: USAGE, **dict.fromkeys(map(Problem, at_home), ERROR)}
    return ours.get(trouble.problem, UNREACHABLE)


def _site(asked: argparse.Namespace) -> Site:
    from medsal.pacs.nodes import load_site

    return load_site(asked.site or os.environ.get("MEDSAL_PACS") or SITE)


def _wanted(asked: argparse.Namespace) -> Wanted:
    from medsal.dicom.uids import valid_uid
    from medsal.errors import UsageError
    from medsal.pacs.client import Wanted

    if not all(valid_uid(uid) for uid in asked.study):
        raise UsageError("study: wanted study instance UIDs: digits and dots, at most 64 characters")
    return Wanted(
        study_uids=tuple(asked.study),
        patient_id=asked.patient_id,
        accession=asked.accession,
        date=asked.date,
        modality=asked.modality,
        description=asked.description,
    )


def _say(asked: argparse.Namespace, text: str, content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n" if asked.json else text)


def _echo(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs.connecting import connect

    node = site.node(asked.node)
    began = time.perf_counter()
    connect(node).echo()
    taken = time.perf_counter() - began
    may = "results may be sent there" if node.write else "nothing may be sent there (write is not true)"
    text = f"{node.name}: {node.ae_title} answers in {taken * 1000:.0f} ms; {may}\n"
    _say(asked, text, {"node": node.name, "answers": True, "seconds": round(taken, 4), "write": node.write})
    return DONE


def _find(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs import listing
    from medsal.pacs.connecting import connect

    found = connect(site.node(asked.node)).find(_wanted(asked))
    text = listing.studies_table(found, identified=asked.identified) + f"{len(found)} studies\n"
    _say(asked, text, {"studies": listing.studies_content(found, identified=asked.identified)})
    return DONE if found else NOTHING


def _work(asked: argparse.Namespace, site: Site) -> int:
    """`pull`, `explain`, `push` and `run`."""
    from medsal.pacs.running import Run

    if asked.dry_run:
        with _as_it_is(site) as looked_at, contextlib.closing(Run(looked_at, asked.node)) as run:
            return _plan(asked, run)
    with contextlib.closing(Run(site, asked.node)) as run:
        does: dict[str, Callable[[], int]] = {
            "pull": lambda: run.pull(_wanted(asked)),
            "explain": run.explain,
            "push": run.push,
            "run": lambda: run.run(_wanted(asked), once=not asked.until_done),
        }
        code = does[asked.command]()
        sys.stderr.write(f"{run.closing()}\n")
        _say(asked, "", run.as_dict())
        return code


def _watch(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs.watching import Watch

    options = {"days": asked.days, "every": asked.every, "poll": not asked.no_poll}
    with contextlib.closing(Watch(site, asked.node, wanted=_wanted(asked), **options)) as watch:
        return watch.watch()


@contextlib.contextmanager
def _as_it_is(site: Site) -> Iterator[Site]:
    """A site to look at: where nothing has run yet, nothing is made in its folder."""
    from medsal.pacs.ledger import FILE

    if (site.folder / FILE).is_file():
        yield site
        return
    with tempfile.TemporaryDirectory(prefix="medsal-") as folder:
        yield dataclasses.replace(site, folder=Path(folder))


def _plan(asked: argparse.Namespace, run: Run) -> int:
    """Say what would be done."""
    from medsal.pacs import listing
    from medsal.pacs.jobs import State

    found = run.plan(_wanted(asked)) if asked.command in {"run", "pull"} else []
    lines = run.selections() if asked.command in {"run", "explain"} else {}
    ready = len(run.ledger.rows([State.COMPUTED], run.node.name)) if asked.command in {"run", "push"} else 0
    text, content = listing.plan(found, lines, ready, write=run.node.write)
    _say(asked, text, content)
    return DONE if found or lines or ready else NOTHING


def _jobs(asked: argparse.Namespace, site: Site) -> list[Job]:
    """Those of the ledger; without a ledger there is none."""
    from medsal.pacs.ledger import FILE, Ledger

    if asked.node:
        site.node(asked.node)
    if not (site.folder / FILE).is_file() or not (site.folder / FILE).stat().st_size:  # the first run ended at once
        return []
    with Ledger(site.folder / FILE, read_only=True) as ledger:
        return ledger.rows(node=asked.node)


def _status(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs import listing
    from medsal.pacs.jobs import State

    jobs, now = _jobs(asked, site), time.time()
    text = listing.status_table(jobs, now, every=asked.all) if jobs else "no jobs yet\n"
    _say(asked, text, listing.status_content(jobs, now, every=asked.all))
    waiting = any(job.state in {State.WAITING, State.QUARANTINE} for job in jobs)
    return (SOME_FAILED if waiting else DONE) if jobs else NOTHING


def _quarantine(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs import listing
    from medsal.pacs.jobs import State

    jobs, now = [job for job in _jobs(asked, site) if job.state is State.QUARANTINE], time.time()
    lines = [
        f"{reason}: {listing.meaning(reason) or 'the class of an error'}" for reason in listing.reason_counts(jobs)
    ]
    text = listing.jobs_table(jobs, now) + "".join(f"{line}\n" for line in lines) if jobs else "nothing in quarantine\n"
    _say(asked, text, listing.status_content(jobs, now))
    return SOME_FAILED if jobs else DONE


def _retry(asked: argparse.Namespace, site: Site) -> int:
    from medsal.pacs.jobs import State
    from medsal.pacs.ledger import FILE, Ledger

    if not _jobs(asked, site):
        _say(asked, "no jobs yet\n", {"retried": []})
        return NOTHING
    with Ledger(site.folder / FILE) as ledger:
        chosen = [ledger.job(name) for name in asked.job] or ledger.rows([State.QUARANTINE, State.WAITING], asked.node)
        chosen = [job for job in chosen if asked.reason in {None, job.reason} and asked.node in {"", job.node}]
        again = ledger.retry(chosen) if chosen else []
    _say(asked, f"{len(again)} jobs go on at the next run\n", {"retried": [job.as_dict() for job in again]})
    return DONE if again else NOTHING
