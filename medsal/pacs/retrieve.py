"""Studies out of an archive: C-GET, or C-MOVE to a port of ours, until everything that it holds is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal.pacs.associations import COMPRESSED, MOST_CONTEXTS, UNCOMPRESSED, NotOffered, Talk, associate, context
from medsal.pacs.nodes import Node
from medsal.pacs.objects import Inbox, file_name
from medsal.pacs.query import FIND, find_objects
from medsal.pacs.receiving import receiving
from medsal.pacs.troubles import Problem, Trouble, of_status

if TYPE_CHECKING:
    from pydicom import Dataset

GET, MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"
"""Study root models."""

_LOG = logging.getLogger("medsal")

_SOME_NOT = 0xB000
"""Status of a retrieval that ended, without some objects."""
_DECLINED = {Problem.OUT_OF_RESOURCES, Problem.REJECTED}
"""What archives say where objects could not be sent one by one: 0xA702, whether they or we could not."""

Way = Callable[[Node, str, Inbox, Sequence[str], Sequence[str]], None]


def holdings(node: Node, study_uid: str) -> dict[str, str] | None:
    """The objects that a node holds of a study.

    Args:
        node: of a site.
        study_uid: study instance UID.

    Returns:
        SOP instance UID -> SOP class UID; None where the node does not answer such questions.

    Raises:
        Trouble: the node cannot be spoken to.
    """
    try:
        with associate(node, [context(FIND)]) as talk:
            return find_objects(talk, study_uid)
    except NotOffered:
        return None
    except Trouble as trouble:
        if trouble.problem in {Problem.REJECTED, Problem.UNREADABLE}:
            return None
        raise


def fetch(node: Node, study_uid: str, folder: Path) -> int:
    """Fetch a study, or what is missing of it; first without compression, then what was not sent as it is stored.

    Args:
        node: of a site.
        study_uid: study instance UID.
        folder: where its files go.

    Returns:
        Number of its objects that are there.

    Raises:
        Trouble: ``nothing_received``, ``incomplete``, ``disk_full``, or what keeps the node from being spoken to.
    """
    held = holdings(node, study_uid)
    if held is not None and not held:
        raise Trouble(Problem.NOTHING_RECEIVED, f"{node.name}: it knows no objects of the study")
    inbox = Inbox(folder, study_uid)
    if inbox.full:
        raise Trouble(Problem.DISK_FULL, "the folder of the study cannot be made")
    missing = _missing(held, folder)
    if held is not None and not missing:
        return len(held)
    way: Way = by_move if node.retrieve == "move" else by_get
    failure = _ask(way, node, inbox, missing, UNCOMPRESSED)
    missing = _missing(held, folder, inbox.unsent)
    if missing and (failure is None or failure.problem in _DECLINED):
        failure = _ask(way, node, inbox, missing, COMPRESSED)
        missing = _missing(held, folder, inbox.unsent)
    return _outcome(node, inbox, held, missing, failure)


def _missing(held: Mapping[str, str] | None, folder: Path, unsent: Iterable[str] = ()) -> dict[str, str]:
    """What a node has, or says that it could not send where it does not say what it has, and is not here."""
    wanted = dict.fromkeys(unsent, "") if held is None else held
    return {uid: sop for uid, sop in wanted.items() if not (folder / file_name(uid)).is_file()}


def _ask(way: Way, node: Node, inbox: Inbox, missing: Mapping[str, str], syntaxes: Sequence[str]) -> Trouble | None:
    """Ask for the study, once for every group of SOP classes that fits into an association."""
    declined: Trouble | None = None
    for classes in groups(missing.values(), 1 if syntaxes is UNCOMPRESSED or way is by_move else len(syntaxes)):
        try:
            way(node, inbox.study_uid, inbox, classes, syntaxes)
        except Trouble as trouble:
            if trouble.problem not in _DECLINED:
                return trouble
            declined = trouble
        if inbox.full:
            return Trouble(Problem.DISK_FULL, "objects cannot be written")
    return declined


def groups(classes: Iterable[str], contexts_each: int) -> Iterator[list[str]]:
    """Divide SOP classes so that those of each group fit into an association, with one context to spare.

    Args:
        classes: UIDs; empty ones where an archive does not say them.
        contexts_each: presentation contexts for each.

    Yields:
        Groups.
    """
    given = set(classes)
    known = sorted(given - {""})
    most = max(1, (MOST_CONTEXTS - 1) // contexts_each)
    if "" in given or not known:
        images = [one for one in IMAGES if one not in known]
        others = [one for one in storage() if one not in known and one not in IMAGES]
        known = [*known, *images, *others[: max(0, most - len(known) - len(images))]]
    for start in range(0, len(known), most):
        yield known[start : start + most]


IMAGES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in "1 1.1 1.1.1 1.2 2 2.1 4 4.1 4.4 7 20 128 12.1 6.1 66.4 88.33 88.22 11.1".split()
)
"""What is asked for first where an archive does not say what it holds: films, CT, MR, captures, nuclear medicine,
angiography, ultrasound, segmentations, reports, presentation states."""


def storage() -> list[str]:
    """SOP classes of storage that pynetdicom knows.

    Returns:
        Their UIDs.
    """
    from pynetdicom import AllStoragePresentationContexts

    return [str(one.abstract_syntax) for one in AllStoragePresentationContexts]


def by_get(node: Node, study_uid: str, inbox: Inbox, classes: Sequence[str], syntaxes: Sequence[str]) -> None:
    """Fetch by C-GET: objects come back over the association that asks.

    Args:
        node: of a site.
        study_uid: study instance UID.
        inbox: where the objects go.
        classes: SOP classes.
        syntaxes: transfer syntaxes, each offered on its own but for the uncompressed.

    Raises:
        Trouble: the node fails.
    """
    from pynetdicom import build_role, evt

    offers: list[Sequence[str]] = [UNCOMPRESSED] if syntaxes is UNCOMPRESSED else [(one,) for one in syntaxes]
    contexts = [context(GET), *(context(one, *offer) for one in classes for offer in offers)][:MOST_CONTEXTS]
    roles = [build_role(one, scp_role=True) for one in classes]
    with associate(node, contexts, roles, [(evt.EVT_C_STORE, inbox.take)]) as talk:
        follow(talk, talk.association.send_c_get(_identifier(study_uid), GET, talk.message()), inbox)


def by_move(node: Node, study_uid: str, inbox: Inbox, classes: Sequence[str], syntaxes: Sequence[str]) -> None:
    """Fetch by C-MOVE: the node connects to us, and sends the objects.

    Args:
        node: of a site, that knows our AE title and port.
        study_uid: study instance UID.
        inbox: where the objects go.
        classes: SOP classes.
        syntaxes: transfer syntaxes that are taken.

    Raises:
        Trouble: the node fails, or the port is taken.
    """
    from pynetdicom import evt

    register(classes)
    contexts = [context(one, *syntaxes) for one in classes]
    with associate(node, [context(MOVE)]) as talk:
        handlers = [(evt.EVT_C_STORE, inbox.take)]
        with receiving(node, contexts, handlers, talk.pulse.beat):
            moved = talk.association.send_c_move(_identifier(study_uid), node.own_title, MOVE, talk.message())
            follow(talk, moved, inbox)


def register(classes: Sequence[str]) -> None:
    """Let pynetdicom take SOP classes that it does not know, such as private ones of manufacturers.

    Args:
        classes: UIDs of classes of storage.
    """
    from pynetdicom.service_class import ServiceClass, StorageServiceClass
    from pynetdicom.sop_class import register_uid, uid_to_service_class

    for one in classes:
        if uid_to_service_class(one) is ServiceClass:
            register_uid(one, f"Private{one.replace('.', '_')}", StorageServiceClass)


def _identifier(study_uid: str) -> Dataset:
    from pydicom import Dataset

    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_uid
    return identifier


def follow(talk: Talk, responses: Iterable[tuple[Dataset, Any]], inbox: Inbox) -> None:
    """Wait for the end of a retrieval.

    Args:
        talk: its association.
        responses: as they come.
        inbox: where the objects go.

    Raises:
        Trouble: the node fails, or the disk is full.
    """
    for status, said in responses:
        code = status.get("Status")
        if inbox.full:
            raise Trouble(Problem.DISK_FULL, "objects cannot be written")
        if code is None:
            raise talk.lost()
        problem = of_status(code)
        if problem is not None:
            none = code == 0xC000 and not inbox.classes
            detail = f"{talk.node.name}: retrieval: 0x{code:04X}"
            raise Trouble(Problem.NOTHING_RECEIVED if none else problem, detail)
        if code == _SOME_NOT and status.get("NumberOfFailedSuboperations") != 0:
            named = said.get("FailedSOPInstanceUIDList") if said is not None else None
            inbox.unsent.update([named] if isinstance(named, str) else named or [""])


def _outcome(
    node: Node, inbox: Inbox, held: Mapping[str, str] | None, missing: Mapping[str, str], failure: Trouble | None
) -> int:
    """The number of objects that are there, or what is wrong with it."""
    there = len(held) - len(missing) if held is not None else len(list(inbox.folder.glob("object-*.dcm")))
    refused = f", {inbox.refused} of another study or damaged" if inbox.refused else ""
    if held is not None and not missing:
        if refused:
            _LOG.warning("%s: a study came whole%s", node.name, refused)
        return there
    ours = inbox.refused and failure is not None and failure.problem in _DECLINED
    if failure is not None and (failure.problem is Problem.DISK_FULL or not (there or ours)):
        raise failure
    if not there:
        raise Trouble(Problem.NOTHING_RECEIVED, f"{node.name}: 0 objects came{refused}")
    if missing or failure is not None or refused:
        why = f": {failure.problem.value}" if failure is not None else ""
        total = len(held) if held is not None else "an unknown number"
        raise Trouble(Problem.INCOMPLETE, f"{node.name}: {there} of {total}{refused}{why}")
    return there
