"""Sending by STOW-RS: batches, of which every object has an answer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from medsal.dicom.reasons import Refusal
from medsal.dicom.safe import open_file
from medsal.pacs.client import Sent
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem, Trouble, of_status
from medsal.pacs.web_session import web_trouble

if TYPE_CHECKING:
    from dicomweb_client.web import DICOMwebClient

BATCH_BYTES, BATCH_FILES = 2**25, 100
"""Most of a request, unless one object alone is larger; it is held in memory."""


def send(web: DICOMwebClient, node: Node, files: Sequence[Path], done: Callable[[Sent], None]) -> list[Sent]:
    """Send files.

    Args:
        web: to send by.
        node: that they go to.
        files: DICOM files.
        done: told of each as it is known.

    Returns:
        What became of each, in their order.
    """
    sent: dict[Path, Sent] = {}
    sound: dict[Path, str] = {}
    for path in dict.fromkeys(files):
        try:
            sound[path] = open_file(path).uid
        except Refusal as refusal:
            sent[path] = Sent("", Problem.BAD_OBJECT, refusal.reason.value)
            done(sent[path])
    for batch in _batches(list(sound)):
        for path, one in _send_batch(web, node, {path: sound[path] for path in batch}).items():
            sent[path] = one
            done(one)
    return [sent[path] for path in files]


def _batches(files: list[Path]) -> list[list[Path]]:
    batches: list[list[Path]] = []
    size = 0
    for path in files:
        bytes_of = path.stat().st_size
        if not batches or len(batches[-1]) >= BATCH_FILES or size + bytes_of > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(path)
        size += bytes_of
    return batches


def _send_batch(web: DICOMwebClient, node: Node, files: dict[Path, str]) -> dict[Path, Sent]:
    """One request; one request for each object where the batch is refused as a whole, or is not answered."""
    try:
        answer = _post(web, node, list(files))
    except Trouble as trouble:
        lost = {path: Sent(uid, trouble.problem, trouble.detail) for path, uid in files.items()}
        if len(files) == 1 or trouble.problem not in {Problem.REJECTED, Problem.NO_STATUS, Problem.BAD_OBJECT}:
            return lost
        return {path: one for path, uid in files.items() for one in _send_batch(web, node, {path: uid}).values()}
    return {path: _of_answer(answer, uid) for path, uid in files.items()}


def _post(web: DICOMwebClient, node: Node, files: list[Path]) -> Any:
    """Send files, and read the answer, which comes with success as well as with failures."""
    import pydicom

    with web_trouble(node):
        try:
            datasets = [pydicom.dcmread(path) for path in files]
            return web.store_instances(datasets)
        except requests.HTTPError as error:
            answer = error.response
            if answer is None or answer.status_code != 409 or "json" not in answer.headers.get("Content-Type", ""):
                raise
            return pydicom.Dataset.from_json(answer.json())


def _of_answer(answer: Any, uid: str) -> Sent:
    for item in answer.get("FailedSOPSequence") or []:
        if str(item.get("ReferencedSOPInstanceUID")) == uid:
            reason = int(item.get("FailureReason") or 0x0110)
            return Sent(uid, of_status(reason) or Problem.REJECTED, f"0x{reason:04X}")
    for item in answer.get("ReferencedSOPSequence") or []:
        if str(item.get("ReferencedSOPInstanceUID")) == uid:
            return Sent(uid)
    return Sent(uid, Problem.NO_STATUS, "not named in the answer")
