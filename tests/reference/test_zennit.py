"""Comparison with zennit 0.5.1, on networks that it handles; where it is wrong the reason stands beside the test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsal.attribution.explain import explain
from tests.networks_for_tests import conv, norm, settled

pytest.importorskip("zennit")
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    LayerMapComposite,
)
from zennit.core import Composite
from zennit.rules import Epsilon, Norm, Pass
from zennit.types import Activation, AvgPool, Convolution, Linear

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
TINY = 1e-14


def pool(kind: str, dims: int) -> type[nn.Module]:
    return getattr(nn, f"{kind}Pool{dims}d")


def sequential(dims: int) -> nn.Module:
    """Modules alone, each used once, with biases: what zennit's hooks see whole."""
    return nn.Sequential(
        conv(dims)(2, 6, 3, padding=1), nn.ReLU(), pool("Max", dims)(2),
        conv(dims)(6, 7, 3, padding=1), norm(dims)(7), nn.ReLU(), pool("Avg", dims)(2),
        nn.Flatten(), nn.Linear(7 * (6 if dims == 2 else 12), 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def theirs(network: nn.Module, image: Tensor, composite: Composite, target: int, *, logit: bool = True) -> Tensor:
    with torch.no_grad():
        logits = network(image)
    start = torch.zeros_like(logits)
    start[:, target] = logits[:, target] if logit else 1
    with Gradient(network, composite) as attributor:
        return attributor(image, start)[1].sum(1, keepdim=True)


def network_and_image(dims: int) -> tuple[nn.Module, Tensor]:
    return settled(sequential(dims)), torch.randn(2, 2, *(12, 8, 8)[:dims], dtype=torch.float64)


@both
@pytest.mark.parametrize(("method", "composite"), [
    ("lrp_epsilon_plus", EpsilonPlus),
    ("lrp_epsilon_plus_flat", EpsilonPlusFlat),
    ("lrp_epsilon_alpha2_beta1", EpsilonAlpha2Beta1),
    ("lrp_epsilon_alpha2_beta1_flat", EpsilonAlpha2Beta1Flat),
])  # fmt: skip
def test_composites_whose_biases_absorb(dims, method, composite):
    network, image = network_and_image(dims)
    # Their flat rule and their pools have a stabiliser where ours need none, hence a small one.
    found = explain(network, image, [method], target=1, options={method: {"bias": "absorb", "epsilon": TINY}})[method]
    torch.testing.assert_close(found, theirs(network, image, composite(TINY, TINY), 1), rtol=1e-8, atol=1e-11)


@both
def test_excitation_backprop(dims):
    network, image = network_and_image(dims)
    network[4] = nn.Identity()  # zennit 0.5.1's composite has no entry for it, so its gradient scales the probability
    options = {"excitation_backprop": {"bias": "absorb", "epsilon": TINY}}
    found = explain(network, image, ["excitation_backprop"], target=2, options=options)["excitation_backprop"]
    # zennit's rule adds the positive part of the bias to the denominator, where the paper has none; so does "absorb".
    wanted = theirs(network, image, ExcitationBackprop(TINY), 2, logit=False)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)


@both
def test_the_epsilon_rule_everywhere(dims):
    network, image = network_and_image(dims)
    network[4] = nn.Identity()  # zennit passes relevance through batch normalisation, whose shift is a bias to us
    rules = LayerMapComposite([(Activation, Pass()), (AvgPool, Norm()), (Convolution, Epsilon()), (Linear, Epsilon())])
    found = explain(network, image, ["lrp_epsilon"], target=0)["lrp_epsilon"]
    torch.testing.assert_close(found, theirs(network, image, rules, 0), **CLOSE)


@both
def test_the_epsilon_rule_on_batch_normalisation_is_that_of_the_merged_convolution(dims):
    # zennit 0.5.1's own merging leaves eps behind: each output is 1 / sqrt(1 + eps) too small. So it is merged here.
    network, image = network_and_image(dims)
    merged = settled(sequential(dims))
    before, batch = merged[3], merged[4]
    scale = batch.weight / (batch.running_var + batch.eps).sqrt()
    with torch.no_grad():
        before.weight.mul_(scale.view(-1, 1, *[1] * dims))
        before.bias.copy_((before.bias - batch.running_mean) * scale + batch.bias)
    merged[4] = nn.Identity()
    torch.testing.assert_close(merged(image), network(image))
    options = {"lrp_epsilon": {"epsilon": 1e-12}}
    rules = LayerMapComposite([
        (Activation, Pass()), (AvgPool, Norm(stabilizer=1e-12)),
        (Convolution, Epsilon(1e-12)), (Linear, Epsilon(1e-12)),
    ])  # fmt: skip
    found = explain(network, image, ["lrp_epsilon"], target=0, options=options)["lrp_epsilon"]
    torch.testing.assert_close(found, theirs(merged, image, rules, 0), rtol=1e-6, atol=1e-9)


class Residual(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.first, self.act = conv(dims)(2, 5, 3, padding=1, bias=False), nn.ReLU(inplace=True)
        self.last, self.head = conv(dims)(5, 5, 3, padding=1, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        for _ in range(4):
            y = self.last(x)
            y += x
            x = self.act(y)
        return self.head(x.flatten(2).mean(2))


@both
def test_zennit_doubles_relevance_at_every_addition_where_ours_keeps_it(dims):
    # The addition is no module, so both summands get all of the relevance: up to 16 times as much after 4 of them.
    network, image = settled(Residual(dims)), torch.randn(2, 2, *(12, 8, 8)[:dims], dtype=torch.float64)
    logit = network(image)[:, 1].detach()
    wrong = theirs(network, image, EpsilonPlus(), 1).flatten(1).sum(1) / logit
    assert wrong.min() > 4
    kept = explain(network, image, ["lrp_epsilon_plus"], target=1).records["lrp_epsilon_plus"]["claims"]
    assert kept["relevance_kept"] == pytest.approx([1, 1], abs=1e-9)


def test_zennit_with_its_canonizer_on_torchvisions_resnet():
    torchvision = pytest.importorskip("torchvision")
    from zennit.torchvision import ResNetCanonizer

    from medsal.attribution.lrp import _relevance
    from medsal.attribution.probe import Probe
    from medsal.attribution.rules.propagation import Composite as Rules
    from medsal.attribution.target import Target

    network = torchvision.models.resnet18().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    network.double().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # zennit 0.5.1 leaves eps behind when it merges, so there is to be none
            module.running_var += module.eps
            module.eps = 0.0
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    wanted = theirs(network, image, EpsilonPlus(canonizers=[ResNetCanonizer()]), 3)
    # Its Sum shares by sign, where our composite shares by magnitude; it merges, where ours passes relevance through.
    found = _relevance(
        Probe(_merged(network), image, Target(3, 1)), Rules("z_plus", "epsilon", "signed"), 1e-6, "absorb", "sum", 1e9
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def _merged(network: nn.Module) -> nn.Module:
    """The network with every batch normalisation merged into the convolution before it."""
    previous: nn.Conv2d | None = None
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            previous = module
        elif isinstance(module, nn.BatchNorm2d):
            assert previous is not None
            scale = module.weight / (module.running_var + module.eps).sqrt()
            previous.weight.data = previous.weight * scale.view(-1, 1, 1, 1)
            previous.bias = nn.Parameter(module.bias - module.running_mean * scale, requires_grad=False)
            module.running_mean.zero_()
            module.running_var.fill_(1)
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return network
