"""The bundle of lung fields: what it writes, on real films, and how well the shipped weights find lungs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from PIL import Image

from medsal.data import LUNG_REGIONS, lung_field_cases, lung_regions
from medsal.errors import UsageError
from medsal.handlers.lungs import LungFieldSaver, on_film

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cxr_lung_fields"
pytestmark = pytest.mark.filterwarnings(
    # MONAI warns of every configuration that it may run code; these are our own
    r"ignore:.*_target_.*:UserWarning",
)


def find_lungs(films, output):
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(BUNDLE),
        device="cpu",
        dataset_dir=str(films),
        output_dir=str(output),
    )
    workflow.initialize()
    workflow.run()


def picture(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def found(real_data, tmp_path_factory):
    """The held-out films, and what the bundle wrote of them."""
    films, output = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("out")
    cases = lung_field_cases(real_data / "cxr_hannover", split="test")
    for case in cases:
        (films / Path(case["image"]).name).symlink_to(case["image"])
    find_lungs(films, output)
    return cases, output


def test_lungs_of_patients_it_has_not_seen_are_found(found):
    cases, output = found
    dice = []
    for case in cases:
        mine, truth = picture(output / "lung_fields" / f"{case['case']}.png") > 0, picture(case["mask"]) > 0
        dice.append(2 * (mine & truth).sum() / (mine.sum() + truth.sum()))
    recorded = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["eval_metrics"]["held_out_dice"]
    assert np.mean(dice) == pytest.approx(recorded, abs=0.003)
    assert min(dice) > 0.75


def test_regions_are_those_of_the_field_and_lie_on_the_films_grid(found):
    cases, output = found
    for case in cases:
        field, regions = (picture(output / name / f"{case['case']}.png") for name in ("lung_fields", "lung_regions"))
        assert field.shape == regions.shape == picture(case["image"]).shape
        assert (regions == lung_regions(field)).all()
        assert set(np.unique(regions)) <= {0, *LUNG_REGIONS}


def test_the_worst_film_is_doubted(found):
    _, output = found
    with (output / "lung_fields.csv").open(newline="") as file:
        doubts = {row["case"]: row["doubts"] for row in csv.DictReader(file)}
    assert len(doubts) == 20
    assert "undecided" in doubts["262a70ca"]
    assert sum(bool(doubt) for doubt in doubts.values()) <= 3


def test_a_blank_film_is_doubted(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    Image.fromarray((torch.rand(90, 70) * 255).byte().numpy()).save(films / "noise.png")
    find_lungs(films, tmp_path / "out")
    (line,) = (tmp_path / "out" / "lung_fields.csv").read_text().splitlines()[1:]
    assert len(line.split(",", 2)[2]) > 5


def test_coming_back_to_the_film_moves_nothing():
    block = torch.zeros(1, 8, 8)
    block[:, 2:4, 4:6] = 1
    back = on_film(block, [32, 16])
    rows, columns = np.nonzero(back > 0.5)
    assert (rows.mean(), columns.mean()) == (11.5, 9.5)  # centres of rows 8 to 15, columns 8 to 11


def test_two_films_of_one_name_are_refused(tmp_path):
    from types import SimpleNamespace

    image = MetaTensor(torch.zeros(1, 8, 8), meta={"spatial_shape": (8, 8)})
    item = {"case": "a", "image": image}
    state = SimpleNamespace(batch=[item, item], output=[{"pred": torch.zeros(1, 8, 8)}] * 2)
    with pytest.raises(UsageError, match="two films are called a"):
        LungFieldSaver(str(tmp_path)).save(SimpleNamespace(state=state))
