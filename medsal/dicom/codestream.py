"""What a compressed frame says about its size, read before anything decodes it: the header of the file may say less."""

from __future__ import annotations

import itertools
import struct

from medsal.dicom.reasons import Reason, Refusal

_JPEG_2000 = b"\xff\x4f\xff\x51"
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_RLE_SCANNED = 2**23  # bytes; a shorter frame cannot unpack to more than 64 times that
RLE = "1.2.840.10008.1.2.5"


def check_frame(frame: bytes, syntax: str, rows: int, columns: int, sample_bytes: int) -> None:
    """Refuse a frame that would unpack to another size than the header says.

    Args:
        frame: compressed.
        syntax: transfer syntax UID.
        rows: of the header.
        columns: of the header.
        sample_bytes: bytes of one pixel, all samples together.

    Raises:
        Refusal: ``pixel_length``, or ``broken`` where the frame does not say its size.
    """
    if syntax == RLE:
        _check_rle(frame, rows * columns, sample_bytes)
        return
    found = coded_size(frame)
    if found is None:
        raise Refusal(Reason.BROKEN, "a compressed frame without size")
    if found != (rows, columns):
        raise Refusal(Reason.PIXEL_LENGTH, f"frame of {found[0]} x {found[1]}, header of {rows} x {columns}")


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns as a JPEG, JPEG-LS or JPEG 2000 stream says.

    Args:
        frame: compressed.

    Returns:
        Rows and columns, None where the stream does not say.
    """
    start = frame.find(_JPEG_2000, 0, 4096)
    if start >= 0 and len(frame) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker in _FRAMES:
            rows, columns = struct.unpack_from(">HH", frame, place + 5)
            return rows, columns
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _check_rle(frame: bytes, pixels: int, planes: int) -> None:
    """PackBits grows data by at most 1 byte in 128; it shrinks them to at best 2 bytes for 128."""
    if len(frame) < 64 or int.from_bytes(frame[:4], "little") != planes:
        raise Refusal(Reason.PIXEL_LENGTH, "segments of an RLE frame")
    if len(frame) > 64 + planes * (2 * pixels + 2):
        raise Refusal(Reason.PIXEL_LENGTH, "RLE frame longer than its pixels")
    if len(frame) <= _RLE_SCANNED:
        return
    starts = [*struct.unpack_from(f"<{planes}I", frame, 4), len(frame)]
    for start, stop in itertools.pairwise(starts):
        place, unpacked = start, 0
        while place < stop - 1 and unpacked <= pixels:
            run = frame[place]
            unpacked += run + 1 if run < 128 else (257 - run if run > 128 else 0)
            place += run + 2 if run < 128 else (2 if run > 128 else 1)
        if unpacked > pixels + 1:
            raise Refusal(Reason.PIXEL_LENGTH, "RLE segment of more pixels than the image")
