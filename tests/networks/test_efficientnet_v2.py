"""EfficientNetV2: equal to torchvision's in 2D, the same shapes in 3D, and nothing done in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsal.errors import InputError, UsageError
from medsal.networks import EfficientNetV2, from_torchvision_state_dict


def torchvision_network(variant, *, channels=3, classes=1000):
    """Torchvision's network with random running statistics and affine terms, so that eps and order matter."""
    from torchvision.models import efficientnet

    network = getattr(efficientnet, f"efficientnet_v2_{variant}")(weights=None)
    if channels != 3:
        old = network.features[0][0]
        network.features[0][0] = nn.Conv2d(channels, old.out_channels, 3, 2, 1, bias=False)
    if classes != 1000:
        network.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(1280, classes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.01, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.double().eval()


@pytest.mark.parametrize(
    "variant", ["s", pytest.param("m", marks=pytest.mark.slow), pytest.param("l", marks=pytest.mark.slow)]
)
def test_equals_torchvision_to_the_tenth_digit(variant):
    theirs = torchvision_network(variant)
    ours = EfficientNetV2(2, 3, 1000, variant).double().eval()
    ours.load_state_dict(from_torchvision_state_dict(theirs.state_dict()), strict=True)
    x = torch.randn(2, 3, 70, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, got = theirs(x), ours(x)
    assert expected.std() > 1e-3
    assert torch.allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_takes_a_training_checkpoint_with_slices_as_channels_and_one_logit(prefix):
    theirs = torchvision_network("s", channels=115, classes=1)
    checkpoint = {"epoch": 3, "model_state_dict": {prefix + key: value for key, value in theirs.state_dict().items()}}
    ours = EfficientNetV2(2, 115, 1, "s", dropout=0.5, slice_axis=1).double().eval()
    ours.load_state_dict(from_torchvision_state_dict(checkpoint), strict=True)
    volume = torch.randn(1, 1, 64, 115, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(volume[:, 0].movedim(2, 1))
        assert torch.allclose(ours(volume), expected, rtol=1e-10, atol=1e-10)
        assert torch.allclose(ours(volume[:, 0].movedim(2, 1)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "weights",
    [{}, {"conv1.weight": torch.zeros(1)}, {"features.0.0.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}],
)
def test_refuses_weights_of_another_network(weights):
    with pytest.raises(UsageError, match="torchvision's EfficientNetV2"):
        from_torchvision_state_dict(weights)


@pytest.mark.parametrize(("dims", "space"), [(2, (44, 28)), (3, (44, 28, 24))])
def test_nano_is_small_and_takes_images_and_volumes(dims, space):
    network = EfficientNetV2(dims, 1, 2, "nano").eval()
    assert sum(weight.numel() for weight in network.parameters()) < 100_000
    assert network(torch.randn(3, 1, *space)).shape == (3, 2)
    assert network.slice_axis is None


@pytest.mark.parametrize("variant", ["s", pytest.param("m", marks=pytest.mark.slow)])
def test_the_published_variants_take_volumes(variant):
    network = EfficientNetV2(3, 1, 2, variant).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 33, 32, 40)).shape == (1, 2)


def test_batches_never_mix_when_the_network_is_used():
    network = EfficientNetV2(3, 1, 1, "nano").double().eval()
    x = torch.randn(3, 1, 20, 16, 16, dtype=torch.float64)
    assert torch.allclose(network(x)[1], network(x[1:2])[0], rtol=1e-12)


def test_every_activation_is_a_module_of_its_own_and_works_out_of_place():
    network = EfficientNetV2(3, 1, 1, "nano")
    calls = []
    activations = [module for module in network.modules() if isinstance(module, nn.SiLU | nn.Sigmoid | nn.Dropout)]
    for module in activations:
        assert not getattr(module, "inplace", False)
        module.register_forward_hook(lambda module, _in, _out: calls.append(module))
    network(torch.randn(2, 1, 16, 16, 16))
    assert len(calls) == len(set(calls)) == len(activations)


def test_no_tensor_is_overwritten_in_forward():
    network = EfficientNetV2(3, 1, 1, "nano").eval()
    seen = []
    for module in network.modules():
        module.register_forward_hook(lambda _module, _in, out: seen.append((out, out._version)))
    network(torch.randn(2, 1, 16, 16, 16))
    assert seen
    assert all(out._version == version for out, version in seen)


def test_stochastic_depth_drops_whole_images_in_training_only():
    from medsal.networks.blocks import StochasticDepth

    drop = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 3, 3)
    y = drop(x)
    per_image = y.flatten(1)
    assert ((per_image == 0).all(1) | torch.isclose(per_image, torch.tensor(4 / 3)).all(1)).all()
    assert abs((per_image[:, 0] == 0).float().mean() - 0.25) < 0.03
    assert torch.equal(drop.eval()(x), x)


def test_the_last_blocks_are_dropped_most():
    network = EfficientNetV2(2, 3, 1, "s", drop_path=0.2)
    probabilities = [block.drop.probability for stage in network.stages for block in stage]
    assert probabilities == pytest.approx([0.2 * index / 40 for index in range(40)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"variant": "xl"}, "unknown variant 'xl' of EfficientNetV2; there are nano, s, m, l"),
        ({"spatial_dims": 3, "slice_axis": 1}, "slice_axis is the axis"),
        ({"spatial_dims": 2, "slice_axis": 3}, "slice_axis is the axis"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        EfficientNetV2(**({"spatial_dims": 2, "in_channels": 1, "num_classes": 1, "variant": "nano"} | arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16, 16), (1, 1, 16, 16), (1, 16, 16, 16)])
def test_an_image_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match=r"wants \(B, 1, "):
        EfficientNetV2(3, 1, 1, "nano")(torch.zeros(shape))


def test_a_volume_with_the_wrong_number_of_slices_is_refused():
    with pytest.raises(InputError, match="with 115 slices"):
        EfficientNetV2(2, 115, 1, "nano", slice_axis=1)(torch.zeros(1, 1, 16, 114, 16))
