"""Segments: dilation in mm, pictures by Felzenszwalb, volumes by SLIC inside the body, segments given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.morphology import dilation, disk

from medsal.attribution.segments import (
    LARGEST_LABEL,
    Felzenszwalb,
    GivenSegments,
    Segments,
    dilate,
    label_images,
    voxels_of,
)
from medsal.attribution.supervoxels import Supervoxels, body_mask, robust_scale
from medsal.errors import UsageError

RANDOM = np.random.default_rng


def smooth(shape: tuple[int, ...], sigma: float = 3, seed: int = 0) -> np.ndarray:
    found = ndimage.gaussian_filter(RANDOM(seed).standard_normal(shape), sigma)
    return found / found.std()


def ball(shape: tuple[int, ...], radius: float) -> np.ndarray:
    away = np.indices(shape) - (np.array(shape).reshape(-1, *[1] * len(shape)) - 1) / 2
    return (away**2).sum(0) <= radius**2


def head() -> np.ndarray:
    """A volume (1, 34, 30, 24): a textured ball on a background of zeros, with a cavity of zeros in it."""
    body = ball((34, 30, 24), 11)
    return np.where(body & ~ball(body.shape, 3), 3 + smooth(body.shape), 0.0)[None]


@pytest.mark.parametrize(("shape", "spacing"), [((9, 14), (1, 1)), ((9, 14), (0.7, 2.0)), ((7, 9, 6), (1.5, 0.5, 3.0))])
@pytest.mark.parametrize("radius", [0.0, 0.9, 1.5, 3.0, 20.0])
def test_dilation_reaches_every_voxel_within_the_radius_and_no_other(shape, spacing, radius):
    mask = RANDOM(0).random(shape) < 0.03
    mask[tuple(n // 2 for n in shape)] = True
    places = np.argwhere(np.ones(shape)) * spacing
    away = np.linalg.norm(places[:, None] - (np.argwhere(mask) * spacing)[None], axis=2).min(1)
    assert np.array_equal(dilate(mask, radius, spacing), (away <= radius + 1e-9).reshape(shape))


def test_dilation_by_five_pixels_is_that_of_a_disk():
    mask = RANDOM(0).random((60, 50)) < 0.01
    assert np.array_equal(dilate(mask, 5, (1, 1)), dilation(mask, footprint=disk(5)))


def test_three_millimetres_are_more_voxels_along_the_fine_axis():
    mask = np.zeros((21, 21, 21), dtype=bool)
    mask[10, 10, 10] = True
    wide = dilate(mask, 3.0, (3.0, 1.0, 0.5))
    assert [int(wide.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)] == [3, 7, 13]


def test_masks_come_scale_by_scale_and_label_by_label_each_in_a_box_that_holds_it_all():
    first, second = np.array([[0, 2, 2, 0, 0, 5]]), np.array([[1, 0, 0, 0, 0, 0]])
    found = []
    for box, mask in Segments((first, second), (1.0, 2.0), dilation=2.0).masks():
        whole = np.zeros(first.shape, dtype=int)
        whole[box] = mask
        found.append(whole.tolist())
    assert found == [[[1, 1, 1, 1, 0, 0]], [[0, 0, 0, 0, 1, 1]], [[1, 1, 0, 0, 0, 0]]]


def test_a_volume_of_one_slice_is_segmented_as_a_picture():
    picture = smooth((2, 40, 56))
    flat = Felzenszwalb()(picture, (1.0, 1.0))
    deep = Felzenszwalb()(picture[:, :, None], (1.0, 5.0, 1.0))
    assert all(np.array_equal(thin[:, None], thick) for thin, thick in zip(flat.labels, deep.labels, strict=True))
    assert deep.spacing == (1.0, 1.0, 1.0)
    assert len(flat.labels) == 6
    assert len(np.unique(flat.labels[0])) > len(np.unique(flat.labels[-1])) > 1


def test_felzenszwalb_refuses_a_volume_and_takes_a_constant_picture():
    with pytest.raises(UsageError, match="wants a picture, got a volume"):
        Felzenszwalb()(np.zeros((1, 4, 5, 6)), (1.0,) * 3)
    found = Felzenszwalb(scales=[50], size=None, min_size=4)(np.full((1, 20, 30), 7.0), (1.0, 1.0))
    assert np.unique(found.labels[0]).tolist() == [1]


def test_a_picture_may_have_any_number_of_channels():
    labels = [
        Felzenszwalb(scales=(50,))(np.repeat(smooth((1, 40, 56)), channels, 0), (1.0, 1.0)).labels[0]
        for channels in (1, 2, 5)
    ]
    assert all(len(np.unique(one)) > 3 for one in labels)


def test_the_body_keeps_its_cavities_and_leaves_out_a_background_of_one_value():
    image = head()
    wanted = ball(image.shape[1:], 11)
    assert np.array_equal(body_mask(image), wanted)
    normalised = np.where(wanted, (image - image[0][wanted].mean()) / image[0][wanted].std(), 0.0)
    assert np.array_equal(body_mask(normalised), wanted)  # the background is as bright as the mean tissue
    assert np.array_equal(body_mask(np.concatenate([image, -5 * image])), wanted)


def test_the_body_is_found_on_a_noisy_background_and_specks_are_left_out():
    image = head() + 0.2 * RANDOM(1).standard_normal(head().shape)
    wanted = ball(image.shape[1:], 11)
    image[0, 1, 1, 1] = 3
    found = body_mask(image)
    assert not found[1, 1, 1]
    assert (found & wanted).sum() > 0.98 * wanted.sum()
    assert (found & ~wanted).sum() < 0.01 * wanted.sum()


@pytest.mark.parametrize("image", [np.zeros((1, 8, 9, 7)), smooth((1, 8, 9, 7), 0), smooth((2, 16, 12, 10))])
def test_without_a_background_everything_is_body(image):
    assert body_mask(image).all()


def test_channels_weigh_the_same_whatever_their_units():
    image = smooth((2, 20, 18, 16))
    scaled = robust_scale(image, np.ones(image.shape[1:], dtype=bool))
    assert np.abs(np.median(scaled, axis=(1, 2, 3))).max() < 1e-6
    other = image * np.array([1000.0, 0.01]).reshape(2, 1, 1, 1) + 7
    cut = Supervoxels(volumes=(100,))
    assert np.array_equal(cut(image, (1.0,) * 3).labels[0], cut(other, (1.0,) * 3).labels[0])


def test_supervoxels_follow_an_edge_that_only_the_second_channel_has():
    image = np.stack([np.zeros((24, 20, 16)), np.zeros((24, 20, 16))])
    image[1, 13:] = 5
    (labels,) = Supervoxels(volumes=(200,), compactness=0.5, body=False)(image, (1.0,) * 3).labels
    assert not set(labels[:13].ravel()) & set(labels[13:].ravel())


def test_supervoxels_have_the_volume_asked_for_in_mm_and_are_as_wide_along_each_axis():
    spacing = (3.0, 1.0, 1.5)
    (labels,) = Supervoxels(volumes=(1000,), body=False)(smooth((1, 24, 70, 48), 1), spacing).labels
    sizes = np.bincount(labels.ravel())[1:] * np.prod(spacing)
    assert 500 < np.median(sizes[sizes > 0]) < 1500
    extents = np.array(
        [
            [(part.stop - part.start) * s for part, s in zip(box, spacing, strict=True)]
            for box in ndimage.find_objects(labels)
            if box is not None
        ]
    )
    assert np.ptp(np.median(extents, axis=0)) < 7


def test_supervoxels_stay_inside_the_body_cover_it_and_have_no_slivers():
    image = head()
    body = body_mask(image)
    segments = Supervoxels(volumes=(120, 600))(image, (1.0,) * 3)
    for labels, volume in zip(segments.labels, (120, 600), strict=True):
        assert np.array_equal(labels > 0, body)
        sizes = np.bincount(labels.ravel())[1:]
        assert sizes[sizes > 0].min() >= volume / 6
    assert segments.min_new == 40
    counts = [len(np.unique(labels)) for labels in segments.labels]
    assert counts[0] > 1.5 * counts[1] > 9


@pytest.mark.parametrize("volume", [300, 1000])
def test_no_supervoxel_reaches_across_a_gap_in_the_body_that_is_as_bright_as_the_body(volume):
    lobes = np.zeros((30, 40, 24), dtype=bool)
    lobes[3:-3, 3:18, 3:-3] = lobes[3:-3, 22:-3, 3:-3] = True
    image = np.where(lobes, 0.3 * smooth(lobes.shape, 2), 0.0)[None]
    (labels,) = Supervoxels(volumes=(volume,))(image, (1.0,) * 3).labels
    assert np.array_equal(labels > 0, lobes)
    assert len(set(labels[lobes])) > 3
    assert not set(labels[:, :20][lobes[:, :20]]) & set(labels[:, 20:][lobes[:, 20:]])


def test_a_body_may_be_given_and_sizes_are_shares_of_it():
    image = head()
    half = np.zeros(image.shape[1:], dtype=bool)
    half[:17] = True
    found = Supervoxels(shares=[0.02], body=lambda _: half)(image, (2.0, 2.0, 2.0))
    assert np.array_equal(found.labels[0] > 0, half)
    assert found.min_new == voxels_of(0.02 * half.sum() * 8 / 3, (2.0,) * 3)


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0), (2, 1, 0)])
def test_a_volume_with_its_axes_exchanged_has_the_same_supervoxels(axes):
    image, spacing = head(), (1.0, 1.5, 2.0)
    cut = Supervoxels()
    wanted = cut(image, spacing)
    turned = cut(image.transpose(0, *[1 + a for a in axes]), tuple(spacing[a] for a in axes))
    for one, other in zip(wanted.labels, turned.labels, strict=True):
        assert np.array_equal(one.transpose(axes), other)
    assert len(np.unique(wanted.labels[0])) > 10


def test_a_picture_and_a_tiny_volume_can_be_cut_too():
    assert len(np.unique(Supervoxels(volumes=(60,))(smooth((1, 40, 30)), (1.0, 1.0)).labels[0])) > 8
    tiny = Supervoxels()(smooth((1, 3, 1, 4)), (1.0,) * 3)
    assert all(labels.shape == (3, 1, 4) and labels.min() == 1 for labels in tiny.labels)


def test_given_segments_take_masks_and_label_images_and_are_known_by_content():
    mask = RANDOM(0).random((6, 7)) < 0.5
    atlas = torch.randint(0, 4, (6, 7))
    first, second = label_images([mask, atlas])
    assert np.array_equal(first, mask.astype(int))
    assert np.array_equal(second, atlas.numpy())
    assert GivenSegments([mask]) == GivenSegments(mask.copy())
    assert hash(GivenSegments([mask])) == hash(GivenSegments(mask.copy()))
    assert GivenSegments([mask]) != GivenSegments([~mask])
    assert GivenSegments([mask]) != GivenSegments([mask], dilation=1)


@pytest.mark.parametrize("zero", [0, 3])
def test_large_labels_are_numbered_anew_in_their_order(zero):
    (found,) = label_images(np.array([[zero, LARGEST_LABEL + 9, 7], [7, 2**31, zero]]))
    start = 0 if zero == 0 else 1
    seven = 1 if zero == 0 else 2
    assert found.tolist() == [[start, seven + 1, seven], [seven, seven + 2, start]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one"),
        (np.array([[-1, 2]]), "labels from 0"),
        (np.array([[0.5]]), "with fractions"),
        (np.ones((3, 2), dtype=int), r"wanted label images of shape \(2, 3\), got \(3, 2\)"),
    ],
)
def test_segments_that_cannot_be_used_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        GivenSegments(given)(np.zeros((1, 2, 3)), (1.0, 1.0))


def test_a_volume_in_mm_becomes_voxels():
    assert voxels_of(50, (1.0, 1.0)) == 50
    assert voxels_of(50, (2.0, 2.5, 1.0)) == 10
    assert voxels_of(51, (2.0, 2.5, 1.0)) == 11
    assert voxels_of(0, (1.0,)) == 1
