"""What goes wrong between medsal and an archive: a closed list of codes, and the error that carries one."""

from __future__ import annotations

from enum import StrEnum

from medsal.dicom.phi import PhiFilter
from medsal.errors import MedsalError


class Problem(StrEnum):
    """A code for everything that goes wrong with a node or a job; `PROBLEMS` says what each means."""

    UNREACHABLE = "unreachable"
    NOT_ACCEPTED = "not_accepted"
    TLS = "tls"
    NO_STATUS = "no_status"
    TIMEOUT = "timeout"
    OUT_OF_RESOURCES = "out_of_resources"
    REJECTED = "rejected"
    NOTHING_RECEIVED = "nothing_received"
    INCOMPLETE = "incomplete"
    NOT_CONFIRMED = "not_confirmed"
    NOT_ALLOWED = "not_allowed"
    BAD_OBJECT = "bad_object"
    DISK_FULL = "disk_full"
    CRASHED = "crashed"
    TOO_SLOW = "too_slow"
    TOO_MUCH_MEMORY = "too_much_memory"
    UNREADABLE = "unreadable"
    CHANGED = "changed"
    BUSY = "busy"


PROBLEMS: dict[Problem, str] = {
    Problem.UNREACHABLE: "the node does not answer: wrong host or port, it is down, or the way to it is cut",
    Problem.NOT_ACCEPTED: "the node refuses the association or what it is for: AE titles, its list of known peers, "
    "or a SOP class or transfer syntax that it does not take",
    Problem.TLS: "TLS fails: certificates, the host's name, or one side speaks it and the other does not",
    Problem.NO_STATUS: "the node ended the association, or an answer came without a status: what it did is not known",
    Problem.TIMEOUT: "no answer came in time",
    Problem.OUT_OF_RESOURCES: "the node says that it lacks space or resources (0xA7xx)",
    Problem.REJECTED: "the node answers with a failure (0xA9xx, 0xCxxx and others)",
    Problem.NOTHING_RECEIVED: "the node sent no object: it does not know the study, or may not send it",
    Problem.INCOMPLETE: "only a part of the objects arrived; asking again completes them",
    Problem.NOT_CONFIRMED: "the node does not confirm that it keeps what was sent",
    Problem.NOT_ALLOWED: "the configuration does not allow it: sending needs write = true for the node",
    Problem.BAD_OBJECT: "an object is damaged, or has no valid UIDs",
    Problem.DISK_FULL: "there is no room on the disk, or the spool is full",
    Problem.CRASHED: "the process that explained the study ended without an answer",
    Problem.TOO_SLOW: "explaining the study took longer than allowed",
    Problem.TOO_MUCH_MEMORY: "explaining the study took more memory than allowed",
    Problem.UNREADABLE: "an answer, or the study, cannot be understood",
    Problem.CHANGED: "the node names another patient than the images that it sends, or they change again and again",
    Problem.BUSY: "the node, or a port of this machine, is taken at the moment",
}
"""What each code means; the table of ``docs/pacs.md``."""

TRANSIENT = frozenset(
    {
        Problem.UNREACHABLE,
        Problem.NO_STATUS,
        Problem.TIMEOUT,
        Problem.OUT_OF_RESOURCES,
        Problem.INCOMPLETE,
        Problem.NOT_CONFIRMED,
        Problem.DISK_FULL,
        Problem.BUSY,
    }
)
"""What may be gone when it is tried again."""

_CLEANER = PhiFilter()
_DONE_OR_GOING_ON = frozenset({0x0000, 0x0001, 0x0107, 0x0116, 0xFF00, 0xFF01})


def of_status(status: int) -> Problem | None:
    """What a DIMSE status means (PS3.7 annex C, PS3.4 B.2.3, C.4).

    Args:
        status: of a response.

    Returns:
        The problem; None for success, warnings (0xBxxx: it was stored all the same) and pending.

    Example:
        >>> of_status(0xA700).value, of_status(0xC000).value, of_status(0xB000)
        ('out_of_resources', 'rejected', None)
    """
    if status in _DONE_OR_GOING_ON or status >> 12 == 0xB:
        return None
    if status >> 8 == 0xA7 or status == 0x0213:
        return Problem.OUT_OF_RESOURCES
    return Problem.REJECTED


class Trouble(MedsalError):  # noqa: N818  (it is kept as the reason of a job more often than it is raised)
    """Something went wrong with a node or a job; its text holds nothing from the patient's data.

    Attributes:
        problem: the code.
        detail: numbers, names of attributes or of the node that say more; UIDs and names in it are replaced.
    """

    def __init__(self, problem: Problem, detail: str = "") -> None:
        self.problem = problem
        self.detail = _CLEANER.clean(detail)
        super().__init__(f"{problem.value}: {PROBLEMS[problem]}{f' ({self.detail})' if detail else ''}")

    def __reduce__(self) -> tuple[type[Trouble], tuple[Problem, str]]:
        return type(self), (self.problem, self.detail)

    @property
    def transient(self) -> bool:
        """Whether trying again later can help."""
        return self.problem in TRANSIENT
