"""Classifiers by name: their heads, their weights from files, and what is refused."""

import pytest
import torch
from torchvision import models

from medsal.errors import UsageError
from medsal.networks import film_classifier
from medsal.networks.film_classifier import SMALL


@pytest.mark.parametrize("architecture", [*SMALL, "resnet18", "mobilenet_v2", "googlenet", "densenet121"])
def test_every_architecture_gives_the_logits_asked_for(architecture):
    network = film_classifier(architecture, num_classes=4).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_inception_gives_one_tensor_when_training_too():
    network = film_classifier("inception_v3", num_classes=2)
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 2)
    assert not any(name.startswith("AuxLogits") for name, _ in network.named_parameters())


@pytest.mark.parametrize(("architecture", "most"), [("densenet_small", 60_000), ("resnet_small", 120_000)])
def test_the_small_ones_are_small(architecture, most):
    assert sum(p.numel() for p in film_classifier(architecture, in_channels=1).parameters()) < most


def test_weights_of_a_file_are_taken_but_for_the_head_and_auxiliary_heads(tmp_path):
    published = models.googlenet(weights=None, aux_logits=True, init_weights=False)
    torch.save(published.state_dict(), tmp_path / "googlenet.pth")
    network = film_classifier("googlenet", num_classes=4, pretrained=tmp_path / "googlenet.pth")
    assert torch.equal(network.conv1.conv.weight, published.conv1.conv.weight)
    assert network.fc.weight.shape == (4, 1024)


def test_weights_of_another_architecture_are_named(tmp_path):
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UsageError, match=r"resnet18\.pth does not fit mobilenet_v2: .*(Missing|Unexpected)"):
        film_classifier("mobilenet_v2", pretrained=tmp_path / "resnet18.pth")
    for content in (b"", b"garbage"):
        (tmp_path / "torn.pth").write_bytes(content)
        with pytest.raises(UsageError, match=r"torn\.pth is no readable state dict"):
            film_classifier("mobilenet_v2", pretrained=tmp_path / "torn.pth")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "desnet121"}, "such as densenet121"),
        ({"architecture": "deeplabv3_resnet50"}, "wanted a classifier of torchvision"),
        ({"architecture": "resnet18", "in_channels": 1}, "resnet18 takes 3, got 1"),
        ({"architecture": "resnet_small", "pretrained": "a.pth"}, "no ImageNet weights of resnet_small"),
        ({"architecture": "resnet18", "pretrained": "nowhere.pth"}, "no file 'nowhere.pth'"),
    ],
)
def test_what_cannot_be_made_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        film_classifier(**options)
