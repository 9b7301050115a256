"""How each peer is called for each method, as its documentation does it; only those that are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Jobs = dict[str, Callable[[], Any]]
PACKAGES = {
    "captum": "captum",
    "grad-cam": "pytorch_grad_cam",
    "torchcam": "torchcam",
    "zennit": "zennit",
    "saliency": "saliency",
}


def installed() -> list[str]:
    """Names of the peers that can be measured here, beside MONAI."""
    return [name for name, module in PACKAGES.items() if find_spec(module)]


def jobs(method: str, network: nn.Module, image: Tensor, target: int, layer: str, options: dict[str, Any]) -> Jobs:
    """What is run for a method: name of the peer -> a call without arguments."""
    found: Jobs = {}
    have = installed()
    makers = {"captum": captum, "grad-cam": grad_cam, "torchcam": torchcam, "zennit": zennit}
    for name, maker in {**{n: m for n, m in makers.items() if n in have}, "monai": monai}.items():
        for variant, job in maker(method, copy.deepcopy(network), image.clone(), target, layer, options):
            found[f"{name}{variant}"] = job
    return found


Variants = Iterator[tuple[str, Callable[[], Any]]]


def captum(
    method: str, network: nn.Module, image: Tensor, target: int, layer: str, options: dict[str, Any]
) -> Variants:
    from captum import attr

    module = network.get_submodule(layer)
    x = lambda: image.clone().requires_grad_()  # noqa: E731
    simple = {
        "saliency": lambda: attr.Saliency(network).attribute(x(), target),
        "input_x_gradient": lambda: attr.InputXGradient(network).attribute(x(), target),
        "guided_backprop": lambda: attr.GuidedBackprop(network).attribute(x(), target),
        "gradcam": lambda: attr.LayerGradCam(network, module).attribute(image, target),
        "layercam": lambda: attr.LayerGradientXActivation(network, module).attribute(image, target),
        "guided_gradcam": lambda: attr.GuidedGradCam(network, module).attribute(x(), target),
        "deep_lift": lambda: attr.DeepLift(network).attribute(x(), target=target),
        "lrp_epsilon_plus": lambda: attr.LRP(network).attribute(x(), target),
        "gradient_shap": lambda: attr.GradientShap(network).attribute(
            x(), torch.zeros_like(image), options["samples"], target=target
        ),
    }
    if method in simple:
        yield "", simple[method]
    if method == "integrated_gradients":
        for size in (1, 4, 8):
            yield (
                f" (batch {size})",
                lambda size=size: attr.IntegratedGradients(network).attribute(
                    x(), target=target, n_steps=options["steps"], internal_batch_size=size
                ),
            )
    if method == "smoothgrad":
        for size in (1, 4):
            yield (
                f" (batch {size})",
                lambda size=size: attr.NoiseTunnel(attr.Saliency(network)).attribute(
                    x(), nt_samples=options["samples"], nt_samples_batch_size=size, target=target, abs=False
                ),
            )
    if method == "occlusion":
        window, stride, dims = options["window"], options["stride"], image.ndim - 2
        each = 4 if dims == 2 else 1
        yield f" ({each} at once)", lambda: attr.Occlusion(network).attribute(
            image, (image.shape[1], *[window] * dims), (image.shape[1], *[stride] * dims), 0, target,
            perturbations_per_eval=each,
        )  # fmt: skip


def grad_cam(method: str, network: nn.Module, image: Tensor, target: int, layer: str, _: dict[str, Any]) -> Variants:
    import pytorch_grad_cam as pgc
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    names = {"gradcam": "GradCAM", "gradcam_plus_plus": "GradCAMPlusPlus", "hirescam": "HiResCAM",
             "layercam": "LayerCAM", "eigencam": "EigenCAM", "eigengradcam": "EigenGradCAM", "fullgrad": "FullGrad",
             "ablationcam": "AblationCAM", "scorecam": "ScoreCAM"}  # fmt: skip

    def run() -> Any:
        with getattr(pgc, names[method])(model=network, target_layers=[network.get_submodule(layer)]) as method_of:
            return method_of(image, [ClassifierOutputTarget(target)])

    if method in names and not (method == "scorecam" and image.ndim == 4):  # torchcam's is the faster one
        yield "", run
    if method == "guided_backprop":
        yield "", lambda: pgc.GuidedBackpropReLUModel(network, image.device)(image, target)


def torchcam(method: str, network: nn.Module, image: Tensor, target: int, layer: str, _: dict[str, Any]) -> Variants:
    from torchcam import methods

    names = {"gradcam": "GradCAM", "gradcam_plus_plus": "GradCAMpp", "layercam": "LayerCAM", "scorecam": "ScoreCAM"}

    def run() -> Any:
        more = {"batch_size": 8} if method == "scorecam" else {}
        with getattr(methods, names[method])(network, layer, **more) as extractor:
            return extractor(target, network(image.clone().requires_grad_(method != "scorecam")))

    if method in names:
        yield "", run


def zennit(method: str, network: nn.Module, image: Tensor, target: int, _: str, __: dict[str, Any]) -> Variants:
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    def run() -> Any:
        with Gradient(model=network, composite=EpsilonPlus()) as attributor:
            return attributor(image.clone().requires_grad_(), torch.eye(2)[[target]])

    if method == "lrp_epsilon_plus":
        yield "", run


def monai(method: str, network: nn.Module, image: Tensor, target: int, layer: str, options: dict[str, Any]) -> Variants:
    from monai import visualize

    simple = {
        "saliency": lambda: visualize.VanillaGrad(network)(image.clone(), target),
        "guided_backprop": lambda: visualize.GuidedBackpropGrad(network)(image.clone(), target),
        "smoothgrad": lambda: visualize.SmoothGrad(network, n_samples=options["samples"], verbose=False)(
            image.clone(), target
        ),
        "gradcam": lambda: visualize.GradCAM(network, layer)(image, target),
        "gradcam_plus_plus": lambda: visualize.GradCAMpp(network, layer)(image, target),
    }
    if method in simple:
        yield "", simple[method]
