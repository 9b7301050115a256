"""A port that is open while we wait for what we asked for: objects of a C-MOVE, reports of storage commitment."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from medsal.pacs.nodes import Node
from medsal.pacs.reactor import at_once, prepare
from medsal.pacs.tls import server_context
from medsal.pacs.troubles import Problem, Trouble

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

Networks: TypeAlias = list[ipaddress.IPv4Network | ipaddress.IPv6Network]

_LOG = logging.getLogger("medsal")


@contextmanager
def receiving(
    node: Node,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[tuple[Any, Callable[..., Any]]],
    beat: Callable[..., None],
) -> Iterator[None]:
    """Let a node connect to us.

    Args:
        node: that may; our AE title must be called, from an address of the node.
        contexts: what is taken.
        handlers: of events, as pynetdicom takes them.
        beat: called whenever something arrives.

    Yields:
        Nothing.

    Raises:
        Trouble: ``busy`` where the port is taken, ``unreachable`` where the node's name has no address.
    """
    from pynetdicom import AE, evt

    prepare()
    entity = AE(ae_title=node.own_title)
    entity.supported_contexts = list(contexts)
    entity.require_called_aet = True
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = node.timeout
    entity.maximum_pdu_size = 65536
    secure = server_context(node.tls) if node.tls is not None else None
    every: list[Any] = [(evt.EVT_CONN_OPEN, _opened, [node, allowed(node)]), (evt.EVT_DATA_RECV, beat), *handlers]
    place = (node.receive_host, node.receive_port)
    try:
        server = entity.start_server(place, block=False, ssl_context=secure, evt_handlers=every)
    except OSError as error:
        raise Trouble(Problem.BUSY, f"port {node.receive_port}: {error.strerror or type(error).__name__}") from None
    try:
        yield
    finally:
        entity.shutdown()
        if server is not None:
            server.server_close()


def _opened(event: Any, node: Node, networks: Networks) -> None:
    address = ipaddress.ip_address(event.address[0])
    if any(address in network for network in networks):
        at_once(event.assoc.dul.socket.socket, node.timeout)
    else:
        _LOG.warning("%s: a connection from another address was refused", node.name)
        event.assoc.abort()


def allowed(node: Node) -> Networks:
    """Where a node may connect from.

    Args:
        node: of a site.

    Returns:
        Networks.

    Raises:
        Trouble: ``unreachable`` where its name has no address.
    """
    if node.receive_from:
        return [ipaddress.ip_network(one, strict=False) for one in node.receive_from]
    try:
        found = socket.getaddrinfo(node.host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise Trouble(Problem.UNREACHABLE, f"{node.name}: its name has no address") from None
    return [ipaddress.ip_network(address[0]) for *_, address in found]
