"""The bundle of skin ultrasound: what it was trained on is what it explains, and what its study writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from medsal.bundle import Workflow, load_weights
from medsal.data import skin_source
from medsal.errors import NothingToDoError, UsageError
from medsal.evaluation.layers import layer_coverage, layer_hit_rate
from medsal.scoring import verify
from medsal.studies import LayerStudy
from medsal.studies.layer_tables import write_tables

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "skin_ultrasound"
CONFIGS = BUNDLE / "configs"
OVERLAYS = [str(REPOSITORY / "configs" / name) for name in ("explain.yaml", "studies/skin2024.yaml")]
STUDY = [str(CONFIGS / "inference.json"), *OVERLAYS]
CASES, SHOWN = 40, 3
# MONAI warns of every configuration that it may run code; these are our own
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*_target_.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
    # said by MONAI's handler of early stops
    pytest.mark.filterwarnings("ignore:'(min|cumulative)_delta' is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Scans of persons that the shipped network has not seen."""
    return {"embedded_dir": str(tmp_path_factory.mktemp("scans")), "embedded_cases": CASES, "embedded_seed": 50_000}


def parsed(name, **options):
    parser = ConfigParser(json.loads((CONFIGS / name).read_text()))
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", **options})
    return parser


def planted(embedded):
    return dict(zip(("folder", "cases", "seed"), embedded.values(), strict=True))


def test_the_shipped_network_is_right_on_persons_it_has_not_seen(embedded):
    parser = parsed("inference.json", part="", **embedded)
    network, chain = parser.get_parsed_content("network").eval(), parser.get_parsed_content("preprocessing")
    cases = parser.get_parsed_content("datalist")
    with torch.no_grad():
        logits = network(torch.stack([chain(dict(case))["image"].as_tensor() for case in cases]))
    right = logits.argmax(1) == torch.tensor([case["label"] for case in cases])
    assert len(cases) == CASES
    assert right.float().mean() >= 0.85


def test_what_is_explained_is_prepared_as_in_training(embedded):
    train, explain = parsed("train.json", **embedded), parsed("inference.json", **embedded)
    (case, *_) = skin_source(None, planted(embedded))
    seen = [
        parser.get_parsed_content(key)(dict(case))["image"].as_tensor()
        for parser, key in ((train, "validate#preprocessing"), (explain, "preprocessing"), (explain, "preprocessing"))
    ]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    steps = train.get_parsed_content("train#preprocessing").transforms
    changes = [type(step).__name__ for step in steps if type(step).__name__.startswith("Rand")]
    assert len(changes) == 4
    own = explain.get_parsed_content("preprocessing").transforms
    assert not [step for step in own if type(step).__name__.startswith("Rand")]


def test_it_trains_from_the_seed_and_stops_at_the_best_epoch(embedded, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), meta_file=str(CONFIGS / "metadata.json"), logging_file=False,
        workflow_type="train", bundle_root=str(BUNDLE), device="cpu", output_dir=str(tmp_path), epochs=2, batch_size=8,
        **embedded,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    curve = pd.read_csv(tmp_path / "model_curve.csv")
    assert list(curve.columns) == ["epoch", "loss", "auc", "accuracy"]
    assert len(curve) == 2
    network = parsed("inference.json").get_parsed_content("network_def")
    load_weights(network, tmp_path / "model.safetensors")
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert all(torch.equal(value, best[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_two_processes_train_one_network(embedded, tmp_path):
    files = ["configs/train.json", "../../configs/train_dist.yaml"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = {**embedded, "epochs": 2, "batch_size": 4, "device": "cpu", "output_dir": tmp_path}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run(
        [*launcher, "-m", "monai.bundle", "run", "--config_file", repr(files), *words],
        cwd=BUNDLE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    assert (tmp_path / "model.safetensors.sha256").is_file()
    assert len((tmp_path / "model_curve.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("architecture", ["densenet_small", "mobilenet_v2"])
def test_another_architecture_is_one_option(architecture):
    parser = parsed("inference.json", architecture=architecture)
    network = parser.get_parsed_content("network_def").eval()
    channels = parser.get_parsed_content("channels")
    assert channels == (1 if architecture.endswith("small") else 3)
    with torch.no_grad():
        assert network(torch.zeros(1, channels, 112, 112)).shape == (1, 4)


@pytest.fixture(scope="module")
def study(embedded, tmp_path_factory):
    """A small study of two methods."""
    folder = tmp_path_factory.mktemp("study")
    workflow = Workflow(
        STUDY, bundle_root=str(BUNDLE), device="cpu", study_dir=str(folder), model_name="small", max_samples=SHOWN,
        methods={"GradCAM": {"method": "gradcam"}, "Saliency": {"method": "integrated_gradients", "steps": 4}},
        preset="", target_layer="layer3,layer4", truth_key="mask", shifts=9, resamples=50,
        confidence={"sides": ["positive"], "thresholds": [0.5], "draws": 2, "fill": "min"}, **embedded,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return folder


def test_the_table_holds_what_the_maps_score(study, embedded):
    table = pd.read_csv(study / "table.csv").set_index(["method", "side"])
    records = [json.loads(path.read_text()) for path in sorted((study / "small" / "maps" / "cases").glob("*.json"))]
    layers = {case["case"]: Path(case["layers"]) for case in skin_source(None, planted(embedded))}
    assert len(records) == SHOWN
    for method in ("GradCAM@layer3", "GradCAM@layer4", "Saliency"):
        for side in ("positive", "absolute"):
            hits, cover = [], []
            for record in records:
                found = np.load(study / "small" / "maps" / record["maps"][method]["npy"])
                codes = np.asarray(Image.open(layers[record["case"]]))[::2, ::2]  # rows first, as in the film
                both = (
                    torch.from_numpy(found.reshape(1, 1, 112, 112)),
                    torch.from_numpy(codes.copy())[None, None].long(),
                )
                hits.append(layer_hit_rate(*both, side=side).item())
                cover.append(layer_coverage(*both, side=side).item())
            people = [record["subject"] for record in records]
            for column, values in (("HR1", hits), ("top", cover)):
                wanted = pd.Series(values).groupby(people).mean().mean()
                assert table.loc[(method, side), column] == pytest.approx(wanted, abs=1e-6)


def test_a_cam_has_no_negative_side_and_gradients_have(study):
    table = pd.read_csv(study / "table.csv").set_index(["method", "side"])
    assert np.isnan(table.loc[("GradCAM@layer3", "negative"), "HR1"])
    assert table.loc[("Saliency", "negative"), "images"] == SHOWN
    assert "GradCAM@layer3 | negative" not in (study / "table.md").read_text()


def test_all_of_it_can_be_verified_and_is_drawn(study):
    folders = sorted(path.parent for path in study.glob("small/*/evaluation.json"))
    assert [path.name for path in folders] == ["absolute", "confidence_positive", "negative", "positive"]
    assert [line for folder in folders for line in verify(folder)] == []
    for name in ("hits", "coverage", "confidence"):
        assert min(np.asarray(Image.open(study / f"{name}.png")).shape[:2]) > 200


def test_a_second_model_comes_into_the_same_table(study, tmp_path):
    import shutil

    shutil.copytree(study / "small", tmp_path / "one")
    shutil.copytree(study / "small", tmp_path / "other")
    write_tables(tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(dict.fromkeys(table["model"])) == ["one", "other"]
    first, second = (
        table[table["model"] == name].drop(columns="model").to_csv(index=False) for name in ("one", "other")
    )
    assert first == second
    models = pd.read_csv(tmp_path / "models.csv")
    assert list(models["images"]) == [SHOWN, SHOWN]
    said = json.loads((study / "small" / "model.json").read_text())
    right = np.mean(np.equal(said["label"], said["predicted"]))
    assert list(models["accuracy"]) == pytest.approx([right, right])


def test_a_folder_without_models_and_a_wrong_side_are_named(tmp_path):
    with pytest.raises(NothingToDoError, match="no model has been scored"):
        write_tables(tmp_path)
    given = {"transform": dict, "network": torch.nn.Identity(), "truth": {"layers": "layers"}}
    with pytest.raises(UsageError, match="sides: wanted positive, negative, absolute, got 'both'"):
        LayerStudy(tmp_path, "a", tmp_path, [], sides="both", **given)
    with pytest.raises(UsageError, match="model_name: wanted a name"):
        LayerStudy(tmp_path, "a/b", tmp_path, [], **given)
