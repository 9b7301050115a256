"""The engine: MONAI's components work around it unchanged, and one bad case does not stop the others."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.handlers import CheckpointLoader, IgniteMetricHandler, MetricsSaver, from_engine
from monai.metrics import MAEMetric
from monai.networks.nets import DenseNet
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Resized, SaveImaged, Spacingd
from torch import Tensor, nn

import medsal
from medsal.attribution.explain import explain
from medsal.engines import AttributionEvaluator, AttributionEvents, attribution_mode, method_names
from medsal.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # said by MONAI's image readers


def small_network() -> DenseNet:
    return DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """As ``medsal.data.collate_cases`` does it, with items that carry ``error``."""
    from monai.data import list_data_collate

    good = [item for item in items if "error" not in item]
    bad = [item for item in items if "error" in item]
    return {**(list_data_collate(good) if good else {}), "failures": bad}


def tensor_cases(count: int = 4) -> list[dict[str, Any]]:
    values = torch.Generator().manual_seed(1)
    return [
        {
            "image": MetaTensor(
                torch.rand(1, 16, 16, 16, generator=values), affine=torch.diag(torch.tensor([i + 1.0, 1, 1, 1]))
            ),
            "label": i % 2,
            "case": f"sub-{i}",
        }
        for i in range(count)
    ]


def evaluator_of(
    cases: list[dict[str, Any]], network: nn.Module, batch_size: int = 2, **kwargs: Any
) -> AttributionEvaluator:
    loader = DataLoader(Dataset(cases), batch_size=batch_size, collate_fn=collate)
    return AttributionEvaluator("cpu", loader, network, **{"methods": ["saliency", "gradcam"], **kwargs})


def collected(evaluator: AttributionEvaluator) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Run, and gather ``(batch item, output item)`` of every case."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _keep(engine: Any) -> None:
        found.extend(zip(engine.state.batch, engine.state.output, strict=True))

    evaluator.run()
    return found


def test_the_output_is_what_explain_gives_for_each_case_and_keeps_its_own_place() -> None:
    cases, network = tensor_cases(3), small_network()
    found = collected(evaluator_of(cases, network, target="label"))
    assert [batch["case"] for batch, _ in found] == ["sub-0", "sub-1", "sub-2"]
    for case, (_, output) in zip(cases, found, strict=True):
        wanted = explain(network, case["image"][None].as_tensor(), ["saliency", "gradcam"], target=case["label"])
        for name, relevance in wanted.items():
            got = output[f"saliency_{name}"]
            assert isinstance(got, MetaTensor)
            torch.testing.assert_close(got.as_tensor(), relevance[0], rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(got.affine, case["image"].affine)
        torch.testing.assert_close(output["pred"].as_subclass(Tensor), wanted.logits[0], rtol=1e-4, atol=1e-6)
        assert output["target"] == case["label"]
        assert output["records"]["saliency"]["seed"] == 0
        assert output["seconds"]["compute"] > 0


def test_claims_are_split_by_case() -> None:
    options = {"integrated_gradients": {"steps": 4}, "gradcam": {}}
    found = collected(evaluator_of(tensor_cases(3), small_network(), methods="integrated_gradients", options=options))
    gaps = [output["records"]["integrated_gradients"]["claims"]["completeness_gap"] for _, output in found]
    assert all(isinstance(gap, float) for gap in gaps)
    assert len(set(gaps)) == 3


def test_network_and_gradient_mode_are_left_as_found() -> None:
    network = small_network().train()
    weight = next(network.parameters())
    with torch.no_grad():
        collected(evaluator_of(tensor_cases(1), network))
        assert not torch.is_grad_enabled()
    assert network.training
    assert weight.requires_grad
    assert weight.grad is None


def test_the_mode_of_the_engine_is_evaluation_with_gradients_on() -> None:
    assert evaluator_of(tensor_cases(1), small_network()).mode is attribution_mode


def test_attribution_mode_restores_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout().eval())
    with contextlib.suppress(ValueError), attribution_mode(network):
        assert not network.training
        assert not network[0].weight.requires_grad
        raise ValueError
    assert network.training
    assert not network[1].training
    assert network[0].weight.requires_grad


class Picky(nn.Module):
    """Fails on any batch that holds an image whose mean is above one, as a network may fail on one case."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_network()

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.mean((1, 2, 3, 4)) > 1).any()):
            raise ZeroDivisionError("cannot divide\nthis image")
        return self.net(x)


def test_a_case_that_fails_in_a_batch_is_named_and_the_others_finish_as_if_alone() -> None:
    cases = tensor_cases(4)
    cases[1]["image"] = cases[1]["image"] + 5
    network = Picky()
    evaluator = evaluator_of(cases, network, batch_size=4)
    failures: list[Any] = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: failures.extend(engine.state.failures))
    found = collected(evaluator)
    assert [batch["case"] for batch, _ in found] == ["sub-0", "sub-2", "sub-3"]
    assert [(failure.case["case"], failure.error) for failure in failures] == [
        ("sub-1", "ZeroDivisionError: cannot divide this image")
    ]
    for batch, output in found:
        wanted = explain(network, batch["image"][None].as_tensor(), "saliency")["saliency"][0]
        torch.testing.assert_close(output["saliency_saliency"].as_tensor(), wanted)
        torch.testing.assert_close(output["saliency_saliency"].affine, batch["image"].affine)


def test_a_voxel_that_is_not_finite_is_the_failure_of_its_case_alone() -> None:
    cases = tensor_cases(2)
    cases[0]["image"][0, 1, 2, 3] = torch.nan
    evaluator = evaluator_of(cases, small_network())
    found = collected(evaluator)
    assert [batch["case"] for batch, _ in found] == ["sub-1"]
    assert "not finite" in evaluator.state.failures[0].error


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_cases_that_could_not_be_loaded_pass_by_metrics_and_savers(batch_size: int, tmp_path: Path) -> None:
    cases = [{"case": "sub-x", "error": "broken.nii: cut off"}, *tensor_cases(2), {"case": "sub-y", "error": "absent"}]
    metric = IgniteMetricHandler(
        MAEMetric(), output_transform=from_engine(["saliency_saliency", "image"]), save_details=True
    )
    evaluator = evaluator_of(cases, small_network(), batch_size, key_val_metric={"mae": metric})
    failures: list[str] = []
    for event in (Events.ITERATION_COMPLETED, AttributionEvents.BATCH_FAILED):
        evaluator.add_event_handler(
            event, lambda engine: failures.extend(f"{f.case['case']}: {f.error}" for f in engine.state.failures)
        )
    found = collected(evaluator)
    assert [batch["case"] for batch, _ in found] == ["sub-0", "sub-1"]
    assert failures == ["sub-x: broken.nii: cut off", "sub-y: absent"]
    assert len(evaluator.state.metric_details["mae"]) == 2


def test_every_case_failing_leaves_nothing_to_metrics() -> None:
    evaluator = evaluator_of([{"case": "a", "error": "x"}, {"case": "b", "error": "y"}], small_network())
    assert collected(evaluator) == []


def test_an_empty_loader_is_no_warning() -> None:
    assert collected(evaluator_of([], small_network())) == []


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"methods": "salincy"}, "Did you mean saliency"),
        ({"methods": []}, "at least one"),
        ({"methods": ["saliency"], "options": {"saliency": {"step": 3}}}, "no option 'step'"),
        ({"target_layer": "features.nothing"}, "no layer 'features.nothing'"),
        ({"target": "lable"}, "got 'lable'"),
        ({"memory_format": "fast"}, "channels_last_3d"),
        ({"inferer": object()}, "SimpleInferer"),
    ],
)
def test_what_cannot_be_is_refused_before_any_case_is_read(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluator_of(tensor_cases(1), small_network(), **kwargs)


@pytest.mark.parametrize(("target", "words"), [(7, "class from 0 to 1, got 7"), ("label", "a label for every case")])
def test_a_wrong_target_ends_the_run_and_is_not_the_fault_of_a_case(target: Any, words: str) -> None:
    cases = [{key: value for key, value in case.items() if key != "label"} for case in tensor_cases(1)]
    with pytest.raises(UsageError, match=words):
        evaluator_of(cases, small_network(), target=target).run()


@pytest.mark.parametrize(
    "methods", ["saliency,gradcam", "saliency, gradcam", ("saliency", "gradcam"), ["saliency,gradcam"]]
)
def test_names_of_methods_come_in_any_form(methods: Any) -> None:
    assert method_names(methods) == ["saliency", "gradcam"]


@pytest.mark.parametrize(
    ("given", "target"), [("1", 1), ("predicted", None), ("null", None), ("label", "label"), (0, 0)]
)
def test_a_target_of_the_command_line(given: Any, target: Any) -> None:
    assert evaluator_of(tensor_cases(1), small_network(), target=given).target == target


def test_checkpoint_loader_invertd_save_imaged_and_metrics_saver_work_unchanged(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    shape = (20, 15, 9)
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine),
        tmp_path / "sub-9.nii.gz",
    )
    trained = small_network()
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    chain = Compose(
        [
            LoadImaged("image", reader="NibabelReader"),
            EnsureChannelFirstd("image"),
            Spacingd("image", (1.0, 1.0, 1.0)),
            Resized("image", (16, 16, 16)),
        ]
    )
    key = "saliency_saliency"
    post = Compose(
        [
            Invertd(key, chain, orig_keys="image", nearest_interp=False),
            SaveImaged(
                key, output_dir=str(tmp_path / "out"), output_postfix="map", separate_folder=False, print_log=False
            ),
        ]
    )
    network = small_network()
    metric = IgniteMetricHandler(MAEMetric(), output_transform=from_engine([key, key]), save_details=True)
    saver = MetricsSaver(
        str(tmp_path / "metrics"),
        metric_details="mae",
        batch_transform=lambda batch: [item["image"].meta for item in batch],
    )
    evaluator = AttributionEvaluator(
        "cpu",
        DataLoader(Dataset([{"image": str(tmp_path / "sub-9.nii.gz"), "label": 1}], chain), batch_size=1),
        network,
        "saliency",
        postprocessing=post,
        key_val_metric={"mae": metric},
        val_handlers=[CheckpointLoader(str(tmp_path / "model.pt"), {"model": network}, strict=True), saver],
    )
    ((_, output),) = collected(evaluator)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), trained.parameters(), strict=True))
    saved = nib.load(tmp_path / "out/sub-9_map.nii.gz")
    assert saved.shape == shape
    np.testing.assert_allclose(saved.affine, affine, atol=1e-5)
    np.testing.assert_allclose(saved.get_fdata(), output[key][0].numpy(), atol=1e-6)
    assert np.abs(saved.get_fdata()).max() > 0
    assert "sub-9.nii.gz" in (tmp_path / "metrics/mae_raw.csv").read_text()


NAMED = {"w_saliency": {"method": "saliency", "channels": "sum"}, "gradcam": {}}


def test_maps_may_have_names_of_their_own() -> None:
    cases, network = tensor_cases(2), small_network()
    options = {"gradcam": {"relu": False}}
    found = collected(evaluator_of(cases, network, methods=NAMED, options=options, target=1))
    wanted = explain(
        network,
        torch.stack([case["image"].as_tensor() for case in cases]),
        {"w_saliency": NAMED["w_saliency"], "gradcam": {"method": "gradcam", "relu": False}},
        target=1,
    )
    for index, (_, output) in enumerate(found):
        for name, relevance in wanted.items():
            torch.testing.assert_close(output[f"saliency_{name}"].as_tensor(), relevance[index], rtol=1e-4, atol=1e-7)
        assert output["records"]["w_saliency"]["method"] == "saliency"
        assert output["records"]["gradcam"]["options"]["relu"] is False


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a": {"method": "salience"}}, "unknown method 'salience'. Did you mean saliency"),
        ({"a": "saliency"}, "wanted a: {method: name, option: value}, got 'saliency'"),
        ({"a/b": {"method": "saliency"}}, "wanted names of letters, digits"),
        ({"a_b": {"method": "saliency"}, "aB": {"method": "gradcam"}}, "'a_b' and it would be files of the same name"),
        ({"a": {"method": "saliency", "steps": 3}}, "a has no option 'steps'"),
        ({}, "wanted at least one of saliency"),
    ],
)
def test_names_of_maps_are_checked_before_anything_is_computed(methods: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluator_of(tensor_cases(1), small_network(), methods=methods)


def test_a_preset_replaces_the_methods_and_gives_its_class() -> None:
    evaluator = evaluator_of(tensor_cases(1), small_network(), preset="mri_tle")
    assert list(evaluator.methods) == list(medsal.PRESETS["mri_tle"])
    assert evaluator.target == 1
    assert evaluator_of(tensor_cases(1), small_network(), preset="mri_tle", target=0).target == 0
    with pytest.raises(UsageError, match=r"preset: wanted one of arun2021, .*, got 'arun'"):
        evaluator_of(tensor_cases(1), small_network(), preset="arun")


def test_the_precision_is_an_option_and_is_recorded() -> None:
    found = collected(evaluator_of(tensor_cases(1), small_network(), methods="gradcam", autocast="bfloat16"))
    assert found[0][1]["records"]["gradcam"]["autocast"] == "torch.bfloat16"
    with pytest.raises(UsageError, match="autocast: wanted null, bfloat16 or float16, got 'int8'"):
        evaluator_of(tensor_cases(1), small_network(), autocast="int8")
