"""Run lengths go both ways; what is out of range is named."""

from __future__ import annotations

import numpy as np
import pytest

from medsal.data.films.rle import decode_rle, encode_rle, join_rle, rle_runs
from medsal.errors import InputError


def drawn_by_hand(text: str, rows: int, columns: int) -> np.ndarray:
    """One pixel after the other, down the columns."""
    mask, place = np.zeros((rows, columns), np.uint8), 0
    numbers = [] if text == "-1" else [int(part) for part in text.split()]
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        place += gap
        for pixel in range(place, place + length):
            mask[pixel % rows, pixel // rows] = 1
        place += length
    return mask


def test_a_known_mask() -> None:
    assert decode_rle("1 2 3 1", (4, 2)).tolist() == [[0, 0], [1, 0], [1, 1], [0, 0]]
    assert encode_rle(np.array([[0, 0], [1, 0], [1, 1], [0, 0]])) == "1 2 3 1"
    assert decode_rle("-1", (2, 2)).sum() == 0
    assert encode_rle(np.zeros((2, 3))) == "-1"
    assert encode_rle(np.ones((2, 3), bool)) == "0 6"


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1])
def test_every_mask_comes_back(share: float) -> None:
    random = np.random.default_rng(3)
    for rows, columns in ((1, 1), (1, 9), (7, 5), (64, 33)):
        mask = (random.random((rows, columns)) < share).astype(np.uint8)
        text = encode_rle(mask)
        assert np.array_equal(decode_rle(text, (rows, columns)), mask)
        assert np.array_equal(drawn_by_hand(text, rows, columns), mask)


def test_a_film_of_the_published_size_comes_back() -> None:
    y, x = np.mgrid[:1024, :1024]
    mask = ((y - 300) / 200) ** 2 + ((x - 700) / 90) ** 2 < 1
    text = encode_rle(mask)
    assert text.startswith(f"{611 * 1024 + np.flatnonzero(mask[:, 611])[0]} ")  # the first column of the ellipse
    assert np.array_equal(decode_rle(text), mask)


def test_masks_that_overlap_are_joined() -> None:
    random = np.random.default_rng(4)
    for _ in range(50):
        masks = random.random((3, 6, 7)) < random.random()
        whole = join_rle([encode_rle(mask) for mask in masks], 42)
        assert whole == encode_rle(masks.any(0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 10 90 1", "run 2 ends at pixel 101 of an image of 100"),
        ("0 10 5", "3 numbers; wanted pairs"),
        ("", "0 numbers"),
        ("3 0", "run 1 is 3 pixels after the last and 0 long"),
        ("3 4 -2 4", "run 2 is -2 pixels after"),
        ("-1 5", "run 1 is -1 pixels after"),
        ("1.5 2", "wanted whole numbers or -1, got '1.5 2'"),
        (f"{2**41} 1", "is no place in an image"),
        (f"{2**70} 1", "wanted whole numbers"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(InputError, match=r"'rle\.csv' row 9: ") as error:
        rle_runs(text, 100, "'rle.csv' row 9")
    assert words in str(error.value)


def test_the_last_pixel_belongs_to_the_image() -> None:
    assert decode_rle("99 1", (10, 10))[9, 9] == 1
    with pytest.raises(InputError):
        decode_rle("100 1", (10, 10))
