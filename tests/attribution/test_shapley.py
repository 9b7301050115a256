"""Shapley values by enumeration: what paths, DeepLIFT and occlusion must give where features do not interact."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import pytest
import torch
from torch import Tensor, nn

from medsal.attribution.explain import explain

PLACES = 6


class Additive(nn.Module):
    """A sum of one cubic polynomial per place; place 2 and 3 share theirs, place 4 is a dummy."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(3, PLACES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        drawn[:, 3], drawn[:, 4] = drawn[:, 2], 0
        self.coefficients = nn.Parameter(drawn)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        score = (self.coefficients[0] * flat + self.coefficients[1] * flat * flat).sum(1)
        return torch.stack([score + (self.coefficients[2] * flat * flat * flat).sum(1), -score], 1)


def shapley_values(network: nn.Module, image: Tensor, baseline: float) -> Tensor:
    """Mean over all orders of what a place adds, from the score of every subset."""
    scores = {}
    for size in range(PLACES + 1):
        for subset in combinations(range(PLACES), size):
            mixed = torch.full((PLACES,), baseline, dtype=torch.float64)
            mixed[list(subset)] = image.flatten()[list(subset)]
            scores[subset] = float(network(mixed.view(image.shape))[0, 0].detach())
    values = torch.zeros(PLACES, dtype=torch.float64)
    for subset, score in scores.items():
        for place in set(range(PLACES)) - set(subset):
            weight = factorial(len(subset)) * factorial(PLACES - len(subset) - 1) / factorial(PLACES)
            values[place] += weight * (scores[tuple(sorted((*subset, place)))] - score)
    return values


@pytest.mark.parametrize(("method", "options"), [
    ("integrated_gradients", {"steps": 2, "baseline": 0.3}),  # two points integrate a quadratic gradient exactly
    ("deep_lift", {"baseline": 0.3}),
    ("occlusion", {"window": 1, "stride": 1, "baseline": 0.3}),
])  # fmt: skip
def test_methods_give_shapley_values_where_features_do_not_interact(method, options):
    network = Additive()
    image = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    image[0, 0, 1, 0] = image[0, 0, 0, 2]  # places 2 and 3 are alike
    wanted = shapley_values(network, image, 0.3)
    found = explain(network, image, method, target=0, options={method: options})[method].flatten()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    difference = network(image)[0, 0] - network(torch.full_like(image, 0.3))[0, 0]
    torch.testing.assert_close(found.sum(), difference.detach(), rtol=1e-9, atol=1e-12)  # efficiency
    torch.testing.assert_close(found[2], found[3], rtol=1e-9, atol=1e-12)  # symmetry
    assert abs(float(found[4])) < 1e-12  # dummy


def test_gradient_shap_gives_them_in_expectation():
    network = Additive()
    image = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    options = {"gradient_shap": {"samples": 20000, "baseline": 0.3}}
    found = explain(network, image, "gradient_shap", target=0, options=options)["gradient_shap"].flatten()
    torch.testing.assert_close(found, shapley_values(network, image, 0.3), rtol=0.05, atol=0.05)
