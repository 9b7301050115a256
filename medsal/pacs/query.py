"""Questions to an archive: is it there, which studies has it, which objects."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from medsal.dicom.uids import valid_uid
from medsal.errors import UsageError
from medsal.pacs.associations import Talk, associate, context
from medsal.pacs.client import Study, Wanted
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble, of_status

if TYPE_CHECKING:
    from pydicom import Dataset

T = TypeVar("T")

_LOG = logging.getLogger("medsal")
VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study root query model."""

_AT_ONCE = 50  # study UIDs in one question


def echo(node: Node) -> None:
    """Ask whether a node is there and speaks with us.

    Args:
        node: of a site.

    Raises:
        Trouble: it is not, or does not.
    """
    with associate(node, [context(VERIFICATION)]) as talk:
        status = talk.association.send_c_echo(talk.message()).get("Status")
        if status is None:
            raise talk.lost()
        if status:
            raise Trouble(Problem.REJECTED, f"{node.name}: 0x{status:04X}")


def question(**keys: Any) -> Dataset:
    """What is asked for.

    Args:
        **keys: keyword -> value; ``level`` is the query level.

    Returns:
        The identifier of a request.

    Raises:
        UsageError: a value that DICOM does not allow; the error does not repeat it.
    """
    from pydicom import Dataset

    asked = Dataset()
    asked.QueryRetrieveLevel = keys.pop("level")
    if not all(str(value).isascii() for value in keys.values()):
        asked.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        try:
            setattr(asked, keyword, value)
        except (ValueError, TypeError):
            raise UsageError(f"{keyword}: DICOM allows no such value") from None
    return asked


def answers(talk: Talk, **keys: Any) -> Iterator[Dataset]:
    """Ask one question.

    Args:
        talk: an association for queries.
        **keys: keyword -> value; ``level`` is the query level.

    Yields:
        The answers that can be decoded; those that cannot are counted and logged.

    Raises:
        Trouble: the node fails, or no answer of several can be understood.
    """
    broken = good = 0
    for status, answer in talk.association.send_c_find(question(**keys), FIND, talk.message()):
        code = status.get("Status")
        if code is None:
            raise talk.lost()
        problem = of_status(code)
        if problem is not None:
            raise Trouble(problem, f"{talk.node.name}: query: 0x{code:04X}")
        if answer is not None:
            good += 1
            yield answer
        elif code in {0xFF00, 0xFF01}:
            broken += 1
    report(talk.node, broken, good)


def report(node: Node, broken: int, good: int) -> None:
    """Say how many answers could not be understood.

    Args:
        node: that gave them.
        broken: their number.
        good: number of the others.

    Raises:
        Trouble: ``unreadable`` where there are no others.
    """
    if broken and not good:
        raise Trouble(Problem.UNREADABLE, f"{node.name}: answers to a query")
    if broken:
        _LOG.warning("%s: some answers to a query cannot be understood; %d others can", node.name, good)


def understood(talk: Talk, found: Iterator[Dataset], read: Callable[[Dataset], T | None]) -> list[T]:
    """Read answers.

    Args:
        talk: where they came from.
        found: the answers.
        read: makes something of one, None where it lacks what it must have.

    Returns:
        What was made of them.
    """
    results: list[T] = []
    broken = 0
    for answer in found:
        one = read(answer)
        if one is None:
            broken += 1
        else:
            results.append(one)
    report(talk.node, broken, len(results))
    return results


def find_studies(node: Node, wanted: Wanted) -> list[Study]:
    """Look for studies.

    Args:
        node: of a site.
        wanted: matching keys.

    Returns:
        The studies, each once, in the order of the answers.
    """
    uids = wanted.study_uids
    parts = [uids[start : start + _AT_ONCE] for start in range(0, len(uids), _AT_ONCE)] or [()]
    found: dict[str, Study] = {}
    with associate(node, [context(FIND)]) as talk:
        for part in parts:
            for study in understood(talk, answers(talk, **_keys(wanted, part)), _study):
                if not uids or study.uid in part:  # some archives do not match lists
                    found.setdefault(study.uid, study)
        if wanted.modality:
            return [one for one in found.values() if wanted.modality in (one.modalities or _modalities(talk, one.uid))]
    return list(found.values())


def _keys(wanted: Wanted, uids: tuple[str, ...]) -> dict[str, Any]:
    return {
        "level": "STUDY",
        "StudyInstanceUID": list(uids) if uids else "",
        "PatientID": wanted.patient_id,
        "AccessionNumber": wanted.accession,
        "StudyDate": wanted.date,
        "StudyDescription": wanted.description,
        "ModalitiesInStudy": wanted.modality,
        "NumberOfStudyRelatedInstances": "",
    }


def _value(answer: Dataset, keyword: str) -> Any:
    """A value of an answer, which is decoded only now; None where it is missing or cannot be."""
    try:
        return answer.get(keyword) or None
    except Exception:  # noqa: BLE001  damaged values raise nearly everything
        return None


def _text(answer: Dataset, keyword: str) -> str:
    return str(_value(answer, keyword) or "")


def _study(answer: Dataset) -> Study | None:
    uid = _text(answer, "StudyInstanceUID")
    if not valid_uid(uid):
        return None
    number, date = _text(answer, "NumberOfStudyRelatedInstances"), _text(answer, "StudyDate")
    given = _value(answer, "ModalitiesInStudy") or ()
    modalities = [given] if isinstance(given, str) else list(given)
    return Study(
        uid,
        int(number) if number.isdigit() else None,
        tuple(str(one) for one in modalities if re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(one))),
        date if re.fullmatch(r"\d{8}", date) else "",
    )


def patient_of(node: Node, study_uid: str) -> str | None:
    """Whose study it is, as a node says now.

    Args:
        node: of a site.
        study_uid: study instance UID.

    Returns:
        The patient's ID; None where it does not say it, or says several.

    Raises:
        Trouble: the node fails.
    """
    with associate(node, [context(FIND)]) as talk:
        found = answers(talk, level="STUDY", StudyInstanceUID=study_uid, PatientID="")
        said = [answer for answer in found if _text(answer, "StudyInstanceUID") == study_uid]
    names = {_text(answer, "PatientID").strip() for answer in said} - {""}
    return names.pop() if len(names) == 1 else None


def _modalities(talk: Talk, study_uid: str) -> set[str]:
    """Of the series of a study, for archives that do not say it of the study."""
    found = answers(talk, level="SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", Modality="")
    return set(understood(talk, found, lambda answer: _text(answer, "Modality")))


def find_objects(talk: Talk, study_uid: str) -> dict[str, str]:
    """The objects of a study.

    Args:
        talk: an association for queries.
        study_uid: study instance UID.

    Returns:
        SOP instance UID -> SOP class UID, empty where the archive does not say it.
    """
    found = answers(talk, level="SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="")
    objects: dict[str, str] = {}
    for series in dict.fromkeys(understood(talk, found, lambda answer: _uid(answer, "SeriesInstanceUID"))):
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series, "SOPInstanceUID": "", "SOPClassUID": ""}
        objects.update(understood(talk, answers(talk, level="IMAGE", **keys), _object))
    return objects


def _uid(answer: Dataset, keyword: str) -> str | None:
    uid = _text(answer, keyword)
    return uid if valid_uid(uid) else None


def _object(answer: Dataset) -> tuple[str, str] | None:
    uid = _uid(answer, "SOPInstanceUID")
    return None if uid is None else (uid, _uid(answer, "SOPClassUID") or "")
