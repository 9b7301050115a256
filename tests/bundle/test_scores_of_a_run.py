"""The config example of the documentation: scores, a metric and the table of a run over a bundle with masks."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsal.scoring.table import read_scores

Run = Callable[..., subprocess.CompletedProcess[str]]


def with_masks(bundle: Path) -> None:
    """A box in each image as its mask; the last one is empty."""
    path = bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config["dataset"]["data"] = "$[{'image': i, 'mask': i.replace('/data/', '/masks/')} for i in @datalist]"
    load, channels, _, resize = config["preprocessing"]["transforms"]
    load["keys"] = channels["keys"] = resize["keys"] = ["image", "mask"]
    resize["mode"] = ["area", "nearest"]
    path.write_text(json.dumps(config))
    (bundle / "masks").mkdir()
    for number, file in enumerate(sorted((bundle / "data").glob("*.nii.gz"))):
        image = nib.load(file)
        mask = np.zeros(image.shape, np.uint8)
        mask[3:6, 4:8, 2:5] = number < 2
        nib.save(nib.Nifti1Image(mask, image.affine), bundle / "masks" / file.name)


@pytest.mark.parametrize("workflow", [(), ("--workflow_name", "medsal.bundle.Workflow")])
def test_the_example_of_the_page_scores_a_run(
    workflow: tuple[str, ...], run_bundle: Run, bundle: Path, repository: Path, tmp_path: Path
) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (repository / "docs/from-monai.md").read_text(), re.DOTALL)
    (tmp_path / "score.yaml").write_text(example)
    with_masks(bundle)
    words = ("--methods", "saliency,gradcam", "--key_slices", "8", *workflow)
    result = run_bundle(*words, overlay=("explain", str(tmp_path / "score")))
    assert result.returncode == 0, result.stderr
    table = read_scores(bundle / "out")
    assert len(table) == 3 * 2 * 2
    assert list(dict.fromkeys(table["case"])) == [f"sub-0{i}_T1w" for i in (1, 2, 3)]
    assert set(table["method"]) == {"saliency", "gradcam"}
    assert set(table["metric"]) == {"average_precision", "pointing_game"}
    assert (table["reason"] == "truth empty").tolist() == (table["case"] == "sub-03_T1w").tolist()
    scored = table[table["reason"] == ""]
    assert scored["value"].between(0, 1).all()
    ours = scored["metric"] == "average_precision"
    assert (scored["null"][~ours].to_numpy() > scored["null"][ours].to_numpy()).all()  # a tolerance widens the truth
    assert "average_precision: 1 of 3 images have no answer: truth empty (1)" in result.stderr
    assert "4 scores have no answer: truth empty (4)" in result.stderr
    files = {path.name for path in (bundle / "out").rglob("*.nii.gz")}
    assert files == {f"sub-0{i}_T1w_{m}.nii.gz" for i in (1, 2, 3) for m in ("saliency", "gradcam")}
