"""Objects into an archive: C-STORE over one association, and over another where that one breaks."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsal.dicom.reasons import Refusal
from medsal.dicom.safe import open_file
from medsal.pacs.associations import MOST_CONTEXTS, UNCOMPRESSED, Talk, associate, context
from medsal.pacs.client import Sent
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble, of_status

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

_TRIES = 2  # of an object whose answer does not come: it may be what the peer stumbles over
_IDLE = 6  # associations in a row over which nothing arrives


@dataclass(frozen=True)
class Item:
    """A file that is to be sent.

    Attributes:
        path: where it lies.
        uid: SOP instance UID.
        sop_class: SOP class UID.
        syntax: transfer syntax UID.
    """

    path: Path
    uid: str
    sop_class: str
    syntax: str

    @property
    def offers(self) -> list[tuple[str, str]]:
        """SOP class and transfer syntax of each presentation context that it can be sent by."""
        syntaxes = UNCOMPRESSED if self.syntax in UNCOMPRESSED else (self.syntax,)
        return [(self.sop_class, one) for one in syntaxes]


def item(path: Path) -> Item | Sent:
    """Look at a file.

    Args:
        path: of it.

    Returns:
        What is to be sent, or why it is not.
    """
    try:
        opened = open_file(path)
    except Refusal as refusal:
        return Sent("", Problem.BAD_OBJECT, refusal.reason.value)
    meta = opened.header.file_meta
    if str(meta.get("MediaStorageSOPInstanceUID")) != opened.uid:
        return Sent(opened.uid, Problem.BAD_OBJECT, "two SOP instance UIDs")
    if str(meta.get("MediaStorageSOPClassUID")) != opened.text("SOPClassUID"):
        return Sent(opened.uid, Problem.BAD_OBJECT, "two SOP classes")
    return Item(Path(path), opened.uid, opened.text("SOPClassUID"), str(meta.get("TransferSyntaxUID")))


def allow(node: Node) -> None:
    """Refuse to send to a node that is not to be written to.

    Args:
        node: of a site.

    Raises:
        Trouble: ``not_allowed``.
    """
    if not node.write:
        raise Trouble(Problem.NOT_ALLOWED, f"nodes.{node.name}: write = false")


def store(
    node: Node, files: Sequence[Path], done: Callable[[Sent], None] | None = None
) -> tuple[list[Sent], list[Item]]:
    """Send files.

    Args:
        node: of a site.
        files: DICOM files.
        done: told of each as it is known.

    Returns:
        What became of each in the order of the files, and what was looked at.

    Raises:
        Trouble: ``not_allowed``, or why no association was made at all.
    """
    allow(node)
    looked = [item(path) for path in files]
    sending = Sending(node, done)
    for index, one in enumerate(looked):
        if isinstance(one, Sent):
            sending.end(index, one)
    items = [(index, one) for index, one in enumerate(looked) if isinstance(one, Item)]
    for group in _groups(items):
        sending.run(group)
    return [sending.ends[index] for index in range(len(looked))], [one for _, one in items]


def _groups(items: Sequence[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
    """Divide files so that the presentation contexts of each group fit into one association."""
    group: list[tuple[int, Item]] = []
    offers: set[tuple[str, str]] = set()
    for index, one in sorted(items, key=lambda pair: (pair[1].sop_class, pair[1].syntax, pair[0])):
        if len(offers | set(one.offers)) > MOST_CONTEXTS:
            yield group
            group, offers = [], set()
        group.append((index, one))
        offers.update(one.offers)
    if group:
        yield group


class Sending:
    """One sending of files: which have which end.

    Args:
        node: they go to.
        done: told of each end.

    Attributes:
        ends: number of the file -> what became of it.
    """

    def __init__(self, node: Node, done: Callable[[Sent], None] | None) -> None:
        self.node, self._done = node, done
        self.ends: dict[int, Sent] = {}
        self._tries: Counter[int] = Counter()
        self._associated = False
        self._arrived = 0

    def end(self, index: int, sent: Sent) -> None:
        """Write down an end.

        Args:
            index: number of the file.
            sent: what became of it.
        """
        self.ends[index] = sent
        self._arrived += sent.problem is None
        if self._done is not None:
            self._done(sent)

    def run(self, group: Sequence[tuple[int, Item]]) -> None:
        """Send files whose presentation contexts fit into one association.

        Args:
            group: numbers and files.

        Raises:
            Trouble: no association was ever made.
        """
        waiting = deque(group)
        offers = dict.fromkeys(offer for _, one in group for offer in one.offers)
        contexts = [context(*offer) for offer in offers]
        idle, why = 0, Trouble(Problem.NO_STATUS, self.node.name)
        while waiting and idle < _IDLE:
            before = self._arrived
            try:
                why = self._associate(contexts, waiting) or why
            except Trouble as trouble:
                if not self._associated:
                    raise
                why, idle = trouble, _IDLE
            idle = 0 if self._arrived > before else idle + 1
        for index, one in waiting:
            self.end(index, Sent(one.uid, why.problem, why.detail))

    def _associate(self, contexts: Sequence[PresentationContext], waiting: deque[tuple[int, Item]]) -> Trouble | None:
        """Send over one association for as long as it lasts; the trouble that ended it."""
        with associate(self.node, contexts) as talk:
            self._associated = True
            while waiting and talk.open:
                index, one = waiting[0]
                sent = send_one(talk, one)
                if sent is None:
                    self._tries[index] += 1
                    lost = talk.lost()
                    if self._tries[index] >= _TRIES:
                        waiting.popleft()
                        self.end(index, Sent(one.uid, lost.problem, f"{_TRIES} times"))
                    return lost
                waiting.popleft()
                self.end(index, sent)
        return None


def send_one(talk: Talk, one: Item) -> Sent | None:
    """Send one file.

    Args:
        talk: an association that is open.
        one: the file.

    Returns:
        What became of it; None where no status came, and nobody knows.
    """
    from pydicom import dcmread

    taken = talk.takes(one.sop_class)
    exact = one.syntax in taken
    if not exact and not (one.syntax in UNCOMPRESSED and set(taken) & set(UNCOMPRESSED)):
        return Sent(one.uid, Problem.NOT_ACCEPTED, "SOP class, or transfer syntax of the file")
    try:
        what = one.path if exact else dcmread(one.path)  # a file goes as it is; else it is written anew
        status = talk.association.send_c_store(what, talk.message()).get("Status")
    except Exception as error:  # noqa: BLE001  whatever is wrong with one object, the others go on
        return Sent(one.uid, Problem.BAD_OBJECT, type(error).__name__) if talk.open else None
    if status is None:
        return None
    problem = of_status(status)
    return Sent(one.uid, problem, f"0x{status:04X}" if problem or status else "")
