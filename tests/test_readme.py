"""The README's Python runs, and what it links to is there."""

from __future__ import annotations

import re

import pytest

from medsal.attribution import METHODS

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/get-started.md",
    "docs/how-to.md",
    "docs/concepts.md",
    "docs/from-monai.md",
    "docs/methods.md",
    "docs/metrics.md",
    "docs/pacs.md",
    "docs/trust-studies.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, repository, capsys):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (repository / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        assert "'gradcam': (1, 1, 64, 64, 48)" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page, repository):
    for target in re.findall(r"\]\(([^)#]+)\)", (repository / page).read_text()):
        if not target.startswith("http"):
            assert ((repository / page).parent / target).exists(), target


def test_every_package_is_installed(repository):
    import configparser

    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    listed = set(config["options"]["packages"].split()) - {"medsal.configs"}
    found = {".".join(p.parent.relative_to(repository).parts) for p in (repository / "medsal").rglob("__init__.py")}
    assert listed == found


def test_the_page_of_methods_has_every_method_with_its_sign(repository):
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (yes|no) \|", (repository / "docs/methods.md").read_text(), re.MULTILINE)
    assert {name: sign == "yes" for name, sign in rows} == {name: row.signed for name, row in METHODS.items()}
