"""Moments of gradients over noise on networks whose answer is known; integrated gradients to a tolerance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsal.attribution.baseline import NOISE_STREAM
from medsal.attribution.batch import Batch
from medsal.attribution.explain import explain
from medsal.attribution.path import FIRST_STEPS, MOST_STEPS
from medsal.errors import UsageError
from tests.networks_for_tests import BiasFree, case, settled

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def volume(dims: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, *(6, 4, 5)[:dims], dtype=torch.float64)


class QuadraticForm(nn.Module):
    r"""Scores :math:`x^T Q x / 2`, whose gradient is Q x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.matrix = nn.Parameter(drawn + drawn.T)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        score = 0.5 * torch.einsum("ni,ij,nj->n", flat, self.matrix, flat)
        return torch.stack([score, -score], 1)


def gradients(network: nn.Module, image: Tensor, samples: int, noise: float) -> Tensor:
    """Gradients at the copies that the methods look at, ``(samples, B, ...)``."""
    drawn = Batch(image, seed=5).draw(NOISE_STREAM, torch.arange(samples))
    noisy = image + noise * drawn[:, None]
    return torch.stack([(copy.flatten(1) @ network.matrix.detach()).view_as(image) for copy in noisy])


@both
def test_the_moments_are_those_of_the_gradients_at_the_same_copies(dims):
    image = volume(dims)
    network = QuadraticForm(image[0].numel())
    noise = {"samples": 6, "noise": 0.3, "noise_unit": "absolute"}
    methods = ["smoothgrad", "smoothgrad_squared", "vargrad"]
    found = explain(network, image, methods, target=0, seed=5, options=dict.fromkeys(methods, noise))
    wanted = gradients(network, image, 6, 0.3)
    torch.testing.assert_close(found["smoothgrad"], wanted.mean(0), **CLOSE)
    torch.testing.assert_close(found["smoothgrad_squared"], (wanted**2).mean(0), **CLOSE)
    torch.testing.assert_close(found["vargrad"], wanted.var(0, correction=0), **CLOSE)


def test_their_expectations_on_a_quadratic_form():
    image = volume(2, batch=1)
    network = QuadraticForm(image[0].numel())
    noise = {"samples": 20000, "noise": 0.5, "noise_unit": "absolute"}
    methods = ["smoothgrad_squared", "vargrad"]
    found = explain(network, image, methods, target=0, options=dict.fromkeys(methods, noise))
    matrix = network.matrix.detach()
    mean = (image.flatten(1) @ matrix).view_as(image)
    variance = 0.25 * (matrix @ matrix.T).diag().view_as(image)
    torch.testing.assert_close(found["vargrad"], variance, rtol=0.06, atol=0)
    torch.testing.assert_close(found["smoothgrad_squared"], mean**2 + variance, rtol=0.1, atol=0)


def test_vargrad_keeps_its_digits_where_the_gradient_is_large():
    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([1e4 * x.flatten(1).sum(1) + 0.5 * x.flatten(1).pow(2).sum(1)] * 2, 1)

    image = volume(2).float()
    options = {"vargrad": {"samples": 400, "noise": 0.1, "noise_unit": "absolute"}}
    found = explain(Steep(), image, "vargrad", options=options)["vargrad"]
    torch.testing.assert_close(found.mean(), torch.tensor(0.01), rtol=0.15, atol=0)


def test_squared_smooth_integrated_gradients_square_each_copys_map():
    network, image = case("2D")
    settings = {"samples": 3, "noise": 0.2, "steps": 4, "quadrature": "paper_2021", "baseline": -1.0}
    options = {"smooth_integrated_gradients": {**settings, "squared": True}}
    found = explain(network, image, "smooth_integrated_gradients", target=1, seed=5, options=options)
    drawn = Batch(image, seed=5).draw(NOISE_STREAM, torch.arange(3))
    wanted = torch.zeros_like(image)
    for noise in drawn:
        one = {"integrated_gradients": {"steps": 4, "quadrature": "paper_2021", "baseline": -1.0}}
        found_one = explain(network, image + 0.2 * noise, "integrated_gradients", target=1, options=one)
        wanted += found_one["integrated_gradients"] ** 2 / 3
    torch.testing.assert_close(found["smooth_integrated_gradients"], wanted, **CLOSE)


@both
def test_integrated_gradients_are_refined_until_each_image_is_within_the_tolerance(dims):
    network, image = case("2D" if dims == 2 else "3D", batch=3)
    image[0] = 0.5 + 0.02 * (image[0] - 0.5)  # close to the baseline, an easy path
    options = {"integrated_gradients": {"tolerance": 1e-3, "baseline": 0.5}}
    found = explain(network, image, "integrated_gradients", target=1, options=options)
    claims = found.records["integrated_gradients"]["claims"]
    within = [
        gap <= 1e-3 or steps == MOST_STEPS for gap, steps in zip(claims["relative_gap"], claims["steps"], strict=True)
    ]
    assert all(within)
    assert len(set(claims["steps"])) > 1  # each image stops for itself
    for i, steps in enumerate(claims["steps"]):
        alphas = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        start = torch.full_like(image[i : i + 1], 0.5)
        path = start + alphas.view(-1, *[1] * (dims + 1)) * (image[i : i + 1] - start)
        path.requires_grad_()
        (gradient,) = torch.autograd.grad(network(path)[:, 1].sum(), path)
        wanted = (image[i : i + 1] - start) * gradient.mean(0)
        torch.testing.assert_close(found["integrated_gradients"][i : i + 1], wanted, **CLOSE)


def test_a_linear_path_needs_the_first_steps_only():
    found = explain(
        settled(BiasFree(2)), volume(2), "integrated_gradients", options={"integrated_gradients": {"tolerance": 1e-6}}
    )
    assert found.records["integrated_gradients"]["claims"]["steps"] == [FIRST_STEPS] * 2


def test_a_tolerance_of_nothing_is_refused():
    with pytest.raises(UsageError, match="tolerance: wanted above 0"):
        explain(*case("2D"), "integrated_gradients", options={"integrated_gradients": {"tolerance": 0}})
