"""Slices of a volume as the channels of a 2D network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsal.errors import InputError, UsageError
from medsal.networks import EfficientNetV2, SlicesAsChannels, slices_to_channels


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_becomes_the_channel_of_its_index(axis):
    volume = torch.randn(2, 1, 4, 5, 6)
    images = slices_to_channels(volume, axis)
    for index in range(volume.shape[2 + axis]):
        assert torch.equal(images[:, index], volume[:, 0].select(1 + axis, index))


def test_the_wrapper_gives_any_network_the_layout_the_switch_gives_ours():
    plain = EfficientNetV2(2, 7, 1, "nano").double().eval()
    declared = EfficientNetV2(2, 7, 1, "nano", slice_axis=1).double().eval()
    declared.load_state_dict(plain.state_dict())
    wrapped = SlicesAsChannels(plain, 1)
    volume = torch.randn(2, 1, 20, 7, 18, dtype=torch.float64)
    images = volume[:, 0].movedim(2, 1)
    expected = plain(images)
    for network in (declared, wrapped):
        assert network.slice_axis == 1
        assert torch.equal(network(volume), expected)
        assert torch.equal(network(images), expected)


def test_the_gradient_comes_back_as_a_volume():
    network = SlicesAsChannels(nn.Sequential(nn.Conv2d(5, 1, 3), nn.Flatten(), nn.LazyLinear(1)), slice_axis=2)
    volume = torch.randn(1, 1, 6, 7, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(volume).sum(), volume)
    assert gradient.shape == volume.shape
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("shape", [(1, 2, 4, 5, 6), (4, 5, 6)])
def test_what_is_no_volume_is_refused(shape):
    with pytest.raises(InputError, match="one-channel volumes"):
        slices_to_channels(torch.zeros(shape), 1)


@pytest.mark.parametrize("axis", [3, -1, None])
def test_a_wrong_axis_is_refused(axis):
    with pytest.raises(UsageError, match="slice_axis must be 0, 1 or 2"):
        SlicesAsChannels(nn.Identity(), axis)
    with pytest.raises(UsageError, match="slice_axis must be 0, 1 or 2"):
        slices_to_channels(torch.zeros(1, 1, 2, 2, 2), axis)
