"""One forward and one backward for all that is read off gradients: counted, and equal to what each would give alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr
from monai.networks.nets import DenseNet121, resnet18
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution import METHODS
from medsal.attribution.bias_terms import _sums, rescaled
from medsal.attribution.explain import explain
from medsal.errors import UsageError
from tests.networks_for_tests import BiasFree, case, conv, settled

both = pytest.mark.parametrize("dims", [2, 3])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
ONE_PASS = ["saliency", "input_x_gradient", "fullgrad", "cam", "gradcam", "gradcam_plus_plus", "xgradcam", "hirescam",
            "layercam", "eigencam", "eigengradcam"]  # fmt: skip


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        counts[0] += 1
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counts[1] += 1
        return gradient, None


class Counting(nn.Module):
    """Counts the forwards and backwards that go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        return _Count.apply(x, self.counts)


def counted(kind: str) -> tuple[nn.Sequential, list[int], Tensor]:
    network, image = case(kind)
    first = Counting()
    outer = nn.Sequential(first, network)
    if kind == "slices":
        outer.slice_axis = network.slice_axis
    return outer, first.counts, image


def volume(dims: int) -> Tensor:
    return torch.randn(2, 1, *(12, 8, 10)[:dims], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["2D", "3D", "slices"])
@pytest.mark.parametrize(("more", "backwards"), [
    ([], 1), (["guided_backprop", "guided_gradcam"], 2), (["guided_backprop", "deconvnet"], 3),
])  # fmt: skip
def test_eleven_methods_cost_one_forward_and_one_backward(kind, more, backwards):
    network, counts, image = counted(kind)
    explain(network, image, ONE_PASS + more, target=0)
    assert counts == [1, backwards]


def test_cam_methods_alone_do_not_go_below_their_layer():
    network, counts, image = counted("3D")
    explain(network, image, ["gradcam", "layercam"], target_layer="1.last")
    assert counts == [1, 0]


@pytest.mark.parametrize("kind", ["2D", "3D", "slices"])
def test_all_classes_cost_one_forward_and_equal_each_alone(kind):
    network, counts, image = counted(kind)
    methods = [*ONE_PASS, "guided_backprop", "smoothgrad"]
    options = {"smoothgrad": {"samples": 2}}
    classes = 2 if kind == "slices" else 3
    explain(network, image, [*ONE_PASS, "guided_backprop"], target="all")
    assert counts == [1, 2 * classes]
    found = explain(network, image, methods, target="all", options=options)
    assert found.target == [None, None]
    for name in methods:
        assert found[name].shape == (2, classes, *image.shape[2:])
    for k in range(classes):
        alone = explain(network, image, methods, target=k, options=options)
        for name in methods:
            torch.testing.assert_close(found[name][:, k : k + 1], alone[name], **CLOSE)
    gaps = found.records["fullgrad"]["claims"]["completeness_gap"]
    assert len(gaps) == classes
    torch.testing.assert_close(
        torch.tensor(gaps[-1]), torch.tensor(alone.records["fullgrad"]["claims"]["completeness_gap"])
    )


@both
def test_guided_backprop_and_deconvnet_are_those_of_captum(dims):
    # With ReLU modules used once and no shortcut, where captum is right.
    network = settled(nn.Sequential(conv(dims)(1, 4, 3), nn.ReLU(), conv(dims)(4, 5, 3), nn.ReLU(), nn.Flatten()))
    image = volume(dims)
    target = lambda z: z[:, ::7].sum(1)  # noqa: E731
    found = explain(network, image, ["guided_backprop", "deconvnet"], target=target)
    scored = nn.Sequential(network, Scored(target))
    for name, theirs in (("guided_backprop", attr.GuidedBackprop(scored)), ("deconvnet", attr.Deconvolution(scored))):
        with pytest.warns(UserWarning, match="."):
            wanted = theirs.attribute(image, 0)
        torch.testing.assert_close(found[name], wanted, **CLOSE)


class Scored(nn.Module):
    def __init__(self, score: Any) -> None:
        super().__init__()
        self.score = score

    def forward(self, z: Tensor) -> Tensor:
        return self.score(z)[:, None]


class Forms(nn.Module):
    """The same network with ReLUs written in four ways; the second one also feeds a shortcut before its activation."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        self.act = nn.ReLU(inplace="inplace" in form)

    def relu(self, z: Tensor) -> Tensor:
        if self.form == "functional":
            return functional.relu(z)
        return torch.relu_(z) if self.form == "functional inplace" else self.act(z)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        z = self.second(y)
        return self.head((self.relu(z.clone()) + z).flatten(2).mean(2))


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_every_way_to_write_a_relu_is_found_and_a_shortcut_keeps_its_gradient(method):
    image = volume(2)
    maps = [
        explain(settled(Forms(form)), image, [method], target=1)[method]
        for form in ("module", "inplace", "functional", "functional inplace")
    ]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=0, atol=0)
    network = settled(Forms("module"))
    z0 = network.first(image).requires_grad_()
    z1 = network.second(z0.relu())
    gradient = (network.head.weight[1] / z1[0, 0].numel()).view(1, -1, 1, 1).expand_as(z1)
    gate = gradient.clamp_min(0) * (z1 > 0 if method == "guided_backprop" else 1)
    below = torch.einsum("nohw,oi->nihw", gate + gradient, network.second.weight[:, :, 0, 0])
    below = below.clamp_min(0) * (z0 > 0 if method == "guided_backprop" else 1)
    wanted = functional.conv_transpose2d(below, network.first.weight)
    torch.testing.assert_close(maps[0], wanted.detach(), **CLOSE)


@both
def test_guided_backprop_is_the_gradient_where_all_later_weights_are_positive(dims):
    network = settled(BiasFree(dims))
    network.last.weight.data.abs_()
    network.head.weight.data.abs_()
    found = explain(network, volume(dims), ["guided_backprop", "input_x_gradient", "saliency"], target=1)
    torch.testing.assert_close(found["guided_backprop"].abs(), found["saliency"], **CLOSE)


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "guided_gradcam"])
def test_a_network_without_relu_is_refused_with_what_it_has(method):
    network = settled(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    with pytest.raises(UsageError, match=r"the network has none \(activations: silu 1x\)"):
        explain(network, volume(2), [method])


@pytest.mark.parametrize("act", [nn.Hardtanh(-1, 1), nn.Threshold(0.2, 0.0), nn.LeakyReLU()])
def test_what_is_cut_elsewhere_than_at_zero_is_no_relu(act):
    network = settled(nn.Sequential(nn.Conv2d(1, 4, 3), act, nn.Flatten(), nn.Linear(240, 2)))
    with pytest.raises(UsageError, match="the network has none"):
        explain(network, volume(2), ["guided_backprop"])


@pytest.mark.parametrize("act", [nn.Threshold(0.0, 0.0), lambda z: z.clamp(min=0), torch.relu])
def test_relus_of_other_names_are_guided(act):
    network = Forms("functional")
    network.relu = act
    image, networks = volume(2), (settled(network), settled(Forms("module")))
    found, wanted = (explain(each, image, "guided_backprop", target=1) for each in networks)
    torch.testing.assert_close(found["guided_backprop"], wanted["guided_backprop"], **CLOSE)


def test_terms_of_a_bias_per_channel_are_those_of_any_bias():
    gradient = 1 + torch.rand(2, 5, 4, 3).double()  # whose smallest magnitude is far from zero
    bias = torch.randn(5).double().view(-1, 1, 1) + 2
    signed, magnitude = _sums(bias, gradient)
    torch.testing.assert_close(signed, (bias * gradient).sum(1, keepdim=True), **CLOSE)
    torch.testing.assert_close(magnitude, rescaled(bias * gradient), **CLOSE)
    term = (bias * gradient).abs().flatten(1)
    low, high = term.amin(1), term.amax(1)
    wanted = ((bias * gradient).abs() - low.view(-1, 1, 1, 1)) / (high - low).view(-1, 1, 1, 1)
    torch.testing.assert_close(magnitude, wanted.sum(1, keepdim=True), **CLOSE)


def test_relu6_is_guided_too():
    network = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(240, 2)))
    image = 5 * volume(2)
    z = network[0](image)
    gradient = network[3].weight[0].view(1, *z.shape[1:]).expand_as(z)
    wanted = functional.conv_transpose2d(gradient.clamp_min(0) * ((z > 0) & (z < 6)), network[0].weight)
    assert (z > 6).any()
    torch.testing.assert_close(explain(network, image, "guided_backprop", target=0)["guided_backprop"], wanted.detach())


NETWORKS = {
    "resnet18 3D": (lambda: resnet18(spatial_dims=3, n_input_channels=1, num_classes=2), (1, 20, 24, 16)),
    "densenet121 3D": (lambda: DenseNet121(3, 1, 2), (1, 32, 34, 33)),
    "densenet121 2D": (lambda: DenseNet121(2, 3, 2), (3, 40, 48)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fullgrad_terms_sum_to_the_score_of_piecewise_linear_networks(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = settled(build())
    network.train()
    with torch.no_grad():
        network(torch.randn(4, *shape, dtype=torch.float64))
    network.eval()
    found = explain(network, torch.randn(2, *shape, dtype=torch.float64), ["fullgrad"], target=1)
    claims = found.records["fullgrad"]["claims"]
    assert max(claims["relative_gap"]) < 1e-9
    assert claims["biases"] > 15


@both
def test_the_signed_terms_of_fullgrad_lie_where_the_biases_act(dims):
    image = volume(dims)
    body = conv(dims)(1, 4, 3, padding=1), nn.ReLU()
    network = settled(nn.Sequential(*body, nn.Flatten(), nn.Linear(4 * image[0].numel(), 2)))
    found = explain(network, image, ["fullgrad"], target=0, options={"fullgrad": {"psi": "none"}})["fullgrad"]
    score = network(image)[:, 0] - network[3].bias[0]  # the bias of the linear layer has no place
    torch.testing.assert_close(found.flatten(1).sum(1), score.detach(), **CLOSE)


def test_fullgrad_rescales_each_layer_as_the_paper_does():
    network = settled(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 96, 2)))
    image = volume(2)
    x = image.clone().requires_grad_()
    z = network[0](x)
    score = network[3](z.relu().flatten(1))[:, 1].sum()
    of_x, of_z = torch.autograd.grad(score, [x, z])
    wanted = torch.zeros_like(image)
    for term in (x * of_x, network[0].bias.view(1, -1, 1, 1) * of_z):
        for i, one in enumerate(term.detach().abs()):
            wanted[i] += ((one - one.min()) / (one.max() - one.min())).sum(0, keepdim=True)
    torch.testing.assert_close(explain(network, image, "fullgrad", target=1)["fullgrad"], wanted, **CLOSE)


def test_every_method_of_one_pass_says_so_in_its_row():
    assert all(METHODS[name].cost == 0 for name in ONE_PASS)
