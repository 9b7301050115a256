from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image

from medsal.export import COLUMNS, export_summary
from medsal.export.tables import statistics_row

SEED = (
    "method,shape,mean,std,min,max,abs_mean,positive_ratio,negative_ratio,subject_id,true_label,prediction,sample_idx"
)


def test_the_columns_are_the_seeds():
    assert ",".join(COLUMNS) == SEED


def test_a_row_says_what_a_slow_count_says(make_case, make_tensor):
    values = np.array([[[1.0, -2.0], [0.0, 4.0]], [[0.0, -1.0], [3.0, 0.0]]], dtype=np.float32).repeat(3, axis=1)
    row = statistics_row(make_case((2, 6, 2), maps={"ig": make_tensor(values, np.eye(4))}), "ig", "sub-1")
    flat = [float(v) for v in values.ravel()]
    mean = sum(flat) / len(flat)
    assert row["mean"] == pytest.approx(mean)
    assert row["std"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in flat) / len(flat)))
    assert (row["min"], row["max"]) == (-2.0, 4.0)
    assert row["abs_mean"] == pytest.approx(sum(abs(v) for v in flat) / len(flat))
    assert row["positive_ratio"] == pytest.approx(sum(v > 0 for v in flat) / len(flat))
    assert row["negative_ratio"] == pytest.approx(sum(v < 0 for v in flat) / len(flat))
    assert row["shape"] == "(6, 2, 2)"  # slices first
    assert (row["subject_id"], row["true_label"], row["prediction"]) == ("sub-1", 1, 0.875)


def rows(make_case, subjects, **changes):
    """Rows of both methods for some subjects."""
    return [
        statistics_row(make_case(sample_idx=index, **changes), method, subject)
        for subject, index in subjects
        for method in ("saliency", "integrated_gradients")
    ]


def read(path):
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_order_of_rows_does_not_depend_on_who_finished_first(make_case, tmp_path):
    made = rows(make_case, [("b", 1), ("a", 0)])
    table, picture = export_summary(tmp_path, made)
    assert table.read_text().splitlines()[0] == SEED
    assert [(r["sample_idx"], r["subject_id"], r["method"]) for r in read(table)] == [
        ("0", "a", "saliency"), ("0", "a", "integrated_gradients"),
        ("1", "b", "saliency"), ("1", "b", "integrated_gradients"),
    ]  # fmt: skip
    first = table.read_bytes(), picture.read_bytes()
    export_summary(tmp_path, made[2:] + made[:2])
    assert (table.read_bytes(), picture.read_bytes()) == first


def test_cases_without_a_number_are_numbered(make_case, tmp_path):
    table, _ = export_summary(tmp_path, rows(make_case, [("b", None), ("a", None)]))
    assert [r["sample_idx"] for r in read(table)] == ["0", "0", "1", "1"]


def test_the_summary_has_six_panels(make_case, tmp_path):
    made = rows(make_case, [(str(n), n) for n in range(3)]) + rows(make_case, [("x", 9)], label=None)
    _, picture = export_summary(tmp_path, made)
    ink = np.asarray(Image.open(picture).convert("L")) < 128
    height, width = ink.shape
    parts = [ink[r * height // 2 :, c * width // 3 :][: height // 2, : width // 3] for r in (0, 1) for c in (0, 1, 2)]
    assert all(part.sum() > 500 for part in parts)


def test_no_case_and_no_finite_number_are_no_crash(make_case, make_tensor, tmp_path):
    assert [path.name for path in export_summary(tmp_path, [])] == ["attribution_statistics.csv"]
    blank = {"ig": make_tensor(np.full((3, 3, 3), np.nan, dtype=np.float32), np.eye(4))}
    table, _ = export_summary(tmp_path, [statistics_row(make_case((3, 3, 3), maps=blank), "ig", "a")])
    assert read(table)[0]["mean"] == "nan"


def test_the_picture_of_an_earlier_run_goes_where_there_is_nothing_to_draw(tmp_path):
    (tmp_path / "attribution_summary.png").write_bytes(b"old")
    assert [path.name for path in export_summary(tmp_path, [])] == ["attribution_statistics.csv"]
    assert not (tmp_path / "attribution_summary.png").exists()
