"""The tables of docs/dicom.md say what the code says."""

from __future__ import annotations

import re

import pytest

from medsal.dicom import REASONS, REQUIREMENTS, Reason


@pytest.fixture
def page(repository):
    return (repository / "docs" / "dicom.md").read_text(encoding="utf-8")


def test_every_code_has_its_row_and_no_row_is_left_over(page):
    assert set(REASONS) == set(Reason)
    rules, codes = page.split("## Why something was refused")
    for text, wanted in (
        (codes, {code.value: meaning for code, meaning in REASONS.items()}),
        (rules, {name: row.says for name, row in REQUIREMENTS.items()}),
    ):
        assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)) == wanted


def test_every_code_is_given_somewhere(repository):
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((repository / "medsal" / "dicom").glob("*.py")))
    unused = [reason.name for reason in Reason if code.count(f"Reason.{reason.name}") < 2]
    assert not unused
