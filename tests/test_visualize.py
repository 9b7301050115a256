"""Drop-in classes: equal to ``monai.visualize`` where that is right, and right where it is not."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import monai.visualize as theirs
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DenseNet, resnet18
from torch import Tensor, nn

import medsal.visualize as ours
from medsal.errors import UsageError
from tests.networks_for_tests import settled

pytestmark = [  # what MONAI's own classes say
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
NAMES = [
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "VanillaGrad",
    "SmoothGrad",
    "GuidedBackpropGrad",
    "GuidedBackpropSmoothGrad",
    "OcclusionSensitivity",
]


def densenet(dims: int = 2, channels: int = 1, classes: int = 3) -> DenseNet:
    """MONAI's own, small: a ReLU of its own name before the pooling, and one linear layer behind."""
    torch.manual_seed(1)
    network = DenseNet(dims, channels, classes, init_features=6, growth_rate=4, block_config=(2, 2), bn_size=1)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        network.class_layers.out.weight.mul_(3)
    return network.eval()


def images(dims: int = 2, batch: int = 3, channels: int = 1) -> Tensor:
    return torch.randn(batch, channels, *(24, 20, 16)[:dims], generator=torch.Generator().manual_seed(2))


def same(x: Any) -> Any:
    return x


LAYER = "class_layers.relu"
MAKERS: dict[str, Callable[[Any, nn.Module], Any]] = {
    "CAM": lambda m, net: m.CAM(net, LAYER, "class_layers.out", postprocessing=same),
    "GradCAM": lambda m, net: m.GradCAM(net, LAYER, postprocessing=same),
    "VanillaGrad": lambda m, net: m.VanillaGrad(net),
    "GuidedBackpropGrad": lambda m, net: m.GuidedBackpropGrad(net),
    "OcclusionSensitivity": lambda m, net: m.OcclusionSensitivity(
        net, mask_size=7, verbose=False, activate=lambda z: z.softmax(1)
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_monai_is_taken_in_its_place(name: str) -> None:
    for call in ("__init__", "__call__"):
        wanted = inspect.signature(getattr(getattr(theirs, name), call)).parameters
        found = inspect.signature(getattr(getattr(ours, name), call)).parameters
        assert list(found)[: len(wanted)] == list(wanted) or "kwargs" in list(wanted)
        assert [p for p in wanted if p != "kwargs"] == [p for p in found if p in wanted and p != "kwargs"]
        for key, parameter in wanted.items():
            if key != "postprocessing" and not callable(parameter.default):
                assert found[key].default == parameter.default, key


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_for_one_image_the_values_are_those_of_monai(name: str, dims: int) -> None:
    image = images(dims, batch=1)
    wanted = MAKERS[name](theirs, densenet(dims))(image.clone())
    found = MAKERS[name](ours, densenet(dims))(image)
    if name == "OcclusionSensitivity":
        assert torch.equal(found[1], torch.as_tensor(wanted[1]).as_subclass(Tensor))
        found, wanted = found[0], torch.as_tensor(wanted[0])
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted.detach().as_subclass(Tensor), **CLOSE)


@pytest.mark.parametrize("mode", [0.25, "mean_img", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.6])
def test_occlusion_is_monais_in_every_mode(mode: Any, overlap: float) -> None:
    given = {"mask_size": (6, 5), "mode": mode, "overlap": overlap, "verbose": False, "activate": False}
    image = images(batch=1)
    wanted, _ = theirs.OcclusionSensitivity(densenet(), **given)(image)
    found, _ = ours.OcclusionSensitivity(densenet(), **given)(image)
    torch.testing.assert_close(found, wanted.as_subclass(Tensor), **CLOSE)


def test_the_mean_of_a_patch_replaces_it_and_functions_are_called() -> None:
    """MONAI multiplies by the mean in place of it, and refuses functions, both against its own documentation."""
    image, given = images(batch=1), {"mask_size": 6, "verbose": False, "activate": False}
    mean, _ = ours.OcclusionSensitivity(densenet(), mode="mean_patch", **given)(image)
    by_hand, _ = ours.OcclusionSensitivity(densenet(), mode=lambda _, part: part.mean().expand_as(part), **given)(image)
    torch.testing.assert_close(mean, by_hand)
    times, _ = ours.OcclusionSensitivity(densenet(), mode=lambda _, part: part * part.mean(), **given)(image)
    theirs_mean, _ = theirs.OcclusionSensitivity(densenet(), mode="mean_patch", **given)(image)
    torch.testing.assert_close(theirs_mean.as_subclass(Tensor), times, **CLOSE)
    assert not torch.allclose(mean, times, rtol=1e-2)
    with pytest.raises(RuntimeError, match="Shouldn't be here"):
        theirs.OcclusionSensitivity(densenet(), mode=lambda _, part: part, **given)(image)


@pytest.mark.parametrize("n_batch", [1, 5])
def test_the_size_of_forwards_changes_nothing_and_is_kept(n_batch: int) -> None:
    seen: list[int] = []
    network = densenet()
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    one, _ = ours.OcclusionSensitivity(network, mask_size=9, n_batch=n_batch)(images(batch=1))
    assert max(seen) == n_batch
    torch.testing.assert_close(one, ours.OcclusionSensitivity(densenet(), mask_size=9)(images(batch=1))[0], **CLOSE)


@pytest.mark.parametrize("index", [None, 1, [2, 0, 1]])
@pytest.mark.parametrize("name", [*MAKERS, "GradCAMpp", "SmoothGrad", "GuidedBackpropSmoothGrad"])
def test_a_batch_is_its_images(name: str, index: Any) -> None:
    make = MAKERS.get(name) or (
        (lambda m, net: m.GradCAMpp(net, LAYER))
        if name == "GradCAMpp"
        else lambda m, net: getattr(m, name)(net, n_samples=3)
    )
    batch, call = images(), make(ours, densenet())
    if name == "OcclusionSensitivity":
        whole, each = call(batch)[0], [call(one)[0] for one in batch.split(1)]
    else:
        whole = call(batch, index)
        each = [call(one, index[i] if isinstance(index, list) else index) for i, one in enumerate(batch.split(1))]
    torch.testing.assert_close(whole, torch.cat(each), **CLOSE)
    assert len({float(part[0].sum()) for part in whole}) == 3


def test_monais_gradcam_of_a_batch_mixes_the_images() -> None:
    network = densenet()
    with torch.no_grad():  # so that the images have different classes
        network.class_layers.out.bias.sub_(network(images()).mean(0))
    assert len(set(network(images()).argmax(1).tolist())) > 1
    wanted = torch.cat([theirs.GradCAM(network, LAYER, postprocessing=same)(one) for one in images().split(1)])
    mixed = theirs.GradCAM(network, LAYER, postprocessing=same)(images())
    assert (mixed - wanted).abs().max() > 0.05 * wanted.abs().max()
    torch.testing.assert_close(ours.GradCAM(network, LAYER)(images()), wanted, **CLOSE)


def test_gradcam_plus_plus_needs_no_exponential() -> None:
    image = images(batch=1)
    found = ours.GradCAMpp(densenet(), LAYER)(image, class_idx=1)
    score = densenet()(image)[0, 1].exp()
    wanted = theirs.GradCAMpp(densenet(), LAYER, postprocessing=same)(image, class_idx=1).detach()
    torch.testing.assert_close(found * score, wanted, rtol=1e-2, atol=1e-5)
    with pytest.raises(RuntimeError):
        theirs.GradCAMpp(densenet(), LAYER)(images())
    loud = densenet()
    with torch.no_grad():
        loud.class_layers.out.bias[1] = 200.0
    assert not torch.isfinite(theirs.GradCAMpp(loud, LAYER, postprocessing=same)(image, class_idx=1)).all()
    torch.testing.assert_close(ours.GradCAMpp(loud, LAYER)(image, class_idx=1), found, **CLOSE)


def test_maps_are_not_turned_round() -> None:
    image = images(batch=1)
    found = ours.GradCAM(densenet(), LAYER)(image, 1)
    turned = theirs.GradCAM(densenet(), LAYER)(image, 1)
    assert torch.corrcoef(torch.stack([found.flatten(), turned.flatten()]))[0, 1] < -0.999
    as_monai = ours.GradCAM(densenet(), LAYER, postprocessing=theirs.default_normalizer)(image, 1)
    torch.testing.assert_close(as_monai, turned, **CLOSE)


def test_cam_takes_a_class() -> None:
    image = images()
    cam = ours.CAM(densenet(), LAYER, lambda net: net.class_layers.out)
    with pytest.raises(TypeError):
        theirs.CAM(densenet(), LAYER, "class_layers.out")(image, class_idx=1)
    torch.testing.assert_close(cam.compute_map(image, 1).flatten(1).mean(1), densenet()(image)[:, 1].detach(), **CLOSE)


def test_guided_backpropagation_is_not_the_plain_gradient() -> None:
    torch.manual_seed(0)
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=2).eval()
    image = images(batch=1)
    plain = theirs.VanillaGrad(network)(image.clone(), 1)
    assert torch.equal(theirs.GuidedBackpropGrad(network)(image.clone(), 1), plain)  # by name: it finds no ReLU there
    assert (ours.GuidedBackpropGrad(network)(image, 1) - plain).abs().max() > 0.05 * plain.abs().max()
    with pytest.raises(UsageError, match="ReLU"):
        ours.GuidedBackpropGrad(nn.Sequential(nn.Flatten(), nn.Linear(480, 2), nn.SiLU()))(image)


def test_gradients_do_not_add_up_from_call_to_call() -> None:
    image = images(batch=1)
    both = []
    for module in (theirs, ours):
        call, x = module.VanillaGrad(densenet()), image.clone()
        both.append((call(x, 1).clone(), call(x, 1), x))
    torch.testing.assert_close(both[0][1], 2 * both[0][0], **CLOSE)
    torch.testing.assert_close(both[1][1], both[1][0], **CLOSE)
    assert both[0][2].requires_grad
    assert not both[1][2].requires_grad
    with pytest.raises(ValueError, match="batch size"):
        theirs.VanillaGrad(densenet())(images())


class Linear(nn.Module):
    """A score that is linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 480))

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return nn.functional.linear(x.flatten(1), torch.cat([self.weight, -self.weight])) * factor


@pytest.mark.parametrize("samples", [4, 25])
def test_the_magnitude_of_smoothgrad_does_not_shrink_with_samples(samples: int) -> None:
    network, image = Linear(), images(batch=1)
    gradient = network.weight.detach().abs().view_as(image)
    torch.testing.assert_close(ours.SmoothGrad(network, n_samples=samples)(image, 0), gradient, **CLOSE)
    shrunk = theirs.SmoothGrad(network, n_samples=samples, verbose=False)(image, 0)
    torch.testing.assert_close(shrunk, gradient / samples**0.5, **CLOSE)
    signed = ours.SmoothGrad(network, n_samples=samples, magnitude=False)(image, 1)
    torch.testing.assert_close(signed, -network.weight.detach().view_as(image), **CLOSE)


@pytest.mark.parametrize("name", ["SmoothGrad", "GuidedBackpropSmoothGrad"])
def test_noise_has_a_seed(name: str) -> None:
    image = images(batch=1)
    maps = [getattr(ours, name)(densenet(), n_samples=2, seed=seed)(image, 1) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    still = getattr(ours, name)(densenet(), stdev_spread=0.0, n_samples=2, magnitude=False)(image, 1)
    single = ours.VanillaGrad if name == "SmoothGrad" else ours.GuidedBackpropGrad
    torch.testing.assert_close(still, single(densenet())(image, 1), **CLOSE)


@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (3, 1)])
def test_probabilities_follow_the_logits_not_the_channels_of_the_image(channels: int, classes: int) -> None:
    image = images(batch=1, channels=channels)
    found, _ = ours.OcclusionSensitivity(densenet(2, channels, classes), mask_size=9)(image)
    wrong, _ = theirs.OcclusionSensitivity(densenet(2, channels, classes), mask_size=9, verbose=False)(image)
    if classes > 1:
        torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]), **CLOSE)
        assert (wrong.sum(1) - 1).abs().min() > 0.1
    else:
        assert found.std() > 0
        assert torch.allclose(wrong.as_subclass(Tensor), torch.ones_like(found))


def test_a_box_has_its_last_voxel() -> None:
    image = images(batch=1)
    given = {"mask_size": 5, "mode": 0.0, "activate": False, "verbose": False}
    whole, _ = ours.OcclusionSensitivity(densenet(), **{**given, "overlap": 0.79})(image)
    found, best = ours.OcclusionSensitivity(densenet(), **{**given, "overlap": 0.79})(image, b_box=[0, 3, 4, -1])
    assert found.shape == (1, 3, 4, 16)
    assert best.shape == (1, 1, 4, 16)
    torch.testing.assert_close(found[..., 4:10], whole[:, :, 0:4, 4:][..., 4:10], rtol=0.2, atol=0.2)
    cut, _ = theirs.OcclusionSensitivity(densenet(), **given)(image, b_box=[0, 3, 4, -1])
    assert cut.shape == (1, 3, 3, 16)
    one, _ = ours.OcclusionSensitivity(densenet(), **given)(image, b_box=[0, 0, -1, -1])
    assert one.shape == (1, 3, 1, 20)


def test_a_whole_number_is_a_mode() -> None:
    image = images(batch=1)
    zero = [ours.OcclusionSensitivity(densenet(), mask_size=9, mode=mode)(image)[0] for mode in (0, 0.0)]
    assert torch.equal(*zero)
    with pytest.raises(TypeError):
        theirs.OcclusionSensitivity(densenet(), mask_size=9, mode=0, verbose=False)(image)


def state(network: nn.Module) -> list[Any]:
    return [
        [
            (m.training, len(m._forward_hooks), len(m._backward_hooks), getattr(m, "inplace", None))
            for m in network.modules()
        ],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()],
        copy.deepcopy(network.state_dict()),
    ]


@pytest.mark.parametrize("name", [*MAKERS, "SmoothGrad"])
def test_the_network_is_given_back_as_it_was(name: str) -> None:
    network = densenet().train()
    network.features.eval()
    next(network.parameters()).requires_grad_(False)
    next(iter(network.class_layers.out.parameters())).grad = torch.ones(3, network.class_layers.out.in_features)
    wrong = torch.randn(1, 2, 24, 20)  # the network wants one channel
    before, random = state(network), torch.get_rng_state()
    make = MAKERS.get(name) or (lambda m, net: m.SmoothGrad(net, n_samples=2))
    call = make(ours, network)
    with torch.no_grad():
        call(images(batch=1))
    with pytest.raises(Exception, match="channels"):
        call(wrong)
    after = state(network)
    assert after[0] == before[0]
    assert torch.equal(torch.get_rng_state(), random)
    for (flag, gradient), (wanted, kept) in zip(after[1], before[1], strict=True):
        assert flag == wanted
        assert (gradient is None) == (kept is None)
    for key, value in before[2].items():
        assert torch.equal(value, after[2][key]), key


def test_frozen_networks_are_explained() -> None:
    frozen = densenet().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((RuntimeError, IndexError)):
            theirs.GradCAM(densenet().requires_grad_(False), LAYER)(images(batch=1))
    torch.testing.assert_close(ours.GradCAM(frozen, LAYER)(images()), ours.GradCAM(densenet(), LAYER)(images()))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dims", [2, 3])
def test_meta_is_kept(name: str, dims: int) -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(images(dims, batch=1), affine=affine, meta={"filename_or_obj": "a.nii"})
    found = MAKERS[name](ours, densenet(dims))(image)
    for one in found if isinstance(found, tuple) else [found]:
        assert isinstance(one, MetaTensor)
        assert one.meta["filename_or_obj"] == "a.nii"
        torch.testing.assert_close(one.affine, affine)
    plain = MAKERS[name](ours, densenet(dims))(image.as_tensor())
    torch.testing.assert_close((found[0] if isinstance(found, tuple) else found).as_tensor(),
                               plain[0] if isinstance(plain, tuple) else plain)  # fmt: skip


def test_the_map_of_a_layer_has_the_affine_of_its_own_grid() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(images(3, batch=1), affine=affine)
    cam = ours.GradCAM(densenet(3), LAYER)
    found = cam.compute_map(image)
    assert tuple(found.shape) == tuple(cam.feature_map_size(image.shape))
    ratio = torch.tensor([24 / found.shape[2], 20 / found.shape[3], 16 / found.shape[4]], dtype=torch.float64)
    torch.testing.assert_close(found.affine.diagonal()[:3], affine.diagonal()[:3] * ratio)
    assert torch.equal(theirs.GradCAM(densenet(3), LAYER).compute_map(image).affine, affine)  # the image's: wrong
    part, _ = ours.OcclusionSensitivity(densenet(3), mask_size=9)(image, b_box=[2, 5, -1, -1, 3, 4])
    assert part.affine[:3, 3].tolist() == [4.0, 0.0, 12.0]


def test_further_arguments_reach_the_network() -> None:
    network, image = Linear(), images()
    for call in (ours.VanillaGrad(network), ours.SmoothGrad(network, n_samples=2, magnitude=False)):
        torch.testing.assert_close(call(image, 0, factor=3.0), 3 * call(image, 0), **CLOSE)
    hidden = ours.OcclusionSensitivity(network, mask_size=9, activate=False)
    torch.testing.assert_close(hidden(image, factor=3.0)[0], 3 * hidden(image)[0], **CLOSE)

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = densenet()

        def forward(self, x: Tensor, *, factor: float) -> Tensor:
            return self.body(x) * factor

    cam = ours.GradCAM(Called(), f"body.{LAYER}")
    torch.testing.assert_close(cam(image, 1, factor=2.0), 2 * ours.GradCAM(densenet(), LAYER)(image, 1), **CLOSE)


def test_the_one_output_of_a_network_is_number_0() -> None:
    network, image = densenet(classes=1), images(batch=1)
    for index in (None, 0):
        wanted = theirs.VanillaGrad(densenet(classes=1))(image.clone(), index)
        torch.testing.assert_close(ours.VanillaGrad(network)(image, index), wanted, **CLOSE)
    with pytest.raises(UsageError, match="output 0 only"):
        ours.VanillaGrad(network)(image, 1)


def test_several_target_layers() -> None:
    layers = ["features.denseblock1", LAYER]
    cam = ours.GradCAM(densenet(), layers)
    for index, layer in [(0, layers[0]), (-1, LAYER), (1, LAYER)]:
        assert torch.equal(cam(images(), layer_idx=index), ours.GradCAM(densenet(), layer)(images()))


def test_monais_wrapper_and_the_setter_are_understood() -> None:
    network = densenet()
    wrapped = theirs.ModelWithHooks(network, (LAYER,), register_forward=True)
    assert ours.GradCAM(wrapped, LAYER).nn_module is network
    call = ours.VanillaGrad(Linear())
    call.model = network
    assert call.model is network


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: ours.GradCAM(n, "absent")(x), "no layer 'absent'"),
        (lambda n, x: ours.GradCAM(n, LAYER)(x, layer_idx=1), "layer_idx: wanted one of 1"),
        (lambda n, x: ours.GradCAM(n, LAYER)(x, 5), "wanted a class from 0 to 2, got 5"),
        (lambda n, x: ours.GradCAM(lambda image: image, LAYER)(x), "wanted a torch.nn.Module"),
        (lambda n, x: ours.CAM(n, LAYER)(x), "fc_layers: the network has no layer 'fc'"),
        (lambda n, x: ours.CAM(n, LAYER, LAYER)(x), "fc_layers: wanted a layer that gives the 3 outputs"),
        (lambda n, x: ours.SmoothGrad(n, n_samples=0)(x), "n_samples: wanted at least 1"),
        (lambda n, x: ours.OcclusionSensitivity(n, mode="median")(x), "mode: wanted a number"),
        (lambda n, x: ours.OcclusionSensitivity(n, overlap=1.0)(x), "overlap < 1"),
        (lambda n, x: ours.OcclusionSensitivity(n, mask_size=30)(x), "mask_size: wanted sizes from 1"),
        (lambda n, x: ours.OcclusionSensitivity(n, mask_size=3)(x, b_box=[0, 3]), "for each of 2 axes"),
        (lambda n, x: ours.OcclusionSensitivity(n, mask_size=3)(x, b_box=[0, 30, 0, 3]), "inside the image"),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(densenet(), images())


def test_settled_networks_of_other_precision() -> None:
    network = settled(densenet())
    found, _ = ours.OcclusionSensitivity(network, mask_size=9)(images(batch=1).double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
