"""The public door: shared passes, targets, layers, records, errors."""

from __future__ import annotations

import json
import re

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.networks.nets import EfficientNetBN
from torch import Tensor, nn
from torch.nn import functional

import medsal
from medsal.attribution import ALIASES, METHODS, PRESETS, Preset
from medsal.attribution.explain import explain
from medsal.attribution.images import spacings_of
from medsal.attribution.relevance import resize
from medsal.errors import UsageError
from tests.networks_for_tests import case, settled


class Counting(nn.Module):
    """Counts forwards and, through a gradient hook on its input's copy, backwards."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = self.backwards = self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.images += len(x)
        logits = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> Tensor:
        self.backwards += 1
        return gradient


@pytest.mark.parametrize("layer", [None, "network.last", ["network.stem", "network.last"]])
def test_one_forward_and_one_backward_serve_all_methods_that_share_a_pass(layer):
    network, image = case("3D")
    counting = Counting(network)
    explain(counting, image, ["saliency", "input_x_gradient", "gradcam"], target_layer=layer)
    assert (counting.forwards, counting.backwards) == (1, 1)


def test_gradcam_alone_keeps_no_graph_below_its_layer():
    network, image = case("2D")
    seen = []
    network.stem.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))
    network.head.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))
    explain(network, image, ["gradcam"], target_layer="last")
    assert seen == [False, True]


def test_integrated_gradients_costs_its_steps_and_two_scores():
    network, image = case("2D", batch=1)
    counting = Counting(network)
    explain(counting, image, ["integrated_gradients"], options={"integrated_gradients": {"steps": 5}})
    assert (counting.images, counting.backwards) == (7, 1)


def test_deep_lift_costs_the_baseline_and_one_pass_when_the_target_is_given():
    network, image = case("2D", batch=1)
    counting = Counting(network)
    explain(counting, image, ["deep_lift"], target=lambda logits: logits[:, 0])
    assert counting.backwards == 1
    assert counting.forwards <= 3


@pytest.mark.parametrize("target", [0, [1, 2], torch.tensor([2, 0]), lambda logits: logits[:, 1] - logits[:, 0]])
def test_every_kind_of_target(target):
    network, image = case("2D")
    image.requires_grad_()
    logits = network(image)
    score = target(logits) if callable(target) else logits[range(2), torch.as_tensor(target).expand(2)]
    (gradient,) = torch.autograd.grad(score.sum(), image)
    found = explain(network, image, ["saliency"], target=target)
    torch.testing.assert_close(found["saliency"], gradient.abs())
    assert found.target == ([None, None] if callable(target) else torch.as_tensor(target).expand(2).tolist())


def test_probabilities_multi_label_and_ordinal_scores_are_callables():
    network, image = case("2D")
    for score in (
        lambda z: functional.softmax(z, 1)[:, 0],
        lambda z: torch.sigmoid(z)[:, [0, 2]].sum(1),
        lambda z: torch.sigmoid(z).sum(1),
    ):
        explained = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(network(explained)).sum(), explained)
        torch.testing.assert_close(explain(network, image, "saliency", target=score)["saliency"], gradient.abs())


def test_both_sides_of_a_single_logit():
    network, image = case("slices", batch=6)
    positive = explain(network, image, ["input_x_gradient"], target=1)["input_x_gradient"]
    negative = explain(network, image, ["input_x_gradient"], target=0)["input_x_gradient"]
    torch.testing.assert_close(negative, -positive)
    own = explain(network, image, ["input_x_gradient"])
    assert own.target == (own.logits[:, 0] > 0).long().tolist()


def test_the_slices_form_and_the_volume_give_the_same_volume():
    network, image = case("slices")
    slices = image.squeeze(1).movedim(2, 1)
    found = explain(network, slices, ["saliency", "gradcam"])
    wanted = explain(network, image, ["saliency", "gradcam"])
    for name in found:
        torch.testing.assert_close(found[name], wanted[name])
    gradcam = found["gradcam"]
    assert torch.equal(gradcam, gradcam[:, :, :, :1].expand_as(gradcam))
    assert found.records["gradcam"]["repeated_over_slices"] == 7
    assert not torch.equal(found["saliency"], found["saliency"][:, :, :, :1].expand_as(found["saliency"]))


def test_target_layers_by_name_module_callable_and_several():
    network, image = case("3D")
    by_name = explain(network, image, ["gradcam"], target_layer="block")["gradcam"]
    for layer in (network.block, lambda net: net.block, ["block"]):
        assert torch.equal(explain(network, image, ["gradcam"], target_layer=layer)["gradcam"], by_name)
    several = explain(network, image, ["gradcam"], target_layer=["block", "last"])
    assert set(several) == {"gradcam@block", "gradcam@last"}
    assert torch.equal(several["gradcam@block"], by_name)


def test_the_last_layer_with_spatial_extent_is_found_and_named():
    network, image = case("3D")
    found = explain(network, image, ["gradcam"])
    assert found.records["gradcam"]["layer"] == "end"
    assert torch.equal(found["gradcam"], explain(network, image, ["gradcam"], target_layer="end")["gradcam"])


def test_containers_around_the_last_layer_give_it_their_name():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)))
    network = settled(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    image = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    found = explain(network, image, ["gradcam", "saliency"], target=0)
    assert found.records["gradcam"]["layer"] == "0"
    by_name = explain(network, image, ["gradcam"], target=0, target_layer="0")["gradcam"]
    torch.testing.assert_close(found["gradcam"], by_name)


def test_a_low_resolution_map_covers_the_same_field_of_view():
    small = torch.arange(4.0).view(1, 1, 1, 4)
    large = resize(small, torch.Size([1, 8]))
    torch.testing.assert_close(large.flatten(), torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))


def test_records_say_how_and_are_json():
    network, image = case("2D")
    found = explain(network, image, ["noise_tunnel_ig", "gradcam"], seed=7, options={"noise_tunnel_ig": {"samples": 2}})
    record = json.loads(json.dumps(found.records))
    assert record["noise_tunnel_ig"]["method"] == "smooth_integrated_gradients"
    assert record["noise_tunnel_ig"]["options"]["samples"] == 2
    assert record["noise_tunnel_ig"]["options"]["steps"] == 50
    assert record["gradcam"]["seed"] == 7
    assert found.logits.shape == (2, 3)


def test_the_public_door():
    assert medsal.explain is explain
    assert set(ALIASES.values()) <= set(METHODS)
    with pytest.raises(AttributeError):
        _ = medsal.nothing


@pytest.mark.parametrize(("call", "message"), [
    ({"methods": ["salency"]}, "unknown method 'salency'. Did you mean saliency?"),
    ({"methods": []}, "wanted at least one of saliency"),
    ({"target": 3}, "wanted a class from 0 to 2, got 3"),
    ({"target": [0, 1, 2]}, "wanted one class for each of 2 images, got 3"),
    ({"target": lambda z: z}, r"scores of shape \(2,\), got \(2, 3\)"),
    ({"target_layer": "lasst", "methods": ["gradcam"]}, "no layer 'lasst'; did you mean last"),
    ({"target_layer": "xyzzy", "methods": ["gradcam"]}, "the network has stem, normalise"),
    ({"target_layer": "head", "methods": ["gradcam"]}, r"wanted an output \(B, C, \*space\) or tokens, got \(2, 3\)"),
    ({"options": {"gradcam": {}}}, "given for gradcam, which is not among the methods"),
    ({"methods": ["integrated_gradients"], "options": {"integrated_gradients": {"steps": 0}}}, "wanted at least 1"),
    ({"methods": ["integrated_gradients"], "options": {"integrated_gradients": {"quadrature": "simpson"}}}, "simpson"),
    ({"methods": ["integrated_gradients"], "options": {"integrated_gradients": {"baseline": "grey"}}}, "grey"),
    ({"methods": ["deep_lift"], "options": {"deep_lift": {"baseline": torch.zeros(5)}}}, "broadcasts"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"noise": -1}}}, "at least 0, got -1"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"noise_unit": "mm"}}}, "range or absolute, got 'mm'"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"samples": 0}}}, "at least 1, got 0"),
    ({"options": {"saliency": {"channels": "median"}}}, "got 'median'"),
    ({"methods": ["gradcam"], "options": {"gradcam": {"relu": "false"}}}, "relu to be true or false, got 'false'"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"samples": 2.5}}}, "samples to be a whole number, got 2.5"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"noise": "0.1"}}}, "noise to be a number, got '0.1'"),
    ({"methods": ["integrated_gradients"], "options": {"integrated_gradients": {"tolerance": "x"}}}, "got 'x'"),
    ({"methods": ["deep_lift"], "options": {"deep_lift": {"baseline": "gaussian:x"}}}, "got 'gaussian:x'"),
    ({"target": 0.9}, "wanted whole numbers, got 0.9"),
    ({"target": True}, "wanted whole numbers, got True"),
    ({"target": "label"}, "got 'label'"),
    ({"target": ["a", "b"]}, "got .'a', 'b'."),
    ({"seed": 1.5}, "seed: wanted a whole number"),
    ({"memory_budget": "1G"}, "memory_budget: wanted a number of bytes"),
    ({"memory_budget": -5}, "memory_budget: wanted a number of bytes"),
    ({"autocast": "bfloat16"}, "autocast: wanted torch.bfloat16"),
    ({"memory_format": "channels_last"}, "memory_format: wanted a torch.memory_format"),
    ({"methods": ["smoothgrad"], "options": {"smoothgrad": {"noise": float("nan")}}}, "noise to be finite, got nan"),
    ({"methods": ["deep_lift"], "options": {"deep_lift": {"baseline": float("inf")}}}, "wanted finite values, got inf"),
    ({"methods": ["lrp_epsilon"], "options": {"lrp_epsilon": {"epsilon": -1.0}}}, "wanted at least 0, got -1"),
    ({"memory_format": torch.channels_last_3d}, "does not fit images of 2 dimensions"),
])  # fmt: skip
def test_errors_say_what_was_wanted_and_what_came(call, message):
    network, image = case("2D")
    with pytest.raises(UsageError, match=message):
        explain(network, image, **{"methods": ["saliency"], **call})


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 1, 4, 4, dtype=torch.int), torch.zeros(4, 4), torch.zeros(0, 1, 4, 4), [1]]
)
def test_images_of_another_kind_are_refused(image):
    with pytest.raises(UsageError, match="wanted floating point"):
        explain(case("2D")[0], image, ["saliency"])


def test_networks_without_spatial_layers_or_gradients_or_logits_are_refused():
    image = torch.randn(1, 1, 4, 4)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(UsageError, match="no layer of the network has an output with spatial extent"):
        explain(flat, image, ["gradcam"])
    with pytest.raises(UsageError, match=r"wanted logits \(B, K\), got shape \(1, 2, 2, 2\)"):
        explain(nn.Conv2d(1, 2, 3), image, ["saliency"])

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return flat(x.detach())

    with pytest.raises(UsageError, match="does not depend on the image"):
        explain(Cut(), image, ["saliency"])


def test_deep_lift_names_the_operation_that_has_no_rule_and_refuses_scripts():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).cumsum(1)[:, :2]

    image = torch.randn(1, 1, 4, 4)
    with pytest.raises(UsageError, match="uses 'cumsum', for which this method has no rule"):
        explain(Net(), image, ["deep_lift"])


class Restless(nn.Module):
    """Replaces one buffer and writes into a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("large", torch.zeros(2**17))
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.large += 1
        return self.head(x.flatten(1))


def test_buffers_that_a_forward_replaces_or_fills_are_given_back():
    network = Restless()
    count, large = network.count, network.large
    explain(network, torch.randn(1, 1, 8, 8), ["saliency"])
    assert network.count is count
    assert network.large is large
    assert not count.any()
    assert not large.any()


def test_a_normalisation_by_the_batch_itself_is_refused():
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(72, 2))
    with pytest.raises(UsageError, match="1 normalises by the batch that it sees"):
        explain(network, torch.randn(2, 1, 8, 8), ["saliency"])
    network[1] = nn.InstanceNorm2d(2)
    explain(network, torch.randn(2, 1, 8, 8), ["saliency"])


def test_a_network_that_was_edited_is_looked_through_again():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    image = torch.randn(1, 1, 9, 9)
    assert explain(network, image, ["gradcam"]).records["gradcam"]["layer"] == "1"
    network.insert(2, nn.Conv2d(4, 4, 3))
    assert explain(network, image, ["gradcam"]).records["gradcam"]["layer"] == "2"


def test_networks_and_images_in_half_precision_give_maps_in_single():
    network, image = case("2D")
    wanted = explain(network.float(), image.float(), ["saliency", "gradcam", "integrated_gradients"], target=0)
    half = explain(network.bfloat16(), image.bfloat16(), list(wanted), target=0)
    for name, relevance in half.items():
        assert relevance.dtype == torch.float32
        assert torch.corrcoef(torch.stack([relevance.flatten(), wanted[name].flatten()]))[0, 1] > 0.9


def test_autocast_is_recorded_and_maps_stay_in_single_precision():
    network, image = case("2D")
    network, image = network.float(), image.float()
    wanted = explain(network, image, ["gradcam", "smoothgrad"], target=0)
    found = explain(network, image, ["gradcam", "smoothgrad"], target=0, autocast=torch.bfloat16)
    for name in wanted:
        assert found[name].dtype == torch.float32
        assert not torch.equal(found[name], wanted[name])
        assert torch.corrcoef(torch.stack([found[name].flatten(), wanted[name].flatten()]))[0, 1] > 0.9
        assert found.records[name]["autocast"] == "torch.bfloat16"
        assert "autocast" not in wanted.records[name]


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_the_memory_format_changes_nothing_and_is_recorded(kind):
    network, image = case(kind)
    memory_format = torch.channels_last if kind == "2D" else torch.channels_last_3d
    wanted = explain(network, image, ["saliency", "gradcam", "deep_lift"], target=1)
    found = explain(network, image, list(wanted), target=1, memory_format=memory_format)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])
        assert found.records[name]["memory_format"] == str(memory_format)
        assert "memory_format" not in wanted.records[name]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of the compiler
def test_a_compiled_network_gives_the_same_maps():
    network, image = case("2D")
    methods = ["saliency", "guided_backprop", "integrated_gradients"]
    wanted = explain(network, image, methods, target=1)
    found = explain(torch.compile(network, backend="eager"), image, methods, target=1)
    for name in methods:
        torch.testing.assert_close(found[name], wanted[name])


def test_maps_may_have_names_of_their_own():
    network, image = case("2D")
    two, four = ({"method": "smoothgrad", "samples": n} for n in (2, 4))
    found = explain(network, image, {"few": two, "more": four, "saliency": {}}, target=1)
    assert list(found) == ["few", "more", "saliency"]
    assert found.records["more"]["method"] == "smoothgrad"
    assert found.records["more"]["options"]["samples"] == 4
    wanted = explain(network, image, "smoothgrad", target=1, options={"smoothgrad": {"samples": 2}})["smoothgrad"]
    assert torch.equal(found["few"], wanted)


MARKED = torch.tensor([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 9], [0, 0, 0, 1]], dtype=torch.float64)


def test_the_spacing_of_a_batch_is_that_of_each_image():
    _, image = case("3D")
    batch = list_data_collate([MetaTensor(one, affine=MARKED) for one in image])
    assert batch.affine.shape == (2, 4, 4)
    assert spacings_of(batch, image) == [(1.5, 2.0, 3.0)] * 2
    assert spacings_of(image, image, (1, 2, 3)) == [(1.0, 2.0, 3.0)] * 2
    _, picture = case("2D")
    assert spacings_of(MetaTensor(picture, affine=MARKED), picture) == [(1.5, 2.0)] * 2
    with pytest.raises(UsageError, match="spacing: wanted 3 lengths in mm"):
        spacings_of(image, image, (1, 2))


def test_images_of_a_batch_keep_their_own_spacing():
    network, image = case("3D")
    options = {"occlusion": {"window": 6, "stride": 3, "unit": "mm"}}
    spacings = [(1.0, 1.0, 1.0), (2.0, 1.0, 3.0)]
    together = explain(network, image, "occlusion", target=[0, 1], options=options, spacing=spacings)
    for i, spacing in enumerate(spacings):
        alone = explain(network, image[i : i + 1], "occlusion", target=i, options=options, spacing=spacing)
        torch.testing.assert_close(together["occlusion"][i : i + 1], alone["occlusion"])
    assert together.target == [0, 1]


class OneByOne(nn.Module):
    """Runs the images of a batch one after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(one[None]) for one in x])


@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "layer_deep_lift", "lrp_epsilon_plus_flat"])
def test_a_network_that_takes_images_one_by_one_is_told_to(method):
    network, image = case("2D")
    looping = OneByOne(network)
    with pytest.raises(UsageError, match="one by one"):
        explain(looping, image, method)
    explain(looping, image[:1], method)


def test_a_module_that_is_used_again_is_read_where_it_has_space():
    network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=2).eval()
    image = torch.rand(1, 1, 32, 32)
    first, second = (explain(network, image, ["hirescam"], target=1) for _ in range(2))
    assert torch.equal(first["hirescam"], second["hirescam"])
    assert first.records["hirescam"]["layer"] == second.records["hirescam"]["layer"]


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
@pytest.mark.parametrize("method", ["gradcam", "guided_backprop", "deep_lift", "lrp_epsilon_plus", "ablationcam"])
def test_layers_and_operations_are_seen_in_a_compiled_network(method, how):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()), nn.Flatten())
    network.append(nn.Linear(5 * 96, 2))
    settled(network)
    _, image = case("2D")
    wanted = explain(network, image, method, target=1, target_layer="0")[method]
    if how == "in place":
        network.compile(backend="eager")
    elif how == "a part":
        network[2] = torch.compile(network[2], backend="eager")
    compiled = torch.compile(network, backend="eager") if how == "wrapped" else network
    torch.testing.assert_close(explain(compiled, image, method, target=1, target_layer="0")[method], wanted)
    assert how != "in place" or network._compiled_call_impl is not None


def test_a_preset_brings_its_target():
    network, image = case("slices")
    preset = Preset({"map": {"method": "saliency", "channels": "sum"}}, "a study", "nothing", 0)
    assert explain(network, image, preset).target == [0, 0]
    assert explain(network, image, preset, target=1).target == [1, 1]
    assert PRESETS["mri_tle"].target == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_layers_of_torchscript_are_refused_and_so_are_its_biases():
    network, image = case("2D")
    traced = torch.jit.trace(network.float(), image.float(), check_trace=False)
    for method in ("gradcam", "fullgrad", "deep_lift"):
        with pytest.raises(UsageError, match="TorchScript"):
            explain(traced, image.float(), method)


def test_an_image_of_another_precision_than_the_network_is_explained_in_its_own():
    network, image = case("2D")
    wanted = explain(network, image, ["saliency", "integrated_gradients"], target=1)
    found = explain(network, image.float(), ["saliency", "integrated_gradients"], target=1)
    for name in wanted:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], wanted[name].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", ["last", ["last", "block"]])
def test_claims_of_every_class_and_layer_are_joined_over_parts_of_a_batch(layers):
    network, image = case("3D")
    methods = ["integrated_gradients", "layer_deep_lift", "fullgrad"]
    call = {"target_layer": layers, "options": {"integrated_gradients": {"steps": 3}}}
    for target in ("all", [0, 1]):
        whole = explain(network, image, methods, target=target, **call)
        parts = explain(network, image, methods, target=target, spacing=[(1, 1, 1), (1, 1, 2)], **call)
        for name, record in whole.records.items():
            torch.testing.assert_close(parts[name], whole[name])
            found, wanted = (json.dumps(each["claims"]) for each in (parts.records[name], record))
            numbers = re.compile(r"-?[0-9.]+(?:e-?[0-9]+)?")
            assert numbers.sub("#", found) == numbers.sub("#", wanted)  # of the same form
            values = [[float(n) for n in numbers.findall(each)] for each in (found, wanted)]
            assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-9)


def test_options_that_belong_to_images_are_not_taken_apart_in_silence():
    network, image = case("3D")
    spacings = [(1, 1, 1), (1, 1, 2)]
    fits = {"deep_lift": {"baseline": torch.tensor(0.5)}}
    explain(network, image, "deep_lift", options=fits, spacing=spacings)
    with pytest.raises(UsageError, match=r"baseline: .* in parts"):
        explain(network, image, "deep_lift", options={"deep_lift": {"baseline": image * 0.5}}, spacing=spacings)
