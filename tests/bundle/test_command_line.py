"""Words of a command line are read as Fire reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import pytest

from medsal.bundle.command_line import CommandLine, is_bundle_run, read_config, split_command_line, value_of
from medsal.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["--a", "1", "--b=2", "--c", "x,y", "--d", "-1", "--e"],
        ["--out-dir", "x", "--net#a", "3", "--f", "[1,2]", "--g", "None"],
        ["--a::b", "{'x': 1}", "--flag", "--z", "a b"],
        ["-x", "3", "--y", "$@a + 1"],
    ],
)
def test_options_come_out_as_fire_hands_them_on(words: list[str]) -> None:
    def taker(**override: Any) -> dict[str, Any]:
        return override

    wanted = fire.Fire(taker, command=words, serialize=lambda _: "")
    found = split_command_line(words)
    assert {key: value_of(text) for key, text in found.options.items()} == wanted
    assert not found.stray


def test_words_behind_a_separator_are_fires_own() -> None:
    assert split_command_line(["--a", "1", "--", "--trace"]) == CommandLine(options={"a": "1"})


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["/x/site-packages/monai/bundle/__main__.py", "run"], True),
        (["/x/site-packages/monai/bundle/__main__.py", "run_workflow", "--a", "b"], True),
        (["/x/site-packages/monai/bundle/__main__.py", "ckpt_export"], False),
        (["/x/site-packages/monai/bundle/__main__.py"], False),
        (["/usr/bin/pytest", "run"], False),
    ],
)
def test_a_bundle_run_is_told_by_its_entry(argv: list[str], wanted: bool) -> None:
    assert is_bundle_run(argv) is wanted


@pytest.mark.parametrize("content", ["{", "a: [", "a: 1\na: 2\n", '{"a": 1, "b": 2, "a": 3}'])
def test_a_config_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"broken\.yaml"):
        read_config(str(file))


def test_metadata_beside_the_first_file_is_read(bundle: Path) -> None:
    assert read_config(str(bundle / "configs/inference.json"))["_meta_"]["version"] == "0.1.0"
