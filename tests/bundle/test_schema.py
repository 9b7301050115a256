"""The schema of metadata.json: it takes what MONAI's takes and medsal needs, and refuses the rest."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import json
import os
from pathlib import Path

import jsonschema
import pytest

SCHEMA = importlib.resources.files("medsal.bundle") / "schema" / "metadata.json"
METADATA = Path(__file__).resolve().parents[2] / "bundles" / "mri_tle_efficientnet" / "configs" / "metadata.json"
REQUIRED_BY_MONAI = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
)  # fmt: skip
REQUIRED_OF_A_TENSOR = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")


@pytest.fixture
def schema():
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


@pytest.fixture
def metadata():
    return json.loads(METADATA.read_text(encoding="utf-8"))


def test_the_schema_is_one_itself(schema):
    jsonschema.Draft201909Validator.check_schema(schema)


def test_the_digest_beside_the_schema_is_its_own():
    wanted = (SCHEMA.parent / "metadata.json.sha256").read_text(encoding="utf-8").split()[0]
    assert hashlib.sha256(SCHEMA.read_bytes()).hexdigest() == wanted


@pytest.mark.parametrize("key", REQUIRED_BY_MONAI)
def test_what_monai_requires_is_required(schema, metadata, key):
    del metadata[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate(metadata, schema)


@pytest.mark.parametrize("key", REQUIRED_OF_A_TENSOR)
@pytest.mark.parametrize(("side", "name"), [("inputs", "image"), ("outputs", "pred")])
def test_what_monai_requires_of_a_tensor_is_required(schema, metadata, side, name, key):
    del metadata["network_data_format"][side][name][key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate(metadata, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 1.0),
        (("authors",), ["a", "b"]),
        (("changelog",), "first"),
        (("eval_metrics",), {"auc": "high"}),
        (("references",), "a paper"),
        (("network_data_format", "inputs", "image", "num_channels"), "1"),
        (("network_data_format", "inputs", "image", "spatial_shape"), 44),
        (("network_data_format", "outputs", "pred", "channel_def"), ["HC", "TLE"]),
    ],
)
def test_a_wrong_type_is_refused(schema, metadata, path, value):
    broken = copy.deepcopy(metadata)
    node = broken
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_metadata_satisfies_monais_own_schema(metadata):
    path = os.environ.get("MEDSAL_MONAI_SCHEMA")
    if not path:
        pytest.skip("no copy of MONAI's schema; set MEDSAL_MONAI_SCHEMA to a downloaded meta_schema_20240725.json")
    jsonschema.validate(metadata, json.loads(Path(path).read_text(encoding="utf-8")))
