"""Target layers: the last one with spatial extent on the networks people use, and transformers laid out in space."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import SEResNet50
from torch import Tensor, nn
from torchvision import models

from medsal.attribution.explain import explain
from medsal.attribution.layouts import channels_last, token_grid
from medsal.attribution.relevance import resize
from medsal.errors import UsageError
from tests.networks_of_the_field import Swin, vit

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def small_vit(dims: int, proj: str = "conv") -> nn.Module:
    return vit(dims, (32, 24, 16), (8, 8, 8), proj)


KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, tuple[int, ...]]] = {
    "inception_v3": (lambda: models.inception_v3(num_classes=2, init_weights=False), (3, 107, 139), "Mixed_7c", (2, 3)),
    "googlenet": (lambda: models.googlenet(num_classes=2, init_weights=False), (3, 64, 96), "inception5b", (2, 3)),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=2), (3, 64, 96), "features", (2, 3)),
    "densenet201": (lambda: models.densenet201(num_classes=2), (3, 64, 96), "features", (2, 3)),
    "resnet101": (lambda: models.resnet101(num_classes=2), (3, 64, 96), "layer4", (2, 3)),
    "efficientnet_v2_s": (lambda: models.efficientnet_v2_s(num_classes=2), (3, 64, 96), "features", (2, 3)),
    "swin_t": (lambda: models.swin_t(num_classes=2), (3, 64, 96), "permute", (2, 3)),
    "SEResNet50": (lambda: SEResNet50(spatial_dims=2, in_channels=3, num_classes=2), (3, 64, 96), "layer4", (2, 3)),
    "ViT 2D": (lambda: small_vit(2), (1, 32, 24), "blocks.2.norm1", (4, 3)),
    "ViT 3D": (lambda: small_vit(3), (1, 32, 24, 16), "blocks.2.norm1", (4, 3, 2)),
    "ViT 3D without convolution": (lambda: small_vit(3, "perceptron"), (1, 32, 24, 16), "blocks.2.norm1", (4, 3, 2)),
    "Swin 2D": (lambda: Swin(2), (1, 64, 96), "body.layers4.0", (2, 3)),
    "Swin 3D": (lambda: Swin(3), (1, 64, 96, 32), "body.layers4.0", (2, 3, 1)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.filterwarnings("ignore:.*init_weights.*:FutureWarning")
def test_the_layer_that_the_field_uses_is_found(name):
    build, shape, layer, layer_shape = KNOWN[name]
    torch.manual_seed(0)
    found = explain(build(), torch.randn(1, *shape), ["hirescam"], target=1)
    assert found.records["hirescam"]["layer"] == layer
    assert tuple(found.records["hirescam"]["layer_shape"]) == layer_shape
    assert found["hirescam"].abs().max() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_tokens_lie_where_their_patches_are(dims):
    torch.manual_seed(0)
    network = small_vit(dims).double().eval()
    image = torch.randn(2, 1, *(32, 24, 16)[:dims], dtype=torch.float64)
    kept = []
    handle = network.blocks[2].norm1.register_forward_hook(lambda *args: kept.append(args[2]))
    score = network(image)[0][:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    terms = (gradient * kept[0]).sum(2)[:, 1:].detach()  # without the class token
    patches = terms.reshape(2, 1, *[n // 8 for n in image.shape[2:]])
    found = explain(network, image, ["hirescam"], target=1, target_layer="blocks.2.norm1")
    torch.testing.assert_close(found["hirescam"], resize(patches, image.shape[2:]), **CLOSE)


def test_a_marked_patch_is_found_again_by_its_tokens():
    """Occluding all but one patch of a linear 'transformer' puts the map's peak into this patch."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 3, 4, 4)
            self.norm = nn.LayerNorm(3)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            register = tokens.new_ones(len(x), 2, 3)
            return self.head(self.norm(torch.cat([register, tokens], 1)).mean(1))

    torch.manual_seed(0)
    network = Tokens()
    with torch.no_grad():
        network.embed.bias.zero_()
        network.head.weight[1] = torch.tensor([1.0, 0.0, -1.0])
        network.embed.weight[0], network.embed.weight[2] = 1.0, -1.0
    image = torch.zeros(1, 1, 16, 24)
    image[0, 0, 4:8, 16:20] = 1
    found = explain(network, image, ["hirescam"], target=1)
    assert found.records["hirescam"]["layer"] == "norm"
    peak = found["hirescam"][0, 0].argmax()
    assert (4 <= int(peak) // 24 < 8, 16 <= int(peak) % 24 < 20) == (True, True)


def test_several_layers_at_once_and_a_callable():
    network = models.resnet18(num_classes=2)
    image = torch.randn(1, 3, 64, 64)
    both = explain(network, image, ["gradcam"], target=1, target_layer=["layer3", "layer4"])
    assert set(both) == {"gradcam@layer3", "gradcam@layer4"}
    by_call = explain(network, image, ["gradcam"], target=1, target_layer=lambda net: [net.layer3, net.layer4])
    for name in both:
        torch.testing.assert_close(by_call[name], both[name])


def test_channels_last_is_told_from_channels_first():
    image = torch.zeros(1, 3, 64, 96)
    assert channels_last(torch.zeros(1, 2, 3, 768), image)
    assert not channels_last(torch.zeros(1, 768, 2, 3), image)
    assert not channels_last(torch.zeros(1, 5, 2, 3), image)
    small = torch.zeros(1, 3, 32, 48)  # maps of about as many channels as positions
    assert channels_last(torch.zeros(1, 8, 12, 12), small)
    assert channels_last(torch.zeros(1, 8, 12, 24), small)
    assert not channels_last(torch.zeros(1, 12, 8, 12), small)
    assert not channels_last(torch.zeros(1, 4, 4, 3), torch.zeros(1, 3, 107, 96))
    volume = torch.zeros(1, 1, 16, 224, 224)  # a stem that leaves the slices alone
    assert not channels_last(torch.zeros(1, 64, 16, 7, 7), volume)


@pytest.mark.parametrize(("tokens", "grid"), [(12, (4, 3)), (13, (4, 3)), (17, (4, 3)), (18, None), (11, None)])
def test_class_and_register_tokens_are_set_aside(tokens, grid):
    assert token_grid(nn.Sequential(nn.Conv2d(1, 8, 8, 8)), tokens, torch.Size([32, 24])) == grid


def test_a_layer_of_tokens_that_fit_no_grid_is_refused():
    network = small_vit(2)
    with pytest.raises(UsageError, match=r"target_layer 'classification_head': wanted an output"):
        explain(network, torch.randn(1, 1, 32, 24), ["gradcam"], target_layer="classification_head")
