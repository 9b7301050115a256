"""Connections that only the right peers can make: TLS 1.2 and newer, certificates on both sides."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from medsal.errors import UsageError
from medsal.pacs.settings import Tls


def client_context(tls: Tls, failures: list[str] | None = None) -> ssl.SSLContext:
    """How we connect to a node.

    Args:
        tls: its certificates.
        failures: where errors of the handshake, and alerts of the peer, are put into words as they come.

    Returns:
        A context that asks for the peer's certificate always, and for its host's name unless told not to.

    Raises:
        UsageError: a certificate or key cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, tls)
    context.check_hostname = tls.check_host
    if failures is not None:
        context.sslsocket_class = _recording(failures)
    return context


def server_context(tls: Tls) -> ssl.SSLContext:
    """How others connect to us.

    Args:
        tls: our certificate, and the authorities of theirs.

    Returns:
        A context that refuses peers without a certificate.

    Raises:
        UsageError: a certificate or key is missing or cannot be loaded.
    """
    if tls.certificate is None:
        raise UsageError("tls: to be connected to needs a certificate and a key, got none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    path = tls.ca
    try:
        context.load_verify_locations(tls.ca)
        if tls.certificate is not None:
            path = tls.certificate
            context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    except OSError as error:
        why = error.strerror if not isinstance(error, ssl.SSLError) else "no PEM that fits, or a key with a passphrase"
        raise UsageError(f"tls: cannot load {path}: {why}") from None


def _no_passphrase() -> str:
    """Instead of asking at the terminal of a service."""
    return ""


def _recording(failures: list[str]) -> type[ssl.SSLSocket]:
    """A class of sockets that keeps what pynetdicom drops."""

    class Recording(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except OSError as error:
                failures.append(why(error))
                self.close()  # nobody else does
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            try:
                return super().recv(buflen, flags)
            except ssl.SSLError as error:
                failures.append(why(error))
                raise

    return Recording


def why(error: OSError) -> str:
    """What went wrong, in words of OpenSSL.

    Args:
        error: of a handshake.

    Returns:
        A few words, with no address or path.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}".rstrip(".")
    reason: Any = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else type(error).__name__


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Whether a peer that ended a plain connection wanted TLS.

    Args:
        host: its name or address.
        port: of it.
        timeout: seconds.

    Returns:
        True where it answers a greeting of TLS; nothing is sent over the connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
