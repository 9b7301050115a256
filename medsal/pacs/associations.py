"""Associations that end, whatever happens in them, and that say why where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from medsal.pacs.nodes import Node
from medsal.pacs.reactor import Pulse, acknowledge, at_once, guard, prepare
from medsal.pacs.tls import client_context, speaks_tls
from medsal.pacs.troubles import Problem, Trouble

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

MOST_CONTEXTS = 128
"""Presentation contexts that fit into one association (their identifiers are the odd numbers of one byte)."""

UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
"""Explicit and implicit VR little endian: who is offered no others decompresses what it sends."""

COMPRESSED = (
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.100",  # MPEG-2
    "1.2.840.10008.1.2.4.102",  # MPEG-4
    "1.2.840.10008.1.2.2",  # explicit VR big endian
)
"""What archives store and some cannot decompress; deflated is left out, as it is refused when a file is opened."""

_PDU = 65536  # bytes; the largest piece of a message that a node may send


class NotOffered(Trouble):
    """The node speaks with us, and does not offer what the association was for."""


class Talk:
    """An association, and what is known of its connection.

    Args:
        node: the peer.
    """

    association: Association

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pulse = Pulse()
        self.failures: list[str] = []
        self.connected = False
        self.answered: str = ""
        self._message = 0
        self._sockets: list[Any] = []
        self._since = time.monotonic()

    def message(self) -> int:
        """Number of the next message.

        Returns:
            1 to 65535, again and again.
        """
        self._message = self._message % 65535 + 1
        return self._message

    @property
    def open(self) -> bool:
        """Whether anything can still be sent over it."""
        return bool(self.association.is_established)

    def lost(self) -> Trouble:
        """Why an answer did not come.

        Returns:
            ``timeout`` after silence, else ``no_status``.
        """
        return Trouble(Problem.TIMEOUT if self.pulse.stopped else Problem.NO_STATUS, self.node.name)

    def takes(self, sop_class: str) -> list[str]:
        """Transfer syntaxes that the peer accepted for a SOP class.

        Args:
            sop_class: its UID.

        Returns:
            Their UIDs.
        """
        contexts = self.association.accepted_contexts
        return [str(one.transfer_syntax[0]) for one in contexts if one.abstract_syntax == sop_class]

    def handlers(self) -> list[Any]:
        """What is done when something happens on the connection.

        Returns:
            Pairs as pynetdicom takes them.
        """
        from pynetdicom import evt

        return [
            (evt.EVT_ACSE_SENT, self._keep),
            (evt.EVT_REQUESTED, lambda event: guard(event.assoc, self.pulse, self.node.timeout)),
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_DATA_SENT, self._sent),
            (evt.EVT_DATA_RECV, self.pulse.beat),
            (evt.EVT_ACSE_RECV, self._heard),
        ]

    def close(self) -> None:
        """Close the connection: pynetdicom leaves that to the garbage collector where the peer was first."""
        for one in self._sockets:
            one.close()

    def _keep(self, event: Any) -> None:
        wrapper = event.assoc.dul.socket
        if wrapper is not None and wrapper.socket is not None:
            self._sockets.append(wrapper.socket)

    def _opened(self, event: Any) -> None:
        self.connected, self._since = True, time.monotonic()
        self._keep(event)
        at_once(event.assoc.dul.socket.socket, self.node.timeout)

    def _sent(self, event: Any) -> None:
        self.pulse.beat()
        wrapper = event.assoc.dul.socket
        acknowledge(wrapper.socket if wrapper else None)

    def _heard(self, event: Any) -> None:
        self.answered = type(event.primitive).__name__

    def refusal(self, association: Association) -> Trouble:
        """Why there is no association.

        Args:
            association: as it was left.

        Returns:
            The trouble.
        """
        answer, name = self._answer(association), self.node.name
        if self.failures:
            return Trouble(Problem.TLS, f"{name}: {self.failures[0]}")
        if not self.connected:
            return Trouble(Problem.UNREACHABLE, f"{name}: no connection")
        if answer is None:
            return self._unanswered()
        if not answer.result:
            return NotOffered(Problem.NOT_ACCEPTED, f"{name}: none of the SOP classes and transfer syntaxes")
        return Trouble(Problem.BUSY if answer.result == 2 else Problem.NOT_ACCEPTED, f"{name}: {answer.reason_str}")

    def _answer(self, association: Association) -> Any:
        """The answer to the request; where the peer closed the connection at once, pynetdicom did not look for it."""
        left = list(association.dul.to_user_queue.queue)
        for primitive in left:
            self.answered = self.answered or type(primitive).__name__
        late = [one for one in left if type(one).__name__ == "A_ASSOCIATE"]
        return association.acceptor.primitive or (late[0] if late else None)

    def _unanswered(self) -> Trouble:
        """Why a connection ended before there was an answer."""
        node = self.node
        if not self.answered and time.monotonic() - self._since > 0.9 * node.timeout:
            return Trouble(Problem.TIMEOUT, f"{node.name}: no answer to the request for an association")
        if node.tls is None and speaks_tls(node.host, node.port, node.timeout):
            return Trouble(Problem.TLS, f"{node.name}: it wants TLS, and is not configured so")
        if self.answered == "A_ABORT":
            return Trouble(Problem.NOT_ACCEPTED, f"{node.name}: it aborted the association")
        return Trouble(Problem.UNREACHABLE, f"{node.name}: it closed the connection")


def context(abstract: str, *syntaxes: str) -> PresentationContext:
    """One thing that an association is for.

    Args:
        abstract: UID of a SOP class.
        *syntaxes: UIDs of transfer syntaxes, uncompressed ones if none.

    Returns:
        A presentation context.
    """
    from pynetdicom import build_context

    return build_context(abstract, list(syntaxes or UNCOMPRESSED))


@contextmanager
def associate(
    node: Node,
    contexts: Sequence[PresentationContext],
    roles: Sequence[Any] = (),
    handlers: Iterable[tuple[Any, Callable[..., Any]]] = (),
) -> Iterator[Talk]:
    """Associate with a node; the association is released at the end, and aborted after an error.

    Args:
        node: the peer.
        contexts: what for; at most `MOST_CONTEXTS`.
        roles: items that ask for the other role.
        handlers: of events, as pynetdicom takes them.

    Yields:
        The association.

    Raises:
        Trouble: ``unreachable``, ``not_accepted``, ``tls``, ``timeout`` or ``busy``.
    """
    talk = Talk(node)
    with closing(talk):
        talk.association = _request(talk, contexts, roles, [*talk.handlers(), *handlers])
        if not talk.open:
            raise talk.refusal(talk.association)
        try:
            yield talk
        except BaseException:
            talk.association.abort()
            raise
        else:
            talk.association.release()
        finally:
            talk.association.join(node.timeout)


def _request(talk: Talk, contexts: Sequence[PresentationContext], roles: Sequence[Any], handlers: list[Any]) -> Any:
    from pynetdicom import AE

    prepare()
    node = talk.node
    entity = AE(ae_title=node.own_title)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = node.timeout
    entity.network_timeout = max(60.0, 4 * node.timeout)  # nobody waits so long: it ends what was forgotten
    secure = (client_context(node.tls, talk.failures), node.host) if node.tls is not None else None
    try:
        return entity.associate(
            node.host,
            node.port,
            contexts=list(contexts),
            ae_title=node.ae_title,
            max_pdu=_PDU,
            ext_neg=list(roles),
            tls_args=secure,
            evt_handlers=handlers,
        )
    except OSError as error:
        raise Trouble(Problem.UNREACHABLE, f"{node.name}: {type(error).__name__}") from None
