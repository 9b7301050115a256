"""What `medsal pacs` says of studies and jobs, for readers and for programs; nothing of it is the patient's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medsal.dicom.phi import pseudonym
from medsal.dicom.reasons import REASONS
from medsal.handlers.progress import duration
from medsal.pacs.client import Study
from medsal.pacs.jobs import STATES, Job, State
from medsal.pacs.troubles import PROBLEMS

if TYPE_CHECKING:
    from medsal.pacs.finding import Planned

_NAMED = 20
"""Open jobs that a table names; the others are counted."""
_FINISHED = (State.DONE, State.NOTHING)
_DAYS = 172800  # seconds from which an age is told in days


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Write cells under each other.

    Args:
        lines: of cells, the first with the names of the columns.

    Returns:
        A text of lines.

    Example:
        >>> print(columns([("study", "objects"), ("study-1", "12")]), end="")
        study    objects
        study-1  12
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in text)


def age(seconds: float) -> str:
    """How long ago something was.

    Args:
        seconds: since then.

    Returns:
        In seconds, minutes, hours or days.

    Example:
        >>> age(40), age(7200), age(260000)
        ('40 s', '2.0 h', '3 d')
    """
    return duration(max(seconds, 0.0)) if seconds < _DAYS else f"{seconds / 86400:.0f} d"


def studies_table(studies: Sequence[Study], *, identified: bool = False) -> str:
    """What was found at a node, for a reader.

    Args:
        studies: from `medsal.pacs.Client.find`.
        identified: name them by their UIDs.

    Returns:
        A text of lines.
    """
    head = ("study", "date", "modalities", "objects", *(("study instance UID",) if identified else ()))
    lines = [head]
    for row in studies_content(studies, identified=identified):
        cells = [row["study"], row["date"] or "-", " ".join(row["modalities"]) or "-"]
        cells.append("-" if row["instances"] is None else str(row["instances"]))
        lines.append((*cells, row["uid"]) if identified else tuple(cells))
    return columns(lines)


def studies_content(studies: Iterable[Study], *, identified: bool = False) -> list[dict[str, Any]]:
    """The same for a program.

    Args:
        studies: from `medsal.pacs.Client.find`.
        identified: with their UIDs.

    Returns:
        Plain types.
    """
    return [
        {
            "study": pseudonym(one.uid, "study"),
            "date": one.date,
            "modalities": list(one.modalities),
            "instances": one.instances,
            **({"uid": one.uid} if identified else {}),
        }
        for one in studies
    ]


def meaning(reason: str) -> str:
    """What a reason of a job means.

    Args:
        reason: code of `medsal.pacs.PROBLEMS` or `medsal.dicom.REASONS`, or the class of an error.

    Returns:
        In words; empty where it is neither.
    """
    said = {str(code): text for table in (REASONS, PROBLEMS) for code, text in table.items()}
    return said.get(reason, "")


def status_table(jobs: Sequence[Job], now: float, *, every: bool = False) -> str:
    """Where all jobs stand, for a reader.

    Args:
        jobs: of the ledger.
        now: seconds since 1970.
        every: name every job, not only those that are open or in quarantine.

    Returns:
        Counts with the age of the oldest, reasons, and jobs.
    """
    lines = [("state", "jobs", "oldest", "meaning")]
    for state, found in _by_state(jobs).items():
        oldest = age(now - min(job.changed for job in found))
        lines.append((state.value, str(len(found)), oldest, STATES[state]))
    text = columns(lines)
    reasons = reason_counts(jobs)
    if reasons:
        rows = [(reason, str(number), meaning(reason)) for reason, number in reasons.items()]
        text += "\n" + columns([("reason", "jobs", "meaning"), *rows])
    named = [job for job in jobs if every or job.state not in _FINISHED]
    shown = named if every else named[:_NAMED]
    if shown:
        text += "\n" + jobs_table(shown, now)
    return text + (f"and {len(named) - len(shown)} more; --all names them\n" if len(named) > len(shown) else "")


def jobs_table(jobs: Iterable[Job], now: float) -> str:
    """One line for each job.

    Args:
        jobs: of the ledger.
        now: seconds since 1970.

    Returns:
        A text of lines.
    """
    lines = [("job", "study", "node", "state", "age", "tries", "next try", "why")]
    for job in jobs:
        next_try = f"in {age(job.due - now)}" if job.state is State.WAITING and job.due > now else "-"
        state = (
            f"{job.state.value} ({job.stage.value})" if job.state in {State.WAITING, State.QUARANTINE} else job.state
        )
        why = f"{job.reason} ({job.detail})" if job.detail else job.reason or "-"
        lines.append(
            (job.id[:8], job.name, job.node, str(state), age(now - job.changed), str(job.tries), next_try, why)
        )
    return columns(lines)


def status_content(jobs: Sequence[Job], now: float, *, every: bool = False) -> dict[str, Any]:
    """Where all jobs stand, for a program.

    Args:
        jobs: of the ledger.
        now: seconds since 1970.
        every: name every job, not only those that are open or in quarantine.

    Returns:
        Plain types; ages in seconds.
    """
    groups = _by_state(jobs)
    named = [job for job in jobs if every or job.state not in _FINISHED]
    return {
        "counts": {state.value: len(groups.get(state, ())) for state in State},
        "oldest": {state.value: round(now - min(job.changed for job in found), 1) for state, found in groups.items()},
        "reasons": dict(reason_counts(jobs)),
        "jobs": [
            {**job.as_dict(), "age": round(now - job.changed, 1), "meaning": meaning(job.reason)} for job in named
        ],
    }


def reason_counts(jobs: Iterable[Job]) -> Mapping[str, int]:
    """How often each reason came.

    Args:
        jobs: of the ledger.

    Returns:
        Reason -> number of jobs, the commonest first.
    """
    return dict(Counter(job.reason for job in jobs if job.reason).most_common())


def _by_state(jobs: Iterable[Job]) -> dict[State, list[Job]]:
    groups: dict[State, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.state, []).append(job)
    return {state: groups[state] for state in State if state in groups}


def plan(
    found: Sequence[Planned], chosen: Mapping[str, Sequence[str]], ready: int, *, write: bool
) -> tuple[str, dict[str, Any]]:
    """What a run would do.

    Args:
        found: studies of the node, and what would be done with each.
        chosen: pseudonym of a study in the spool -> what would be taken of it, and why not the rest.
        ready: number of studies whose results are here.
        write: whether the node may be sent to.

    Returns:
        The same for a reader and for a program.
    """
    text = ""
    if found:
        rows = [
            (one.study, " ".join(one.modalities) or "-", str(one.instances or "-"), one.state or "-", one.would)
            for one in found
        ]
        text += columns([("study", "modalities", "objects", "state", "would"), *rows])
    for study, lines in chosen.items():
        text += "".join(f"{study}: {line}\n" for line in lines)
    if ready:
        would = "would be sent" if write else "would not be sent: write is not true for the node"
        text += f"results of {ready} studies {would}\n"
    content = {
        "studies": [asdict(one) for one in found],
        "spool": {study: list(lines) for study, lines in chosen.items()},
        "ready": ready,
        "write": write,
    }
    return text or "nothing to do\n", content
