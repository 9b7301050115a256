"""Occlusion and RISE against slow re-implementations, and one sweep for all classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from medsal.attribution.perturbation import Blur, _MaskMaker
from medsal.attribution.probe import Probe
from medsal.attribution.target import Target
from medsal.errors import UsageError
from tests.networks_for_tests import case

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def images_run(monkeypatch) -> list[int]:
    """How many images each forward ran."""
    counts: list[int] = []
    real = Probe.forward

    def forward(self: Probe, image: Tensor) -> Tensor:
        counts.append(len(image))
        return real(self, image)

    monkeypatch.setattr(Probe, "forward", forward)
    return counts


def occluded_one_by_one(network: nn.Module, image: Tensor, target: int, window, stride, shown: Tensor) -> Tensor:
    """Mean over windows of what the score loses, by the definition."""
    total, covered = torch.zeros_like(image[:1, :1]), torch.zeros_like(image[:1, :1])
    with torch.no_grad():
        score = network(image)[0, target]
        space = image.shape[2:]
        starts = [range(0, math.ceil((n - w) / s) * s + 1, s) for n, w, s in zip(space, window, stride, strict=True)]
        for corner in itertools.product(*starts):
            at = (..., *(slice(a, a + w) for a, w in zip(corner, window, strict=True)))
            hidden = image.clone()
            hidden[at] = shown[at]
            total[at] += score - network(hidden)[0, target]
            covered[at] += 1
    assert covered.min() > 0
    return total / covered


@pytest.mark.parametrize(("kind", "window", "stride"), [
    ("2D", (5, 3), (3, 2)),
    ("2D", (4, 4), (4, 4)),
    ("2D colour", (12, 7), (5, 7)),  # as long as the image along one axis
    ("3D", (5, 3, 4), (4, 2, 3)),  # windows at the far edges are cut
])  # fmt: skip
@pytest.mark.parametrize("baseline", [0.0, "mean", Blur(1.5)])
def test_occlusion_by_the_definition(kind, window, stride, baseline):
    network, image = case(kind)
    options = {"occlusion": {"window": window, "stride": stride, "baseline": baseline}}
    found = explain(network, image, ["occlusion"], target=[1, 2], options=options)["occlusion"]
    for i, target in enumerate([1, 2]):
        one = image[i : i + 1]
        shown = {0.0: torch.zeros_like(one), "mean": torch.full_like(one, float(one.mean()))}.get(baseline)
        shown = baseline(one) if shown is None else shown
        wanted = occluded_one_by_one(network, one, target, window, stride, shown)
        torch.testing.assert_close(found[i : i + 1], wanted, **CLOSE)


def test_occlusion_windows_in_millimetres_follow_the_spacing():
    network, image = case("3D")
    dressed = MetaTensor(image, affine=torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0])))
    by_mm = {"occlusion": {"window": 4.0, "stride": (3, 2, 1.4), "unit": "mm"}}
    by_voxel = {"occlusion": {"window": (4, 2, 8), "stride": [3, 1, 3]}}
    found = explain(network, dressed, ["occlusion"], target=0, options=by_mm)["occlusion"]
    wanted = explain(network, image, ["occlusion"], target=0, options=by_voxel)["occlusion"]
    torch.testing.assert_close(found.as_tensor(), wanted)


def test_occlusion_windows_larger_than_the_image_cover_it():
    network, image = case("2D")
    found = explain(network, image, ["occlusion"], target=0, options={"occlusion": {"window": 99}})["occlusion"]
    with torch.no_grad():
        lost = (network(image) - network(torch.zeros_like(image)))[:, 0]
    torch.testing.assert_close(found, lost.view(2, 1, 1, 1).expand_as(found))


@pytest.mark.parametrize(("options", "message"), [
    ({"window": 0}, "window: wanted a number above 0, or one for each of 2 axes, got 0"),
    ({"window": (3, 3, 3)}, "one for each of 2 axes"),
    ({"window": 2.5}, "whole voxels"),
    ({"window": 3, "stride": 4}, r"stride: wanted at most the window, \(3, 3\) voxels, got \(4, 4\)"),
    ({"unit": "inch"}, "unit: wanted voxel or mm"),
    ({"baseline": "black"}, "baseline: wanted"),
])  # fmt: skip
def test_occlusion_refuses(options, message):
    network, image = case("2D")
    with pytest.raises(UsageError, match=message):
        explain(network, image, ["occlusion"], options={"occlusion": options})


@pytest.mark.parametrize(("method", "options"), [
    ("occlusion", {"window": 5, "stride": 3}),
    ("occlusion", {"window": 5, "stride": 3, "baseline": torch.tensor(0.3)}),
    ("occlusion", {"window": 5, "stride": 3, "baseline": Blur(2.0)}),
    ("rise", {"masks": 20}),
])  # fmt: skip
def test_all_classes_are_scored_by_one_sweep(method, options, images_run):
    network, image = case("2D")
    alone = [explain(network, image, [method], target=k, options={method: options})[method] for k in range(3)]
    once = sum(images_run) // 3
    images_run.clear()
    together = explain(network, image, [method], target="all", options={method: options})[method]
    assert sum(images_run) == once
    torch.testing.assert_close(together, torch.cat(alone, 1), **CLOSE)


def test_other_options_are_not_taken_from_what_is_remembered():
    network, image = case("2D")
    jobs = {f"{name} {i}": {"method": name, **options} for i, (name, options) in enumerate([
        ("occlusion", {"window": 5, "stride": 3}), ("occlusion", {"window": 5, "stride": 2}),
        ("occlusion", {"window": 5, "stride": 3, "baseline": 1.0}),
        ("occlusion", {"window": 5, "stride": 3, "baseline": torch.tensor(1.5)}),
        ("occlusion", {"window": 5, "stride": 3, "baseline": torch.tensor(0.5)}),
        ("rise", {"masks": 9}), ("rise", {"masks": 9, "cells": 3}), ("rise", {"masks": 9, "probability": 0.2}),
        ("rise", {"masks": 9, "baseline": "mean"}),
    ])}  # fmt: skip
    found = explain(network, image, jobs, target=0)
    for name, job in jobs.items():
        alone = explain(network, image, {name: job}, target=0)[name]
        assert torch.equal(found[name], alone)


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_masks_are_grids_enlarged_and_cut_at_a_random_place(kind):
    network, image = case(kind)
    space = image.shape[2:]
    grid = [3, 4, 2][: len(space)]
    maker = _MaskMaker(Probe(network, image, Target(0, 2), seed=5), grid, 0.4)
    index = torch.tensor([7, 0, 3])
    masks = maker.masks(index)
    assert masks.min() == 0
    assert masks.max() == 1
    grids, _ = maker._drawn(index)
    cells = [math.ceil(n / s) for n, s in zip(space, grid, strict=True)]
    mode = "bilinear" if len(space) == 2 else "trilinear"
    large = functional.interpolate(
        grids[:, None], [(s + 1) * c for s, c in zip(grid, cells, strict=True)], mode=mode, align_corners=False
    )
    for mask, whole in zip(masks, large, strict=True):  # each is a piece of the enlarged grid, less than a cell away
        pieces = [
            whole[(..., *(slice(a, a + n) for a, n in zip(shift, space, strict=True)))]
            for shift in itertools.product(*map(range, cells))
        ]
        assert any(torch.allclose(mask, piece) for piece in pieces)


def test_masks_open_with_the_probability_and_shift_in_every_way():
    network, image = case("2D")
    maker = _MaskMaker(Probe(network, image, Target(0, 2)), [4, 4], 0.3)
    grids, (rows, _) = maker._drawn(torch.arange(600))
    assert float(grids.mean()) == pytest.approx(0.3, abs=0.02)
    assert len({tuple(w.flatten().tolist()) for w in rows}) == 3  # 12 voxels in 4 cells of 3


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_rise_by_the_definition(kind, monkeypatch):
    network, image = case(kind)
    monkeypatch.setattr("medsal.attribution.perturbation.PARTIAL", 4 * image[0].numel())  # several sums
    options = {"masks": 11, "cells": 3, "probability": 0.4, "baseline": 0.2}
    found = explain(network, image, ["rise"], target=1, seed=2, options={"rise": options})["rise"]
    masks = _MaskMaker(Probe(network, image, Target(1, 2), seed=2), [3] * (image.ndim - 2), 0.4).masks(torch.arange(11))
    for one, wanted in zip(image, found, strict=True):
        with torch.no_grad():
            scores = network(one * masks + 0.2 * (1 - masks))[:, 1]
        total = (scores.view(-1, *[1] * (image.ndim - 1)) * masks).sum(0)
        torch.testing.assert_close(wanted, total / (11 * 0.4), **CLOSE)


class Corner(nn.Module):
    """Its score is the sum of the image over one corner."""

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, :, :6, -8:].sum((1, 2, 3))
        return torch.stack([score, -score], 1)


def test_rise_and_occlusion_find_the_region_that_alone_matters():
    image = torch.ones(1, 1, 24, 24)
    truth = torch.zeros(24, 24, dtype=torch.bool)
    truth[:6, -8:] = True
    options = {"rise": {"masks": 600, "cells": 6}, "occlusion": {"window": 4, "stride": 2}}
    found = explain(Corner(), image, ["rise", "occlusion"], target=0, options=options)
    for relevance in found.values():
        inside, outside = relevance[0, 0][truth], relevance[0, 0][~truth]
        assert truth.flatten()[relevance.argmax()]
        assert inside.mean() > outside.mean() + 3 * outside.std()


@pytest.mark.parametrize(("options", "message"), [
    ({"masks": 0}, "masks: wanted at least 1"),
    ({"probability": 0}, "probability: wanted one between 0 and 1, got 0"),
    ({"cells": 0}, "cells: wanted a number above 0"),
    ({"cells": 2.5}, "cells: wanted whole"),
])  # fmt: skip
def test_rise_refuses(options, message):
    network, image = case("2D")
    with pytest.raises(UsageError, match=message):
        explain(network, image, ["rise"], options={"rise": options})
