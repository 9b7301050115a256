"""Comparison with PAIR's saliency 0.2.1, the only other XRAI; it does pictures only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from medsal.attribution.explain import explain
from medsal.attribution.regions import region_ranking, regions_of
from medsal.attribution.segments import Felzenszwalb, GivenSegments, Segments
from medsal.attribution.supervoxels import Supervoxels
from tests.networks_for_tests import Trapped, settled

pair = pytest.importorskip("saliency.core.xrai")
RANKINGS = {"full": pair.XRAI._xrai, "fast": pair.XRAI._xrai_fast}
every_mode = pytest.mark.parametrize("mode", RANKINGS)
every_picture = pytest.mark.parametrize("shape", [(3, 224, 224), (1, 90, 130)])


def picture(shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), (0, 4, 4))
    return smooth / smooth.std() + 0.05 * random.standard_normal(shape)


def masks_of(segments: Segments) -> list[np.ndarray]:
    found = []
    for box, mask in segments.masks():
        found.append(np.zeros(segments.labels[0].shape, dtype=bool))
        found[-1][box] = mask
    return found


@every_picture
def test_the_segments_of_a_picture(shape):
    image = picture(shape)
    theirs = [mask for mask in pair._get_segments_felzenszwalb(np.moveaxis(image, 0, -1)) if mask.any()]
    ours = masks_of(Felzenszwalb()(image, (1.0, 1.0)))
    assert len(ours) == len(theirs) > 50
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@every_mode
@every_picture
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_the_ranking_of_the_same_segments_by_the_same_attribution(mode, shape, zeros):
    segments = Felzenszwalb()(picture(shape), (1.0, 1.0))
    attribution = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape[1:]), 2)
    attribution[np.random.default_rng(2).random(shape[1:]) < zeros] = 0
    attribution[: shape[1] // 3] *= zeros == 0  # whole regions without any: ties
    theirs, _ = RANKINGS[mode](attribution, masks_of(segments))
    ours = region_ranking(attribution, regions_of(segments), mode=mode)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert len(np.unique(ours)) > 10


@every_mode
def test_the_ranking_of_the_supervoxels_of_a_volume(mode):
    # Given masks, this part of PAIR takes any number of axes; nothing before it does.
    volume = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((1, 40, 36, 24)), (0, 3, 3, 3))
    segments = Supervoxels()(volume, (1.0, 1.0, 1.5))
    attribution = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((40, 36, 24)), 2)
    theirs, _ = RANKINGS[mode](attribution, masks_of(segments), min_pixel_diff=segments.min_new)
    ours = region_ranking(attribution, regions_of(segments), mode=mode)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert len(np.unique(ours)) > 50


def gradients_for_pair(network: nn.Module, target: int):
    def call(images: np.ndarray, call_model_args: object = None, expected_keys: object = None) -> dict:
        # At the constant baseline all places of a max pool are equal, and the layout in memory decides between them.
        plain = torch.from_numpy(np.moveaxis(images, -1, 1)).clone(memory_format=torch.contiguous_format)
        leaf = plain.requires_grad_()
        (gradient,) = torch.autograd.grad(network(leaf)[:, target].sum(), leaf)
        return {"INPUT_OUTPUT_GRADIENTS": np.moveaxis(gradient.numpy(), 1, -1)}

    return call


def ours_and_theirs(mode: str, image: Tensor, **given: object) -> tuple[np.ndarray, np.ndarray]:
    network = settled(Trapped(2, image.shape[1]))
    options = {"mode": mode, "steps": 4, "quadrature": "paper_2021", "channels": "max"}
    if given:
        options["segments"] = GivenSegments(given["segments"], min_new=50)
    ours = explain(network, image, ["xrai"], target=1, options={"xrai": options})["xrai"]
    theirs = pair.XRAI().GetMask(
        np.moveaxis(image[0].numpy(), 0, -1),
        gradients_for_pair(network, 1),
        extra_parameters=pair.XRAIParameters(steps=4, algorithm=mode),
        **given,
    )
    return ours[0, 0].numpy(), theirs


@every_mode
@pytest.mark.parametrize("shape", [(3, 64, 80), (1, 90, 70)])
def test_the_whole_method_from_the_picture_on(mode, shape):
    ours, theirs = ours_and_theirs(mode, torch.from_numpy(picture(shape))[None])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())  # it sums gradients in float32
    assert len(np.unique(theirs)) > 5


@every_mode
def test_given_segments(mode):
    atlas = np.digitize(picture((1, 50, 60))[0], [-1, 0, 1])
    masks = [atlas == label for label in range(4)]
    ours, theirs = ours_and_theirs(mode, torch.from_numpy(picture((2, 50, 60)))[None], segments=masks)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())  # it sums gradients in float32
    assert len(np.unique(theirs)) == 4


def test_pair_reads_a_volume_as_a_picture_with_as_many_channels_as_slices():
    # The depth becomes the channels, over which it takes the maximum: the map has lost an axis. PAIR itself says
    # nothing; the warning is scikit-image's.
    volume = picture((40, 44, 16))
    with pytest.warns(RuntimeWarning, match="third dimension of 16"):
        theirs = pair.XRAI().GetMask(volume, None, base_attribution=volume)
    assert theirs.shape == (40, 44)
    network = settled(Trapped(3))
    options = {"xrai": {"steps": 2}}
    ours = explain(network, torch.from_numpy(volume)[None, None], ["xrai"], target=1, options=options)["xrai"]
    assert ours.shape == (1, 1, 40, 44, 16)


def test_pair_cannot_take_a_constant_picture():
    # It divides by the range without a look at it.
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert np.isnan(pair._normalize_image(np.ones((4, 5)), [-1.0, 1.0])).all()
    assert Felzenszwalb()(np.ones((1, 40, 50)), (1.0, 1.0)).labels[0].max() == 1
