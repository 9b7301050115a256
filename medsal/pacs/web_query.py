"""What is asked for over QIDO-RS, and what the answers say."""

from __future__ import annotations

import re
from typing import Any

from medsal.dicom.uids import valid_uid
from medsal.errors import UsageError
from medsal.pacs.client import Study, Wanted

STUDY, SERIES, OBJECT = "0020000D", "0020000E", "00080018"
PATIENT = "00100020"
MODALITIES, NUMBER, DATE = "00080061", "00201208", "00080020"
STUDY_FIELDS = [PATIENT, MODALITIES, NUMBER, DATE]
"""What is asked of studies."""
_PLAIN = {
    "patient_id": re.compile(r"[A-Za-z0-9._-]{0,64}"),
    "accession": re.compile(r"[A-Za-z0-9._-]{0,16}"),
    "description": re.compile(""),
}


def keys_of(wanted: Wanted) -> dict[str, str]:
    """The matching keys of a query, but for the study UIDs.

    Args:
        wanted: what is looked for.

    Returns:
        Tag -> value.

    Raises:
        UsageError: a key holds what servers do not agree on: Orthanc finds nothing, and no error, for what is encoded
            by percent signs in a URL.
    """
    for name, plain in _PLAIN.items():
        if not plain.fullmatch(getattr(wanted, name)):
            raise UsageError(
                f"{name}: over DICOMweb only UIDs, plain identifiers and dates can be asked for (servers differ in how "
                'they read *, ?, ^ and spaces); set query = "dimse" for the node'
            )
    keys = {
        PATIENT: wanted.patient_id,
        "00080050": wanted.accession,
        DATE: wanted.date,
        MODALITIES: wanted.modality,
    }
    return {tag: value for tag, value in keys.items() if value}


def check_shape(answer: list[Any]) -> None:
    """Hold an answer to DICOM's JSON model.

    Args:
        answer: decoded.

    Raises:
        TypeError: it is something else.
    """
    for entry in answer:
        if not isinstance(entry, dict) or not all(isinstance(one, dict) for one in entry.values()):
            raise TypeError
        if not all(isinstance(one.get("Value", []), list) for one in entry.values()):
            raise TypeError


def study_of(entry: dict[str, Any]) -> Study | None:
    """A study of an answer.

    Args:
        entry: tag -> VR and values.

    Returns:
        It; None where it has no valid UID.
    """
    uid, number, date = text(entry, STUDY), text(entry, NUMBER), text(entry, DATE)
    if not valid_uid(uid):
        return None
    modalities = entry.get(MODALITIES, {}).get("Value") or []
    return Study(
        uid,
        int(number) if re.fullmatch(r"\d{1,9}", number) else None,
        tuple(one for one in modalities if isinstance(one, str) and re.fullmatch(r"[A-Z0-9_]{1,16}", one)),
        date if re.fullmatch(r"\d{8}", date) else "",
    )


def patient_of(entries: list[dict[str, Any]], study_uid: str) -> str | None:
    """Whose study it is.

    Args:
        entries: answers about studies.
        study_uid: of the study.

    Returns:
        The patient's ID; None where the answers do not say it, or say several.
    """
    names = {text(one, PATIENT).strip() for one in entries if text(one, STUDY) == study_uid} - {""}
    return names.pop() if len(names) == 1 else None


def text(entry: dict[str, Any], tag: str) -> str:
    """The first value of an attribute.

    Args:
        entry: tag -> VR and values.
        tag: of the attribute.

    Returns:
        It, as a text; empty where there is none.
    """
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0])
