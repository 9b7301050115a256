"""The tables of docs/pacs.md say what the code says, and its configuration can be read."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields

import pytest

from medsal.cli import main
from medsal.pacs.jobs import STATES, State
from medsal.pacs.nodes import Listening, Node, Site, Tls, Work, load_site
from medsal.pacs.troubles import PROBLEMS, TRANSIENT, Problem

TABLES = {
    "`[site]`": (Site, {"nodes", "listener", "work", "explain", "file"}),
    "`[nodes.NAME]`": (Node, {"name", "tls"}),
    "`[nodes.NAME.tls]`": (Tls, set()),
    "`[listener]`": (Listening, {"tls"}),
    "`[work]`": (Work, set()),
}


@pytest.fixture
def page(repository):
    return (repository / "docs" / "pacs.md").read_text(encoding="utf-8")


def default(one):
    """A default as TOML writes it, or as the page says that there is none."""
    if one.name == "folder":
        return '`"medsal-pacs"`'
    if one.default is MISSING:
        return "needed"
    value = one.default
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


@pytest.mark.parametrize("name", TABLES)
def test_every_key_has_its_row_with_its_default(page, name):
    kind, others = TABLES[name]
    section = page.split(f"\n{name}", 1)[1].split("\n`[", 1)[0].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \| ", section, re.MULTILINE))
    assert rows == {one.name: default(one) for one in fields(kind) if one.name not in others}


def test_every_state_and_every_reason_has_its_row(page):
    assert set(STATES) == set(State)
    assert set(PROBLEMS) == set(Problem)
    wanted = {f"| `{state.value}` | {meaning} |" for state, meaning in STATES.items()}
    for problem, meaning in PROBLEMS.items():
        wanted.add(f"| `{problem.value}` | {'yes' if problem in TRANSIENT else 'no'} | {meaning} |")
    assert wanted <= set(page.splitlines())


def test_the_configuration_of_the_page_is_one(page, tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "medsal-pacs.toml"
    path.write_text(text)
    site = load_site(path)
    assert site.folder == tmp_path / "work"
    assert site.node("archive").write is False


def test_every_command_is_on_the_page_and_the_other_way_round(page, capsys):
    with pytest.raises(SystemExit):
        main(["pacs", "--help"])
    known = set(re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert known == set(re.findall(r"^\| `(\w+)(?: \[?NODE\]?)` \|", page, re.MULTILINE))
    for words in re.findall(r"^(?:    |    \$ )medsal pacs (\w+)", page, re.MULTILINE):
        assert words in known
