from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medsal.errors import InputError
from medsal.export.views import Cut, view_of
from medsal.geometry import PLANES, plane_axis

SHAPE = (5, 6, 7)
ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
RADIOLOGICAL = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
AXIS_AND_SIGN = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def oriented(order: tuple[int, ...], signs: tuple[int, ...], tilt: float) -> np.ndarray:
    """An affine whose array axes run along the given world axes, turned a little."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * np.array([1.0, 2.0, 3.0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    return turn @ affine


def world(affine: np.ndarray) -> np.ndarray:
    """World coordinates of every voxel, ``(*shape, 3)``."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_letters_say_where_the_edges_lie_in_every_orientation(order, signs, tilt):
    affine = oriented(order, signs, tilt)
    places = world(affine)
    cuts = [Cut(plane_axis(affine, plane), 2, "2", plane) for plane in PLANES] + [Cut(n, 2, "2") for n in range(3)]
    for cut in cuts:
        view = view_of(affine, cut)
        seen = [view.show(cut.take(places[..., axis])) for axis in range(3)]
        rows, columns = seen[0].shape
        left, right, top, bottom = view.letters
        for letter, first, last in (
            (left, (rows // 2, columns - 1), (rows // 2, 0)),
            (right, (rows // 2, 0), (rows // 2, columns - 1)),
            (top, (rows - 1, columns // 2), (0, columns // 2)),
            (bottom, (0, columns // 2), (rows - 1, columns // 2)),
        ):
            axis, sign = AXIS_AND_SIGN[letter]
            assert (seen[axis][last] - seen[axis][first]) * sign > 0
        if cut.plane is not None:
            assert view.letters == RADIOLOGICAL[cut.plane]
        step = np.linalg.norm([s[1, 0] - s[0, 0] for s in seen]), np.linalg.norm([s[0, 1] - s[0, 0] for s in seen])
        np.testing.assert_allclose(view.spacing, step)


def test_a_slice_by_number_is_shown_as_it_lies():
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    cut = Cut(1, 3, "03")
    np.testing.assert_array_equal(view_of(np.diag([-1.0, 1, 1, 1]), cut).show(cut.take(volume)), volume[:, 3])


def test_an_image_in_the_plane_has_no_letters():
    view = view_of(np.diag([0.5, 2.0, 1.0]), Cut(None, 0, "00"))
    assert view.letters == ("", "", "", "")
    assert view.spacing == (0.5, 2.0)


def test_a_flat_affine_is_refused():
    with pytest.raises(InputError, match="invertible"):
        view_of(np.diag([1.0, 0, 1, 1]), Cut(1, 0, "0"))
