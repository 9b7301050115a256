"""``medsal verify``: what is as it was written passes, and any one number that was changed is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from configparser import ConfigParser

import pandas as pd
import pytest

from medsal.cli import MISMATCH, main
from medsal.errors import UsageError
from medsal.scoring import read_scores, summarise, verify, write_record, write_scores, write_summary
from medsal.scoring.record import digest, portable, read_record
from medsal.scoring.summary import FILES
from medsal.scoring.verification import as_text, differences


@pytest.fixture(scope="module")
def made(make_rows, settings, tmp_path_factory):
    """An evaluation as a run leaves it."""
    folder = tmp_path_factory.mktemp("evaluation")
    keep = ("method", "baseline")
    rows = [row for row in make_rows(patients=5) if row["kind"] in keep and row["metric"] != "auprc_trapezoid"]
    write_summary(folder, summarise(write_scores(folder, rows), settings))
    write_record(
        folder, settings, config={"maps_dir": "/data/maps", "device": "cuda", "side": "absolute"}, seeds={"draws": 5},
        exclusions={"case-x": "no mask"}, sources="masks", model={"sha256": "ab"}, resampled={"case-1": True},
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "evaluation")


def change(path, row, column):
    """Change one number of a CSV file in its fourth digit, and nothing else."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    at = table.columns.get_loc(column)
    old = float(table.iloc[row, at])
    table.iloc[row, at] = repr(old * 1.0001 if old else 0.0001)
    table.to_csv(path, index=False, lineterminator="\n")
    return old


def test_an_evaluation_as_it_was_written_has_no_mismatch(made, capsys):
    assert verify(made) == []
    assert main(["verify", str(made)]) == 0
    said = capsys.readouterr().out
    assert "checked digests of scores.csv, scores.parquet, summary.csv, comparisons.csv, verdicts.csv" in said
    cells = sum(pd.read_csv(made / name, dtype=str).size for name in FILES)
    assert f"checked {cells} numbers and words of summary.csv, comparisons.csv, verdicts.csv, computed again" in said
    assert said.endswith(f"medsal verify: no mismatches in {made}\n")


@pytest.mark.parametrize(
    ("name", "column"),
    [("summary.csv", "mean"), ("comparisons.csv", "p_corrected"), ("verdicts.csv", "difference")],
)
def test_one_changed_number_of_the_summary_is_named_with_its_row_and_column(folder, name, column, capsys):
    old = change(folder / name, 1, column)
    lines = [line for line in verify(folder) if "sha256" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}, row 2 (")
    assert f"), {column}: stored " in lines[0]
    assert lines[0].endswith(f"recomputed {old!r}")
    assert main(["verify", str(folder)]) == MISMATCH == 6
    assert f"MISMATCH {lines[0]}" in capsys.readouterr().out


def test_every_number_of_the_summary_is_looked_at(made, settings):
    summary = summarise(read_scores(made), settings)
    for name, attribute in FILES.items():
        table = getattr(summary, attribute)
        stored = as_text(table)
        assert list(differences(name, stored, table)) == []
        for column in table.columns[table.dtypes != "str"]:
            known = stored[column] != ""
            if known.any():
                changed, row = stored.copy(), int(known.to_numpy().argmax())
                changed.loc[row, column] = repr(float(stored[column][row]) * 1.0001 + 1e-6)
                found = list(differences(name, changed, table))
                assert len(found) == 1, column
                assert f"row {row + 1} " in found[0]


@pytest.mark.parametrize("column", ["value", "null", "p"])
def test_one_changed_score_of_the_csv_is_found(folder, column):
    change(folder / "scores.csv", 2, column)
    lines = verify(folder)
    assert any(line.startswith("scores.csv, sha256: stored ") for line in lines)
    assert any(line.startswith("scores.parquet, row 3 (") and f"), {column}: stored " in line for line in lines)
    assert len(lines) == 2  # the table that was not touched tells that the summary is right


def test_one_changed_score_of_the_parquet_file_is_found(folder):
    table = pd.read_parquet(folder / "scores.parquet")
    table.loc[2, "value"] += 1e-4
    table.to_parquet(folder / "scores.parquet", index=False)
    lines = verify(folder)
    assert any(line.startswith("scores.parquet, sha256") for line in lines)
    assert any(line.startswith("scores.parquet, row 3 (") for line in lines)


def test_a_score_changed_in_both_files_with_all_digests_made_anew_changes_the_summary(folder):
    table = read_scores(folder)
    table.loc[0, "value"] += 0.01
    write_scores(folder, table.to_dict("records"))
    record = read_record(folder)
    from medsal.bundle.fingerprint import file_sha256

    record["files"] |= {name: file_sha256(folder / name) for name in ("scores.csv", "scores.parquet")}
    del record["record_sha256"]
    record["record_sha256"] = digest(record)
    (folder / "evaluation.json").write_text(json.dumps(record))
    lines = verify(folder)
    assert any(line.startswith("summary.csv, row 1 ") and "), mean: stored " in line for line in lines)
    assert any(line.startswith("comparisons.csv, row 1 ") for line in lines)


@pytest.mark.parametrize(
    "where",
    [("settings", "seed"), ("settings", "shifts"), ("counts", "cases"), ("seeds", "draws"), ("left_out", 0, "images")],
)
def test_one_changed_number_of_the_record_is_found(folder, where):
    record = read_record(folder)
    place = record
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] += 1
    (folder / "evaluation.json").write_text(json.dumps(record, indent=1))
    lines = verify(folder)
    assert any(line.startswith("evaluation.json, record_sha256: stored ") for line in lines)
    if where[0] in {"counts", "left_out"}:
        assert any(line.startswith(f"evaluation.json, {where[0]}: stored ") for line in lines)
    if where[-1] == "seed":
        assert any(line.startswith("summary.csv, row 1 ") and "), low: stored" in line for line in lines)


def test_a_changed_configuration_is_found(folder):
    record = read_record(folder)
    record["config"]["side"] = "positive"
    (folder / "evaluation.json").write_text(json.dumps(record))
    assert any(line.startswith("evaluation.json, config_sha256") for line in verify(folder))


def test_patients_are_not_shown_where_they_differ(folder):
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text.replace(",p0,", ",Mrs Miller,"))
    lines = verify(folder)
    assert any(line.endswith("), patient: differs") for line in lines)
    assert not any("Miller" in line for line in lines)


def test_lost_rows_lost_files_and_broken_files_are_mismatches_not_crashes(folder):
    lines = (folder / "summary.csv").read_text().splitlines(keepends=True)
    (folder / "summary.csv").write_text("".join(lines[:-1]))
    (folder / "verdicts.csv").unlink()
    (folder / "scores.parquet").write_bytes(b"PAR1")
    found = verify(folder)
    assert any(line == f"summary.csv: stored {len(lines) - 2} rows, recomputed {len(lines) - 1}" for line in found)
    assert any(line.startswith("verdicts.csv: cannot be read: ") for line in found)
    assert any("recomputed nothing: no such file" in line for line in found)
    assert any(line.startswith("scores.parquet: scores.parquet: cannot be read") for line in found)
    (folder / "scores.csv").unlink()
    assert any(line.startswith("scores.csv: no scores at ") for line in verify(folder))


def test_settings_that_cannot_be_used_are_a_mismatch(folder):
    record = read_record(folder)
    record["settings"]["colour"] = "red"
    (folder / "evaluation.json").write_text(json.dumps(record))
    assert any(line.startswith("evaluation.json, settings: cannot be used: ") for line in verify(folder))


def test_other_versions_are_named_beside_a_mismatch_only(folder):
    record = read_record(folder)
    del record["record_sha256"]
    record["versions"]["scipy"] = "0.1"
    record["record_sha256"] = digest(record)
    (folder / "evaluation.json").write_text(json.dumps(record))
    assert verify(folder) == []
    change(folder / "summary.csv", 0, "mean")
    assert verify(folder)[-1].startswith(
        "evaluation.json, versions: other ones here, which may be the reason: scipy 0.1 "
    )


def test_the_record_says_what_was_asked_and_what_was_left_out(made, settings):
    record = read_record(made)
    assert record["config"] == {"maps_dir": "(path)", "side": "absolute"}
    assert record["exclusions"] == {"case-x": "no mask"}
    assert record["seeds"] == {"draws": 5}
    assert record["resampled"] == {"case-1": True}
    assert {"scipy", "statsmodels", "pandas", "pyarrow", "numpy", "python"} <= set(record["versions"])
    assert type(settings).from_dict(record["settings"]) == settings
    assert {"kind": "method", "method": "broken", "metric": "pointing_game", "part": "", "reason": "map not finite",
            "images": 14} in record["left_out"]  # fmt: skip


def test_the_digest_of_a_configuration_is_the_same_on_another_machine():
    here = {"output_dir": "/home/a/out", "maps_dir": "/home/a/maps", "device": "cuda:1", "metrics": {"iou": {"t": 0.5}}}
    there = {"metrics": {"iou": {"t": 0.5}}, "maps_dir": "C:\\maps", "device": "cpu", "output_dir": "/b"}
    assert digest(portable(here)) == digest(portable(there))
    assert digest(portable(here)) != digest(portable({**here, "metrics": {"iou": {"t": 0.6}}}))


def test_a_record_wants_scores_and_summary_and_keeps_its_own_names(folder, settings, tmp_path):
    with pytest.raises(UsageError, match=r"wanted scores.csv, scores.parquet, summary.csv, .* in the folder"):
        write_record(tmp_path, settings)
    with pytest.raises(UsageError, match="versions cannot be given"):
        write_record(folder, settings, versions={})


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_that_is_no_evaluation_ends_with_exit_code_2(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    assert main(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("medsal: error: ")


def test_the_command_is_installed_and_runs_as_a_module(made, repository):
    setup = ConfigParser()
    setup.read(repository / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].strip() == "medsal = medsal.cli:main"
    done = subprocess.run(
        [sys.executable, "-m", "medsal", "verify", str(made)], cwd=repository, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "no mismatches" in done.stdout
    with pytest.raises(SystemExit) as caught:
        main(["verfy"])
    assert caught.value.code == 2
