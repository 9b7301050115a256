"""Comparison with captum 0.9 where captum is right; where it is wrong the reason stands beside the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum import attr
from torch import Tensor, nn

from medsal.attribution.explain import explain
from medsal.attribution.path import quadrature
from tests.networks_for_tests import case, conv, settled

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # captum warns of its own hooks and required gradients
both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-7, "atol": 1e-10}


class Plain(nn.Module):
    """ReLU modules used once, no skip, no gate, no overlapping pool: what captum's DeepLIFT is right on."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.first, self.relu1 = conv(dims)(2, 5, 3, padding=1), nn.ReLU()
        self.last, self.relu2 = conv(dims)(5, 4, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu2(self.last(self.relu1(self.first(x)))).flatten(2).mean(2))


def network_and_image(dims: int) -> tuple[nn.Module, Tensor]:
    return settled(Plain(dims)), torch.randn(2, 2, *(12, 8, 10)[:dims], dtype=torch.float64)


@both
def test_saliency_and_input_x_gradient(dims):
    network, image = network_and_image(dims)
    found = explain(network, image, ["saliency", "input_x_gradient"], target=[1, 2])
    target = torch.tensor([1, 2])
    theirs = attr.Saliency(network).attribute(image, target).amax(1, keepdim=True)
    torch.testing.assert_close(found["saliency"], theirs, **CLOSE)
    theirs = attr.InputXGradient(network).attribute(image, target).sum(1, keepdim=True)
    torch.testing.assert_close(found["input_x_gradient"], theirs, **CLOSE)


@both
@pytest.mark.parametrize(("ours", "theirs"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle"),
                                              ("right", "riemann_right")])  # fmt: skip
def test_integrated_gradients(dims, ours, theirs):
    # captum's riemann_trapezoid is left out: its weights sum to (n - 1) / n.
    network, image = network_and_image(dims)
    options = {"integrated_gradients": {"steps": 9, "baseline": 0.2, "quadrature": ours}}
    found = explain(network, image, ["integrated_gradients"], target=0, options=options)
    wanted, gap = attr.IntegratedGradients(network).attribute(
        image, 0.2, 0, n_steps=9, method=theirs, return_convergence_delta=True
    )
    torch.testing.assert_close(found["integrated_gradients"], wanted.sum(1, keepdim=True), **CLOSE)
    claimed = torch.tensor(found.records["integrated_gradients"]["claims"]["completeness_gap"])
    torch.testing.assert_close(claimed.double(), gap.double(), rtol=0, atol=1e-6)


@both
def test_gradient_shap_with_the_same_draws(dims, monkeypatch):
    network, image = network_and_image(dims)
    image = image[:1]
    samples, baselines = 4, torch.randn(3, *image.shape[1:], dtype=torch.float64)
    drawn = torch.rand(2 * samples, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    choices = (drawn[samples:] * 3).long().numpy()
    monkeypatch.setattr(np.random, "uniform", lambda *_: drawn[:samples].numpy())
    monkeypatch.setattr(np.random, "choice", lambda *_: choices)
    wanted = attr.GradientShap(network).attribute(image, baselines, n_samples=samples, stdevs=0.0, target=1)
    options = {"gradient_shap": {"samples": samples, "baseline": baselines}}
    found = explain(network, image, ["gradient_shap"], target=1, seed=5, options=options)
    torch.testing.assert_close(found["gradient_shap"], wanted.sum(1, keepdim=True), **CLOSE)


@both
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_deep_lift_on_a_relu_network_without_reuse(dims, baseline):
    network, image = network_and_image(dims)
    found = explain(network, image, ["deep_lift"], target=2, options={"deep_lift": {"baseline": baseline}})
    wanted = attr.DeepLift(network).attribute(image, baseline, target=2).sum(1, keepdim=True)
    torch.testing.assert_close(found["deep_lift"], wanted, **CLOSE)


def test_captums_deep_lift_loses_the_difference_where_ours_keeps_it():
    # An activation in functional form behind the last layer, a product of gates, a pool with overlapping windows.
    network, image = case("3D", inplace=False)
    network.act = nn.Identity()  # a reused ReLU module makes captum raise, so the comparison is done without
    baseline = torch.full_like(image, 0.7)
    theirs = attr.DeepLift(network).attribute(image, baseline, target=1)
    difference = (network(image) - network(baseline))[:, 1].detach()
    lost = (theirs.flatten(1).sum(1) - difference).abs() / difference.abs()
    found = explain(network, image, ["deep_lift"], target=1, options={"deep_lift": {"baseline": 0.7}})
    assert lost.min() > 1e-3
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-10


@both
@pytest.mark.parametrize("relu", [True, False])
def test_gradcam(dims, relu):
    network, image = network_and_image(dims)
    options = {"gradcam": {"relu": relu}}
    found = explain(network, image, ["gradcam"], target=[0, 2], target_layer="last", options=options)["gradcam"]
    wanted = attr.LayerGradCam(network, network.last).attribute(image, torch.tensor([0, 2]), relu_attributions=relu)
    torch.testing.assert_close(found, wanted, **CLOSE)


@both
def test_smoothgrad_with_the_same_noise(dims, monkeypatch):
    network, image = network_and_image(dims)
    image = image[:1]
    options = {"smoothgrad": {"samples": 3, "noise": 0.2, "noise_unit": "absolute"}}
    found = explain(network, image, ["smoothgrad"], target=1, seed=2, options=options)["smoothgrad"]
    noise = [
        torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(hash((2, 2, k)))).double()
        for k in range(3)
    ]
    noisy = torch.stack([image[0] + 0.2 * n for n in noise])
    wanted = attr.Saliency(network).attribute(noisy, 1, abs=False).mean(0, keepdim=True).sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_gauss_legendre_integrates_a_polynomial_exactly():
    points, weights = quadrature("gauss_legendre", 3)
    assert float((weights * points**5).sum()) == pytest.approx(1 / 6, abs=1e-15)
