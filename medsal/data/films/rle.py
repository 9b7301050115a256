"""Masks as run lengths, the way the SIIM-ACR pneumothorax data writes them: relative, and down the columns.

The pixels of a mask are counted down the first column, then down the second, and so on. A mask is the text
``gap length gap length ...``: so many pixels to leave out after the last run (at first: after the start of the image),
then so many to fill. ``-1`` is a mask with nothing in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medsal.errors import InputError

__all__ = ["EMPTY", "decode_rle", "encode_rle", "join_rle", "rle_runs"]

EMPTY = "-1"
"""What stands for a mask with nothing in it."""

Runs = NDArray[np.int64]


def encode_rle(mask: NDArray[np.generic]) -> str:
    """Write a mask as run lengths.

    Args:
        mask: ``(rows, columns)``; what is not 0 is filled.

    Returns:
        The text; ``EMPTY`` for a mask with nothing in it.

    Example:
        >>> encode_rle(np.array([[0, 1, 1], [0, 1, 0]]))
        '2 3'
    """
    flat = np.asarray(mask).T.ravel() != 0
    edges = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0, append=0))
    return _text(edges.reshape(-1, 2).astype(np.int64))


def decode_rle(text: str, shape: tuple[int, int] = (1024, 1024), where: str = "RLE") -> NDArray[np.uint8]:
    """Draw a mask from run lengths.

    Args:
        text: run lengths, or ``EMPTY``.
        shape: rows and columns of the image that they were counted on.
        where: what an error calls the text, such as its file and row.

    Returns:
        ``(rows, columns)`` of 0 and 1.

    Example:
        >>> decode_rle("2 3", (2, 3))
        array([[0, 1, 1],
               [0, 1, 0]], dtype=uint8)
    """
    rows, columns = shape
    steps = np.zeros(rows * columns + 1, np.int8)
    for start, stop in rle_runs(text, rows * columns, where):
        steps[start] += 1
        steps[stop] -= 1
    drawn: NDArray[np.uint8] = np.cumsum(steps[:-1], dtype=np.int8).astype(np.uint8).reshape(columns, rows).T
    return np.ascontiguousarray(drawn)


def rle_runs(text: str, pixels: int, where: str = "RLE") -> Runs:
    """Read run lengths and check them.

    Args:
        text: run lengths, or ``EMPTY``.
        pixels: number of pixels of the image that they were counted on.
        where: what an error calls the text, such as its file and row.

    Returns:
        ``(runs, 2)``: start and stop of each run in the order of counting, half-open.

    Raises:
        InputError: it is no list of whole numbers in pairs, a gap is below 0, a length below 1, or a run leaves the
            image.

    Example:
        >>> rle_runs("2 3 1 2", 9).tolist()
        [[2, 5], [6, 8]]
        >>> rle_runs("5 3", 6, "'train-rle.csv' row 4")
        Traceback (most recent call last):
        medsal.errors.InputError: 'train-rle.csv' row 4: run 1 ends at pixel 8 of an image of 6; wanted runs inside it
    """
    if text.strip() == EMPTY:
        return np.zeros((0, 2), np.int64)
    numbers = _numbers(text, where)
    wrong = np.flatnonzero((numbers[:, 0] < 0) | (numbers[:, 1] < 1))
    if len(wrong):
        gap, length = numbers[wrong[0]]
        raise InputError(
            f"{where}: run {wrong[0] + 1} is {gap} pixels after the last and {length} long; wanted at least 0 and 1"
        )
    stops = numbers.sum(1).cumsum()
    over = np.flatnonzero(stops > pixels)
    if len(over):
        raise InputError(
            f"{where}: run {over[0] + 1} ends at pixel {stops[over[0]]} of an image of {pixels}; wanted runs inside it"
        )
    return np.stack([stops - numbers[:, 1], stops], 1)


def join_rle(texts: Sequence[str], pixels: int, where: Sequence[str] | None = None) -> str:
    """Write several masks of one image as one: a pixel is filled where any of them fills it.

    Args:
        texts: run lengths of each mask.
        pixels: number of pixels of the image.
        where: what an error calls each of them.

    Returns:
        The run lengths of all.

    Example:
        >>> join_rle(["2 3", "4 4", "20 1"], 100)
        '2 6 12 1'
    """
    names = where or ["RLE"] * len(texts)
    parts = [rle_runs(text, pixels, name) for text, name in zip(texts, names, strict=True)]
    runs = np.concatenate([np.zeros((0, 2), np.int64), *parts])
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    if not len(runs):
        return EMPTY
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.concatenate([[True], runs[1:, 0] > reach[:-1]])
    starts = runs[first, 0]
    stops = reach[np.concatenate([np.flatnonzero(first)[1:] - 1, [len(runs) - 1]])]
    return _text(np.stack([starts, stops], 1))


def _text(runs: Runs) -> str:
    if not len(runs):
        return EMPTY
    gaps = runs[:, 0] - np.concatenate([[0], runs[:-1, 1]])
    return " ".join(f"{gap} {length}" for gap, length in zip(gaps, runs[:, 1] - runs[:, 0], strict=True))


def _numbers(text: str, where: str) -> Runs:
    """The pairs of gap and length."""
    parts = text.split()
    try:
        numbers = np.array([int(part) for part in parts], np.int64)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: wanted whole numbers or {EMPTY}, got '{text[:40]}'") from error
    if not parts or len(parts) % 2:
        raise InputError(f"{where}: {len(parts)} numbers; wanted pairs of gap and length, or {EMPTY}")
    if np.abs(numbers).max() > 2**40:  # far above any film; sums stay exact
        raise InputError(f"{where}: the number {numbers[np.abs(numbers).argmax()]} is no place in an image")
    return numbers.reshape(-1, 2)
