from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medsal.export.colours import overlay_colours, signed_colours, signed_levels, table
from medsal.export.slices import Tile, cut_tile, draw_slice, draw_summary, png_bytes
from medsal.export.views import Cut, view_of

TOP, LEFT = 10 + 2 * 17 + 6, 10


def tile(relevance, spacing=(1.0, 1.0), grey=None):
    """A slice by number of a volume that is one slice thick."""
    affine = np.diag([spacing[0], 1.0, spacing[1], 1.0])
    cut = Cut(1, 0, "00")
    grey = np.full(relevance.shape, 100, dtype=np.uint8) if grey is None else grey
    return cut_tile(grey[:, None], relevance[:, None], view_of(affine, cut), cut)


def panels(picture, size):
    """The three panels cut out of a picture."""
    width, height = size
    starts = (LEFT, LEFT + width + 14, LEFT + 2 * (width + 14) + 12 + 64)
    array = np.asarray(picture)
    return [array[TOP : TOP + height, x : x + width] for x in starts]


def test_a_marked_voxel_is_at_its_place_in_its_colour():
    relevance = np.zeros((16, 20), dtype=np.float32)
    relevance[3, 5], relevance[12, 15] = 2.0, -1.0
    one = tile(relevance)
    width, height = one.size(15)
    assert (width, height) == (300, 240)
    grey, signed, over = panels(draw_slice(one, 2.0, "title", 15), (width, height))
    np.testing.assert_array_equal(signed[3 * 15 + 7, 5 * 15 + 7], table("RdBu_r")[254])
    np.testing.assert_array_equal(signed[12 * 15 + 7, 15 * 15 + 7], table("RdBu_r")[127 - 64])
    np.testing.assert_array_equal(signed[3 * 15 + 7, 9 * 15 + 7], table("RdBu_r")[127])
    assert signed[52, 82, 0] > signed[52, 82, 2]  # red for
    assert signed[187, 232, 2] > signed[187, 232, 0]  # blue against
    assert tuple(grey[52, 40]) == (100, 100, 100)
    assert over[52, 82].sum() > over[187, 232].sum() > over[52, 40].sum()
    edges = (signed[45:60] == table("RdBu_r")[254]).all(axis=2).any(axis=0).nonzero()[0]
    assert (edges[0], edges[-1]) == (75, 89)  # the block of one voxel, neither more nor less


def test_the_scale_is_symmetric():
    values = np.linspace(-3, 3, 101)
    levels = signed_levels(values, 3.0).astype(int)
    np.testing.assert_array_equal(levels + levels[::-1], 254)
    assert signed_levels(np.zeros(1), 3.0)[0] == 127
    np.testing.assert_array_equal(signed_colours(np.array([0.0]), 0.0)[0], table("RdBu_r")[127])


def test_the_overlay_is_grey_at_seven_tenths_under_hot_at_a_half():
    grey, relevance = np.arange(0, 256, 5, dtype=np.uint8), np.linspace(-1, 1, 52)
    under = grey * 0.7 + 255 * 0.3
    over = table("hot", 128)[np.rint(np.abs(relevance) * 127).astype(int)]
    np.testing.assert_allclose(overlay_colours(grey, relevance, 1.0), under[:, None] * 0.5 + over * 0.5, atol=1.01)


@pytest.mark.parametrize(("spacing", "ratio"), [((1.0, 1.0), 1.0), ((3.0, 1.0), 1 / 3), ((0.5, 1.25), 2.5)])
def test_pictures_are_true_to_millimetres(spacing, ratio):
    width, height = tile(np.zeros((80, 80), dtype=np.float32), spacing).size(3)
    assert width / height == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("shape", [(4, 4), (1, 200), (3000, 2000)])
def test_pictures_are_neither_too_small_nor_too_large(shape):
    width, height = tile(np.zeros(shape, dtype=np.float32)).size(3)
    assert 240 <= max(width, height) <= 512
    assert min(width, height) >= 1


def test_letters_stand_at_their_edges():
    relevance = np.zeros((20, 20), dtype=np.float32)
    one = tile(relevance)
    bare = Tile(one.grey, one.relevance, type(one.view)((0, 2), (False, False), ("", "", "", ""), (1, 1)), "00")
    for lettered, plain in zip(
        panels(draw_slice(one, 1.0, "t", 12), (240, 240)),
        panels(draw_slice(bare, 1.0, "t", 12), (240, 240)),
        strict=True,
    ):
        changed = (lettered != plain).any(axis=2)
        assert changed[100:140, :25].any()
        assert changed[100:140, -25:].any()
        assert changed[:25, 100:140].any()
        assert changed[-25:, 100:140].any()
        assert not changed[30:90, 30:90].any()


def test_the_letters_are_those_of_the_view():
    one = tile(np.zeros((20, 20), dtype=np.float32))
    other = Tile(one.grey, one.relevance, type(one.view)((0, 2), (False, False), ("R", "L", "S", "I"), (1, 1)), "00")
    assert png_bytes(draw_slice(one, 1.0, "t")) != png_bytes(draw_slice(other, 1.0, "t"))


def test_the_summary_has_images_above_and_maps_below():
    relevance = np.zeros((20, 20), dtype=np.float32)
    relevance[5, 5] = 1
    blank = np.zeros_like(relevance)
    picture = np.asarray(draw_summary([tile(blank), tile(relevance)], 1.0, "t", 12))
    below = TOP + 240 + 14
    assert tuple(picture[TOP + 66, LEFT + 66]) == (100, 100, 100)
    np.testing.assert_array_equal(picture[below + 66, LEFT + 66], table("RdBu_r")[127])
    np.testing.assert_array_equal(picture[below + 66, LEFT + 254 + 66], table("RdBu_r")[254])


def test_a_long_or_odd_title_stays_on_the_sheet():
    one = tile(np.zeros((20, 20), dtype=np.float32))
    plain = draw_slice(one, 1.0, "t")
    assert draw_slice(one, 1.0, "name\n" * 500 + "\u202e").size == plain.size


def test_png_bytes_are_a_png_without_loss():
    picture = draw_slice(tile(np.ones((5, 7), dtype=np.float32)), 1.0, "t")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(picture)))), np.asarray(picture))


def test_drawing_needs_no_pyplot():
    code = (
        "import sys, numpy as np; from medsal.export.slices import *; from medsal.export.views import *;"
        "v = view_of(np.eye(4), Cut(1, 0, '0')); z = np.zeros((4, 4));"
        "draw_slice(Tile(z.astype(np.uint8), z, v, '0'), 1.0, 't'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
