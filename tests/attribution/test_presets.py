"""Presets: the methods of published studies, with their options."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import medsal
from medsal import PRESETS
from medsal.attribution import METHODS
from medsal.attribution.explain import explain
from tests.networks_for_tests import case

ISSUED = {
    "saliency", "input_x_gradient", "guided_backprop", "deconvnet", "fullgrad",
    "integrated_gradients", "smoothgrad", "smoothgrad_squared", "vargrad", "smooth_integrated_gradients",
    "gradient_shap", "cam", "gradcam", "gradcam_plus_plus", "xgradcam", "hirescam", "layercam", "eigencam",
    "eigengradcam", "guided_gradcam", "scorecam", "ablationcam", "occlusion", "rise", "deep_lift", "layer_deep_lift",
    "excitation_backprop", "lrp_epsilon", "lrp_epsilon_plus", "lrp_epsilon_plus_flat", "lrp_epsilon_alpha2_beta1",
    "lrp_epsilon_alpha2_beta1_flat", "xrai",
}  # fmt: skip
"""The names of all methods, fixed."""

LABELS = [(name, label) for name, preset in PRESETS.items() for label in preset]
SMALL = {"steps": 3, "samples": 2}


def small(label: str, given: dict[str, object]) -> dict[str, object]:
    """The same options, fewer steps and samples, windows that fit a small picture."""
    fewer = {key: min(value, SMALL[key]) if key in SMALL else value for key, value in given.items()}
    return {**fewer, **({"window": 5, "stride": 3} if "window" in given else {})}


@pytest.mark.parametrize(("name", "label"), LABELS)
def test_every_map_of_a_preset_is_made(name: str, label: str) -> None:
    given = dict(PRESETS[name][label])
    if given["method"] not in METHODS:
        pytest.skip(f"the method {given['method']} of {name}/{label} is not in METHODS")
    network, image = case("2D colour")
    found = explain(network, image, {label: small(label, given)}, target=PRESETS[name].target)
    assert found[label].shape == (2, 1, 12, 16)
    assert torch.isfinite(found[label]).all()
    assert found[label].abs().max() > 0
    assert found.records[label]["method"] == given["method"]


@pytest.mark.parametrize(("name", "label"), LABELS)
def test_a_preset_names_methods_that_are_or_will_be_and_options_that_they_have(name: str, label: str) -> None:
    given = dict(PRESETS[name][label])
    method = given.pop("method")
    assert method in ISSUED
    if method in METHODS:
        assert set(given) <= set(inspect.signature(METHODS[method].function).parameters)


def test_a_whole_preset_in_one_call() -> None:
    network, image = case("slices")
    arguments = PRESETS["mri_tle"].arguments()
    for given in arguments["methods"].values():
        given.update({key: value for key, value in SMALL.items() if key in given})
    found = explain(network, image, **arguments)
    assert list(found) == list(PRESETS["mri_tle"])
    assert found.target == [1, 1]
    assert found.records["noise_tunnel_ig"]["options"]["samples"] == 2


def test_presets_are_read_only_and_public() -> None:
    assert medsal.PRESETS is PRESETS
    preset = PRESETS["arun2021"]
    with pytest.raises(TypeError):
        preset["SG"]["samples"] = 3  # type: ignore[index]  # that is what is asked
    with pytest.raises(TypeError):
        preset["SG"] = {}  # type: ignore[index]  # as above
    preset.arguments()["methods"]["SG"]["samples"] = 3
    assert preset["SG"]["samples"] == 25
    assert {"study", "differs"} <= set(vars(preset))
    assert all(one.study and one.differs for one in PRESETS.values())


class Quadratic(nn.Module):
    """The score is half the square of a projection; its gradient is the projection times the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 36, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * nn.functional.linear(x.flatten(1), self.weight) ** 2


class Cubic(Quadratic):
    """The gradient is a square, which tells rules of quadrature apart."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight) ** 3 / 3


def test_the_integrated_gradients_of_arun2021_are_those_of_its_code() -> None:
    network = Cubic()
    image = torch.rand(1, 1, 6, 6, dtype=torch.float64) * 2 - 1
    label = {"IG": PRESETS["arun2021"]["IG"]}
    found = explain(network, image, label, target=1)["IG"]
    weight = network.weight[1].detach().view(1, 1, 6, 6)
    path = image + 1
    slow = torch.zeros_like(image)
    for alpha in torch.linspace(0, 1, 10, dtype=torch.float64):
        slow += weight * (weight * (alpha * path - 1)).sum() ** 2
    torch.testing.assert_close(found, (slow * path / 10).abs())


def test_the_smoothgrad_of_arun2021_is_a_mean_of_25_squares_with_noise_by_the_range() -> None:
    torch.manual_seed(0)
    network = Quadratic()
    image = torch.rand(1, 1, 6, 6, dtype=torch.float64) * 2 - 1
    found = explain(network, image, {"SG": PRESETS["arun2021"]["SG"]}, target=1)["SG"]
    weight = network.weight[1].detach().view(1, 1, 6, 6)
    sigma = 0.15 * (image.max() - image.min())
    expected = weight**2 * ((weight * image).sum() ** 2 + sigma**2 * (weight**2).sum())
    ratio = (found / expected).flatten()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert 0.5 < float(ratio[0]) < 2  # 25 draws
    assert (
        explain(network, image, {"SG": PRESETS["arun2021"]["SG"]}, target=1).records["SG"]["options"]["samples"] == 25
    )
