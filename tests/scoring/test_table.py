from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest

from medsal.errors import InputError, UsageError
from medsal.scoring import COLUMNS, read_scores, write_scores
from medsal.scoring.table import NUMBERS


def test_the_columns_are_the_contracts():
    assert COLUMNS == (
        "case", "patient", "kind", "method", "metric", "part", "side", "value", "null", "null_sd", "p", "ceiling",
        "ceiling_of", "reason",
    )  # fmt: skip


def test_every_bit_of_every_number_and_every_letter_comes_back_from_both_files(make_row, tmp_path):
    rng = random.Random(0)
    values = [rng.uniform(0, 1) * 10 ** rng.randint(-300, 300) for _ in range(300)] + [5e-324, -0.0, 0.1 + 0.2, 1 / 3]
    names = ["NA", "nan", "None", "007", "1e5", "a,b", 'quote"d', "two\nlines", "ü \t x", " "]
    rows = [
        make_row(f"case {at}", names[at % len(names)], "method", "ig", "iou", value, p=value / 3, part=names[at % 7])
        for at, value in enumerate(values)
    ]
    made = write_scores(tmp_path, rows)
    for path in (tmp_path, tmp_path / "scores.csv", tmp_path / "scores.parquet"):
        pd.testing.assert_frame_equal(read_scores(path), made, check_exact=True)
    assert np.array_equal(made["value"].to_numpy().view(np.int64), np.array(values).view(np.int64))
    assert made["patient"].tolist() == [names[at % len(names)] for at in range(len(values))]
    assert all(made[name].dtype == np.float64 for name in NUMBERS)
    (tmp_path / "scores.parquet").unlink()
    pd.testing.assert_frame_equal(read_scores(tmp_path), made, check_exact=True)


def test_the_order_is_that_in_which_names_come_first_whatever_order_rows_come_in_later(make_row):
    from medsal.scoring.table import as_table

    pairs = [(case, method) for case in ("z", "a", "m") for method in ("ig", "cam")]
    rows = [make_row(case, "p", "method", method, "iou", 0.5) for case, method in pairs]
    shuffled = [rows[0], rows[3], rows[4], rows[5], rows[2], rows[1]]
    found = as_table(shuffled)
    assert list(zip(found["case"], found["method"], strict=True)) == pairs
    assert as_table(found.to_dict("records")).equals(found)


def test_an_empty_table_keeps_its_columns_and_types(tmp_path):
    made = write_scores(tmp_path, [])
    for path in (tmp_path / "scores.csv", tmp_path / "scores.parquet"):
        assert read_scores(path).dtypes.equals(made.dtypes)
    assert list(made) == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": math.nan}, "row 2 .method ig, iou .: no value, and no reason why"),
        ({"reason": "empty"}, "row 2 .*a value, and a reason why there is none"),
        ({"kind": "prior"}, "row 2 .*kind: wanted one of method, baseline, adversary"),
        ({"patient": ""}, "row 2 .*patient: wanted a name, got nothing"),
        ({"case": "a"}, "row 2 .*the same case, map, metric and part as a row before"),
        ({"case": "a", "part": "x", "patient": "q"}, "row 2 .*another patient than in a row before of the same case"),
        ({"side": "positive"}, "row 2 .*another side than in a row before"),
        ({"value": math.inf}, "row 2, value: wanted a finite number, got inf"),
        ({"null": "high"}, "row 2, null: wanted a number, got 'high'"),
        ({"score": 1.0}, "row 2: no column score; there are case, patient"),
    ],
)
def test_a_row_that_cannot_be_right_is_named_without_its_patient(make_row, tmp_path, change, said):
    rows = [make_row("a", "Mrs Miller", "method", "ig", "iou", 0.5)]
    rows.append({**rows[0], "case": "b", **change})
    with pytest.raises(InputError, match=said) as caught:
        write_scores(tmp_path, rows)
    assert "Miller" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_scores_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"no scores at .*: wanted scores.parquet or scores.csv"):
        read_scores(tmp_path)
    (tmp_path / "scores.csv").write_text("case,value\na,1\n")
    with pytest.raises(InputError, match=r"scores.csv: wanted the columns case, .*; patient, kind.* missing"):
        read_scores(tmp_path)
    (tmp_path / "scores.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"scores.csv: cannot be read as a table: No columns"):
        read_scores(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"scores.parquet: cannot be read as a table"):
        read_scores(tmp_path)
