"""What a node, a listener and the work are told: checked values, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsal.errors import UsageError
from medsal.pacs import wanting
from medsal.pacs.wanting import (
    AE_TITLE,
    FLAG,
    HOST,
    NAME,
    NETWORK,
    PATH,
    PORT,
    TEXT,
    URL,
    Want,
    check,
    many,
    number,
    one_of,
    optional,
    some_of,
    whole,
)

KINDS = some_of("sc", "seg", "pm", "sr")  # of medsal.dicom.sources, which a listener has no memory for


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates of a connection, all in PEM.

    Attributes:
        ca: certificates of the authorities that the peer's certificate must come from.
        certificate: our own, with its chain; None where the peer asks for none.
        key: of our own certificate, without a passphrase.
        check_host: whether the peer's certificate must name the host that we connect to.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    check_host: bool = True

    def __post_init__(self) -> None:
        check(self, {"ca": PATH, "certificate": optional(PATH), "key": optional(PATH), "check_host": FLAG})
        if (self.certificate is None) != (self.key is None):
            raise UsageError("certificate, key: wanted both or none")


_NODE: dict[str, Want] = {
    "name": NAME,
    "host": HOST,
    "port": PORT,
    "ae_title": AE_TITLE,
    "own_title": AE_TITLE,
    "query": one_of("dimse", "web"),
    "retrieve": one_of("get", "move", "web"),
    "send_by": one_of("dimse", "web"),
    "write": FLAG,
    "send": KINDS,
    "commit": FLAG,
    "timeout": number(0.1, 3600, "seconds"),
    "receive_host": TEXT,
    "receive_port": whole(0, 65535),
    "receive_from": many(NETWORK),
    "tls": optional(wanting.instance(Tls)),
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """An archive, and how it is spoken to.

    Attributes:
        name: what commands call it.
        host: name or address.
        port: of DIMSE.
        ae_title: of the archive.
        own_title: ours, as the archive knows it.
        query: by C-FIND (``dimse``) or QIDO-RS (``web``).
        retrieve: by C-GET, C-MOVE or WADO-RS.
        send_by: C-STORE or STOW-RS.
        web_url: root of DICOMweb; wanted where anything goes by it.
        write: whether anything may be sent there.
        send: kinds of results that are sent.
        commit: whether storage commitment is asked for after sending.
        timeout: seconds to wait for a connection, an answer, or the next piece of one.
        receive_host: address that C-MOVE and commitment reports come in at.
        receive_port: its port; 0 where nothing comes in so. C-MOVE needs it, as the archive must know it.
        receive_from: addresses or networks that may send to it; those of ``host`` where empty.
        tls: certificates, for DIMSE and for DICOMweb; none for plain connections.
    """

    name: str
    host: str
    port: int
    ae_title: str
    own_title: str = "MEDSAL"
    query: str = "dimse"
    retrieve: str = "get"
    send_by: str = "dimse"
    web_url: str = ""
    write: bool = False
    send: tuple[str, ...] = ("sc", "sr", "seg")
    commit: bool = False
    timeout: float = 30.0
    receive_host: str = "127.0.0.1"
    receive_port: int = 0
    receive_from: tuple[str, ...] = ()
    tls: Tls | None = None

    def __post_init__(self) -> None:
        check(self, _NODE)
        if self.web_url or self.uses_web:
            check(self, {"web_url": URL})
        if self.retrieve == "move" and not self.receive_port:
            raise UsageError('receive_port: retrieve = "move" needs the port that the archive sends to, got 0')
        if self.retrieve == "move" and self.tls is not None and self.tls.certificate is None:
            raise UsageError('tls: retrieve = "move" needs a certificate and a key: the archive connects to us')

    @property
    def uses_web(self) -> bool:
        """Whether anything goes by DICOMweb."""
        return "web" in {self.query, self.retrieve, self.send_by}


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where archives and modalities send to us.

    Attributes:
        host: address to listen at.
        port: of it.
        ae_title: that must be called.
        callers: AE titles that may call; all where empty.
        hosts: addresses or networks that may connect.
        max_associations: at a time.
        idle_seconds: after which a silent peer is let go.
        memory_gib: most memory of the listener's process.
        object_mib: largest object.
        pdu_kib: largest piece of a message that is taken.
        tls: certificates; none for plain connections.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "MEDSAL"
    callers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("127.0.0.1",)
    max_associations: int = 8
    idle_seconds: float = 30.0
    memory_gib: float = 1.0
    object_mib: float = 2048.0
    pdu_kib: int = 64
    tls: Tls | None = None

    def __post_init__(self) -> None:
        check(
            self,
            {
                "host": HOST,
                "port": PORT,
                "ae_title": AE_TITLE,
                "callers": many(AE_TITLE),
                "hosts": many(NETWORK),
                "max_associations": whole(1, 1000),
                "idle_seconds": number(0.1, 86400, "seconds"),
                "memory_gib": number(0.25, 2**20, "GiB"),
                "object_mib": number(0.001, unit="MiB"),
                "pdu_kib": whole(4, 16384),
                "tls": optional(wanting.instance(Tls)),
            },
        )
        if self.tls is not None and self.tls.certificate is None:
            raise UsageError("tls: a listener needs a certificate and a key")


_WORK: dict[str, Want] = {
    "seconds": number(1, unit="seconds"),
    "memory_gib": number(0.25, 2**20, "GiB"),
    "tries": whole(1, 1000),
    "backoff": number(0.01, unit="seconds"),
    "backoff_max": number(0.01, unit="seconds"),
    "spool_gib": number(0.0001, unit="GiB"),
    "free_gib": number(0, unit="GiB"),
    "quiet_seconds": number(0, unit="seconds"),
    "keep_results": FLAG,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Limits of the work on one study, and of its repetition.

    Attributes:
        seconds: that explaining a study may take.
        memory_gib: that it may need.
        tries: before a job goes to quarantine.
        backoff: seconds before the second try; doubled each time.
        backoff_max: seconds between two tries at most.
        spool_gib: that studies waiting on disk may fill.
        free_gib: that stay free on the disk.
        quiet_seconds: without a new object after which a study that was sent to us counts as whole.
        keep_results: whether results stay on disk when they are sent.
    """

    seconds: float = 1800.0
    memory_gib: float = 8.0
    tries: int = 6
    backoff: float = 10.0
    backoff_max: float = 3600.0
    spool_gib: float = 50.0
    free_gib: float = 2.0
    quiet_seconds: float = 60.0
    keep_results: bool = True

    def __post_init__(self) -> None:
        check(self, _WORK)
        if self.backoff_max < self.backoff:
            raise UsageError(f"backoff_max: wanted at least backoff ({self.backoff:g}), got {self.backoff_max:g}")
