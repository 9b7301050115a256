"""The audit of configs: ours pass, ways to other modules are refused, nothing is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsal.bundle.audit import refuse_unsafe, unsafe_items
from medsal.bundle.command_line import read_config
from medsal.errors import UsageError

BAD = [
    {"_target_": "os.system", "command": "true"},
    {"_target_": "subprocess.run"},
    {"_target_": "builtins.eval"},
    {"_target_": "monai.data.utils.os.system"},
    {"_target_": "monai.bundle.run"},
    {"_target_": "monai.apps.download_url"},
    {"_target_": "monai.utils.module.optional_import"},
    {"_target_": "torch.nn.modules.module.torch.hub.load"},
    {"_target_": "torch.load"},
    {"_target_": "torch.utils.data.__init__"},
    {"_target_": "medsal.files.os.system"},
    {"_target_": "scripts.own.Thing"},
    {"_target_": "$@other.system"},
    "$__import__('os').system('true')",
    "$eval('1')",
    "$exec('import os')",
    "$open('/etc/passwd').read()",
    "$getattr(@a, 'b')",
    "$().__class__.__base__.__subclasses__()",
    "$'{0.__class__}'.format(@a)",
    "$import subprocess",
    "$import sys",
    "$from os import system",
    "$import os as harmless",
    "$from torch import hub",
    "$import importlib",
    "$import scripts",
    "$torch.load('x')",
    "$torch.hub.load('a', 'b')",
    "$monai.data.utils.os.system('true')",
    "$os.execv('/bin/sh', [])",
    "$(lambda m: m.name)(os)",
    "$pathlib.Path('x').unlink()",
    "$pathlib.Path('x').write_text('y')",
    "$[x for x in [breakpoint]]",
    "$np.load('x', allow_pickle=True)",
    "$a = 1",
    "$1; 2",
    "$(",
]

GOOD = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "monai.networks.nets.DenseNet121"},
    {"_target_": "torch.nn.Linear", "in_features": 1},
    {"_target_": "torch.optim.Adam"},
    {"_target_": "monai.transforms.io.array.LoadImage"},
    {"_target_": "medsal.bundle.load_weights"},
    {"_target_": "$@network.__call__"} | {"_target_": "$@preprocessing.inverse"},
    "$@network_def.to(@device)",
    "$import glob",
    "$import os",
    "$import monai",
    "$from monai.data import DataLoader",
    "$import medsal.bundle",
    "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))",
    "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "$[{'image': i} for i in @datalist]",
    "$len(@_meta_#network_data_format#inputs#image#spatial_shape)",
    "$torch.distributed.is_initialized() or torch.distributed.init_process_group('gloo')",
    "$@evaluator.run()",
    "$pathlib.Path(@bundle_root).name",
    "text with __import__ that is not evaluated",
    1e-3,
    None,
]


@pytest.mark.parametrize("item", BAD, ids=str)
def test_what_is_not_known_as_harmless_is_named_with_its_id(item: Any) -> None:
    found = list(unsafe_items({"a": {"list": [0, item]}}))
    assert found
    assert found[0][0].startswith("a::list::1")


@pytest.mark.parametrize("item", GOOD, ids=str)
def test_what_is_harmless_passes(item: Any) -> None:
    assert list(unsafe_items({"a": {"list": [0, item]}})) == []


def test_nothing_is_evaluated_or_imported(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    list(unsafe_items({"a": f"$open({str(mark)!r}, 'w')", "b": {"_target_": "antigravity.fly"}}))
    assert not mark.exists()


def test_a_macro_is_followed(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"x": {"_target_": "os.system"}}))
    assert list(unsafe_items({"a": f"%{other}::x"}))


def test_a_refusal_is_one_line_with_id_count_and_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"config audit: b: .*eval.* and 1 more; .*--audit False") as caught:
        refuse_unsafe({"a": 1, "b": "$eval('1')", "c": "$exec('1')"})
    assert "\n" not in str(caught.value)


def configs_of(repository: Path) -> list[Path]:
    found = [
        *repository.glob("configs/*.yaml"),
        *repository.glob("bundles/*/configs/*.json"),
        *repository.glob("bundles/*/configs/*.yaml"),
    ]
    assert found
    return found


def test_every_config_of_this_repository_passes(repository: Path) -> None:
    for path in configs_of(repository):
        content = yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
        assert list(unsafe_items(content)) == [], path


def test_the_tiny_bundle_with_its_overlays_passes(bundle: Path, overlays: Path) -> None:
    files = [bundle / "configs/inference.json", overlays / "explain.yaml", overlays / "dist.yaml"]
    refuse_unsafe(read_config([str(file) for file in files]))
