"""What every row of METHODS must satisfy, in 2D, 3D and with slices as channels."""

from __future__ import annotations

import copy
import inspect
import pkgutil
import random
from importlib import import_module

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medsal
from medsal import attribution
from medsal.attribution import METHODS, memory
from medsal.attribution.explain import explain
from medsal.attribution.probe import Probe
from medsal.errors import InputError, MedsalError, UsageError
from tests.networks_for_tests import SHAPES, case


def shades(image: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
    """Segments that follow an image however its axes lie: what lies between its quantiles, at two scales."""
    mean = image.mean(0)
    return [np.digitize(mean, np.quantile(mean, np.linspace(0, 1, n)[1:-1])) + 1 for n in (4, 7)]


FEW = {
    "integrated_gradients": {"steps": 4},
    "smoothgrad": {"samples": 3},
    "smooth_integrated_gradients": {"samples": 2, "steps": 3},
    "smoothgrad_squared": {"samples": 3},
    "vargrad": {"samples": 3},
    "gradient_shap": {"samples": 4, "noise": 0.1, "baseline": "gaussian:0.1"},
    "deep_lift": {"baseline": "mean"},
    "layer_deep_lift": {"baseline": "mean"},
    "xrai": {"steps": 3, "segments": shades},
    "occlusion": {"window": 5, "stride": 3},
    "rise": {"masks": 30, "cells": 4},
}
every_method = pytest.mark.parametrize("method", METHODS)
every_kind = pytest.mark.parametrize("kind", SHAPES)


def run(network: nn.Module, image: Tensor, method: str, **kwargs: object) -> Tensor:
    options = {method: FEW[method]} if method in FEW else None
    return explain(network, image, [method], options=options, **kwargs)[method]


def test_every_public_method_function_has_a_row():
    found = set()
    for module in pkgutil.iter_modules(attribution.__path__, "medsal.attribution."):
        for name, function in inspect.getmembers(import_module(module.name), inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            if (
                function.__module__ == module.name
                and not name.startswith("_")
                and first
                and first.annotation == "Probe"
            ):
                returns = inspect.signature(function).return_annotation
                keywords = all(
                    p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(function).parameters.values())[1:]
                )
                if keywords and returns in {"Tensor", "dict[str, Tensor]"}:
                    found.add(name)
    assert found == set(METHODS)
    assert all(row.name == name and ("arXiv" in row.paper or "doi" in row.paper) for name, row in METHODS.items())


@every_method
@every_kind
def test_relevance_lies_on_the_images_grid(method, kind):
    network, image = case(kind)
    relevance = run(network, image, method)
    assert relevance.shape == (2, 1, *image.shape[2:])
    assert relevance.dtype == image.dtype
    assert torch.isfinite(relevance).all()
    assert relevance.abs().max() > 0
    assert METHODS[method].signed or relevance.min() >= 0


@every_method
@every_kind
def test_images_of_a_batch_do_not_mix(method, kind):
    network, image = case(kind, batch=3)
    together = run(network, image, method, target=[0, 1, 0])
    for i, target in enumerate([0, 1, 0]):
        alone = run(network, image[i : i + 1], method, target=target)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)


@every_method
@every_kind
def test_the_target_matters_and_none_is_the_predicted_class(method, kind):
    network, image = case(kind)
    predicted = explain(network, image, ["saliency"]).target
    torch.testing.assert_close(run(network, image, method), run(network, image, method, target=predicted))
    other = [1 - t if t < 2 else 0 for t in predicted]
    if kind == "slices" and not METHODS[method].signed:
        return  # the two classes of one logit differ by sign alone, which saliency does not show
    same = torch.allclose(run(network, image, method), run(network, image, method, target=other))
    assert same == (method == "eigencam")  # which has no target


@every_method
@every_kind
def test_a_callable_target_equals_the_class_it_reads(method, kind):
    network, image = case(kind)
    one_logit = kind == "slices"
    by_class = run(network, image, method, target=1)
    by_function = run(network, image, method, target=lambda logits: logits[:, 0 if one_logit else 1])
    torch.testing.assert_close(by_function, by_class)


@every_method
@every_kind
def test_scaling_the_score_scales_the_map_by_the_degree_of_the_method(method, kind):
    network, image = case(kind)
    index = 0 if kind == "slices" else 1
    once = run(network, image, method, target=lambda logits: logits[:, index])
    thrice = run(network, image, method, target=lambda logits: 3 * logits[:, index])
    degree = METHODS[method].degree
    if degree is not None:
        torch.testing.assert_close(thrice, 3**degree * once, rtol=1e-9, atol=1e-12)


@every_method
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_in_place_activations_change_nothing(method, kind):
    network, image = case(kind, inplace=True)
    other, _ = case(kind, inplace=False)
    layer = "last"  # an in-place activation follows it
    if method == "cam":
        with pytest.raises(UsageError, match="not what follows 'last'"):
            run(network, image, method, target_layer=layer)
        return
    torch.testing.assert_close(
        run(network, image, method, target_layer=layer), run(other, image, method, target_layer=layer)
    )


@every_method
def test_axes_may_be_exchanged(method):
    network, image = case("3D")
    turned = copy.deepcopy(network)
    for module in turned.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.permute(0, 1, 4, 2, 3).contiguous()
    permuted = image.permute(0, 1, 4, 2, 3)
    if method in {name for name, row in METHODS.items() if "seed" in row.needs}:
        pytest.skip("noise is drawn in array order, so a permuted image meets other noise")
    torch.testing.assert_close(
        run(turned, permuted, method, target=0), run(network, image, method, target=0).permute(0, 1, 4, 2, 3)
    )


@every_method
def test_a_volume_of_one_slice_equals_the_picture(method):
    flat, image = case("2D")
    volume, _ = case("3D")
    with torch.no_grad():
        for (name, thick), (_, thin) in zip(volume.named_parameters(), flat.named_parameters(), strict=True):
            if thick.ndim == 5:
                thick.zero_()[:, :, 1] = thin
            else:
                thick.copy_(thin)
            assert name
        for thick, thin in zip(volume.buffers(), flat.buffers(), strict=True):
            thick.copy_(thin)
    deep = run(volume, image.unsqueeze(2), method, target=1)
    torch.testing.assert_close(deep.squeeze(2), run(flat, image, method, target=1), rtol=1e-9, atol=1e-12)


@every_method
@every_kind
def test_the_chunk_size_does_not_matter(method, kind, monkeypatch):
    network, image = case(kind)
    whole = run(network, image, method, memory_budget=2**40)
    monkeypatch.setattr(memory, "chunk_size", lambda *_: 1)
    torch.testing.assert_close(run(network, image, method), whole, rtol=1e-9, atol=1e-12)


@every_method
def test_the_same_call_gives_the_same_map_and_another_seed_another(method):
    network, image = case("2D")
    first, second = run(network, image, method, seed=3), run(network, image, method, seed=3)
    assert torch.equal(first, second)
    if "seed" in METHODS[method].needs:
        assert not torch.equal(first, run(network, image, method, seed=4))


def state(network: nn.Module, image: Tensor) -> dict[str, object]:
    return {
        "weights": [p.clone() for p in network.state_dict().values()],
        "identities": [id(p) for p in network.parameters()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "training": [m.training for m in network.modules()],
        "inplace": [getattr(m, "inplace", None) for m in network.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in network.modules()
        ],
        "image": image.clone(),
        "image_requires_grad": image.requires_grad,
        "image_grad": image.grad,
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002  the state that users' code has
        "python": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
    }


def draw_random_numbers(*_: object) -> None:
    torch.rand(1)
    np.random.rand()  # noqa: NPY002  the state that users' code has
    random.random()


def assert_same(before: object, after: object) -> None:
    if isinstance(before, dict):
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, list | tuple):
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    else:
        assert before == after


@every_method
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_network_image_and_random_state_are_left_as_found(method, training, frozen):
    network, image = case("3D")
    network.train(training).block.eval()
    for weight in network.head.parameters():
        weight.requires_grad_(not frozen)
        weight.grad = torch.ones_like(weight)
    image.requires_grad_(frozen)
    network.stem.register_forward_hook(draw_random_numbers)
    before = state(network, image)
    run(network, image, method)
    assert_same(before, state(network, image))


@every_method
@pytest.mark.parametrize("error", [ValueError("planted"), torch.OutOfMemoryError("planted")])
def test_they_are_left_as_found_after_an_error_too(method, error):
    network, image = case("2D")
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise error

    handle = network.head.register_forward_hook(fail)
    before = state(network, image)
    with pytest.raises((ValueError, torch.OutOfMemoryError, MedsalError), match="planted"):
        run(network, image, method)
    assert calls
    assert_same(before, state(network, image))
    handle.remove()


@every_method
@every_kind
def test_frozen_networks_and_networks_in_training_mode_give_the_same_map(method, kind):
    network, image = case(kind)
    wanted = run(network, image, method)
    network.requires_grad_(False)
    torch.testing.assert_close(run(network, image, method), wanted)
    network.requires_grad_(True).train()
    torch.testing.assert_close(run(network, image, method), wanted)
    with torch.no_grad():
        torch.testing.assert_close(run(network, image, method), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(run(network, image.clone(), method), wanted)


@every_method
@every_kind
def test_a_metatensor_keeps_its_meta_and_a_tensor_stays_a_tensor(method, kind):
    network, image = case(kind)
    affine = torch.tensor([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 9], [0, 0, 0, 1]], dtype=torch.float64)
    dressed = MetaTensor(image, affine=affine, meta={"filename_or_obj": "a"})
    relevance = run(network, dressed, method)
    assert isinstance(relevance, MetaTensor)
    assert torch.equal(relevance.affine, affine)
    assert relevance.meta["filename_or_obj"] == "a"
    torch.testing.assert_close(relevance.as_tensor(), run(network, image, method))
    assert type(run(network, image, method)) is Tensor


@every_method
@every_kind
def test_not_a_number_in_the_image_is_refused_with_its_place(method, kind):
    network, image = case(kind)
    image[(1, 0, *[2] * (image.ndim - 2))] = float("nan")
    with pytest.raises(InputError, match=r"1 values are not finite, the first at .* \(1, 0, 2, 2"):
        run(network, image, method)


@every_method
@every_kind
def test_all_methods_in_one_call_equal_each_alone(method, kind):
    network, image = case(kind)
    together = explain(network, image, list(METHODS), options=FEW)
    torch.testing.assert_close(together[method], run(network, image, method))


@every_method
def test_options_are_keyword_only_and_unknown_ones_are_refused(method):
    parameters = list(inspect.signature(METHODS[method].function).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[1:])
    network, image = case("2D")
    with pytest.raises(UsageError, match="has no option 'colour'"):
        explain(network, image, [method], options={method: {"colour": 1}})


@every_method
def test_half_of_the_memory_is_found_when_it_runs_out(method, monkeypatch):
    network, image = case("2D", batch=2)
    wanted = run(network, image, method)
    real, largest = Probe.forward, []

    def forward(self: Probe, images: Tensor) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("planted")
        largest.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Probe, "forward", forward)
    torch.testing.assert_close(run(network, image, method), wanted, rtol=1e-9, atol=1e-12)
    assert max(largest) == 2


def test_importing_medsal_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, medsal; print([m for m in ('torch', 'monai', 'captum', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    assert medsal.METHODS is METHODS
