"""The bundles of chest films: one chain for training and explaining, tables of public studies, what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Randomizable

from medsal.data import film_table_cases, write_planted_films
from medsal.errors import UsageError

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
FINDINGS = ("pneumothorax", "pneumonia")
pytestmark = [
    pytest.mark.parametrize("finding", FINDINGS),
    # MONAI warns of every configuration that it may run code; these are our own
    pytest.mark.filterwarnings(r"ignore:.*_target_.*:UserWarning"),
    # MONAI's EarlyStopHandler calls ignite's by old names of arguments
    pytest.mark.filterwarnings("ignore:'(min_delta|cumulative_delta)' is deprecated:DeprecationWarning"),
]


def config(finding, name):
    return json.loads((BUNDLES / f"cxr_{finding}" / "configs" / name).read_text(encoding="utf-8"))


def parser(finding, name, **changes):
    return ConfigParser({**config(finding, name), "device": "cpu", **changes})


def workflow(finding, *names, **overrides):
    bundle = BUNDLES / f"cxr_{finding}"
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in names],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        device="cpu",
        **overrides,
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of a small planted set of each finding."""
    folder = tmp_path_factory.mktemp("films")
    return {
        name: write_planted_films(folder / name, finding=name, cases=24, seed=100000, size=128) for name in FINDINGS
    }


def public(table, finding):
    """The same films as the public set of the finding has them."""
    name = {"pneumothorax": "siim.csv", "pneumonia": "rsna.csv"}[finding]
    return {"csv_path": str(table.parent / name), "images_dir": str(table.parent / "images")}


def test_films_are_explained_with_the_preprocessing_of_training(finding, tables):
    case = film_table_cases(tables[finding])[1]
    explained = parser(finding, "inference.json").get_parsed_content("preprocessing")
    training = parser(finding, "train.json", augmentation=[])
    chains = [training.get_parsed_content(name) for name in ("train#preprocessing", "validate#preprocessing")]
    image = explained(case)["image"]
    for chain in chains:
        other = chain(case)["image"]
        assert torch.equal(image.as_tensor(), other.as_tensor())
        assert torch.equal(image.affine, other.affine)


def test_nothing_is_random_where_films_are_explained(finding):
    explained = parser(finding, "inference.json").get_parsed_content("preprocessing")
    trained = parser(finding, "train.json").get_parsed_content("train#preprocessing")
    assert not any(isinstance(step, Randomizable) for step in explained.flatten().transforms)
    assert any(isinstance(step, Randomizable) for step in trained.flatten().transforms)


def test_the_metadata_describes_what_the_network_takes(finding):
    image = config(finding, "metadata.json")["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == [config(finding, "inference.json")["size"]] * 2
    assert config(finding, "inference.json")["size"] == config(finding, "train.json")["size"]
    assert image["value_range"] == [-1, 1]


def test_a_checkpoint_of_another_architecture_is_refused(finding):
    bundle = str(BUNDLES / f"cxr_{finding}")
    other = parser(finding, "inference.json", architecture="densenet_small", bundle_root=bundle)
    with pytest.raises(RuntimeError) as caught:
        other.get_parsed_content("network")
    cause = caught.value
    while cause.__cause__ is not None and not isinstance(cause, UsageError):
        cause = cause.__cause__
    assert isinstance(cause, UsageError)
    assert "does not fit DenseNet" in str(cause)
    assert "the architecture that was trained" in str(cause)


def test_an_architecture_of_torchvision_is_an_option(finding):
    made = parser(finding, "inference.json", architecture="mobilenet_v2")
    network = made.get_parsed_content("network_def").eval()
    assert made.get_parsed_content("channels") == 3
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_a_public_table_is_predicted_like_the_planted_set(finding, tables, tmp_path):
    table = tables[finding]
    found = []
    for place, source in (("own", {"csv_path": str(table)}), ("public", public(table, finding))):
        run = workflow(finding, "inference.json", output_dir=str(tmp_path / place), max_samples=6, **source)
        run.initialize()
        run.run()
        with (tmp_path / place / "predictions.csv").open(encoding="utf-8") as stream:
            found.append({Path(row[0]).name: [float(value) for value in row[1:]] for row in csv.reader(stream)})
    assert found[0] == found[1]
    assert len(found[0]) == 6
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in found[0].values())


def test_a_network_is_trained_and_leaves_the_best_of_its_epochs(finding, tables, tmp_path):
    bundle = BUNDLES / f"cxr_{finding}"
    run = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        device="cpu",
        csv_path=str(tables[finding]),
        output_dir=str(tmp_path),
        epochs=2,
        batch_size=4,
        size=32,
    )
    run.initialize()
    run.run()
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "model.safetensors")
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert kept.keys() == best.keys()
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert len((tmp_path / "model_curve.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_held_out_films_are_told_apart_as_the_card_says(finding, tmp_path):
    run = workflow(
        finding, "inference.json", "evaluate.json", output_dir=str(tmp_path), embedded_dir=str(tmp_path / "films")
    )
    run.initialize()
    run.run()
    recorded = config(finding, "metadata.json")["eval_metrics"]["held_out_auc"]
    assert run.evaluator.state.metrics["auc"] == pytest.approx(recorded, abs=0.01)


@pytest.mark.slow
def test_two_processes_train_one_network(finding, tables, tmp_path):
    files = ["configs/train.json", "../../configs/train_dist.yaml"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = {"csv_path": tables[finding], "epochs": 2, "batch_size": 4, "size": 64, "device": "cpu"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run(
        [*launcher, "-m", "monai.bundle", "run", "--config_file", repr(files), *words, "--output_dir", str(tmp_path)],
        cwd=BUNDLES / f"cxr_{finding}",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    assert (tmp_path / "model.safetensors.sha256").is_file()
    assert len((tmp_path / "model_curve.csv").read_text().splitlines()) == 3
