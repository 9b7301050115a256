"""A study that is to be explained for a node, and how far it has come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medsal.dicom.phi import pseudonym
from medsal.files import json_bytes


class State(StrEnum):
    """Of a job; `STATES` says what each means."""

    NEW = "new"
    FETCHING = "fetching"
    FETCHED = "fetched"
    COMPUTING = "computing"
    COMPUTED = "computed"
    SENDING = "sending"
    DONE = "done"
    WAITING = "waiting"
    QUARANTINE = "quarantine"
    NOTHING = "nothing"


STATES: dict[State, str] = {
    State.NEW: "the study is known; nothing of it is here",
    State.FETCHING: "it is being fetched",
    State.FETCHED: "its objects are in the spool",
    State.COMPUTING: "it is being explained",
    State.COMPUTED: "its results are here; where the node may be written to, they are sent next",
    State.SENDING: "its results are being sent",
    State.DONE: "the node has confirmed all of its results",
    State.WAITING: "a step went wrong and is tried again later",
    State.QUARANTINE: "it went wrong for good, or too often; `medsal pacs retry` tries again",
    State.NOTHING: "no series of it was selected; the reasons are counted",
}
"""What each state means; the table of ``docs/pacs.md``."""

STAGES = (State.NEW, State.FETCHED, State.COMPUTED)
"""States in which a step begins; what is waiting keeps the one that it goes back to."""
DOING = {State.NEW: State.FETCHING, State.FETCHED: State.COMPUTING, State.COMPUTED: State.SENDING}
"""Where a job stands while its next step is at work."""
ENDED = (State.DONE, State.NOTHING, State.QUARANTINE)
"""States of jobs that go on only when their study changes, or somebody asks."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of the ledger.

    Attributes:
        id: hash of study, node and setup.
        study: study instance UID, needed to ask for it again; nothing else of the patient is kept.
        node: name of the node that the study is fetched from and its results go to.
        setup: digest of all that the results depend on but the images.
        source: ``node`` where it was found there, ``listener`` where it was sent to us.
        state: how far it has come.
        stage: what is here of it: ``new`` nothing, ``fetched`` images, ``computed`` results.
        seen: number of objects that the node said it has, when it was last looked at; None where unknown.
        held: digest of the objects that the node had then, results of ours left out.
        inputs: digest of the images that were explained.
        tries: failed tries of the step that it stands at.
        starts: how often explaining it was begun without an end.
        due: when its next step may begin (seconds since 1970).
        reason: a code: of `medsal.pacs.Problem` or, with detail, why no series was selected.
        detail: that says more.
        counts: of series and results.
        created: when it was first seen (seconds since 1970).
        changed: when it last changed.
    """

    id: str
    study: str
    node: str
    setup: str
    source: str
    state: State
    stage: State
    seen: int | None
    held: str
    inputs: str
    tries: int
    starts: int
    due: float
    reason: str
    detail: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    created: float
    changed: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """Read a row.

        Args:
            row: column -> value.

        Returns:
            The job.
        """
        read = {"state": State(row["state"]), "stage": State(row["stage"]), "counts": json.loads(row["counts"])}
        return cls(**{**dict(row), **read})

    @property
    def name(self) -> str:
        """Of its study, for logs and folders: it says nothing about the patient."""
        return pseudonym(self.study, "study")

    def as_dict(self) -> dict[str, Any]:
        """What may be shown.

        Returns:
            Name -> value; the study by its pseudonym.
        """
        hidden = {"study", "held", "inputs"}
        shown = {name: value for name, value in vars(self).items() if name not in hidden}
        return {"study": self.name, **shown}


@dataclass(frozen=True)
class Result:
    """An object that is to be sent.

    Attributes:
        uid: its SOP instance UID.
        kind: ``sc``, ``seg``, ``pm`` or ``sr``.
        file: below the job's folder of results.
    """

    uid: str
    kind: str
    file: str


def job_id(study: str, node: str, setup: str) -> str:
    """The name of a job: the same study, node and setup are one job, whenever they come.

    Args:
        study: study instance UID.
        node: name.
        setup: digest.

    Returns:
        A SHA-256.
    """
    return hashlib.sha256(json_bytes([study, node, setup])).hexdigest()


def digest_of(names: Iterable[str]) -> str:
    """A set of names as one value.

    Args:
        names: in any order, each once or more.

    Returns:
        A SHA-256; empty where there are none.

    Example:
        >>> digest_of(["b", "a"]) == digest_of({"a", "b"}) != digest_of(["a"])
        True
    """
    kept = sorted(set(names))
    return hashlib.sha256(json_bytes(kept)).hexdigest() if kept else ""
