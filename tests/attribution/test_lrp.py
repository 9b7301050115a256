"""LRP: identities on networks whose answer is known, each rule against its formula, relevance kept, gates."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from medsal.attribution.rules.linear import LINEAR_RULES, Weighted
from medsal.attribution.rules.sums import SUM_RULES, share_sum
from medsal.errors import UsageError
from tests.networks_for_tests import SHAPES, BiasFree, case, conv, norm, settled

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
LRP = ["lrp_epsilon", "lrp_epsilon_plus", "lrp_epsilon_plus_flat", "lrp_epsilon_alpha2_beta1",
       "lrp_epsilon_alpha2_beta1_flat"]  # fmt: skip


def volume(dims: int, batch: int = 2, channels: int = 1) -> Tensor:
    return torch.randn(batch, channels, *(12, 8, 10)[:dims], dtype=torch.float64)


def total(relevance: Tensor) -> Tensor:
    return relevance.flatten(1).sum(1)


class Pooled(nn.Module):
    """A body, mean pooling over space, a linear head without bias."""

    def __init__(self, body: nn.Module, channels: int, classes: int = 3, *, bias: bool = False) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(2).mean(2))


# Identities 5 to 8.


@both
def test_lrp_epsilon_deep_lift_and_input_x_gradient_agree_on_homogeneous_networks(dims):
    network, image = settled(BiasFree(dims)), volume(dims)
    options = {"lrp_epsilon": {"epsilon": 0.0, "bias": "none"}}
    found = explain(network, image, ["lrp_epsilon", "input_x_gradient", "deep_lift"], target=2, options=options)
    torch.testing.assert_close(found["lrp_epsilon"], found["input_x_gradient"], **CLOSE)
    torch.testing.assert_close(found["deep_lift"], found["input_x_gradient"], **CLOSE)
    torch.testing.assert_close(total(found["lrp_epsilon"]), network(image)[:, 2].detach(), **CLOSE)


class Shortcut(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.first, self.last = conv(dims)(1, 5, 3, padding=1), conv(dims)(5, 5, 3, padding=1)
        self.normalise, self.act = norm(dims)(5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.normalise(self.first(x)))
        y = self.last(x)
        y += x
        return self.act(y)


@both
def test_lrp_epsilon_whose_biases_absorb_is_input_x_gradient_on_any_relu_network(dims):
    network, image = settled(Pooled(Shortcut(dims), 5, bias=True)), volume(dims)
    options = {"lrp_epsilon": {"epsilon": 0.0}}
    found = explain(network, image, ["lrp_epsilon", "input_x_gradient"], target=1, options=options)
    torch.testing.assert_close(found["lrp_epsilon"], found["input_x_gradient"], **CLOSE)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("method", LRP[1:])
def test_relevance_is_kept_through_gates_pools_shortcuts_biases_and_normalisation(kind, method):
    network, image = case(kind)
    found = explain(network, image, [method], target=1)
    start = network(image)[0].detach()[:, 0] if kind == "slices" else network(image)[:, 1].detach()
    torch.testing.assert_close(total(found[method]), start, **CLOSE)
    assert found.records[method]["claims"]["relevance_kept"] == pytest.approx([1, 1], abs=1e-9)


@both
@pytest.mark.parametrize("method", LRP[1:3])
def test_z_plus_relevance_of_a_positive_score_is_positive_where_the_head_has_one_sign(dims, method):
    network, image = settled(Pooled(Shortcut(dims), 5)), volume(dims)
    with torch.no_grad():
        network.head.weight.abs_()
    relevance = explain(network, image, [method], target=1)[method]
    assert relevance.min() >= 0
    assert relevance.max() > 0


@both
def test_excitation_is_a_probability_for_either_class_of_one_logit(dims):
    network, image = settled(Pooled(Shortcut(dims), 5, 1, bias=True)), volume(dims)
    maps = [explain(network, image, ["excitation_backprop"], target=t)["excitation_backprop"] for t in (0, 1)]
    for relevance in maps:
        assert relevance.min() >= 0
        torch.testing.assert_close(total(relevance), torch.ones(2, dtype=torch.float64), **CLOSE)
    assert not torch.allclose(*maps)
    with torch.no_grad():
        network.head.weight.neg_()
    turned = explain(network, image, ["excitation_backprop"], target=1)["excitation_backprop"]
    torch.testing.assert_close(turned, maps[0], **CLOSE)


# Each rule against its formula, by the dense matrix of the operation.

OPERATIONS = {
    "conv2d": (lambda z, w, b: functional.conv2d(z, w, b, stride=2, padding=1), (2, 3, 6, 5), (4, 3, 3, 3)),
    "conv2d grouped": (lambda z, w, b: functional.conv2d(z, w, b, groups=2), (2, 4, 5, 5), (6, 2, 3, 3)),
    "conv3d": (lambda z, w, b: functional.conv3d(z, w, b, padding=(1, 0, 1)), (2, 2, 4, 3, 5), (3, 2, 3, 3, 2)),
    "conv_transpose2d": (lambda z, w, b: functional.conv_transpose2d(z, w, b, stride=2), (2, 16, 3, 4), (16, 4, 3, 3)),
    "linear": (functional.linear, (2, 4, 24), (5, 24)),
}


def dense(name: str) -> tuple[Weighted, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """An operation, its input and relevance; contributions ``(image, output, input)``, bias, and what it can see."""
    apply, x_shape, w_shape = OPERATIONS[name]
    x, weight = torch.randn(x_shape, dtype=torch.float64), torch.randn(w_shape, dtype=torch.float64)
    outputs = apply(x, weight, None)
    bias = torch.randn(w_shape[1] if "transpose" in name else w_shape[0], dtype=torch.float64)

    def matrix(w: Tensor) -> Tensor:
        rows = torch.func.jacrev(lambda z: apply(z[None], w, None)[0])(x[0])
        return rows.reshape(outputs[0].numel(), -1)

    parts = matrix(weight) * x.flatten(1)[:, None]
    biases = (apply(torch.zeros_like(x), weight, bias)[0]).flatten()
    return Weighted(apply, weight, bias, keeps=False), x, torch.randn_like(outputs), parts, biases, matrix(
        torch.ones_like(weight)
    )  # fmt: skip


def shared(parts: Tensor, totals: Tensor, relevance: Tensor) -> Tensor:
    return torch.einsum("noi,no->ni", parts, relevance.flatten(1) / totals)


EPSILON = 1e-3


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("absorb", [True, False])
def test_rules_of_weighted_operations_equal_their_formulas(name, absorb):
    operation, x, relevance, parts, bias, seen = dense(name)
    if not absorb:
        operation, bias = Weighted(operation.apply, operation.weight), torch.zeros_like(bias)
    plus, minus = parts.clamp_min(0), parts.clamp_max(0)
    up, down = plus.sum(2) + bias.clamp_min(0), minus.sum(2) + bias.clamp_max(0)
    stable = EPSILON if absorb else 0
    z = parts.sum(2) + bias
    wanted = {
        "z_plus": shared(plus, up + stable, relevance),
        "flat": shared(seen.expand_as(parts), seen.sum(1), relevance),
    }
    if absorb:
        wanted["epsilon"] = shared(parts, z + EPSILON * z.sign(), relevance)
        either = 2 * shared(plus, up + stable, relevance) - shared(minus, down - stable, relevance)
        wanted["alpha2_beta1"] = either
    else:
        most = EPSILON * z.sign()[..., None] * parts.abs()
        wanted["epsilon"] = shared(parts + most, z + most.sum(2), relevance)
        alone = torch.where(up > 0, torch.where(down < 0, 2, 1), 0), torch.where(up > 0, -1, 1)
        tiny = 1e-300
        wanted["alpha2_beta1"] = shared(plus, up + tiny, alone[0] * relevance.flatten(1)) + shared(
            minus, down - tiny, alone[1] * relevance.flatten(1)
        )
    for rule, expected in wanted.items():
        found = LINEAR_RULES[rule](operation, x, relevance, EPSILON)
        torch.testing.assert_close(found.flatten(1), expected, **CLOSE, msg=lambda m, rule=rule: f"{rule}: {m}")
    rising, falling = relevance.clamp_min(0), -relevance.clamp_max(0)
    found = LINEAR_RULES["excitation"](operation, x, relevance, EPSILON)
    expected = shared(plus, up + stable, rising) + shared(-minus, -down + stable, falling)
    torch.testing.assert_close(found.flatten(1), expected, **CLOSE)


@pytest.mark.parametrize("rule", LINEAR_RULES)
@pytest.mark.parametrize("x", [[0.0, 0, 0, 0], [-1.0, -2, 0, -3], [1.0, 0, 0, 0]])
@pytest.mark.parametrize("sign", [1, -1])
def test_relevance_of_an_output_to_which_nothing_contributes_is_not_lost(rule, x, sign):
    operation = Weighted(functional.linear, torch.tensor([[1.0, 2, 3, 4], [0, 1, 1, 0], [-1, -1, 2, 0]]) * sign)
    relevance = torch.tensor([[5.0, 2, 0.5]])
    found = LINEAR_RULES[rule](operation, torch.tensor([x]), relevance, 1e-3)
    assert float(found.sum()) == pytest.approx(7.5, rel=1e-6)
    assert found.isfinite().all()


@pytest.mark.parametrize("counts", SUM_RULES)
def test_sums_keep_relevance_also_where_their_terms_cancel_or_vanish(counts):
    terms = [torch.tensor([[1.0, -2.0, 0.0, 3.0]]), torch.tensor([[2.0, 2.0, 0.0, -1.0]])]
    relevance = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    one, other = share_sum(torch.add, terms, relevance, counts, 0.0)
    torch.testing.assert_close(one + other, relevance)
    assert one[0, 2] == 1.5
    expected = {"signed": 6.0, "magnitude": 3.0, "positive": 4.0}[counts]
    assert float(one[0, 3]) == pytest.approx(expected)


# What is special about operations of networks.


@pytest.mark.parametrize("gate", [
    lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)), lambda x: functional.hardsigmoid(x) * 2,
    lambda x: (x.softmax(1) + 1).clone(), lambda x: torch.rsqrt(1 + x.square()), lambda x: 1 - x.sigmoid_(),
])  # fmt: skip
def test_a_gate_takes_no_relevance(gate):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(1, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, 3)
            return (self.first(left) * gate(self.second(right))).mean((2, 3))

    found = explain(settled(Gated()), volume(2), ["lrp_epsilon_plus"], target=0)
    relevance = found["lrp_epsilon_plus"]
    assert relevance[..., :4].abs().max() > 0
    assert relevance[..., 4:].abs().max() == 0
    assert found.records["lrp_epsilon_plus"]["claims"]["relevance_kept"] == pytest.approx([1, 1], abs=1e-9)


@pytest.mark.parametrize("combine", [
    lambda a, b: a - b, lambda a, b: torch.add(a, b, alpha=3), lambda a, b: torch.sub(a, b, alpha=0.5),
    lambda a, b: torch.rsub(a, b, alpha=2), lambda a, b: a.clone().sub_(b, alpha=2), lambda a, b: 2 * a + b / 3 - 0 * a,
    lambda a, b: a + b.mean((2, 3), keepdim=True), lambda a, b: -a + b.sum(3, keepdim=True),
])  # fmt: skip
def test_sums_and_differences_of_any_form_share_by_sign_in_the_epsilon_rule(combine):
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return combine(*x.chunk(2, 3)).flatten(1)[:, :3]

    options = {"lrp_epsilon": {"epsilon": 0.0}}
    found = explain(Sum(), volume(2), ["lrp_epsilon", "input_x_gradient"], target=1, options=options)
    torch.testing.assert_close(found["lrp_epsilon"], found["input_x_gradient"], **CLOSE)


def test_factors_that_are_no_gates_take_the_same():
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :1] * x[:, 1:]).flatten(1)

    image = torch.rand(1, 2, 3, 3, dtype=torch.float64) + 1
    found = explain(Product(), image, ["lrp_epsilon"], target=4)
    relevance = found["lrp_epsilon"]
    torch.testing.assert_close(relevance[0, 0, 1, 1], image[0, :, 1, 1].prod(), rtol=1e-5, atol=0)
    by_channel = explain(Product(), image, ["lrp_epsilon"], target=4, options={"lrp_epsilon": {"channels": "max"}})
    torch.testing.assert_close(by_channel["lrp_epsilon"], relevance / 2)


@pytest.mark.parametrize("attend", [
    lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v,
    functional.scaled_dot_product_attention,
    lambda q, k, v: torch.einsum("nij,njc->nic", torch.softmax(torch.einsum("nic,njc->nij", q, k), -1), v),
])  # fmt: skip
def test_attention_gives_relevance_to_the_values_alone(attend):
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.flatten(2).transpose(1, 2).split(2, 2)
            return attend(q, k, v).mean(1)

    image = volume(2, 1, 6)
    relevance = explain(Attention(), image, ["lrp_epsilon"], target=0,
                        options={"lrp_epsilon": {"channels": "sum"}})["lrp_epsilon"]  # fmt: skip
    q, k, v = image.flatten(2).transpose(1, 2).split(2, 2)
    weights = (q @ k.transpose(1, 2) / (2**0.5 if attend is functional.scaled_dot_product_attention else 1)).softmax(-1)
    wanted = (weights.mean(1)[..., None] * v)[..., 0]
    torch.testing.assert_close(relevance.flatten(1), wanted, rtol=1e-4, atol=1e-9)


def test_relevance_passes_a_black_background():
    network = settled(Pooled(Shortcut(2), 5, bias=True))
    image = torch.zeros(1, 1, 12, 16, dtype=torch.float64)
    image[..., 4:8, 4:8] = torch.rand(4, 4, dtype=torch.float64)
    found = explain(network, image, ["lrp_epsilon_plus"], target=0)
    assert found.records["lrp_epsilon_plus"]["claims"]["relevance_kept"] == pytest.approx([1], abs=1e-9)


def test_padding_that_is_an_operation_takes_nothing_from_the_flat_rule():
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(functional.pad(x, (2, 2, 2, 2))).relu()

    inside, image = Pooled(Padded(), 5), volume(2)
    plain = Pooled(nn.Sequential(nn.Conv2d(1, 5, 5, padding=2), nn.ReLU()), 5)
    settled(inside), settled(plain)
    maps = [explain(n, image, [LRP[2]], target=1)[LRP[2]] for n in (inside, plain)]
    torch.testing.assert_close(*maps, **CLOSE)


def test_the_log_warns_beyond_the_tolerance(caplog):
    network, image = case("2D")
    with caplog.at_level(logging.WARNING, logger="medsal"):
        explain(network, image, ["lrp_epsilon_plus"])
        assert not caplog.records
        explain(network, image, ["lrp_epsilon_plus"], options={"lrp_epsilon_plus": {"bias": "absorb"}})
        assert "of the relevance of image 0 reached it" in caplog.text
        caplog.clear()
        options = {"lrp_epsilon_plus": {"bias": "absorb", "tolerance": 1e9}}
        explain(network, image, ["lrp_epsilon_plus"], options=options)
        assert not caplog.records


@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning")
def test_operations_without_a_rule_scripts_and_unknown_options_are_refused():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).cumsum(1)[:, :2]

    image = torch.randn(1, 1, 4, 4)
    with pytest.raises(UsageError, match="uses 'cumsum', for which this method has no rule"):
        explain(Net(), image, ["lrp_epsilon_plus"])
    scripted = torch.jit.trace(BiasFree(2), torch.randn(1, 1, 8, 8))
    with pytest.raises(UsageError, match="is TorchScript"):
        explain(scripted, torch.randn(1, 1, 8, 8), ["lrp_epsilon"])
    with pytest.raises(UsageError, match="bias: wanted one of none, absorb, got 'keep'"):
        explain(BiasFree(2), torch.randn(1, 1, 8, 8), ["lrp_epsilon"], options={"lrp_epsilon": {"bias": "keep"}})


def test_every_operation_that_had_a_rule_is_counted():
    network, image = case("2D")
    found = explain(network, image, ["lrp_epsilon_plus"])
    assert found.records["lrp_epsilon_plus"]["claims"]["operations"] == {
        "conv2d": 3, "batch_norm": 1, "relu": 2, "add": 1, "mean": 2, "linear": 2, "sigmoid": 1, "mul": 1, "silu": 1,
    }  # fmt: skip


@pytest.mark.parametrize("method", [*LRP, "excitation_backprop"])
def test_half_precision_of_the_operations_changes_little(method):
    network, image = case("2D")
    network, image = network.float(), image.float()
    wanted = explain(network, image, [method], target=1)[method]
    found = explain(network, image, [method], target=1, autocast=torch.bfloat16)[method]
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert not torch.equal(found, wanted)


def test_a_gate_that_is_overwritten_is_a_gate_no_more():
    class Gated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, c = x.split(1, 1)
            gate = torch.sigmoid(a)
            gate *= b  # a signal from here on
            return (gate * c.exp()).flatten(1)

    image = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    options = {"lrp_epsilon": {"channels": "sum_abs"}}
    found = explain(Gated(), image, ["lrp_epsilon"], target=0, options=options)["lrp_epsilon"]
    by_channel = explain(Gated(), image, ["lrp_epsilon"], target=0, options={"lrp_epsilon": {"channels": "max_abs"}})
    torch.testing.assert_close(by_channel["lrp_epsilon"], found / 2)


@pytest.mark.filterwarnings("ignore:None of the inputs")  # the baseline runs without gradients
@pytest.mark.parametrize("method", ["lrp_epsilon_plus", "deep_lift", "layer_deep_lift"])
@pytest.mark.parametrize(("reentrant", "message"), [
    (True, "autograd function 'CheckpointFunction', inside which rules see nothing"),
    (False, "as checkpointing does, and runs parts again where rules see nothing"),
])  # fmt: skip
def test_checkpointing_inside_which_rules_see_nothing_is_refused(method, reentrant, message):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(BiasFree):
        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(lambda z: self.last(z.relu()).relu(), self.first(x), use_reentrant=reentrant)
            return self.head(x.mean((2, 3)))

    network, image = settled(Checkpointed(2)), volume(2)
    with pytest.raises(UsageError, match=message):
        explain(network, image, [method], target=0, target_layer="first")


def test_a_softmax_behind_the_logits_passes_relevance():
    network, image = settled(Pooled(nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Identity()), 5)), volume(2)
    ended = nn.Sequential(network, nn.Softmax(1))
    found = explain(ended, image, ["lrp_epsilon_plus"], target=1)
    torch.testing.assert_close(total(found["lrp_epsilon_plus"]), ended(image)[:, 1].detach(), **CLOSE)
