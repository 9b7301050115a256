"""The parts of a multipart answer, taken as they come: none has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medsal.pacs.troubles import Problem, Trouble

_HEAD_BYTES = 2**14


def boundary_of(content_type: str) -> bytes:
    """What stands between the parts.

    Args:
        content_type: of an answer.

    Returns:
        The boundary; empty where the answer is no multipart.

    Example:
        >>> boundary_of('multipart/related; type="application/dicom"; boundary="ab=c"')
        b'ab=c'
        >>> boundary_of("application/dicom")
        b''
    """
    kind, *parameters = (one.strip() for one in content_type.split(";"))
    if kind.lower() != "multipart/related":
        return b""
    for one in parameters:
        name, _, value = one.partition("=")
        if name.strip().lower() == "boundary":
            return value.strip().strip('"').encode("ascii", "replace")
    return b""


class Multipart:
    """The bodies of the parts of a message.

    Args:
        pieces: bytes of the message, cut anywhere.
        boundary: that its header names.
    """

    def __init__(self, pieces: Iterable[bytes], boundary: bytes) -> None:
        self._pieces = iter(pieces)
        self._data = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
        self._mark = b"\r\n--" + boundary

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        """Go through the parts.

        Yields:
            The pieces of each body; what is left of one is skipped before the next.

        Raises:
            Trouble: ``incomplete``, where the message ends before its last boundary.
        """
        _skip(self._until(self._mark))
        while (after := self._take(2)) != b"--":
            self._data[:0] = after  # so that a part without a header has one that is empty
            _skip(self._until(b"\r\n\r\n", _HEAD_BYTES))
            body = self._until(self._mark)
            yield body
            _skip(body)

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise Trouble(Problem.INCOMPLETE, "an answer without its end")
        self._data += piece

    def _take(self, number: int) -> bytes:
        while len(self._data) < number:
            self._more()
        taken = bytes(self._data[:number])
        del self._data[:number]
        return taken

    def _until(self, mark: bytes, most: int | None = None) -> Iterator[bytes]:
        """What comes before a mark, which is taken too."""
        size = 0
        while (place := self._data.find(mark)) < 0:
            ready = max(0, len(self._data) - len(mark) + 1)
            size += ready
            if most is not None and size > most:
                raise Trouble(Problem.UNREADABLE, "a part of an answer with an endless header")
            if ready:
                yield self._take(ready)
            self._more()
        yield self._take(place)
        del self._data[: len(mark)]


def _skip(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass
