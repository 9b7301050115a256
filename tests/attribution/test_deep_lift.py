"""DeepLIFT through softmax, normalisations, attention and masks; DeepLIFT of layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from medsal.attribution.rules.norms import log_sum_exp_slopes, logarithmic_mean
from medsal.errors import UsageError
from tests.networks_for_tests import SHAPES, case, settled

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
WEIGHT, SHIFT = torch.linspace(-1, 2, 4, dtype=torch.float64), torch.linspace(1, -1, 4, dtype=torch.float64)


def volume(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 6, 8, dtype=torch.float64)


def tokens(z: Tensor) -> Tensor:
    return z.flatten(2).transpose(1, 2)


def masked(z: Tensor) -> Tensor:
    allowed = torch.ones(24, 24, dtype=torch.bool).triu(-3).T
    return functional.scaled_dot_product_attention(tokens(z), tokens(z) * 2, tokens(z), attn_mask=allowed)


def causal(z: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(tokens(z), tokens(z) * 2, tokens(z), is_causal=True, scale=0.3)


def multi_head(z: Tensor) -> Tensor:
    return ATTENTION(tokens(z), tokens(z), tokens(z))[0]


ATTENTION = settled(nn.MultiheadAttention(4, 2, batch_first=True)).requires_grad_(False)
LAYERS = {
    "softmax": lambda z: z.softmax(1),
    "log_softmax": lambda z: functional.log_softmax(z, dim=-1),
    "layer_norm": lambda z: functional.layer_norm(tokens(z), (4,), WEIGHT, SHIFT),
    "layer_norm of two axes": lambda z: functional.layer_norm(z, z.shape[2:], eps=1e-3),
    "rms_norm": lambda z: functional.rms_norm(tokens(z), (4,), WEIGHT),
    "group_norm": lambda z: functional.group_norm(z, 2, WEIGHT, SHIFT),
    "instance_norm": lambda z: functional.instance_norm(z, weight=WEIGHT, bias=SHIFT),
    "instance_norm of the training set": lambda z: functional.instance_norm(
        z, SHIFT, WEIGHT.abs() + 1, WEIGHT, SHIFT, use_input_stats=False
    ),
    "attention": lambda z: (tokens(z) @ tokens(z * 2).transpose(1, 2)).softmax(-1) @ tokens(z - 1),
    "attention by einsum": lambda z: torch.einsum("nic,njc->nij", tokens(z), tokens(z).exp()),
    "einsum of one": lambda z: torch.einsum("nchw->nhc", z),
    "scaled_dot_product_attention": lambda z: functional.scaled_dot_product_attention(tokens(z), tokens(z), tokens(z)),
    "masked attention": masked,
    "causal attention": causal,
    "multi-head attention": multi_head,
    "variance": lambda z: z.var((2, 3)),
    "variance of all that is biased": lambda z: torch.var(z, 1, unbiased=False, keepdim=True) * z,
    "standard deviation": lambda z: (z - z.mean((2, 3), keepdim=True)) / (z.std((2, 3), keepdim=True) + 1),
    "mask": lambda z: torch.where(torch.ones_like(z) > 0, z.exp(), z) + z.masked_fill(z.isnan(), 3),
    "zeros": lambda z: z.exp() + torch.zeros_like(z) + z.new_ones(1),
}


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.layer = LAYERS[name]

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(self.first(x)).flatten(1)
        weight = torch.sin(torch.arange(2 * z.shape[1], dtype=z.dtype).view(2, -1))
        return functional.linear(z, weight)


@pytest.mark.parametrize("baseline", ["gaussian:0.5", 0.0, lambda x: x.roll(3, -1) * 2 + 3])
@pytest.mark.parametrize("name", LAYERS)
def test_the_difference_is_kept(name, baseline):
    found = explain(
        settled(Net(name)), volume(), ["deep_lift"], target=1, options={"deep_lift": {"baseline": baseline}}
    )
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-9


@pytest.mark.parametrize("name", LAYERS)
def test_close_to_the_image_multipliers_are_the_gradient(name):
    network, image = settled(Net(name)), volume()
    away = torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1e-5
    found = explain(network, image, ["deep_lift"], target=0, options={"deep_lift": {"baseline": lambda x: x - away}})
    middle = (image - away / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(network(middle)[:, 0].sum(), middle)
    torch.testing.assert_close(found["deep_lift"], gradient * away, rtol=1e-5, atol=1e-11)


def test_softmax_of_logits_far_apart_neither_overflows_nor_divides_by_zero():
    one, other = torch.tensor([1000.0, 0, -1000, 5]).double(), torch.tensor([0.0, 1000, -1000, 5]).double()
    slopes = log_sum_exp_slopes(one, other, 0)
    assert float((slopes * (one - other)).sum()) == pytest.approx(0, abs=1e-9)
    mean = logarithmic_mean(torch.tensor([0.0, -torch.inf, 1]).double(), torch.tensor([0.0, -torch.inf, 0]).double())
    torch.testing.assert_close(mean, torch.tensor([1.0, 0, torch.e - 1]).double())


def test_a_comparison_that_comes_out_otherwise_for_the_baseline_is_refused():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x.exp(), x).flatten(1)[:, :2]

    image = volume().abs() + 1
    options = {"deep_lift": {"baseline": 0.5}}
    found = explain(Gate(), image, ["deep_lift"], target=0, options=options)
    assert max(found.records["deep_lift"]["claims"]["relative_gap"]) < 1e-12
    with pytest.raises(UsageError, match="'gt' comes out otherwise for the image than for the baseline"):
        explain(Gate(), image, ["deep_lift"], target=0, options={"deep_lift": {"baseline": -0.5}})


@pytest.mark.parametrize("kind", SHAPES)
def test_layer_deep_lift_is_complete_at_layers_that_all_passes_through(kind):
    network, image = case(kind)
    layers = ["body", "last"] if kind == "slices" else ["normalise", "last"]
    options = {"layer_deep_lift": {"baseline": 0.3}}
    found = explain(network, image, ["layer_deep_lift"], target=1, target_layer=layers, options=options)
    for layer in layers:
        claims = found.records[f"layer_deep_lift@{layer}"]["claims"]
        for gap, difference in zip(claims["completeness_gap"][layer], claims["score_difference"], strict=True):
            assert abs(gap) < 1e-9 * max(abs(difference), 1e-3)
    alone = explain(network, image, ["layer_deep_lift"], target=1, target_layer="last", options=options)
    torch.testing.assert_close(alone["layer_deep_lift"], found["layer_deep_lift@last"], **CLOSE)
    assert max(alone.records["layer_deep_lift"]["claims"]["relative_gap"]) < 1e-9


def test_layer_deep_lift_shows_what_a_shortcut_carries_past_the_layer():
    network, image = case("2D")
    found = explain(network, image, ["layer_deep_lift"], target=1, target_layer="block")
    assert min(found.records["layer_deep_lift"]["claims"]["relative_gap"]) > 1e-3


def test_layer_deep_lift_of_the_image_is_deep_lift():
    class Behind(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.input, self.network = nn.Identity(), network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(self.input(x))

    network, image = case("3D")
    found = explain(Behind(network), image, ["layer_deep_lift"], target=1, target_layer="input")["layer_deep_lift"]
    torch.testing.assert_close(found, explain(network, image, ["deep_lift"], target=1)["deep_lift"], **CLOSE)


class Gated(nn.Module):
    """A gate that the image drives by a way that carries no gradient, or dropout that is always on."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.gate = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(self.first(x)).flatten(2).mean(2))


def test_what_a_detached_gate_loses_is_logged(caplog):
    network = settled(Gated(lambda z: z * z.detach()))
    image = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    explain(network, image, ["deep_lift"], target=1, options={"deep_lift": {"baseline": 1.0}})
    assert "of the difference of scores is lost" in caplog.text


@pytest.mark.parametrize("method", ["deep_lift", "lrp_epsilon_plus"])
def test_dropout_that_stays_on_is_refused(method):
    network = settled(Gated(lambda z: functional.dropout(z, 0.5, training=True)))
    with pytest.raises(UsageError, match="'dropout'"):
        explain(network, torch.randn(1, 1, 8, 8, dtype=torch.float64), [method])
    network.gate = functional.dropout
    with pytest.raises(UsageError, match="'dropout'"):
        explain(network, torch.randn(1, 1, 8, 8, dtype=torch.float64), [method])
    network.gate = nn.Dropout(0.5)
    explain(network.eval(), torch.randn(1, 1, 8, 8, dtype=torch.float64), [method])
