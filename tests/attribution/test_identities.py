"""Identities that hold exactly for networks whose answer is known, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from tests.networks_for_tests import SHAPES, BiasFree, case, settled

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Linear(nn.Module):
    """Scores that are linear in the image."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nf,kf->nk", x.flatten(1), self.weight.flatten(1)) + 1


class Quadratic(Linear):
    """Scores whose gradient is linear along any path."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x) ** 2


def volume(dims: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, *(12, 8, 10)[:dims], dtype=torch.float64)


def total(relevance: Tensor) -> Tensor:
    return relevance.flatten(1).sum(1)


@both
@pytest.mark.parametrize(("quadrature", "steps"), [("midpoint", 1), ("midpoint", 7), ("gauss_legendre", 1)])
def test_integrated_gradients_is_complete_for_a_quadratic_at_any_number_of_steps(dims, quadrature, steps):
    image = volume(dims)
    network = Quadratic(image.shape[1:])
    found = explain(
        network,
        image,
        ["integrated_gradients"],
        target=1,
        options={"integrated_gradients": {"steps": steps, "quadrature": quadrature, "baseline": 0.3}},
    )
    difference = network(image)[:, 1] - network(torch.full_like(image, 0.3))[:, 1]
    torch.testing.assert_close(total(found["integrated_gradients"]), difference.detach(), **CLOSE)
    claims = found.records["integrated_gradients"]["claims"]
    assert max(claims["relative_gap"]) < 1e-12
    torch.testing.assert_close(
        torch.tensor(claims["score_difference"]).double(), difference.detach(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("quadrature", "ratio"), [("right", (10 + 1) / 10), ("paper_2021", 1.0)])
def test_the_weights_of_riemann_sums_are_those_of_their_definition(quadrature, ratio):
    image = volume(2)
    network = Quadratic(image.shape[1:])
    with torch.no_grad():
        network.weight[1] = 0
    shifted = explain(
        network,
        image,
        ["integrated_gradients"],
        target=lambda logits: logits[:, 0],
        options={"integrated_gradients": {"steps": 10, "quadrature": quadrature}},
    )["integrated_gradients"]
    projection = (network.weight[0] * image).flatten(1).sum(1).detach()
    torch.testing.assert_close(total(shifted), 0.5 * projection**2 * ratio + projection, **CLOSE)


@both
def test_integrated_gradients_from_zero_deep_lift_and_input_x_gradient_agree_on_homogeneous_networks(dims):
    network, image = settled(BiasFree(dims)), volume(dims)
    found = explain(network, image, ["input_x_gradient", "integrated_gradients", "deep_lift"], target=2)
    score = network(image)[:, 2].detach()
    torch.testing.assert_close(total(found["input_x_gradient"]), score, **CLOSE)
    torch.testing.assert_close(found["integrated_gradients"], found["input_x_gradient"], **CLOSE)
    torch.testing.assert_close(found["deep_lift"], found["input_x_gradient"], **CLOSE)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("baseline", [0.0, "mean", "gaussian:1.0", lambda x: x.roll(3, -1)])
def test_deep_lift_sums_to_the_difference_through_gates_pools_and_skips(kind, baseline):
    network, image = case(kind)
    found = explain(network, image, ["deep_lift"], target=1, options={"deep_lift": {"baseline": baseline}})
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-10
    ran = found.records["deep_lift"]["claims"]["operations"]
    assert ran == ({"relu": 2, "max_pool2d": 1} if kind == "slices" else
                   {"relu": 2, f"max_pool{len(SHAPES[kind]) - 1}d": 1, "sigmoid": 1, "mul": 1, "silu": 1})  # fmt: skip


@pytest.mark.parametrize("activation", [
    functional.relu6, functional.leaky_relu, functional.elu, functional.selu, functional.celu, functional.silu,
    functional.gelu, functional.softplus, functional.mish, functional.hardswish, functional.hardsigmoid, torch.sigmoid,
    torch.tanh, functional.logsigmoid, lambda z: z.clamp(-0.3, 0.4), lambda z: z**2, lambda z: z.square().add(1).sqrt(),
    lambda z: 1 / (1 + z.exp()), lambda z: z / (1 + z.abs()), lambda z: z.abs().add(1).log(),
    lambda z: functional.relu(z.clone(), inplace=True), lambda z: z.clone().relu_(), lambda z: z * z.sigmoid(),
    lambda z: functional.adaptive_max_pool2d(z, (3, 2)), lambda z: functional.max_pool2d(z, 2, return_indices=True)[0],
])  # fmt: skip
def test_deep_lift_sums_to_the_difference_for_every_activation(activation):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(activation(self.first(x)).flatten(2).mean(2))

    found = explain(settled(Net()), volume(2), ["deep_lift"], options={"deep_lift": {"baseline": "gaussian:0.5"}})
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-10


@both
def test_smoothgrad_and_gradient_shap_are_exact_on_linear_scores(dims):
    image = volume(dims)
    network = Linear(image.shape[1:])
    found = explain(
        network,
        image,
        ["smoothgrad", "gradient_shap"],
        target=1,
        options={"smoothgrad": {"samples": 3}, "gradient_shap": {"baseline": 0.4, "samples": 2}},
    )
    weight = network.weight[1].detach().expand_as(image)
    torch.testing.assert_close(found["smoothgrad"], weight, **CLOSE)
    torch.testing.assert_close(found["gradient_shap"], weight * (image - 0.4), **CLOSE)


def test_gradient_shap_draws_from_several_baselines():
    image = volume(2)
    network = Linear(image.shape[1:])
    baselines = torch.stack([torch.full(image.shape[1:], v, dtype=torch.float64) for v in (0.0, 1.0)])
    found = explain(
        network,
        image,
        ["gradient_shap"],
        target=1,
        options={"gradient_shap": {"baseline": baselines, "samples": 400}},
    )["gradient_shap"]
    weight = network.weight[1].detach()
    share = (image - found / weight).flatten().unique().mean()  # the share of samples that drew the baseline of ones
    assert 0.4 < share < 0.6


@both
def test_the_sum_of_gradcam_is_the_score_minus_the_bias_for_pooling_and_a_linear_head(dims):
    network, image = settled(BiasFree(dims)), volume(dims)
    head_bias = 0.7
    network.head.bias = nn.Parameter(torch.full((3,), head_bias, dtype=torch.float64))

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(network.first, nn.ReLU(), network.last, nn.ReLU())
            self.head = network.head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).flatten(2).mean(2))

    pooled = Pooled()
    found = explain(pooled, image, ["gradcam"], target=0, target_layer="body", options={"gradcam": {"relu": False}})
    torch.testing.assert_close(total(found["gradcam"]), pooled(image)[:, 0].detach() - head_bias, **CLOSE)


def test_saliency_of_several_channels_is_the_largest_magnitude():
    network, image = case("2D colour")
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[:, 1].sum(), image)
    found = explain(network, image, ["saliency"], target=1)["saliency"]
    torch.testing.assert_close(found, gradient.abs().amax(1, keepdim=True), **CLOSE)
    signed = explain(network, image, ["saliency"], target=1, options={"saliency": {"channels": "sum"}})["saliency"]
    torch.testing.assert_close(signed, gradient.sum(1, keepdim=True), **CLOSE)
