"""Identities of the CAM family and of occlusion, exact in float64, in 2D and 3D."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from tests.networks_for_tests import BiasFree, case, conv, settled

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SPACE = (6, 4, 5)


class Pooled(nn.Module):
    """Global average pooling and a linear layer behind a layer on the image's own grid, so that maps are not resized.

    Args:
        dims: of space.
        positive: whether all weights of the linear layer are positive.
    """

    def __init__(self, dims: int, *, positive: bool = False) -> None:
        super().__init__()
        self.first = conv(dims)(1, 4, 3, padding=1)
        self.last = conv(dims)(4, 6, 3, padding=1)
        self.end = nn.Identity()
        self.head = nn.Linear(6, 3)
        self.positive = positive

    def forward(self, x: Tensor) -> Tensor:
        features = self.end(self.last(self.first(x).tanh()).relu()).flatten(2).mean(2)
        return functional.linear(
            features, self.head.weight.abs() if self.positive else self.head.weight, self.head.bias
        )


def pooled(dims: int, **kwargs: bool) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, images, features of its last layer and logits."""
    network = settled(Pooled(dims, **kwargs))
    image = torch.randn(2, 1, *SPACE[:dims], dtype=torch.float64)
    with torch.no_grad():
        features = network.last(network.first(image).tanh()).relu()
        return network, image, features, network(image)


def maps_of(
    network: nn.Module, image: Tensor, *methods: str, layer: str = "end", relu: bool = False
) -> dict[str, Tensor]:
    options = {method: {"relu": relu} for method in methods}
    return explain(network, image, list(methods), target=[2, 1], target_layer=layer, options=options)


@both
def test_10_hirescam_gradcam_xgradcam_ablationcam_and_cam_agree_on_a_pooled_linear_head(dims):
    network, image, _, _ = pooled(dims)
    found = maps_of(network, image, "hirescam", "gradcam", "xgradcam", "cam", "ablationcam")
    positions = math.prod(SPACE[:dims])
    for method in ("hirescam", "xgradcam"):
        torch.testing.assert_close(found[method], found["gradcam"], **CLOSE)
    torch.testing.assert_close(found["cam"], positions * found["gradcam"], **CLOSE)
    torch.testing.assert_close(found["ablationcam"], gradcam_by_mean(network, image, found["gradcam"]), **CLOSE)
    # Not for a head that is not pooling and a linear layer.
    other, image = case(f"{dims}D")
    found = maps_of(other, image, "hirescam", "gradcam", "xgradcam", layer="block")
    assert not torch.allclose(found["hirescam"], found["gradcam"], rtol=1e-3)
    assert not torch.allclose(found["xgradcam"], found["gradcam"], rtol=1e-3)


def gradcam_by_mean(network: nn.Module, image: Tensor, gradcam: Tensor) -> Tensor:
    """Ablation-CAM's map by its closed form, ``sum_k w_k mean(A_k) A_k``."""
    with torch.no_grad():
        features = network.last(network.first(image).tanh()).relu()
        weights = network.head.weight[[2, 1]] * features.flatten(2).mean(2)
    return (weights.view(*weights.shape, *[1] * (gradcam.ndim - 2)) * features).sum(1, keepdim=True)


@both
def test_11_the_sum_of_gradcam_is_the_score_without_the_bias(dims):
    network, image, _, logits = pooled(dims)
    wanted = (logits - network.head.bias)[[0, 1], [2, 1]].detach()
    found = maps_of(network, image, "gradcam", "hirescam", "cam")
    for method in ("gradcam", "hirescam"):
        torch.testing.assert_close(found[method].flatten(1).sum(1), wanted, **CLOSE)
    torch.testing.assert_close(found["cam"].flatten(1).mean(1), wanted, **CLOSE)


@both
def test_11_the_sum_of_hirescam_is_the_score_for_any_head_without_biases(dims):
    network = settled(BiasFree(dims))
    image = torch.randn(2, 1, *(8, 6, 10)[:dims], dtype=torch.float64)
    seen = []
    network.first.register_forward_hook(lambda _m, _i, output: seen.append(output))
    found = maps_of(network, image, "hirescam", "gradcam", layer="first")  # max pool, ReLU and convolution lie above
    with torch.no_grad():
        wanted = network(image)[[0, 1], [2, 1]]
    assert seen[0].shape[2:] == image.shape[2:]  # or resizing would change the sum
    torch.testing.assert_close(found["hirescam"].flatten(1).sum(1), wanted, **CLOSE)
    assert not torch.allclose(found["gradcam"].flatten(1).sum(1), wanted, rtol=1e-2)


@both
def test_12_gradcam_plus_plus_in_closed_form(dims):
    network, image, features, _ = pooled(dims)
    positions = math.prod(SPACE[:dims])
    gradient = network.head.weight[[2, 1]].detach() / positions  # the same at every position
    weights = positions * gradient.clamp_min(0) / (2 + gradient * features.flatten(2).sum(2))
    wanted = (weights.view(2, 6, *[1] * dims) * features).sum(1, keepdim=True)
    torch.testing.assert_close(maps_of(network, image, "gradcam_plus_plus")["gradcam_plus_plus"], wanted, **CLOSE)


@both
@pytest.mark.parametrize("relu", [False, True])
def test_13_ablationcam_in_closed_form_equals_ablation(dims, relu):
    network, image, features, logits = pooled(dims)
    weights = torch.zeros(2, 6, dtype=torch.float64)
    for k in range(6):
        without = features.clone()
        without[:, k] = 0
        with torch.no_grad():
            weights[:, k] = (logits - network.head(without.flatten(2).mean(2)))[[0, 1], [2, 1]]
    wanted = (weights.view(2, 6, *[1] * dims) * features).sum(1, keepdim=True)
    found = maps_of(network, image, "ablationcam", relu=relu)
    torch.testing.assert_close(found["ablationcam"], wanted.clamp_min(0) if relu else wanted, **CLOSE)
    assert found.records["ablationcam"]["claims"] == {"head": "closed form"}


@both
def test_14_layercam_equals_hirescam_where_no_gradient_is_negative(dims):
    network, image, _, _ = pooled(dims, positive=True)
    found = maps_of(network, image, "layercam", "hirescam")
    torch.testing.assert_close(found["layercam"], found["hirescam"], **CLOSE)
    network, image, _, _ = pooled(dims)
    found = maps_of(network, image, "layercam", "hirescam")
    assert not torch.allclose(found["layercam"], found["hirescam"], rtol=1e-2)


class Linear(nn.Module):
    """Scores that are linear in the image."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, *shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.weight.flatten(1))


@both
def test_15_occlusion_of_a_linear_score(dims):
    shape, edges = (2, *SPACE[:dims]), (4, 2, 3)[:dims]  # not all edges divide the image
    network, image = Linear(shape), torch.randn(2, *shape, dtype=torch.float64)
    baseline = torch.randn(1, *shape, dtype=torch.float64)
    options = {"occlusion": {"window": edges, "stride": edges, "baseline": baseline}}
    found = explain(network, image, ["occlusion"], target=[2, 1], options=options)["occlusion"]
    terms = (network.weight[[2, 1]].detach() * (image - baseline)).sum(1, keepdim=True)
    total = torch.zeros(2, dtype=torch.float64)
    for flat in range(math.prod(math.ceil(n / e) for n, e in zip(shape[1:], edges, strict=True))):
        at = []
        for n, e in zip(reversed(shape[1:]), reversed(edges), strict=True):
            flat, i = divmod(flat, math.ceil(n / e))  # noqa: PLW2901  counting in mixed radix
            at.insert(0, slice(i * e, i * e + e))
        window = (slice(None), slice(None), *at)
        lost = terms[window].flatten(1).sum(1)
        torch.testing.assert_close(found[window], lost.view(2, *[1] * (dims + 1)).expand_as(found[window]), **CLOSE)
        total += lost
    with torch.no_grad():
        difference = (network(image) - network(baseline))[[0, 1], [2, 1]]
    torch.testing.assert_close(total, difference, **CLOSE)  # windows that do not overlap explain it all
