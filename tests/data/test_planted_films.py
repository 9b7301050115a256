"""The embedded X-ray sets on disk, and the tables in the formats of the public ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsal.data.films.rle import encode_rle
from medsal.data.phantoms.film_set import SPLITS, planted_film_list, write_planted_films
from medsal.data.phantoms.thorax_findings import FINDINGS
from medsal.errors import UsageError


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module", params=FINDINGS)
def films(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted_films(tmp_path_factory.mktemp("films"), finding=request.param, cases=24, size=128)


def drawn_slowly(text: str, size: int = 1024) -> np.ndarray:
    """Relative runs, pixel by pixel, down the columns."""
    mask = np.zeros((size, size), np.uint8)
    if text == "-1":
        return mask
    numbers, place = [int(number) for number in text.split()], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        place += gap
        for _ in range(length):
            mask[place % size, place // size] = 1
            place += 1
    return mask


def test_files_agree_with_the_table(films: Path) -> None:
    rows = rows_of(films)
    assert len(rows) == 24
    for row in rows:
        image, mask, lungs = (picture(films.parent / row[key]) for key in ("file", "mask", "lungs"))
        assert image.shape == mask.shape == lungs.shape == (128, 128)
        assert image.dtype == mask.dtype == lungs.dtype == np.uint8
        assert set(np.unique(lungs)) == {0, 1, 2}
        assert set(np.unique(mask)) <= {0, 255}
        assert mask.any() == bool(int(row["label"])) == bool(row["boxes"]) == bool(row["finding"])
        drawn = np.zeros_like(mask)
        for box in filter(None, row["boxes"].split(";")):
            x0, y0, x1, y1 = map(int, box.split())
            drawn[y0:y1, x0:x1] = 255
        assert (drawn[mask > 0] > 0).all()
    assert sum(int(row["label"]) for row in rows) == 12


def test_the_siim_table_draws_the_masks(films: Path) -> None:
    assert films.parent.joinpath("siim.csv").read_text().splitlines()[0] == "ImageId, EncodedPixels"
    drawn: dict[str, np.ndarray] = {}
    rows = rows_of(films.parent / "siim.csv")
    for row in rows:
        mask = drawn_slowly(row[" EncodedPixels"])
        assert mask.any() == (row[" EncodedPixels"] != "-1")
        drawn[row["ImageId"]] = drawn.get(row["ImageId"], 0) | mask
    for row in rows_of(films):
        assert np.array_equal(drawn[row["case"]][4::8, 4::8] * 255, picture(films.parent / row["mask"]))
        assert drawn[row["case"]].sum() == 64 * (picture(films.parent / row["mask"]) > 0).sum()
    assert len(rows) > len(drawn)  # some film has two parts


def test_the_rsna_table_has_the_boxes(films: Path) -> None:
    found: dict[str, list[tuple[float, ...]]] = {}
    for row in rows_of(films.parent / "rsna.csv"):
        assert (row["Target"] == "1") == bool(row["x"])
        box = [tuple(float(row[key]) for key in ("x", "y", "width", "height"))] if row["x"] else []
        found.setdefault(row["patientId"], []).extend(box)
    for row in rows_of(films):
        boxes = [tuple(map(int, box.split())) for box in filter(None, row["boxes"].split(";"))]
        assert found[row["case"]] == [(8 * x0, 8 * y0, 8 * (x1 - x0), 8 * (y1 - y0)) for x0, y0, x1, y1 in boxes]
    classes = {row["patientId"]: row["class"] for row in rows_of(films.parent / "rsna_classes.csv")}
    assert {classes[row["case"]] for row in rows_of(films) if row["label"] == "1"} == {"Lung Opacity"}


def test_no_patient_is_in_two_splits(films: Path) -> None:
    rows = rows_of(films)
    by_patient: dict[str, set[str]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert len(by_patient) < len(rows)  # some patients have several films
    assert {row["split"] for row in rows} == set(SPLITS)
    for split in SPLITS:
        listed = {row["name"]: row["label"] for row in rows_of(films.parent / "splits" / f"{split}.csv")}
        assert listed == {row["case"]: row["label"] for row in rows if row["split"] == split}


def test_splits_have_their_shares_and_both_classes() -> None:
    films = planted_film_list(500)
    assert len({(film.seed, film.visit) for film in films}) == 500
    assert sum(film.label for film in films) == 250


def test_runs_read_down_the_columns() -> None:
    mask = np.zeros((1024, 1024), np.uint8)
    mask[3:5, 0] = mask[0, 1] = mask[1023, 2] = mask[0, 3] = mask[1023, 1023] = 1
    assert encode_rle(mask) == "3 2 1019 1 2046 2 1045502 1"
    assert np.array_equal(drawn_slowly(encode_rle(mask)), mask)
    assert encode_rle(np.zeros((4, 4))) == "-1"


def test_a_finished_set_is_reused_and_a_broken_one_written_again(tmp_path: Path) -> None:
    table = write_planted_films(tmp_path, cases=3, size=64)
    image = tmp_path / rows_of(table)[1]["file"]
    before, stamp = image.read_bytes(), image.stat().st_mtime_ns
    assert write_planted_films(tmp_path, cases=3, size=64) == table
    assert image.stat().st_mtime_ns == stamp
    image.write_bytes(before[:-100])
    write_planted_films(tmp_path, cases=3, size=64)
    assert image.read_bytes() == before  # bit by bit, from the seed
    write_planted_films(tmp_path, cases=3, size=64, seed=9)
    assert image.read_bytes() != before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # nothing half-written is left


def test_wrong_numbers_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 film, got 0"):
        write_planted_films(tmp_path, cases=0)
    with pytest.raises(UsageError, match="a size of 64 to 1024 pixels, got 2048"):
        write_planted_films(tmp_path, cases=1, size=2048)
    with pytest.raises(UsageError, match="unknown finding"):
        write_planted_films(tmp_path, cases=1, finding="fracture")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file"):
        write_planted_films(tmp_path / "file", cases=1, size=64)
