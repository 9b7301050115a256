"""A port that is open while we wait for what we asked for: objects of a C-MOVE, reports of storage commitment."""

from __future__ import annotations

import ipaddress
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from pynetdicom.transport import ThreadedAssociationServer

from medsal.pacs.nodes import Node
from medsal.pacs.reactor import at_once, prepare
from medsal.pacs.tls import server_context
from medsal.pacs.troubles import Problem, Trouble

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

Networks: TypeAlias = list[ipaddress.IPv4Network | ipaddress.IPv6Network]

_LOG = logging.getLogger("medsal")
_POLL = 0.05  # seconds between two looks at whether the port is to be closed


class Server(ThreadedAssociationServer):
    """A server that no peer can block: who is not allowed is let go at once, and handshakes run in threads.

    Attributes:
        networks: that may connect.
        patience: seconds to wait for a peer.
    """

    networks: Networks = []  # noqa: RUF012  (pynetdicom makes the object; `receiving` sets it before it serves)
    patience: float = 30.0
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, without the handshake of TLS.

        Returns:
            It, and the address of the peer.
        """
        connection, address = self.socket.accept()  # type: ignore[union-attr]  # open as long as it serves
        at_once(connection, self.patience)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002  (as it is called)
        """Whether a peer may connect.

        Args:
            request: its connection.
            client_address: where it comes from.

        Returns:
            True or False.
        """
        address = ipaddress.ip_address(client_address[0])
        may = any(address in network for network in self.networks)
        if not may:
            _LOG.warning("a connection from an address that is not allowed was refused")
        return may

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, and begin the association.

        Args:
            request: the connection.
            client_address: where it comes from.
        """
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (as it is called)
        """Say that a connection failed, without the traceback that the library would print.

        Args:
            request: the connection.
            client_address: where it comes from.
        """
        _LOG.warning("a connection to the port for answers failed before it was an association")

    def end(self) -> None:
        """Close the port, and end what still goes on over it."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()
        for association in self.active_associations:
            association.abort()


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
    networks = allowed(node)
    entity = AE(ae_title=node.own_title)
    entity.require_called_aet = True
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = node.timeout
    entity.maximum_pdu_size = 65536
    secure = server_context(node.tls) if node.tls is not None else None
    every: list[Any] = [(evt.EVT_DATA_RECV, beat), *handlers]
    place = (node.receive_host, node.receive_port)
    given: dict[str, Any] = {
        "contexts": list(contexts),
        "server_class": Server,
    }  # contexts of the entity lose their roles
    try:
        server: Any = entity.make_server(place, ssl_context=secure, evt_handlers=every, **given)
    except OSError as error:
        raise Trouble(Problem.BUSY, f"port {node.receive_port}: {error.strerror or type(error).__name__}") from None
    server.networks, server.patience = networks, node.timeout
    thread = threading.Thread(target=server.serve_forever, args=(_POLL,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.end()
        thread.join()


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
