"""CAMs equal those of pytorch-grad-cam 1.5.7 and torch-cam 0.5.0 before these normalise them.

What the peers do wrong, as far as it touches these tests, stands beside the test that steps around it. Both take the
layer's output by a plain hook, so an in-place activation behind the layer changes it without a word: the network here
has none. pytorch-grad-cam always applies a ReLU and scales to [0, 1]; what is compared is what it computes before.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsal.attribution.explain import explain
from medsal.attribution.probe import Probe
from medsal.attribution.shared_pass import FEATURES
from medsal.attribution.target import Target
from tests.networks_for_tests import conv, norm, settled

both = pytest.mark.parametrize("dims", [2, 3])
SPACE = (12, 8, 10)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """The peers hold scores or maps in single precision, and add small numbers to denominators."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5 * float(wanted.abs().max()))


class Network(nn.Module):
    """A layer on the image's own grid; above it pooling, a convolution and a linear layer."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.first = conv(dims)(2, 5, 3, padding=1)
        self.normalise = norm(dims)(5)
        self.last = conv(dims)(5, 6, 3, padding=1)
        self.end = nn.ReLU()
        self.top = conv(dims)(6, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        pool = functional.max_pool2d if self.dims == 2 else functional.max_pool3d
        y = pool(self.end(self.last(self.normalise(self.first(x)).relu())), 2)
        return self.head(self.top(y).relu().flatten(2).mean(2))


def network_and_image(dims: int) -> tuple[nn.Module, Tensor]:
    network = settled(Network(dims), 3)
    with torch.no_grad():  # scores above 0, see Ablation-CAM
        network.head.bias += 5
    return network, torch.randn(2, 2, *SPACE[:dims], dtype=torch.float64)


def ours(network: nn.Module, image: Tensor, method: str, layer: str = "end", **options: Any) -> Tensor:
    return explain(network, image, [method], target=[1, 2], target_layer=layer, options={method: options})[method]


def grad_cam_maps(cam: Any, image: Tensor) -> Tensor:
    """What pytorch-grad-cam computes before its ReLU and its scaling."""
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    raw: list[np.ndarray] = []
    compute = cam.get_cam_image

    def kept(*args: Any) -> np.ndarray:
        raw.append(compute(*args))
        return raw[-1]

    cam.get_cam_image = kept
    cam(image.clone(), [targets.ClassifierOutputTarget(k) for k in (1, 2)])
    return torch.as_tensor(raw[0]).double().unsqueeze(1)


@pytest.fixture
def peer() -> Any:
    return pytest.importorskip("pytorch_grad_cam")


@both
@pytest.mark.parametrize(("method", "theirs"), [
    ("gradcam", "GradCAM"), ("gradcam_plus_plus", "GradCAMPlusPlus"), ("xgradcam", "XGradCAM"),
    ("hirescam", "HiResCAM"), ("layercam", "LayerCAM"),
])  # fmt: skip
def test_pytorch_grad_cam(peer, dims, method, theirs):
    # Its backward computes the gradients of all weights too and leaves them in ``.grad``; it fails on frozen networks.
    # Its Grad-CAM++ adds 1e-6 to a denominator of squared gradients, which overwhelms small ones: gradients of 1e-2 and
    # below, which are usual, give other maps. So the score is scaled up here, by which the map does not change.
    network, image = network_and_image(dims)
    with torch.no_grad():
        network.head.weight *= 1e4
    found = ours(network, image, method, relu=False)
    wanted = grad_cam_maps(getattr(peer, theirs)(network, [network.end]), image)
    assert_same(found, wanted)


@both
@pytest.mark.parametrize(("method", "theirs"), [("eigencam", "EigenCAM"), ("eigengradcam", "EigenGradCAM")])
def test_pytorch_grad_cam_up_to_a_sign(peer, dims, method, theirs):
    # The sign of its singular vector is arbitrary, and its ReLU then keeps the one or the other half of the map. It
    # builds the full matrix of voxels by voxels: 4 GB for a layer of 32 x 32 x 32.
    network, image = network_and_image(dims)
    found = ours(network, image, method)
    wanted = grad_cam_maps(getattr(peer, theirs)(network, [network.end]), image)
    for one, other in zip(found, wanted, strict=True):
        sign = torch.sign((one * other).sum())
        assert_same(one, sign * other)


def test_pytorch_grad_cams_scorecam(peer):
    # 2D only: its bilinear enlarging is written out. It subtracts no black image, which a softmax does not see. Its
    # ``UpsamplingBilinear2d`` aligns the corners of both grids, which shifts a layer's map on the image by up to half a
    # voxel of the layer: so the layer here is on the image's own grid.
    network, image = network_and_image(2)
    found = ours(network, image, "scorecam", relu=False)
    wanted = grad_cam_maps(peer.ScoreCAM(network, [network.end]), image)
    assert_same(found, wanted)


def test_pytorch_grad_cams_ablationcam(peer):
    # 2D only. It divides by the score, which turns the map over where the score is negative, and a channel of features
    # below zero is not set to 0 but to -1e7. After an error it leaves its own layer in the network for good.
    network, image = network_and_image(2)
    wanted = grad_cam_maps(peer.AblationCAM(network, [network.end]), image)
    assert_same(ours(network, image, "ablationcam", relu=False, relative=True), wanted)
    with torch.no_grad():
        scores = network(image)[[0, 1], [1, 2]].view(2, 1, 1, 1)
        assert scores.min() > 0
        network.head.bias -= 2 * scores.max()
    upside_down = grad_cam_maps(peer.AblationCAM(network, [network.end]), image)
    same = ours(network, image, "ablationcam", relu=False)
    assert_same(wanted * scores, same)
    assert ((upside_down * same).flatten(1).sum(1) < 0).all()


def test_pytorch_grad_cams_ablation_of_features_below_zero(peer):
    # No ReLU follows this layer, which would undo the -1e7.
    network, image = network_and_image(2)
    found = ours(network, image, "ablationcam", layer="first", relu=False, relative=True)
    wanted = grad_cam_maps(peer.AblationCAM(network, [network.first]), image)
    assert not torch.allclose(found, wanted, rtol=0.1)


def test_pytorch_grad_cams_fullgrad(peer, monkeypatch):
    # 2D only, and only biases of Conv2d and BatchNorm2d modules; the bias of a linear layer is dropped. It scales every
    # term of every channel to [0, 1], so that no sum is left; the paper scales each layer. Its terms as such are
    # compared, with their signs and without the scaling.
    from pytorch_grad_cam import fullgrad_cam

    network, image = network_and_image(2)
    network.top = nn.Identity()  # whose bias would lie on another grid
    network.head = nn.Linear(6, 3).double()
    found = explain(network, image, ["fullgrad"], target=[1, 2], options={"fullgrad": {"psi": "none"}})
    monkeypatch.setattr(fullgrad_cam, "scale_accross_batch_and_channels", lambda term, _: term)
    monkeypatch.setattr(fullgrad_cam, "scale_cam_image", lambda cam: cam)
    plain = SimpleNamespace(abs=lambda term: term, sum=np.sum, concatenate=np.concatenate)
    monkeypatch.setattr(fullgrad_cam, "np", plain)
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    wanted = peer.FullGrad(network, [])(image.clone(), [targets.ClassifierOutputTarget(k) for k in (1, 2)])
    assert_same(found["fullgrad"], torch.as_tensor(wanted).view_as(found["fullgrad"]))
    missing = torch.tensor(found.records["fullgrad"]["claims"]["completeness_gap"]).abs().max()
    assert missing < 1e-10  # with the linear bias, which the peer does not have, the terms sum to the score


def torch_cam_maps(theirs: str, network: nn.Module, image: Tensor, **options: Any) -> Tensor:
    methods = pytest.importorskip("torchcam.methods")
    extractor = getattr(methods, theirs)(network, "end", input_shape=tuple(image.shape[1:]), **options)
    try:
        scores = network(image)
        return extractor([1, 2], scores, normalized=False)[0].detach().unsqueeze(1)
    finally:
        extractor.remove_hooks()


@both
@pytest.mark.parametrize(("method", "theirs", "relu"), [
    ("gradcam", "GradCAM", True), ("xgradcam", "XGradCAM", True), ("layercam", "LayerCAM", True),
])  # fmt: skip
def test_torch_cam(dims, method, theirs, relu):
    # Maps of a frozen network need the caller's image to require a gradient there.
    network, image = network_and_image(dims)
    found = ours(network, image, method, relu=relu)
    assert_same(found, torch_cam_maps(theirs, network, image))


@both
def test_torch_cams_scorecam(dims):
    # It scales a mask to [0, 1] before it is enlarged; the paper enlarges first. It subtracts the score of the image
    # itself where the paper has that of a black one; a softmax sees neither.
    network, image = network_and_image(dims)
    found = ours(network, image, "scorecam")
    assert_same(found, torch_cam_maps("ScoreCAM", network, image, batch_size=5))


@both
def test_torch_cams_gradcam_plus_plus_is_not_divided(dims):
    # It divides a copy (``alpha[mask].div_(...)``) and goes on with the original, so its weights are the sums of g^2
    # max(0, g). Its denominator would also sum g^3 A over positions, where the paper (equation 19) has g^3 at one
    # position times the sum of A. Ours equals pytorch-grad-cam's, see above.
    network, image = network_and_image(dims)
    probe = Probe(network, image, Target([1, 2], 2), frozenset({FEATURES}), ("end",))
    features, gradients = probe.features["end"], probe.feature_gradients["end"]
    weights = (gradients**2 * gradients.clamp_min(0)).flatten(2).sum(2)
    wanted = (weights.view(2, 6, *[1] * dims) * features).sum(1, keepdim=True).clamp_min(0)
    theirs = torch_cam_maps("GradCAMpp", network, image)
    torch.testing.assert_close(theirs, wanted, rtol=1e-5, atol=0)
    found = ours(network, image, "gradcam_plus_plus")
    assert not torch.allclose(found / found.max(), theirs / theirs.max(), rtol=0.01)
