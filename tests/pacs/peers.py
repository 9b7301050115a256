"""Nodes inside the test's own process, that do what they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context

from medsal.dicom.uids import derived_uid
from medsal.pacs.commitment import COMMITMENT
from medsal.pacs.nodes import Node
from medsal.pacs.query import FIND, VERIFICATION
from medsal.pacs.retrieve import GET, MOVE
from medsal.pacs.troubles import Trouble
from tests.pacs.made import clean, slices
from tests.pacs.servers import HOST, free_port

MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = derived_uid("study")


@contextlib.contextmanager
def peer(handlers=(), contexts=None, **settings) -> Iterator[Node]:
    """A node that does as the handlers say."""
    entity = AE(ae_title="PEER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
    for name, value in settings.items():
        setattr(entity, name, value)
    offered = contexts or [*(build_context(uid) for uid in (VERIFICATION, FIND, MOVE, GET, COMMITMENT)), _both(MR)]
    port = free_port()
    server = entity.start_server((HOST, port), block=False, evt_handlers=list(handlers), contexts=offered)
    try:
        yield Node(name="peer", host=HOST, port=port, ae_title="PEER", write=True, timeout=1.0)
    finally:
        entity.shutdown()
        server.server_close()


def _both(uid: str):
    context = build_context(uid)
    context.scu_role = context.scp_role = True
    return context


def trouble(call, *args) -> Trouble:
    """The trouble that a call ends in, which names nobody."""
    with pytest.raises(Trouble) as caught:
        call(*args)
    clean(f"{caught.value}{caught.value.__context__ or ''}{caught.value.__cause__ or ''}")
    assert STUDY not in str(caught.value)
    return caught.value


def found(event):
    """Answers to any C-FIND: a study of four slices in one series."""
    level = event.identifier.QueryRetrieveLevel
    for number in range(4 if level == "IMAGE" else 1):
        answer = Dataset()
        answer.QueryRetrieveLevel, answer.StudyInstanceUID = level, STUDY
        answer.SeriesInstanceUID = derived_uid("study", "series")
        if level == "IMAGE":
            answer.SOPInstanceUID, answer.SOPClassUID = derived_uid("study", "series", number + 1), MR
        yield 0xFF00, answer


def gives(count: int, then=None):
    """A C-GET handler that hands out some of four slices, and then does something else."""

    def handle(event):
        yield 4
        for one in slices(4)[:count]:
            yield 0xFF00, one
        if then is not None:
            then(event)

    return handle
