"""Planted skin scans: speckle, layers of the published geometry, evidence in its layer, and the set on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from medsal.data.phantoms.skin_scan import EVIDENCE, SKIN_CLASSES, planted_scan
from medsal.data.phantoms.skin_set import FOLDS, planted_scan_list, write_planted_skin
from medsal.errors import UsageError

ILL = (1, 2, 3)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted_skin(tmp_path_factory.mktemp("skin"), cases=40)


def test_a_scan_is_a_function_of_its_seed() -> None:
    first, again, other = (planted_scan(seed).sample() for seed in (5, 5, 9))
    for name in ("image", "layers", "evidence"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == np.uint8
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_layers_have_the_codes_and_widths_of_the_published_map(seed: int) -> None:
    layers = planted_scan(seed).sample().layers
    assert set(np.unique(layers)) == {0, 32, 64, 128, 255}
    assert not layers[:, :5].any()
    assert not layers[:, 222:].any()
    for column in layers[:, 5:222].T:
        edges = np.flatnonzero(np.diff(column.astype(int))) + 1
        codes = [int(column[0]), *(int(column[edge]) for edge in edges)]
        assert codes == [0, 32, 255, 128, 64, 32, 0]
        widths = np.diff(edges)
        assert widths[0] == 16
        assert 29 <= widths[1] <= 37
        assert widths[2:].tolist() == [36, 36, 36]


@pytest.mark.parametrize("label", ILL)
def test_a_scan_differs_from_the_normal_one_in_its_layer_alone(label: int) -> None:
    for seed in range(8):
        ill, well = (planted_scan(seed, label=own).sample() for own in (label, 0))
        assert np.array_equal(ill.layers, well.layers)
        assert not well.evidence.any()
        assert set(np.unique(ill.layers[ill.evidence > 0])) == {EVIDENCE[label]}
        assert 300 < ill.evidence.sum() < 9000
        change = ill.image.astype(int) - well.image
        assert not change[~binary_dilation(ill.evidence, np.ones((3, 3)), iterations=11)].any()
        assert (1 if label == 1 else -1) * change[ill.evidence > 0].mean() > 10


def test_speckle_has_the_statistics_of_rayleigh() -> None:
    """The envelope of the echo has mean over deviation sqrt(pi / (4 - pi)) = 1.91 where the tissue is even."""
    ratios = []
    for seed in range(0, 40, 4):
        scan = planted_scan(seed).sample()
        image = scan.image.astype(float)
        for column in range(30, 190, 20):
            middle = np.flatnonzero(scan.layers[:, column] == 128)[18]
            patch = image[middle - 6 : middle + 6, column : column + 12]
            if patch.min() > 20 and patch.max() < 250:
                amplitude = 10 ** (patch / 255 * 56 / 20)  # about what the logarithm compressed
                ratios.append(amplitude.mean() / amplitude.std())
    assert len(ratios) > 20
    assert 1.5 < np.median(ratios) < 2.3


def test_brightness_falls_with_depth_and_the_gel_is_dark() -> None:
    levels = []
    for seed in range(0, 48, 4):
        scan = planted_scan(seed).sample()
        image = scan.image[:, 5:222].astype(float)
        layers = scan.layers[:, 5:222]
        surface = (layers == 255).argmax(0)
        rows = np.arange(224)[:, None]
        top = image[(rows >= surface) & (rows < surface + 8)].mean()
        gel = np.median(image[(rows > 28) & (rows < surface - 4)])
        levels.append([image[layers == code].mean() for code in (128, 64)])
        assert top > levels[-1][0]
        assert gel < 0.4 * top
    upper, middle = np.mean(levels, axis=0)
    assert upper > middle + 3
    means = [planted_scan(seed, label=0).sample().image.mean() for seed in range(16)]
    assert 40 < np.mean(means) < 140
    assert np.std(means) > 5


def test_a_set_has_its_table_and_folds(skin: Path) -> None:
    rows = rows_of(skin)
    assert [row["class"] for row in rows[:4]] == list(SKIN_CLASSES)
    patients: dict[str, set[str]] = {}
    for row in rows:
        patients.setdefault(row["patient"], set()).add(row["fold"])
        for key in ("file", "layers", "evidence"):
            assert np.asarray(Image.open(skin.parent / row[key])).shape == (224, 224)
    assert all(len(folds) == 1 for folds in patients.values())
    assert 20 < len(patients) < 40
    assert {fold for folds in patients.values() for fold in folds} == {str(fold) for fold in range(1, FOLDS + 1)}


def test_each_fold_holds_every_scan_once_under_its_class(skin: Path) -> None:
    rows = {Path(row["file"]).name: row for row in rows_of(skin)}
    for fold in range(1, FOLDS + 1):
        found: dict[str, tuple[str, str]] = {}
        for path in (skin.parent / f"k{fold}").rglob("*.png"):
            assert path.name not in found
            found[path.name] = (path.parent.parent.name, path.parent.name)
            assert path.read_bytes() == (skin.parent / "images" / path.name).read_bytes()
        assert set(found) == set(rows)
        for name, (part, group) in found.items():
            assert group == rows[name]["class"]
            assert (part == "test") == (int(rows[name]["fold"]) == fold)
        parts = {
            part: {rows[name]["patient"] for name, (own, _) in found.items() if own == part}
            for part in ("train", "val", "test")
        }
        assert all(parts.values())
        assert not parts["train"] & parts["test"]
        assert not parts["train"] & parts["val"]
        assert not parts["val"] & parts["test"]


def test_a_finished_set_is_reused_and_another_one_leaves_no_stale_scans(tmp_path: Path) -> None:
    table = write_planted_skin(tmp_path, cases=8)
    image = tmp_path / rows_of(table)[1]["file"]
    before, stamp = image.read_bytes(), image.stat().st_mtime_ns
    assert write_planted_skin(tmp_path, cases=8) == table
    assert image.stat().st_mtime_ns == stamp
    image.unlink()
    write_planted_skin(tmp_path, cases=8)
    assert image.read_bytes() == before
    write_planted_skin(tmp_path, cases=6, seed=3)
    assert len(list((tmp_path / "k1").rglob("*.png"))) == 6
    assert image.read_bytes() != before


def test_classes_take_turns_and_no_scan_is_there_twice() -> None:
    scans = planted_scan_list(90)
    assert len({(scan.seed, scan.visit) for scan in scans}) == 90
    assert [scan.label for scan in scans[:5]] == [0, 1, 2, 3, 0]


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a label from 0 to 3, got 4"):
        planted_scan(0, label=4)
    with pytest.raises(UsageError, match="at least 1 scan, got 0"):
        write_planted_skin(tmp_path, cases=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write|Not a directory|File exists"):
        write_planted_skin(tmp_path / "file", cases=1)
