"""What is true of every bundle of this project: complete, described, safe to read, as small as its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out

from medsal.bundle import load_weights, refuse_unsafe, weights_record

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent for path in (REPOSITORY / "bundles").glob("*/configs"))
SCHEMA = REPOSITORY / "medsal" / "bundle" / "schema" / "metadata.json"
CONTRACT = {
    "bundle_root", "device", "dataset_dir", "output_dir", "ckpt_path", "datalist", "network_def", "network",
    "preprocessing", "dataset", "dataloader", "inferer", "postprocessing", "handlers", "evaluator", "initialize", "run",
    "finalize",
}  # fmt: skip
pytestmark = [
    pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name),
    # MONAI warns of every configuration that it may run code; these are our own
    pytest.mark.filterwarnings(r"ignore:.*_target_.*:UserWarning"),
]


def config(bundle, name):
    return json.loads((bundle / "configs" / name).read_text(encoding="utf-8"))


def digest_of(bundle):
    return hashlib.sha256((bundle / "models" / "model.safetensors").read_bytes()).hexdigest()


def test_the_metadata_is_valid_and_its_version_is_in_the_changelog(bundle):
    metadata = config(bundle, "metadata.json")
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert metadata["version"] in metadata["changelog"]


def test_monai_verifies_the_metadata_without_a_download(bundle, monkeypatch):
    monkeypatch.setattr("monai.apps.utils.urlretrieve", lambda *_: pytest.fail("a download"), raising=False)
    digest = SCHEMA.with_suffix(".json.sha256").read_text(encoding="utf-8").split()[0]
    meta = str(bundle / "configs" / "metadata.json")
    verify_metadata(meta_file=meta, filepath=str(SCHEMA), hash_val=digest, hash_type="sha256")


def test_monai_finds_input_and_output_as_the_metadata_says(bundle):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
    )


def test_every_id_of_the_contract_is_there(bundle):
    assert config(bundle, "inference.json").keys() >= CONTRACT


def test_the_configs_pass_the_audit(bundle):
    for path in sorted((bundle / "configs").glob("*.json")):
        refuse_unsafe(config(bundle, path.name))


def test_training_and_inference_mean_the_same_network(bundle):
    assert config(bundle, "train.json")["network_def"] == config(bundle, "inference.json")["network_def"]


def test_the_weights_are_small_and_have_the_recorded_digest(bundle):
    weights = bundle / "models" / "model.safetensors"
    parser = ConfigParser({**config(bundle, "inference.json"), "device": "cpu", "bundle_root": str(bundle)})
    network = load_weights(parser.get_parsed_content("network_def"), weights)
    wanted = weights.with_suffix(".safetensors.sha256").read_text(encoding="utf-8").split()[0]
    assert wanted == digest_of(bundle) == weights_record(network)["sha256"]
    assert wanted in (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert weights.stat().st_size < 5_000_000


def test_licence_and_model_card_are_there(bundle):
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert (bundle / "LICENSE").stat().st_size > 1000
    assert "not for patients" in card
    for name, value in config(bundle, "metadata.json")["eval_metrics"].items():
        assert f"{value:.3f}" in card, name
