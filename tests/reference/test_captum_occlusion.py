"""Occlusion equals captum's, with its windows that are cut at the far edges."""

from __future__ import annotations

import pytest
import torch

from medsal.attribution.explain import explain
from tests.networks_for_tests import case

attr = pytest.importorskip("captum.attr")

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # captum gives single precision back, whatever precision went in


@pytest.mark.parametrize(("kind", "window", "stride"), [
    ("2D", (5, 4), (3, 4)),
    ("2D", (4, 4), (1, 2)),
    ("2D colour", (5, 5), (3, 3)),
    ("3D", (5, 3, 4), (4, 2, 3)),
])  # fmt: skip
@pytest.mark.parametrize("baseline", [0, 0.7])
def test_occlusion(kind, window, stride, baseline):
    # captum has no windows in millimetres, runs the windows again for every class, and wants windows and strides with
    # an axis for the channels.
    network, image = case(kind)
    options = {"occlusion": {"window": window, "stride": stride, "baseline": float(baseline)}}
    found = explain(network, image, ["occlusion"], target=[2, 0], options=options)["occlusion"]
    channels = image.shape[1]
    wanted = attr.Occlusion(network).attribute(
        image, (channels, *window), strides=(channels, *stride), baselines=baseline, target=torch.tensor([2, 0])
    )
    torch.testing.assert_close(found.expand_as(wanted), wanted.double(), **CLOSE)


@pytest.mark.parametrize(("window", "strides"), [((3, 15, 15), (3, 8, 8)), ((3, 30, 30), (3, 9, 9)),
                                                 ((3, 45, 45), (3, 9, 9))])  # fmt: skip
def test_the_windows_of_published_studies(window, strides):
    # 15/8: facial gestalt; 15, 30 and 45 with a stride of 9: skin ultrasound. Both over the three colours at once.
    network, _ = case("2D colour")
    image = torch.randn(1, 3, 60, 70, dtype=torch.float64)
    options = {"occlusion": {"window": window[1], "stride": strides[1]}}
    found = explain(network, image, ["occlusion"], target=1, options=options)["occlusion"]
    wanted = attr.Occlusion(network).attribute(image, window, strides=strides, target=1)
    torch.testing.assert_close(found.expand_as(wanted), wanted.double(), **CLOSE)
