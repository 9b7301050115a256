"""A walk over the elements of a DICOM file by their lengths alone: how many, how deep, where the pixels are.

No value is read and nothing recurses, so a file that was made to exhaust memory, stack or time is known for what it is
before a library parses it (pydicom needs 11 s for two million elements and ends in a RecursionError for nested ones).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import IO

from medsal.dicom.reasons import Reason, Refusal

IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"

_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}


@dataclass(frozen=True)
class Bounds:
    """What a header may have: elements in all, and sequences inside one another."""

    elements: int
    depth: int


@dataclass
class Structure:
    """What a file is made of.

    Attributes:
        syntax: transfer syntax UID.
        elements: their number, those in sequences too.
        depth: of the most deeply nested sequence.
        pixels: where the value of the pixel data begins, in bytes; -1 where there is none.
        pixel_bytes: length of the pixel data; of its fragments together where it is encapsulated.
        fragments: how many, 0 where it is not encapsulated.
    """

    syntax: str = ""
    elements: int = 0
    depth: int = 0
    pixels: int = -1
    pixel_bytes: int = 0
    fragments: int = 0


@dataclass
class _Level:
    """One sequence or item that is open; ``end`` is None where a delimiter ends it."""

    end: int | None
    sequence: bool
    implicit: bool


@dataclass
class _Walk:
    file: IO[bytes]
    size: int
    bounds: Bounds
    found: Structure = field(default_factory=Structure)
    open: list[_Level] = field(default_factory=list)
    order: str = "<"

    def header(self, implicit: bool) -> tuple[tuple[int, int], bytes, int]:
        """Read tag, VR (empty if implicit) and length."""
        group, element = struct.unpack(f"{self.order}HH", self.take(4))
        if implicit or group == 0xFFFE:
            return (group, element), b"", struct.unpack(f"{self.order}I", self.take(4))[0]
        representation = self.take(2)
        if not (representation.isalpha() and representation.isupper()):
            raise Refusal(Reason.BROKEN, "an element without value representation")
        if representation in _LONG:
            self.take(2)
            return (group, element), representation, struct.unpack(f"{self.order}I", self.take(4))[0]
        return (group, element), representation, struct.unpack(f"{self.order}H", self.take(2))[0]

    def take(self, count: int) -> bytes:
        got = self.file.read(count)
        if len(got) != count:
            raise Refusal(Reason.BROKEN, "the file is cut off")
        return got

    def end_after(self, length: int) -> int:
        """Where something that begins here ends, which must lie in what holds it."""
        place = self.file.tell() + length
        limit = next((level.end for level in reversed(self.open) if level.end is not None), self.size)
        if place > limit:
            raise Refusal(Reason.BROKEN, "an element is longer than what holds it")
        return place

    def skip(self, length: int) -> None:
        self.file.seek(self.end_after(length))

    def enter(self, length: int, *, sequence: bool, implicit: bool) -> None:
        end = None if length == _UNDEFINED else self.end_after(length)
        self.open.append(_Level(end, sequence, implicit))
        self.found.depth = max(self.found.depth, sum(level.sequence for level in self.open) if sequence else 0)
        if self.found.depth > self.bounds.depth:
            raise Refusal(Reason.TOO_DEEP, f"more than {self.bounds.depth}")

    def count(self) -> None:
        self.found.elements += 1
        if self.found.elements > self.bounds.elements:
            raise Refusal(Reason.TOO_MANY_ELEMENTS, f"more than {self.bounds.elements}")


def walk(file: IO[bytes], size: int, bounds: Bounds) -> Structure:
    """Walk over a file.

    Args:
        file: opened for reading, at its start.
        size: its length in bytes.
        bounds: what it may have.

    Returns:
        What it is made of.

    Raises:
        Refusal: ``not_dicom``, ``broken``, ``syntax`` (deflated), ``too_deep`` or ``too_many_elements``.
    """
    if file.read(132)[128:] != b"DICM":
        raise Refusal(Reason.NOT_DICOM)
    walk = _Walk(file, size, bounds)
    found = walk.found
    _meta(walk)
    if found.syntax == DEFLATED:
        raise Refusal(Reason.SYNTAX, "deflated")
    walk.order = ">" if found.syntax == BIG_ENDIAN else "<"
    implicit = found.syntax == IMPLICIT
    while (place := file.tell()) < size:
        while walk.open and walk.open[-1].end is not None and place >= walk.open[-1].end:
            walk.open.pop()
        if found.pixels >= 0 and not walk.open and _padding(walk):
            break
        _step(walk, walk.open[-1].implicit if walk.open else implicit)
    if any(level.end is None or level.end > size for level in walk.open):
        raise Refusal(Reason.BROKEN, "a sequence does not end")
    return found


def _meta(walk: _Walk) -> None:
    """Walk over group 2, which is always explicit and little endian, for the transfer syntax."""
    while True:
        start = walk.file.tell()
        if walk.take(2) != b"\x02\x00":
            walk.file.seek(start)
            break
        walk.file.seek(start)
        tag, _, length = walk.header(implicit=False)
        walk.count()
        if tag == (0x0002, 0x0010):
            if length > 64:
                raise Refusal(Reason.BROKEN, "transfer syntax")
            walk.found.syntax = walk.take(length).rstrip(b"\0 ").decode("ascii", "replace")
        else:
            walk.skip(length)
        if walk.file.tell() >= walk.size:
            break
    if not walk.found.syntax:
        raise Refusal(Reason.BROKEN, "no transfer syntax")


def _step(walk: _Walk, implicit: bool) -> None:
    """Walk over one element, item or delimiter."""
    tag, representation, length = walk.header(implicit)
    if tag[0] == 0xFFFE:
        _bracket(walk, tag, length, implicit)
        return
    if walk.open and walk.open[-1].sequence:
        raise Refusal(Reason.BROKEN, "an element where an item was wanted")
    walk.count()
    if tag in _PIXELS:
        _pixels(walk, length)
    elif representation == b"SQ" or length == _UNDEFINED or (implicit and length and _is_sequence(tag)):
        walk.enter(length, sequence=True, implicit=implicit or representation == b"UN")
    else:
        walk.skip(length)


def _bracket(walk: _Walk, tag: tuple[int, int], length: int, implicit: bool) -> None:
    inside = walk.open[-1] if walk.open else None
    if tag == _ITEM and inside is not None and inside.sequence:
        walk.count()
        walk.enter(length, sequence=False, implicit=implicit)
    elif inside is not None and inside.end is None and tag == (_SEQUENCE_END if inside.sequence else _ITEM_END):
        walk.open.pop()
    else:
        raise Refusal(Reason.BROKEN, "an item or delimiter where none belongs")


def _pixels(walk: _Walk, length: int) -> None:
    """Walk over pixels; those of an icon within a sequence are passed over."""
    found, whole = walk.found, not walk.open
    if whole:
        found.pixels, found.pixel_bytes = walk.file.tell(), length
    if length != _UNDEFINED:
        walk.skip(length)
        return
    count, total = 0, 0
    while True:
        tag, _, size = walk.header(implicit=True)
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM:
            raise Refusal(Reason.BROKEN, "fragments of pixels")
        walk.count()
        count, total = count + 1, total + size
        walk.skip(size)
    if whole:
        found.fragments, found.pixel_bytes = count, total


def _padding(walk: _Walk) -> bool:
    """Whether zeros, or less than an element, are all that follows the pixels."""
    start = walk.file.tell()
    ahead = walk.file.read(8)
    walk.file.seek(start)
    return len(ahead) < 8 or not any(ahead)


def _is_sequence(tag: tuple[int, int]) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    number = tag[0] << 16 | tag[1]
    return dictionary_has_tag(number) and dictionary_VR(number) == "SQ"
