from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest

from medsal.export.views import Cut
from medsal.files import json_bytes
from medsal.report import case_page


def unpack(text, shape):
    """What the page does: inflate, then add up the differences."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.cumsum(steps, dtype=np.uint8).reshape(shape)


def values(page, method="integrated_gradients"):
    """The relevance that the page shows."""
    facts = page["methods"][method]
    t = (unpack(facts["data"], (len(page["slices"]), *page["pixels"])).astype(float) - 128) / 127
    return np.sign(t) * t**2 * facts["limit"]


def test_the_peak_is_shown_and_keeps_its_value_and_place(make_case):
    page = case_page(make_case((40, 60, 30), np.diag([2.0, 2, 2, 1]), marks={(11, 37, 8): -3.0, (20, 5, 9): 1.0}))
    shown = values(page)
    n, row, column = np.unravel_index(np.abs(shown).argmax(), shown.shape)
    assert shown[n, row, column] == pytest.approx(-3.0)
    assert page["slices"][n] == {"index": 37, "mm": 74.0}
    assert page["axes"] == [1, 2, 0]
    index = [0, 37, 0]
    for axis, place, start, flip in zip(page["axes"][1:], (row, column), page["start"], page["flips"], strict=True):
        seen = start + place
        index[axis] = page["shape"][axis] - 1 - seen if flip else seen
    assert index == [11, 37, 8]
    assert page["letters"] == ["R", "L", "S", "I"]


def test_small_values_stay_apart(make_case):
    page = case_page(make_case((20, 3, 20), np.eye(4), marks={(4, 1, 4): 1.0, (9, 1, 9): 0.001, (14, 1, 14): -0.002}))
    found = sorted(set(np.round(values(page), 5).ravel()))
    assert len(found) == 4
    np.testing.assert_allclose(found, [-0.002, 0, 0.001, 1.0], atol=3e-4)


def test_large_slices_are_shown_as_block_means(make_case):
    page = case_page(make_case((250, 2, 260), np.eye(4), marks={(0, 1, 0): 9.0, (249, 1, 259): 1.0}))
    assert page["block"] == 3
    assert page["pixels"] == [87, 84]
    shown = values(page)[0]
    assert shown[-1, -1] == pytest.approx(9 / 2, rel=0.02)  # two voxels are left over in that corner, one holds 9
    assert shown[0, 0] == pytest.approx(1 / 9, rel=0.1)  # nine voxels, one holds 1


def test_empty_margins_are_left_out(make_case, make_tensor):
    image = np.zeros((60, 8, 50), dtype=np.float32)
    image[20:40, :, 10:45] = 50
    native = make_tensor(image, np.eye(4))
    page = case_page(make_case(image.shape, np.eye(4), native=native, marks={(44, 4, 12): 1.0}))
    # as seen, rows run from z = 49 down and columns from x = 59 down; three voxels are left around what is there
    assert (page["start"], page["stop"]) == ([49 - 44 - 3, 59 - 44 - 3], [49 - 10 + 4, 59 - 20 + 4])
    assert page["pixels"] == [41, 31]


def test_slices_cover_what_has_relevance(make_case):
    page = case_page(make_case((10, 60, 10), np.eye(4), marks={(5, 20, 5): 1.0, (5, 40, 5): 0.5}))
    indexes = [s["index"] for s in page["slices"]]
    assert len(indexes) == 7
    assert min(indexes) >= 20
    assert max(indexes) <= 40
    assert 20 in indexes


@pytest.mark.parametrize("sense", [1, -1])
def test_slices_run_from_back_to_front_whatever_the_order_in_the_file(make_case, sense):
    page = case_page(make_case((10, 60, 10), np.diag([1.0, sense, 1, 1]), marks={(5, 20, 5): 1.0, (5, 40, 5): 0.5}))
    places = [s["mm"] for s in page["slices"]]
    assert places == sorted(places)


def test_the_plane_follows_the_slice_axis_of_the_network(make_case, make_tensor):
    affine = np.diag([1.0, 1, 1, 1])[:, [2, 0, 1, 3]]  # the network's axes run along z, x, y; its axis 1 is x
    image = make_tensor(np.zeros((5, 6, 7), dtype=np.float32), affine)
    assert case_page(make_case((8, 8, 8), np.eye(4), image=image))["plane"] == "sagittal"


def test_an_image_in_the_plane(make_case):
    page = case_page(make_case((9, 12), np.eye(4), marks={(2, 3): 1.0}))
    assert page["pixels"] == [9, 12]
    assert page["slices"] == [{"index": 0, "mm": 0.0}]
    assert values(page)[0, 2, 3] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("map_", "claims", "text"),
    [
        (np.zeros((4, 4, 4)), {}, "the map is constant: every voxel is 0"),
        (np.where(np.arange(64).reshape(4, 4, 4) == 5, np.nan, 1.0), {}, "1 of 64 voxels are not finite"),
        (np.arange(64.0).reshape(4, 4, 4), {"relative_gap": [0.2]}, "completeness gap 20.0%"),
        (np.arange(64.0).reshape(4, 4, 4), {"relative_gap": float("nan")}, "completeness gap nan%"),
    ],
)
def test_doubtful_maps_are_said_to_be(make_case, make_tensor, map_, claims, text):
    maps = {"ig": make_tensor(map_.astype(np.float32), np.eye(4))}
    page = case_page(make_case((4, 4, 4), np.eye(4), maps=maps, native_maps=maps, records={"ig": {"claims": claims}}))
    (warning,) = page["methods"]["ig"]["warnings"]
    assert text in warning
    json.loads(json_bytes(page))


def test_a_sound_map_has_no_warning(make_case):
    page = case_page(make_case(records={"saliency": {"claims": {"relative_gap": [0.01]}}}))
    assert page["methods"]["saliency"]["warnings"] == []


def test_the_input_file_is_not_named(make_case):
    assert "secret" not in json.dumps(case_page(make_case()))


def test_the_page_shows_the_slices_that_were_asked_for(make_case, make_tensor):
    native = make_tensor(np.random.default_rng(0).random((12, 30, 8)).astype(np.float32), np.diag([2.0, 1, 2, 1]))
    case = make_case(
        (12, 15, 8),
        np.diag([2.0, 2, 2, 1]),
        native=native,
        native_maps={
            name: make_tensor(np.ones((12, 30, 8), dtype=np.float32), np.diag([2.0, 1, 2, 1]))
            for name in ("saliency", "integrated_gradients")
        },
    )
    page = case_page(case, None, [Cut(1, 4, "04"), Cut(1, 9, "09"), Cut(2, 3, "axial_+6.0mm", "axial")])
    assert page["plane"] == "coronal"
    assert page["slices"] == [{"index": 8, "mm": 8.0}, {"index": 18, "mm": 18.0}]
    axial = case_page(case, None, [Cut(2, 3, "axial_+6.0mm", "axial")])
    assert (axial["plane"], axial["slices"]) == ("axial", [{"index": 3, "mm": 6.0}])
    assert len(case_page(case)["slices"]) == 7
