"""One output folder, several lists of cases: no case takes the place of another."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from medsal.errors import UsageError
from medsal.export import prepare_export
from medsal.ledger import Ledger

CONFIG = {"methods": ["saliency"], "options": {}}


def image(folder: Path, name: str) -> str:
    path = folder / f"{name}.nii"
    path.write_bytes(name.encode())
    return str(path)


def run(folder: Path, *items: dict[str, Any]) -> dict[str, str]:
    """Finish every case of a list; what their files are called."""
    ledger = Ledger(folder / "out", config=CONFIG, model_sha256="m")
    waiting = {item["case"] for item in ledger.pending(items)}
    options = prepare_export(ledger.output_dir, [*ledger.items, *ledger.others])
    found = {}
    for item in [item for item in items if item["case"] in waiting]:
        name = item["subject"] if item["subject"] not in options.repeated_subjects else item["case"]
        file = ledger.output_dir / name / "map.npy"
        file.parent.mkdir(exist_ok=True)
        file.write_text(item["case"])
        record = {"subject": item["subject"], "session": item["session"], "statistics": [{"subject_id": name}]}
        ledger.finish({"case": item["case"], "status": "done", "error": "", **record}, [file])
        found[item["case"]] = name
    return found


def session(folder: Path, name: str, subject: str = "sub-07", **more: Any) -> dict[str, Any]:
    case = f"{subject}_{name}" if name else subject
    return {"image": image(folder, case), "case": case, "subject": subject, "session": name, **more}


def test_a_session_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    first, second = session(tmp_path, "ses-a"), session(tmp_path, "ses-b")
    assert run(tmp_path, first) == {"sub-07_ses-a": "sub-07"}
    assert run(tmp_path, second) == {"sub-07_ses-b": "sub-07_ses-b"}
    assert (tmp_path / "out/sub-07/map.npy").read_text() == "sub-07_ses-a"
    assert run(tmp_path, first, second) == {"sub-07_ses-a": "sub-07_ses-a"}
    assert not (tmp_path / "out/sub-07/map.npy").exists()
    assert run(tmp_path, first) == run(tmp_path, second) == {}


def test_a_case_that_would_be_called_as_the_files_of_another_is_refused(tmp_path: Path) -> None:
    run(tmp_path, session(tmp_path, "ses-a"))
    with pytest.raises(UsageError, match=r"'sub-07' and 'sub-07_ses-a' would write the same files.*--output_dir"):
        run(tmp_path, session(tmp_path, ""))


def test_a_number_never_changes_its_person(tmp_path: Path) -> None:
    jane = {**session(tmp_path, "", "anon-0001"), "anonymous": True}
    run(tmp_path, jane)
    assert run(tmp_path, jane) == {}
    john = {**jane, "image": image(tmp_path, "john")}
    with pytest.raises(UsageError, match="anon-0001 is another image in this output folder"):
        run(tmp_path, john)


def test_a_failed_case_may_come_back_with_a_mended_image(tmp_path: Path) -> None:
    case = {**session(tmp_path, "", "anon-0001"), "anonymous": True}
    ledger = Ledger(tmp_path / "out", config=CONFIG, model_sha256="m")
    ledger.pending([case])
    ledger.finish({"case": "anon-0001", "status": "failed", "error": "cut off"})
    assert run(tmp_path, {**case, "image": image(tmp_path, "mended")}) == {"anon-0001": "anon-0001"}


def test_another_image_under_a_name_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = session(tmp_path, "")
    run(tmp_path, case)
    Path(case["image"]).write_text("scanned again")
    with caplog.at_level(logging.WARNING, "medsal"):
        assert run(tmp_path, case) == {"sub-07": "sub-07"}
    assert "sub-07: another image than in an earlier run" in caplog.text


@pytest.mark.parametrize("anonymous_first", [True, False])
def test_names_and_numbers_do_not_share_a_folder(tmp_path: Path, anonymous_first: bool) -> None:
    named, numbered = session(tmp_path, ""), {**session(tmp_path, "", "anon-0001"), "anonymous": True}
    first, second = (numbered, named) if anonymous_first else (named, numbered)
    run(tmp_path, first)
    with pytest.raises(UsageError, match="anonymise: wanted an output folder of its own") as caught:
        run(tmp_path, second)
    assert "sub-07" not in str(caught.value)
    assert json.loads((tmp_path / f"out/cases/{first['case']}.json").read_text())["anonymous"] is anonymous_first
