"""HTTP as it must be for a PACS: certificates of the site, no proxies, bounded answers, and errors without patients."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from medsal.dicom.phi import quiet
from medsal.pacs.nodes import Node
from medsal.pacs.tls import client_context, speaks_tls, why
from medsal.pacs.troubles import Problem, Trouble

JSON_BYTES = 2**28
"""Most of an answer to a query."""
_SLOWEST = 8192  # bytes per second, over a whole answer
_PIECE = 2**18
_PAUSE = 0.5
_AGAIN = frozenset({429, 502, 503, 504})
_STATUS = {
    401: Problem.NOT_ACCEPTED,
    403: Problem.NOT_ACCEPTED,
    408: Problem.TIMEOUT,
    429: Problem.BUSY,
    502: Problem.BUSY,
    503: Problem.BUSY,
    504: Problem.TIMEOUT,
    507: Problem.OUT_OF_RESOURCES,
}


def of_http(status: int) -> Problem:
    """What an HTTP status of a failure means.

    Args:
        status: 400 or more, or a redirection.

    Returns:
        The problem.

    Example:
        >>> of_http(503).value, of_http(404).value
        ('busy', 'rejected')
    """
    return _STATUS.get(status, Problem.REJECTED)


class Session(requests.Session):
    """Connections to the DICOMweb service of a node.

    Args:
        node: with ``web_url``, certificates and time-out.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.trust_env = False  # REQUESTS_CA_BUNDLE, proxies and .netrc of whoever runs this are not of the site
        self.max_redirects = 0
        self.headers["Accept-Encoding"] = "identity"
        if node.tls is not None:
            self.verify = str(node.tls.ca)
            self.mount("https://", _Adapter(node))

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request; those that only ask are sent again once where the node is busy or hangs up.

        Args:
            request: prepared.
            **options: of requests.

        Returns:
            The answer, its body read unless it was asked for as a stream.

        Raises:
            requests.ConnectionError: the node is not there, or hangs up.
        """
        stream, options["stream"] = bool(options.get("stream")), True
        options["timeout"] = self.node.timeout
        try:
            response = super().send(request, **options)
            again = request.method == "GET" and response.status_code in _AGAIN
        except requests.ConnectionError as error:
            if request.method != "GET" or isinstance(error, requests.exceptions.SSLError | requests.ConnectTimeout):
                raise
            again = True
        if again:
            time.sleep(_PAUSE)
            response = super().send(request, **options)
        if not stream:
            response._content = b"".join(pieces(response, JSON_BYTES, self.node.timeout))
        return response


class _Adapter(HTTPAdapter):
    """Connects by the certificates of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        tls = self._node.tls
        if tls is not None:
            options["ssl_context"] = client_context(tls)
            if not tls.check_host:
                options["assert_hostname"] = False
        super().init_poolmanager(*args, **options)


def pieces(response: requests.Response, most: int, timeout: float) -> Iterator[bytes]:
    """The body of an answer.

    Args:
        response: of a request whose body was not read.
        most: bytes.
        timeout: seconds that it may take beside what its bytes need on a slow line.

    Yields:
        Its bytes.

    Raises:
        Trouble: ``unreadable`` where there are more, ``timeout`` where it trickles, ``incomplete`` where it breaks off.
    """
    begun, size = time.monotonic(), 0
    with response:
        while piece := _read(response):
            size += len(piece)
            if size > most:
                raise Trouble(Problem.UNREADABLE, f"an answer of more than {most} bytes")
            if time.monotonic() - begun > 4 * timeout + size / _SLOWEST:
                raise Trouble(Problem.TIMEOUT, "an answer that trickles")
            yield piece


def _read(response: requests.Response) -> bytes:
    """What has come by now: a larger read would wait for its last byte, however slowly that comes."""
    try:
        piece: bytes = response.raw.read1(_PIECE)
    except ReadTimeoutError as error:
        problem, name = Problem.TIMEOUT, type(error).__name__
    except HTTPError as error:
        problem, name = Problem.INCOMPLETE, type(error).__name__
    else:
        return piece
    raise Trouble(problem, name)


@contextlib.contextmanager
def web_trouble(node: Node) -> Iterator[None]:
    """Turn errors of HTTP into `Trouble`, which says nothing of addresses asked for.

    Args:
        node: that is spoken to.

    Yields:
        Nothing; warnings are counted, and the libraries log nothing below WARNING.

    Raises:
        Trouble: what is wrong.
    """
    logging.getLogger("retrying").setLevel(logging.CRITICAL)  # it quotes errors, which quote addresses
    try:
        with quiet():
            yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        trouble = Trouble(of_http(status), f"{node.name}: HTTP {status}")
    except requests.RequestException as error:
        trouble = _of_exception(node, error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of what JSON was made of
        trouble = Trouble(Problem.UNREADABLE, f"{node.name}: {type(error).__name__}")
    else:
        return
    raise trouble


_CLASSES: tuple[tuple[type[Exception], Problem], ...] = (  # the first that fits
    (requests.ConnectTimeout, Problem.UNREACHABLE),
    (requests.Timeout, Problem.TIMEOUT),
    (requests.TooManyRedirects, Problem.REJECTED),
    (requests.RequestException, Problem.UNREADABLE),
)


def _of_exception(node: Node, error: requests.RequestException) -> Trouble:
    name = f"{node.name}: {type(error).__name__}"
    if isinstance(error, requests.exceptions.SSLError):
        return Trouble(Problem.TLS, f"{node.name}: {_deepest(error)}")
    if isinstance(error, requests.ConnectionError) and not isinstance(error, requests.Timeout):
        return _of_connection(node, error, name)
    return Trouble(next(problem for kind, problem in _CLASSES if isinstance(error, kind)), name)


def _of_connection(node: Node, error: requests.ConnectionError, name: str) -> Trouble:
    """The peer is not there, or it is and hung up: perhaps since it wants TLS."""
    if "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error):
        return Trouble(Problem.UNREACHABLE, name)
    url = urlsplit(node.web_url)
    if url.scheme == "http" and speaks_tls(url.hostname or "", url.port or 80, node.timeout):
        return Trouble(Problem.TLS, f"{node.name}: it speaks TLS, and web_url is http")
    return Trouble(Problem.NO_STATUS, name)


def _deepest(error: BaseException) -> str:
    """What OpenSSL says, of the chain of errors that requests and urllib3 make of it."""
    seen: BaseException | None = error
    while seen is not None:
        inner = seen.__cause__ or seen.__context__ or _argument(seen)
        if inner is None:
            break
        seen = inner
    return why(seen) if isinstance(seen, OSError) else type(error).__name__


def _argument(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    found = [one for one in (*error.args, reason) if isinstance(one, BaseException)]
    return found[0] if found else None
