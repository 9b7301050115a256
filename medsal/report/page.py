"""The page of a run: a template, the cases' small files, one substitution."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from medsal._version import __version__
from medsal.errors import MedsalError
from medsal.export.colours import table
from medsal.export.layout import inside, safe_name
from medsal.files import json_bytes, write_file

PAGE_BYTES = 12_000_000
"""A page larger than this makes browsers slow: the cases that do not fit go to ``index_2.html`` and so on."""

_FILES = ("attribution_statistics.csv", "attribution_summary.png", "run.json")


def write_index(
    output_dir: Path | str, case_records: Sequence[Mapping[str, Any]], *, model: Mapping[str, Any] | None = None
) -> Path:
    """Write ``index.html``: every case with its slices, and every failed case with its reason.

    The page needs no network, no server and no WebGL, and runs no script but its own.

    Args:
        output_dir: the run's folder, which holds ``report/<case>.json`` of the finished cases.
        case_records: what is known of each case: ``case``, ``status`` (``done`` or ``failed``), ``error``, and ``mark``
            where the page must say of a case that it is not like the others.
        model: ``name`` and ``sha256`` of the network's weights.

    Returns:
        The first page.
    """
    root = Path(output_dir)
    failed: list[dict[str, str]] = []
    pages = list(_pages(_cases(root, case_records, failed)))
    names = ["index.html", *(f"index_{number}.html" for number in range(2, len(pages) + 1))]
    common = {
        "version": __version__,
        "model": {key: str(value) for key, value in (model or {}).items()},
        "colours": base64.b64encode(table("RdBu_r").tobytes()).decode(),
        "pages": names,
        "total": len(case_records),
        "failed": failed,
        "files": [name for name in _FILES if (root / name).is_file()],
    }
    template = files("medsal.report").joinpath("page.html").read_text(encoding="utf-8")
    for number, cases in enumerate(pages):
        head = json_bytes({**common, "page": number}).decode().rstrip().removesuffix("}")
        content = render(template, f'{head}, "cases": [{", ".join(cases)}]}}')
        write_file(root / names[number], content.encode())
    for old in root.glob("index_*.html"):
        if old.name not in names and re.fullmatch(r"index_\d+\.html", old.name):
            old.unlink(missing_ok=True)
    return root / names[0]


def render(template: str, data: str) -> str:
    r"""Put the data of a run into the page, in one pass, so that nothing in the data is ever taken for a marker.

    Args:
        template: with ``@@MEDSAL:DATA@@``, ``@@MEDSAL:SCRIPT@@`` and ``@@MEDSAL:STYLE@@``.
        data: JSON; it may hold anything.

    Returns:
        The page; its policy lets only this very script and style sheet run.

    Example:
        >>> render("<script>0</script><style></style>@@MEDSAL:DATA@@", '{"case": "</script>"}')[-31:]
        '{"case": "\\u003c/script\\u003e"}'
    """
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    parts = {"DATA": re.sub("[<>&\u2028\u2029]", lambda found: escapes[found[0]], data)}
    for name, tag in (("SCRIPT", "script"), ("STYLE", "style")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", template, flags=re.DOTALL)[0]
        parts[name] = "sha256-" + base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    return re.sub(r"@@MEDSAL:(DATA|SCRIPT|STYLE)@@", lambda found: parts[found[1]], template)


def _cases(root: Path, records: Iterable[Mapping[str, Any]], failed: list[dict[str, str]]) -> Iterator[str]:
    """The JSON of each finished case; those without one are added to ``failed`` with the reason."""
    for record in records:
        case = str(record.get("case", ""))
        if record.get("status") != "done":
            failed.append({"case": case, "error": str(record.get("error") or "no reason was recorded")})
            continue
        try:
            text = inside(root, f"report/{safe_name(case)}.json").read_text(encoding="utf-8")
            found = json.loads(text)
            if record.get("mark"):
                text = json_bytes({**found, "mark": record["mark"]}).decode()
        except (OSError, ValueError, MedsalError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            failed.append({"case": case, "error": f"explained, but its file for this page cannot be read: {reason}"})
        else:
            yield text.strip()


def _pages(cases: Iterable[str]) -> Iterator[list[str]]:
    """Deal the cases out to pages of a bearable size; there is always one page."""
    page: list[str] = []
    size = 0
    for case in cases:
        if page and size + len(case) > PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(case)
        size += len(case)
    yield page
