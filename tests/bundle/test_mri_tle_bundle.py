"""The shipped bundle: complete, consistent with itself, really trained, and reproducible from its seed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mri_tle_efficientnet"
CONFIGS = BUNDLE / "configs"
pytestmark = pytest.mark.filterwarnings(
    # MONAI warns of every configuration that it may run code; these are our own
    r"ignore:.*_target_.*:UserWarning",
)


def config(name):
    return json.loads((CONFIGS / name).read_text(encoding="utf-8"))


def workflow(*names, **overrides):
    return ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in names],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(BUNDLE),
        device="cpu",
        **overrides,
    )


@pytest.fixture(scope="module")
def network():
    parser = ConfigParser({**config("inference.json"), "device": "cpu", "bundle_root": str(BUNDLE)})
    return parser.get_parsed_content("network").eval()


def test_every_id_that_the_overlays_use_is_there():
    assert {"csv_path", "max_samples"} <= config("inference.json").keys()


def test_training_and_inference_mean_the_same_network():
    assert config("train.json")["network_def"] == config("inference.json")["network_def"]


def test_the_metadata_describes_the_network_and_its_grid():
    image = config("metadata.json")["network_data_format"]["inputs"]["image"]
    inference = config("inference.json")
    assert image["spatial_shape"] == inference["grid_size"]
    assert image["num_channels"] == inference["network_def"]["in_channels"]
    assert image["value_range"] == [-inference["clamp"], inference["clamp"]]


def test_licence_model_card_and_numbers_are_there():
    card = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    assert (BUNDLE / "LICENSE").stat().st_size > 1000
    assert "does not transfer" in card
    assert "McGill" in card
    assert f"{config('metadata.json')['eval_metrics']['held_out_auc']:.3f}" in card
    with (BUNDLE / "models" / "model_curve.csv").open(encoding="utf-8") as stream:
        curve = list(csv.DictReader(stream))
    for row in curve:
        assert re.search(rf"\| {row['epoch']} \| {float(row['loss']):.3f} \| {float(row['auc']):.3f} \|", card)


def test_the_written_out_preprocessing_is_the_named_chain(tmp_path):
    from medsal.data import mri_cases, network_mri_transforms, write_planted_set

    case = mri_cases(write_planted_set(tmp_path, cases=2, spacing=2.0))[1]
    parser = ConfigParser(config("inference.json"))
    ours = parser.get_parsed_content("preprocessing")(case)
    named = network_mri_transforms(mask_keys=("regions",))(case)
    for key in ("image", "regions"):
        assert isinstance(ours[key], MetaTensor)
        assert torch.equal(ours[key].as_tensor(), named[key].as_tensor())
        assert torch.equal(ours[key].affine, named[key].affine)
    assert ours["regions"].unique().numel() == 5


def test_inference_alone_predicts_the_embedded_cases(tmp_path):
    run = workflow(
        "inference.json", embedded_dir=str(tmp_path / "data"), embedded_cases=2, output_dir=str(tmp_path / "out")
    )
    run.run()
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as stream:
        rows = {Path(name).name: float(value) for name, value in csv.reader(stream)}
    assert set(rows) == {"sub-0001_ses-01_T1w.nii.gz", "sub-0002_ses-01_T1w.nii.gz"}
    assert rows["sub-0001_ses-01_T1w.nii.gz"] < 0.5 < rows["sub-0002_ses-01_T1w.nii.gz"]


def average_precisions(network, seeds, *, steps=16):
    from sklearn.metrics import average_precision_score

    from medsal import explain
    from medsal.data import planted_crops

    found = {"integrated_gradients": [], "saliency": [], "gradcam": [], "prevalence": []}
    for case in planted_crops(seeds):
        lesion = case["lesion"].as_tensor().numpy().ravel() > 0
        maps = explain(
            network,
            case["image"].as_tensor()[None],
            ["integrated_gradients", "saliency", "gradcam"],
            target=1,
            options={"integrated_gradients": {"steps": steps}},
        )
        for name, relevance in maps.items():
            found[name].append(average_precision_score(lesion, relevance.abs().numpy().ravel()))
        found["prevalence"].append(lesion.mean())
    return {name: sum(values) / len(values) for name, values in found.items()}


def test_the_trained_network_looks_at_the_lesion_and_random_weights_do_not(network):
    seeds = range(301, 313, 2)
    trained = average_precisions(network, seeds)
    torch.manual_seed(1)
    from medsal.networks import EfficientNetV2

    random = average_precisions(EfficientNetV2(3, 1, 1, "nano").eval(), seeds)
    for name in ("integrated_gradients", "saliency"):
        assert trained[name] > 10 * trained["prevalence"]
        assert trained[name] > 3 * random[name]
    assert trained["gradcam"] > 5 * trained["prevalence"]


def lesion_precision(network, case):
    """Average precision of integrated gradients against the lesion, and the lesion's share of the image."""
    from sklearn.metrics import average_precision_score

    from medsal import explain
    from medsal.transforms import LoadVolumed, ResampleToGridd

    image = case["image"]
    loaded = LoadVolumed("lesion")({"lesion": case["lesion"]})
    grid = ResampleToGridd("lesion", image.affine[:3, 3].tolist(), (1.5,) * 3, tuple(image.shape[1:]), "nearest")
    lesion = grid(loaded)["lesion"].as_tensor().numpy().ravel() > 0.5
    relevance = explain(network, image.as_tensor()[None], ["integrated_gradients"], target=1)["integrated_gradients"]
    return average_precision_score(lesion, relevance.abs().numpy().ravel()), lesion.mean()


def scores(tmp_path, *overlays, **overrides):
    run = workflow("inference.json", *overlays, "evaluate.json", output_dir=str(tmp_path / "eval"), **overrides)
    run.initialize()
    run.run()
    return run.evaluator.state.metrics


def train(folder, *overlays, **overrides):
    path = folder / "model.safetensors"
    run = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in ("train.json", *overlays)],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        ckpt_path=str(path),
        **overrides,
    )
    run.initialize()
    run.run()
    return path


@pytest.mark.slow
def test_held_out_heads_are_told_apart(tmp_path):
    metrics = scores(tmp_path, embedded_dir=str(tmp_path / "heads"))
    assert metrics["auc"] >= 0.95
    assert metrics["auc"] == pytest.approx(config("metadata.json")["eval_metrics"]["held_out_auc"], abs=0.01)


@pytest.mark.slow
def test_a_training_is_repeated_from_its_seed_bit_by_bit(tmp_path):
    small = {"train_cases": 32, "val_cases": 8, "epochs": 2}
    first, second = (train(tmp_path / name, **small).read_bytes() for name in "ab")
    other = train(tmp_path / "c", **small, seed=1).read_bytes()
    assert first == second
    assert first != other


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_bundles_own_training_gives_weights_as_good_as_the_shipped(tmp_path):
    path = train(tmp_path / "again")
    metrics = scores(tmp_path, ckpt_path=str(path), embedded_dir=str(tmp_path / "heads"))
    assert metrics["auc"] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_lesions_planted_in_real_images_are_found_in_other_subjects(tmp_path, real_data):
    places = {"dataset_dir": str(real_data / "mri_hippocampus_msd"), "embedded_dir": str(tmp_path / "planted")}
    path = train(tmp_path / "real", "hippocampus_train.json", **places)
    metrics = scores(tmp_path, "hippocampus.json", ckpt_path=str(path), **places)
    assert metrics["auc"] >= 0.85
    run = workflow("inference.json", "hippocampus.json", ckpt_path=str(path), **places)
    network, dataset = (run.parser.get_parsed_content(name) for name in ("network", "dataset"))
    ill = [index for index, case in enumerate(dataset.data) if case["label"] == 1][:12]
    found = [lesion_precision(network.eval(), dataset[index]) for index in ill]
    precision, prevalence = (sum(values) / len(values) for values in zip(*found, strict=True))
    assert precision > 10 * prevalence
