"""The inferer: any methods, in MONAI's own engine, in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.networks.nets import DenseNet
from torch import Tensor, nn

from medsal.attribution.explain import Explanation, explain
from medsal.errors import UsageError
from medsal.inferers import AttributionInferer, WithArguments, precision_of
from tests.networks_for_tests import case


def network() -> DenseNet:
    torch.manual_seed(1)
    return DenseNet(2, 1, 3, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)


METHODS = {"gradcam": {"method": "gradcam"}, "ig4": {"method": "integrated_gradients", "steps": 4}}


def test_it_gives_what_explain_gives() -> None:
    image = torch.randn(2, 1, 16, 20)
    inferer = AttributionInferer(METHODS, target=[2, 0], target_layer="features.denseblock1", seed=3)
    assert isinstance(inferer, Inferer)
    found = inferer(image, network())
    wanted = explain(network(), image, METHODS, target=[2, 0], target_layer="features.denseblock1", seed=3)
    assert isinstance(found, Explanation)
    assert list(found) == ["gradcam", "ig4"]
    for name, relevance in wanted.items():
        torch.testing.assert_close(found[name], relevance)


def test_it_is_an_inferer_of_monais_engine_and_its_maps_are_saved(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "inferer": {
            "_target_": "medsal.inferers.AttributionInferer",
            "methods": ["saliency", "gradcam"],
            "target": 1,
            "memory_format": "channels_last_3d",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "FlattenSubKeysd",
                    "keys": "pred",
                    "sub_keys": ["saliency", "gradcam"],
                    "delete_keys": True,
                    "prefix": "map",
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "map_saliency",
                    "output_dir": str(tmp_path),
                    "output_ext": ".nii.gz",
                    "print_log": False,
                },
            ],
        },
    }
    parser = ConfigParser(config)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": "case.nii.gz", "original_channel_dim": 0}
    torch.manual_seed(1)
    net = DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)
    items = [{"image": MetaTensor(torch.rand(1, 12, 10, 16), affine=affine, meta=dict(meta))} for _ in range(2)]
    engine = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=net,
        inferer=parser.get_parsed_content("inferer"),
        postprocessing=parser.get_parsed_content("postprocessing"),
    )
    engine.run()
    wanted = explain(net, torch.stack([item["image"].as_tensor() for item in items]), ["gradcam"], target=1)["gradcam"]
    for one, map_ in zip(engine.state.output, wanted, strict=True):
        assert isinstance(one["map_gradcam"], MetaTensor)
        torch.testing.assert_close(one["map_gradcam"].as_tensor(), map_)
        torch.testing.assert_close(one["map_saliency"].affine, affine)
    import nibabel

    (saved,) = tmp_path.rglob("*.nii.gz")
    np.testing.assert_allclose(nibabel.load(saved).affine.diagonal()[2:], [4.0, 1.0])
    assert nibabel.load(saved).get_fdata().std() > 0


class Scaled(nn.Module):
    """A network with further arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor, factor: float, *, shift: float = 0.0) -> Tensor:
        return self.body(x) * factor + shift


@pytest.mark.parametrize("layer", ["body.features.denseblock1", lambda net: net.body.features.denseblock1, None])
def test_further_arguments_go_to_the_network(layer: Any) -> None:
    image = torch.randn(2, 1, 16, 20)
    plain = None if layer is None else "features.denseblock1"
    wanted = AttributionInferer(["gradcam", "saliency"], target=1, target_layer=plain)(image, network())
    found = AttributionInferer(["gradcam", "saliency"], target=1, target_layer=layer)(image, Scaled(), 2.0, shift=1.0)
    for name, relevance in wanted.items():
        torch.testing.assert_close(found[name], 2 * relevance)
    torch.testing.assert_close(found.logits, 2 * wanted.logits + 1)


def test_slices_as_channels_are_known_with_further_arguments_too() -> None:
    net, image = case("slices")
    found = explain(WithArguments(net, (), {}), image, ["saliency"])
    torch.testing.assert_close(found["saliency"], explain(net, image, ["saliency"])["saliency"])


def test_a_preset_by_name() -> None:
    inferer = AttributionInferer("mri_tle")
    assert list(inferer.methods) == list(__import__("medsal").PRESETS["mri_tle"])
    assert inferer.options["target"] == 1
    assert AttributionInferer("mri_tle", target=0).options["target"] == 0


def test_precision_is_recorded() -> None:
    image = torch.randn(1, 1, 16, 20)
    found = AttributionInferer("gradcam", target=1, autocast="bfloat16")(image, network())
    assert found.records["gradcam"]["autocast"] == "torch.bfloat16"
    full = AttributionInferer("gradcam", target=1, autocast=None)(image, network())
    assert "autocast" not in full.records["gradcam"]
    assert not torch.equal(found["gradcam"], full["gradcam"])
    assert precision_of(torch.float16) is torch.float16


def test_errors() -> None:
    with pytest.raises(UsageError, match="autocast: wanted null, bfloat16 or float16, got 'half'"):
        AttributionInferer("gradcam", autocast="half")
    with pytest.raises(UsageError, match="memory_format: wanted one of auto"):
        AttributionInferer("gradcam", memory_format="last")
    with pytest.raises(UsageError, match=r"wanted a torch.nn.Module, got function"):
        AttributionInferer("gradcam")(torch.randn(1, 1, 8, 8), lambda x: x)
