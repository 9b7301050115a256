"""The ledger: what counts as finished, and what a killed, changed or shared run leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from medsal.errors import NothingToDoError, UsageError
from medsal.files import write_file
from medsal.ledger import TEMPORARY, Ledger, Outcome

CONFIG = {
    "methods": ["saliency", "gradcam"],
    "options": {},
    "preprocessing": {"_target_": "Compose"},
    "output_dir": "a",
}


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    """Three cases with files."""
    (tmp_path / "in").mkdir()
    found = []
    for number in range(3):
        path = tmp_path / f"in/sub-{number}.nii"
        path.write_bytes(bytes([number]))
        found.append(
            {"image": str(path), "case": f"sub-{number}", "subject": f"sub-{number}", "session": "", "label": 0}
        )
    return found


def ledger_of(tmp_path: Path, config: dict[str, Any] | None = CONFIG, model: str = "m") -> Ledger:
    return Ledger(tmp_path / "out", config=config, model_sha256=model)


def finish(ledger: Ledger, case: str, names: tuple[str, ...] = ("map.npy",), **more: Any) -> None:
    ledger.begin(case)
    files = [ledger.output_dir / f"{case}_{name}" for name in names]
    for file in files:
        file.write_text("content")
    ledger.finish({"case": case, "status": "done", "error": "", **more}, files)


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["case"] for item in items]


def test_finished_cases_are_left_out_before_they_are_loaded(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    first = ledger_of(tmp_path)
    assert names(first.pending(cases)) == ["sub-0", "sub-1", "sub-2"]
    finish(first, "sub-1")
    again = ledger_of(tmp_path)
    assert names(again.pending(cases)) == ["sub-0", "sub-2"]
    assert again.skipped == ["sub-1"]
    assert again.positions == {"sub-0": 0, "sub-1": 1, "sub-2": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"methods": ["saliency"]},
        {"options": {"gradcam": {"relu": False}}},
        {"preprocessing": {"_target_": "Other"}},
        {"slices": "axial:peak"},
        {"_meta_": {"network_data_format": 1}},
    ],
)
def test_another_configuration_makes_every_case_unfinished(
    tmp_path: Path, cases: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    assert len(ledger_of(tmp_path, {**CONFIG, **change}).pending(cases)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"output_dir": "b"},
        {"device": "cuda:1"},
        {"max_samples": 2},
        {"methods": "saliency,gradcam"},
        {"methods": ("saliency", "gradcam")},
    ],
)
def test_what_cannot_change_a_result_keeps_it_finished(
    tmp_path: Path, cases: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    assert len(ledger_of(tmp_path, {**CONFIG, **change}).pending(cases)) == 2


def test_an_input_counts_by_its_content_and_not_by_its_place(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    for case in names(cases):
        finish(first, case)
    moved = tmp_path / "elsewhere.nii"
    Path(cases[0]["image"]).rename(moved)
    cases[0] |= {"image": str(moved)}
    Path(cases[1]["image"]).write_bytes(b"another scan")
    cases[2] |= {"label": 1}
    assert names(ledger_of(tmp_path).pending(cases)) == ["sub-1", "sub-2"]


def test_other_weights_make_every_case_unfinished(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    assert len(ledger_of(tmp_path, model="n").pending(cases)) == 3


@pytest.mark.parametrize("config", [None, CONFIG])
def test_nothing_counts_as_finished_where_the_configuration_or_the_input_is_unknown(
    tmp_path: Path, cases: list[dict[str, Any]], config: dict[str, Any] | None
) -> None:
    if config is not None:
        Path(cases[1]["image"]).unlink()
    first = ledger_of(tmp_path, config)
    first.pending(cases)
    finish(first, "sub-1")
    assert "sub-1" in names(ledger_of(tmp_path, config).pending(cases))


def _cut(path: Path) -> None:
    path.write_text("con")


@pytest.mark.parametrize("harm", [Path.unlink, _cut])
def test_a_file_that_is_gone_or_cut_makes_its_case_unfinished(
    tmp_path: Path, cases: list[dict[str, Any]], harm: Any
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    harm(first.output_dir / "sub-1_map.npy")
    assert len(ledger_of(tmp_path).pending(cases)) == 3


@pytest.mark.parametrize("content", ["", "{", '{"case": "sub-1", "status": "done"', "[]", '{"status": "failed"}'])
def test_a_record_that_is_cut_or_failed_vouches_for_nothing(
    tmp_path: Path, cases: list[dict[str, Any]], content: str
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    (first.output_dir / "cases/sub-1.json").write_text(content)
    assert len(ledger_of(tmp_path).pending(cases)) == 3


def test_the_old_record_vouches_for_nothing_once_its_files_are_being_written(
    tmp_path: Path, cases: list[dict[str, Any]]
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1", ("map.npy", "slice_30.png"))
    second = ledger_of(tmp_path, {**CONFIG, "seed": 1})
    second.pending(cases)
    second.begin("sub-1")  # and here the process is killed, with files of the same sizes half replaced
    assert len(ledger_of(tmp_path).pending(cases)) == 3
    third = ledger_of(tmp_path, {**CONFIG, "seed": 1})
    third.pending(cases)
    finish(third, "sub-1")
    assert not (third.output_dir / "sub-1_slice_30.png").exists()


def test_files_that_the_new_run_does_not_write_are_removed_and_others_stay(
    tmp_path: Path, cases: list[dict[str, Any]]
) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1", ("map.npy", "slice_30.png"))
    (first.output_dir / "notes_of_the_user.txt").write_text("stay")
    second = ledger_of(tmp_path, {**CONFIG, "key_slices": 40})
    second.pending(cases)
    finish(second, "sub-1", ("map.npy", "slice_40.png"))
    left = sorted(path.name for path in second.output_dir.iterdir() if path.is_file())
    assert left == ["notes_of_the_user.txt", "sub-1_map.npy", "sub-1_slice_40.png"]


def test_folders_that_are_left_empty_go_with_their_files(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    ledger = ledger_of(tmp_path)
    ledger.pending(cases)
    for method in ("saliency", "gradcam"):
        (ledger.output_dir / method / "sub-1").mkdir(parents=True)
    (ledger.output_dir / "gradcam/note.txt").write_text("stay")
    finish(ledger, "sub-1", ("a",))
    (ledger.output_dir / "sub-1_a").rename(ledger.output_dir / "saliency/sub-1/a")
    record = ledger.read("sub-1")
    files = [{"path": f"{method}/sub-1/a", "size": 1} for method in ("saliency", "gradcam")]
    (ledger.output_dir / "cases/sub-1.json").write_text(json.dumps({**record, "files": files}))
    finish(ledger, "sub-1", ("b",))
    left = sorted(path.name for path in ledger.output_dir.iterdir())
    assert left == ["cases", "gradcam", "sub-1_b"]
    assert [path.name for path in (ledger.output_dir / "gradcam").iterdir()] == ["note.txt"]


def test_a_record_cannot_have_a_file_outside_the_folder_removed(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("stay")
    ledger = ledger_of(tmp_path)
    ledger.pending(cases)
    (ledger.output_dir / "cases/sub-1.json").write_text(
        json.dumps({"case": "sub-1", "status": "done", "files": [{"path": "../precious.txt", "size": 4}]})
    )
    finish(ledger, "sub-1")
    assert precious.exists()


def test_a_case_that_fails_keeps_what_an_earlier_run_made_of_it(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    first = ledger_of(tmp_path)
    first.pending(cases)
    finish(first, "sub-1")
    first.finish({"case": "sub-1", "status": "failed", "error": "cut off"})
    assert (first.output_dir / "sub-1_map.npy").exists()
    assert len(ledger_of(tmp_path).pending(cases)) == 3
    finish(first, "sub-1", ("other.npy",))
    assert not (first.output_dir / "sub-1_map.npy").exists()


def test_what_a_killed_run_left_half_written_is_swept_away_and_nothing_else(
    tmp_path: Path, cases: list[dict[str, Any]]
) -> None:
    ledger = ledger_of(tmp_path)
    folder = ledger.output_dir / "saliency/sub-1"
    folder.mkdir(parents=True)
    for name in (".0123456789ab.part", "x.0123456789ab.part", "data.part", ".hidden", "map.npy"):
        (folder / name).write_text("x")
    ledger.pending(cases)
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", "data.part", "map.npy", "x.0123456789ab.part"]


def test_what_is_swept_away_is_what_the_exporter_writes_to(tmp_path: Path) -> None:
    seen: list[str] = []

    def content(stream: Any) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())

    write_file(tmp_path / "map.npy", content)
    assert len(seen) == 1
    assert TEMPORARY.fullmatch(seen[0])


def test_two_sessions_of_a_subject_change_its_names_and_so_its_fingerprint(
    tmp_path: Path, cases: list[dict[str, Any]]
) -> None:
    alone = ledger_of(tmp_path)
    alone.pending(cases[:1])
    both = ledger_of(tmp_path)
    both.pending([cases[0], {**cases[1], "subject": "sub-0"}])
    assert alone.fingerprints["sub-0"] != both.fingerprints["sub-0"]


def test_limit_takes_cases_from_the_front(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    assert names(ledger_of(tmp_path).pending(cases, limit=2)) == ["sub-0", "sub-1"]
    assert len(ledger_of(tmp_path).pending(cases, limit=0)) == 3


def test_an_empty_list_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingToDoError, match="--dataset_dir"):
        ledger_of(tmp_path).pending([])


def test_two_cases_of_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"case a_x comes twice: 1/a/x.nii and 2/a/x.nii"):
        ledger_of(tmp_path).pending(["1/a/x.nii", "2/a/x.nii"])
    with pytest.raises(UsageError, match=r"case x comes twice: a/1.nii and a/2.nii"):
        ledger_of(tmp_path).pending([{"image": "a/1.nii", "case": "x"}, {"image": "a/2.nii", "case": "x"}])


def test_files_of_one_name_are_named_by_their_folders_whatever_part_of_the_list_is_taken(tmp_path: Path) -> None:
    paths = ["a/x.nii", "b/x.nii", "b/y.nii"]
    assert [item["case"] for item in ledger_of(tmp_path).pending(paths)] == ["a_x", "b_x", "y"]
    (first,) = ledger_of(tmp_path).pending(paths, limit=1)
    assert (first["case"], first["subject"]) == ("a_x", "a_x")
    with pytest.raises(UsageError, match="wanted a path, or paths, under 'image', got "):
        ledger_of(tmp_path).pending([{"image": {"image": "a"}}])


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="output_dir: cannot write"):
        Ledger(tmp_path / "file" / "out")


def test_a_network_without_loaded_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="random weights"):
        Ledger(tmp_path, network=nn.Linear(1, 1))


def test_the_outcome_is_what_is_on_the_disk(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    ledger = ledger_of(tmp_path)
    ledger.pending(cases)
    finish(ledger, "sub-0")
    ledger.finish({"case": "sub-1", "status": "failed", "error": "x"})
    assert dict(ledger.outcome().cases) == {"sub-0": "done", "sub-1": "failed", "sub-2": "pending"}
    assert [record["case"] for record in ledger.records()] == ["sub-0", "sub-1"]


@pytest.mark.parametrize(
    ("statuses", "interrupted", "code"),
    [
        (["done", "done"], False, 0),
        (["done", "failed"], False, 4),
        (["done", "pending"], False, 4),
        (["failed", "failed"], False, 5),
        (["done", "pending"], True, 130),
    ],
)
def test_exit_codes(statuses: list[str], interrupted: bool, code: int) -> None:
    assert Outcome(cases=dict(enumerate(statuses)), interrupted=interrupted).exit_code == code


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        Ledger(tmp_path / "out")
