"""DIMSE over TLS: who is refused, on both sides, and that what passes is encrypted by TLS 1.2 or newer."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from dataclasses import replace

import pytest

from medsal.dicom.uids import derived_uid
from medsal.errors import UsageError
from medsal.pacs import tls as module
from medsal.pacs.dimse import DimseClient
from medsal.pacs.nodes import Node, Tls
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import clean, study_files
from tests.pacs.servers import HOST, Authority, Orthanc

STUDY = derived_uid("study")


def trouble(node: Node) -> Trouble:
    with pytest.raises(Trouble) as caught:
        DimseClient(node).echo()
    clean(caught.value)
    return caught.value


@pytest.fixture
def archive(tls: Orthanc) -> Orthanc:
    tls.clear()
    return tls


def test_with_the_right_certificates_everything_goes(archive, tmp_path) -> None:
    client = DimseClient(archive.node)
    client.echo()
    ends = client.store(study_files(tmp_path / "sent", 5))
    assert [end.problem for end in ends] == [None] * 5
    assert client.fetch(STUDY, tmp_path / "got") == 5
    assert client.confirm(STUDY, [end.uid for end in ends]) == frozenset()


def test_move_and_commitment_come_back_over_tls(archive, tmp_path) -> None:
    archive.upload(study_files(tmp_path / "sent", 5))
    client = DimseClient(replace(archive.node, retrieve="move", commit=True))
    assert client.fetch(STUDY, tmp_path / "got") == 5
    uids = sorted(archive.instances())
    assert client.confirm(STUDY, [*uids, "1.2.3"]) == {"1.2.3"}


def no_certificate(node: Node, made: Authority) -> Node:
    return replace(node, tls=Tls(ca=made.ca))


def rogue_certificate(node: Node, made: Authority) -> Node:
    return replace(node, tls=made.rogue.tls(made.ca))


def unknown_authority(node: Node, made: Authority) -> Node:
    return replace(node, tls=made.client.tls(made.stranger_ca))


def wrong_host(node: Node, made: Authority) -> Node:
    return replace(node, host="127.0.0.2")  # leads to the same server, whose certificate does not name it


def plain(node: Node, made: Authority) -> Node:
    return replace(node, tls=None)


@pytest.mark.parametrize("change", [no_certificate, rogue_certificate, unknown_authority, wrong_host, plain])
def test_the_archive_or_we_refuse(archive, authority, change) -> None:
    said = trouble(change(archive.node, authority))
    assert said.problem is Problem.TLS, said
    assert said.detail != f"{archive.node.name}: "
    assert not said.transient
    DimseClient(archive.node).echo()


def test_the_host_is_not_checked_where_that_is_asked_for(archive, authority) -> None:
    loose = replace(archive.node.tls, check_host=False)
    DimseClient(replace(archive.node, host="127.0.0.2", tls=loose)).echo()


def test_tls_to_a_plain_archive(orthanc, authority) -> None:
    said = trouble(replace(orthanc.node, tls=authority.client.tls(authority.ca)))
    assert said.problem is Problem.TLS


def test_tls_to_a_port_that_says_nothing(authority) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        node = Node(name="n", host=HOST, port=port, ae_title="X", timeout=0.5, tls=Tls(ca=authority.ca))
        began = time.monotonic()
        assert trouble(node).problem is Problem.TLS
        assert time.monotonic() - began < 3


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> str | None:
    """The version that two sides agree on; None where one refuses."""
    one, other = socket.socketpair()
    said: list[str | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(other, server_side=True) as wrapped:
                wrapped.sendall(b"x")
                said.append(wrapped.version())
        except OSError:
            said.append(None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(one, server_hostname=host) as wrapped:
            wrapped.recv(1)
    except OSError:
        said.append(None)
    finally:
        one.close()
        thread.join()
        other.close()
    return None if None in said else said[0]


def test_both_contexts_by_themselves(authority) -> None:
    own, other = authority.client.tls(authority.ca), authority.server.tls(authority.ca)
    client, server = module.client_context(own), module.server_context(other)
    assert handshake(client, server) == "TLSv1.3"
    older = module.server_context(other)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(client, older) == "TLSv1.2"
    assert handshake(module.client_context(Tls(ca=authority.ca)), server) is None
    assert handshake(module.client_context(authority.rogue.tls(authority.ca)), server) is None
    assert handshake(client, module.server_context(authority.rogue.tls(authority.ca))) is None
    assert handshake(client, module.server_context(authority.elsewhere.tls(authority.ca))) is None
    assert handshake(client, server, "127.0.0.2") is None


def test_versions_before_1_2_are_refused(authority) -> None:
    for context in (
        module.client_context(authority.client.tls(authority.ca)),
        module.server_context(authority.server.tls(authority.ca)),
    ):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED


def test_files_that_cannot_be_loaded_are_named(authority, tmp_path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    whole = authority.client
    locked = tmp_path / "locked.key"
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(whole.key.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))
    )
    cases = [
        (Tls(ca=tmp_path / "none.pem"), "none.pem: No such file"),
        (Tls(ca=empty), "empty.pem: no PEM that fits"),
        (Tls(ca=authority.ca, certificate=whole.certificate, key=authority.server.key), "client.pem: no PEM that fits"),
        (Tls(ca=authority.ca, certificate=whole.certificate, key=locked), "client.pem: no PEM that fits"),
    ]
    for given, says in cases:
        with pytest.raises(UsageError, match=says):
            module.client_context(given)
    with pytest.raises(UsageError, match="needs a certificate"):
        module.server_context(Tls(ca=authority.ca))


def test_strangers_cannot_block_the_port_for_answers(archive, authority, tmp_path, caplog) -> None:
    """While a C-MOVE runs, one peer says nothing, one speaks no TLS, one has a certificate of somebody else."""
    archive.upload(study_files(tmp_path / "sent", 3))
    node = replace(archive.node, retrieve="move", timeout=10)
    strangers: list[socket.socket] = []

    def disturb() -> None:
        end = time.monotonic() + 5
        while len(strangers) < 3 and time.monotonic() < end:
            try:
                strangers.append(socket.create_connection((HOST, node.receive_port), 1))
                if len(strangers) == 2:
                    strangers[1].sendall(b"\x01\x00\x00\x00\x00\x04abcd")
            except OSError:
                time.sleep(0.001)

    thread = threading.Thread(target=disturb)
    with caplog.at_level(logging.DEBUG):
        for number in range(3):
            thread = threading.Thread(target=disturb)
            thread.start()
            assert DimseClient(node).fetch(STUDY, tmp_path / f"got{number}") == 3
            thread.join()
    assert strangers
    for one in strangers:
        one.close()
    clean(caplog.text)
