"""The embedded set on disk, and its training crops."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import CacheDataset

from medsal.data.grids import TEMPORAL_GRID
from medsal.data.phantoms.head_set import ORIENTATIONS, PlantedCrop, head_grid, planted_crops, write_planted_set
from medsal.data.preprocessing import network_mri_transforms
from medsal.errors import UsageError


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted_set(tmp_path_factory.mktemp("planted"), cases=8, spacing=2.5)


def test_the_table_has_the_columns_and_the_classes(planted: Path) -> None:
    rows = rows_of(planted)
    assert list(rows[0])[:2] == ["file", "HC_vs_LTLE_vs_RTLE_string"]
    assert [row["HC_vs_LTLE_vs_RTLE_string"] for row in rows] == [
        "HC",
        "left",
        "HC",
        "right",
        "HC",
        "left",
        "HC",
        "right",
    ]
    assert [(row["subject"], row["session"]) for row in rows][3] == ("sub-0004", "ses-01")
    assert [(row["subject"], row["session"]) for row in rows][7] == ("sub-0004", "ses-02")


def test_files_lie_in_varying_orientations_one_anisotropic_one_oblique(planted: Path) -> None:
    images = [nib.load(planted.parent / row["file"]) for row in rows_of(planted)]
    axes = ["".join(nib.aff2axcodes(image.affine)) for image in images]
    assert tuple(axes) == ORIENTATIONS
    spacing = [np.array(image.header.get_zooms()) for image in images]
    assert [index for index, zooms in enumerate(spacing) if np.ptp(zooms) > 0.1] == [3]
    oblique = [index for index, image in enumerate(images) if (np.abs(image.affine[:3, :3]) > 0.01).sum() > 3]
    assert oblique == [5]


@pytest.mark.parametrize("index", range(8))
def test_each_file_is_the_case_of_its_seed_in_the_world(planted: Path, index: int) -> None:
    """The lesion's side and the head's middle in world coordinates do not depend on how the file is turned."""
    row = rows_of(planted)[index]
    lesion, image, regions = (nib.load(planted.parent / row[key]) for key in ("lesion", "file", "regions"))
    voxels = np.asarray(lesion.dataobj) > 0
    assert voxels.any() == (row["HC_vs_LTLE_vs_RTLE_string"] != "HC")
    if voxels.any():
        x = nib.affines.apply_affine(lesion.affine, np.argwhere(voxels).mean(0))[0]
        assert ("left" if x < 0 else "right") == row["HC_vs_LTLE_vs_RTLE_string"]
    hippocampi = np.isin(np.asarray(regions.dataobj), (1, 2))
    centre = nib.affines.apply_affine(image.affine, np.argwhere(hippocampi).mean(0))
    assert np.linalg.norm(centre - [0, -23, -14]) < 12
    assert np.isin(np.asarray(regions.dataobj)[voxels], (1, 2)).all()


def test_a_finished_set_is_reused_and_a_broken_one_written_again(tmp_path: Path) -> None:
    table = write_planted_set(tmp_path, cases=2, spacing=4.0)
    image = tmp_path / rows_of(table)[1]["file"]
    before = image.read_bytes()
    stamp = image.stat().st_mtime_ns
    assert write_planted_set(tmp_path, cases=2, spacing=4.0) == table
    assert image.stat().st_mtime_ns == stamp
    image.write_bytes(before[:-100])
    write_planted_set(tmp_path, cases=2, spacing=4.0)
    assert image.read_bytes() == before  # bit by bit, from the seed
    write_planted_set(tmp_path, cases=2, spacing=4.0, seed=2)
    assert image.read_bytes() != before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # nothing half-written is left


def test_wrong_numbers_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 case"):
        write_planted_set(tmp_path, cases=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file"):
        write_planted_set(tmp_path / "file", cases=1, spacing=6.0)


def test_the_truth_of_each_lesion_is_beside_it(planted: Path) -> None:
    truth = json.loads((planted.parent / "lesions" / "sub-0002_ses-01_lesion.json").read_text())
    assert truth["side"] == "left"
    assert 0 < truth["strength"] <= 1
    names = json.loads((planted.parent / "regions.json").read_text())
    assert names["1"] == "left hippocampus"


def test_a_crop_is_what_the_network_sees_of_the_whole_head(tmp_path: Path) -> None:
    """One definition, two roads: a 1 mm head on disk through the chain, and the training crop of the same seed."""
    from medsal.data.phantoms.head_set import write_nifti
    from medsal.data.phantoms.heads import planted_case

    affine, shape = head_grid(2)
    head = planted_case(1).sample(affine, shape)
    files = {
        "image": write_nifti(tmp_path / "image.nii.gz", head.image, affine),
        "lesion": write_nifti(tmp_path / "lesion.nii.gz", head.lesion, affine),
    }
    seen = network_mri_transforms(mask_keys=("lesion",))(files)
    crop = PlantedCrop()(1)
    assert crop["image"].shape == seen["image"].shape == (1, *TEMPORAL_GRID.size)
    assert np.allclose(crop["image"].affine, seen["image"].affine)
    assert np.allclose(crop["image"].affine, TEMPORAL_GRID.affine)
    first, second = crop["image"].numpy().ravel(), seen["image"].numpy().ravel()
    assert np.corrcoef(first, second)[0, 1] > 0.98
    assert abs(first.mean() - second.mean()) < 0.03
    truth, other = crop["lesion"].numpy() > 0, seen["lesion"].numpy() > 0
    assert 2 * (truth & other).sum() / (truth.sum() + other.sum()) > 0.8
    flipped = seen["image"].numpy()[:, ::-1].ravel()
    assert np.corrcoef(first, flipped)[0, 1] < 0.95


def test_crops_are_cases_for_monai_datasets_and_reproducible() -> None:
    cases = CacheDataset([{"seed": 2}, {"seed": 3}], PlantedCrop(), progress=False)
    again = list(planted_crops([2, 3]))
    for first, second in zip(cases, again, strict=True):
        assert np.array_equal(first["image"].numpy(), second["image"].numpy())
        assert {"label", "label_name", "case", "subject", "session", "lesion"} <= set(first)
    assert [case["label"] for case in again] == [0, 1]
    assert not again[0]["lesion"].any()
    assert 0.001 < float(again[1]["lesion"].mean()) < 0.03
    assert float(again[0]["image"].abs().max()) <= 5
