from __future__ import annotations

import numpy as np
import pytest

from medsal.errors import InputError, UsageError
from medsal.export.choice import Sliceable, SliceChoice, parse_slices, select

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -60], [0, 0, 1.5, -9], [0, 0, 0, 1]])
SHAPE = (12, 20, 14)


def chosen(text, **changes):
    """Axis and index of each slice that is picked."""
    grid = Sliceable(**{"affine": AFFINE, "shape": SHAPE, "slice_axis": 1, **changes})
    return [(cut.axis, cut.index) for cut in select(parse_slices(text), grid)]


@pytest.mark.parametrize("value", ["3,4,5", "3, 4,5", [3, 4, 5], (3, 4, 5), "3;4;5", ["3", 4, "5"]])
def test_slice_numbers_can_be_written_in_every_way_a_command_line_makes_of_them(value):
    assert sorted(chosen(value)) == [(1, 3), (1, 4), (1, 5)]


def test_one_number_alone():
    assert chosen(7) == chosen("7") == [(1, 7)]


@pytest.mark.parametrize(
    "value", ["", "coronal", "coronal:evenly", "coronal:evenly=0", "front:peak", "front@3mm", [None], [True], "3,x", []]
)
def test_what_cannot_be_understood_is_refused(value):
    with pytest.raises(UsageError, match="slices: wanted"):
        parse_slices(value)


def test_a_number_outside_the_grid_names_the_valid_range():
    with pytest.raises(UsageError, match=r"slice 20, 90 is not in the image: axis 1 has the slices 0 to 19"):
        chosen("3,20,90")


def test_millimetres_find_the_nearest_slice_of_the_plane():
    assert chosen("coronal@-31mm,-10mm") == [(1, 10), (1, 17)]  # y = -60 + 3 j
    assert chosen("sagittal@10") == [(0, 0)]  # x = 10 - 2 i
    assert chosen("axial@-9.0mm,10mm") == [(2, 0), (2, 13)]  # z = -9 + 1.5 k; 10 mm is 12.67


def test_millimetres_on_an_oblique_grid_are_those_of_the_slice_centre(oblique):
    shape = (12, 10, 8)
    (cut,) = select(parse_slices("coronal@-25mm"), Sliceable(oblique, shape, 1))
    heights = [(oblique @ np.array([5.5, j, 3.5, 1]))[1] for j in range(10)]
    assert cut.index == int(np.argmin(np.abs(np.array(heights) + 25)))


def test_millimetres_outside_the_image_name_the_valid_range():
    with pytest.raises(InputError, match=r"between -60\.0 and -3\.0 mm"):
        chosen("coronal@20mm")


@pytest.mark.parametrize("count", [1, 2, 5, 20, 50])
def test_evenly_is_symmetric_and_has_no_slice_twice(count):
    indexes = [index for _, index in chosen(f"coronal:evenly={count}")]
    assert len(set(indexes)) == len(indexes) == min(count, 20)
    assert abs((indexes[0] + indexes[-1]) - 19) <= 1


def test_nothing_said_is_seven_slices_along_the_slice_axis():
    assert chosen(None, slice_axis=2) == chosen("axial:evenly=7")


def test_peak_is_the_slice_of_the_largest_magnitude():
    relevance = np.zeros(SHAPE)
    relevance[3, 4, 5], relevance[6, 7, 8], relevance[0, 0, 0] = -5, 4, np.nan
    assert chosen("axial:peak", relevance=relevance) == [(2, 5)]
    assert chosen("sagittal:peak=2", relevance=relevance) == [(0, 3), (0, 6)]
    assert chosen("peak", relevance=relevance) == [(1, 4)]


def test_region_is_the_slice_where_the_label_is_largest():
    regions = np.zeros(SHAPE)
    regions[2:4, 5, 6] = 1
    regions[2:9, 8, 6] = 1
    regions[1, 1, 1] = 2
    assert chosen("coronal:region=1", regions=regions) == [(1, 8)]
    assert chosen("coronal:region=1,2", regions=regions) == [(1, 8), (1, 1)]
    with pytest.raises(InputError, match="region 3"):
        chosen("coronal:region=3", regions=regions)


def test_region_and_peak_need_their_maps():
    with pytest.raises(UsageError, match="region map"):
        chosen("region=1")
    with pytest.raises(UsageError, match="relevance map"):
        chosen("peak")


def test_each_slice_once_and_names_tell_them_apart():
    cuts = select(parse_slices("5,5;coronal@-45mm;coronal@-46mm;axial:evenly=2"), Sliceable(AFFINE, SHAPE, 1))
    assert [cut.name for cut in cuts] == ["05", "coronal_-45.0mm", "axial_-4.5mm", "axial_+6.0mm"]


def test_an_image_in_the_plane_is_its_own_slice():
    assert chosen("30,40", shape=(5, 6), affine=np.eye(4)) == [(None, 0)]


def test_choices_already_read_stay_as_they_are():
    read = (SliceChoice("peak", (1.0,), "axial"),)
    assert parse_slices(read) == read
