"""Nodes inside the test's own process, that do what they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pynetdicom import AE, build_context

from medsal.pacs.commitment import COMMITMENT
from medsal.pacs.nodes import Node
from medsal.pacs.query import FIND, VERIFICATION
from medsal.pacs.retrieve import GET, MOVE
from tests.pacs.servers import HOST, free_port

MR = "1.2.840.10008.5.1.4.1.1.4"


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
