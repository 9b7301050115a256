"""The configuration of a site: what it takes, and how it says what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from medsal.errors import UsageError
from medsal.pacs.client import Wanted
from medsal.pacs.nodes import Listening, Node, Site, Tls, Work, load_site
from medsal.pacs.troubles import PROBLEMS, TRANSIENT, Problem, Trouble, of_status
from medsal.pacs.wanting import URL

WHOLE = """
[site]
folder = "state"
bundle = "../bundles/mri"
rules = "rules.json"
kinds = ["sc", "sr"]

[explain]
methods = ["saliency"]

[work]
tries = 3
backoff = 1

[listener]
port = 11113
callers = ["PACS1"]
hosts = ["10.1.0.0/16", "::1"]
[listener.tls]
ca = "ca.pem"
certificate = "own.pem"
key = "own.key"

[nodes.main]
host = "pacs.example"
port = 104
ae_title = "PACS1"
write = true
retrieve = "move"
receive_port = 11114
[nodes.main.tls]
ca = "ca.pem"
certificate = "own.pem"
key = "own.key"

[nodes.web]
host = "pacs.example"
port = 104
ae_title = "PACS2"
query = "web"
web_url = "https://pacs.example/dicom-web"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_site(tmp_path) -> None:
    site = load_site(written(tmp_path, WHOLE))
    assert site.folder == tmp_path / "state"
    assert site.bundle == tmp_path / "../bundles/mri"
    assert site.rules == str(tmp_path / "rules.json")
    assert site.kinds == ("sc", "sr")
    assert site.explain == {"methods": ["saliency"]}
    assert site.work == Work(tries=3, backoff=1)
    own = Tls(ca=tmp_path / "ca.pem", certificate=tmp_path / "own.pem", key=tmp_path / "own.key")
    assert site.listener == Listening(port=11113, callers=("PACS1",), hosts=("10.1.0.0/16", "::1"), tls=own)
    main = site.node("main")
    assert (main.name, main.own_title, main.write, main.retrieve, main.tls) == ("main", "MEDSAL", True, "move", own)
    assert not site.node("web").write, "sending must be asked for"
    assert site.node("web").uses_web
    assert not main.uses_web


def test_a_site_of_one_node_and_a_preset(tmp_path) -> None:
    text = '[site]\nrules = "mr"\n[nodes.a]\nhost = "h"\nport = 104\nae_title = "A"\n'
    from medsal.dicom.select import PRESETS

    preset = next(iter(PRESETS))
    site = load_site(written(tmp_path, text.replace('"mr"', f'"{preset}"')))
    assert site.rules == preset
    assert site.folder == tmp_path / "medsal-pacs"
    assert site.listener is None


NODE = '[nodes.a]\nhost = "h"\nport = 104\nae_title = "A"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[nodes.a", "wanted TOML"),
        ("[node.a]", "unknown table 'node'; did you mean nodes?"),
        ("nodes = 3", "nodes: wanted a table, got 3"),
        ("[nodes]\na = 3", "nodes.a: wanted a table, got 3"),
        (NODE + 'hots = "x"', "[nodes.a] unknown key 'hots'; did you mean host?"),
        ('[nodes.a]\nhost = "h"\nport = 104\n', "[nodes.a] ae_title: wanted a value, got none"),
        (NODE.replace("104", "0"), "[nodes.a] port: wanted a whole number from 1 to 65535, got 0"),
        (NODE.replace("104", "true"), "[nodes.a] port: wanted a whole number from 1 to 65535, got True"),
        (NODE.replace('"A"', '"SEVENTEEN LETTERS"'), "[nodes.a] ae_title: wanted an AE title"),
        (NODE.replace('"A"', "'A\\B'"), "[nodes.a] ae_title: wanted an AE title"),
        (NODE.replace('"A"', '"  "'), "[nodes.a] ae_title: wanted an AE title"),
        (NODE + 'query = "find"', "[nodes.a] query: wanted one of dimse, web, got 'find'"),
        (NODE + 'query = "web"', "[nodes.a] web_url: wanted a URL"),
        (NODE + 'web_url = "https://user:secret@h/"', "[nodes.a] web_url: wanted a URL"),
        (
            NODE + 'web_url = "https://user:secret@h/"',
            f"[nodes.a] web_url: wanted {URL.says}, got 'https://[removed]@h/'",
        ),
        (NODE.replace('"h"', '"http://h"'), "[nodes.a] host: wanted a name or an address"),
        (NODE.replace('"h"', '"h h"'), "[nodes.a] host: wanted a name or an address"),
        (NODE.replace('"h"', '"h\\u0000"'), "[nodes.a] host: wanted a name or an address"),
        (NODE.replace(".a]", '."\\u001b[2J"]'), "[nodes.\x1b[2J] name: wanted a name without control characters"),
        ('[site]\nfolder = "~nobody of this name/w"', "[site] folder: wanted a path, got"),
        ("[work]\nmemory_gib = 1e300", "[work] memory_gib: wanted a number from 0.25 to"),
        (NODE + 'retrieve = "move"', '[nodes.a] receive_port: retrieve = "move" needs the port'),
        (NODE + 'write = "yes"', "[nodes.a] write: wanted true or false, got 'yes'"),
        (NODE + 'send = ["sc", "pdf"]', "[nodes.a] send: wanted a list of any of sc, seg, pm, sr"),
        (NODE + 'send = ["sc", 3]', "[nodes.a] send: wanted a list"),
        (NODE + 'send = [["sc"]]', "[nodes.a] send: wanted a list"),
        (NODE + "timeout = nan", "[nodes.a] timeout: wanted a number from 0.1 to 3600 (seconds), got nan"),
        (NODE + "name = 3", "[nodes.a] unknown key 'name'"),
        (NODE + 'tls = "x"', "[nodes.a] tls: wanted a table, got 'x'"),
        (NODE + "[nodes.a.tls]\ncertificate = 'c'", "[nodes.a.tls] ca: wanted a value, got none"),
        (NODE + "[nodes.a.tls]\nca = 'c'\nkey = 'k'", "[nodes.a.tls] certificate, key: wanted both or none"),
        (NODE + "[nodes.a.tls]\nca = 3", "[nodes.a.tls] ca: wanted a path, got 3"),
        ('[listener]\nhosts = ["10.0.0.0/99"]', "[listener] hosts: wanted a list, each an address or a network"),
        ('[listener]\nhosts = "127.0.0.1"', "[listener] hosts: wanted a list"),
        ("[listener.tls]\nca = 'c'", "[listener] tls: a listener needs a certificate and a key"),
        ("[work]\nsecond = 3", "[work] unknown key 'second'; did you mean seconds?"),
        ("[work]\nbackoff = 20\nbackoff_max = 10", "[work] backoff_max: wanted at least backoff (20), got 10"),
        ("[site]\nnodes = 3", "[site] unknown key 'nodes'"),
        ("[site]\nkinds = ['sc', 'sc']", "[site] kinds: wanted"),
        ("[listener]\nport = 5\n" + NODE + "receive_port = 5", "[site] nodes.a: receive_port: wanted another"),
    ],
)
def test_every_error_names_file_table_and_key(tmp_path, text, says) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_site(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_a_file_of_an_editor_that_marks_its_encoding(tmp_path) -> None:
    assert load_site(written(tmp_path, f"\ufeff{NODE}")).node("a").host == "h"


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(UsageError, match="FileNotFoundError"):
        load_site(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UnicodeDecodeError"):
        load_site(tmp_path / "bytes.toml")


def test_an_unknown_node_is_answered_with_the_nearest(tmp_path) -> None:
    site = load_site(written(tmp_path, WHOLE))
    with pytest.raises(UsageError, match=r"site.toml: no node 'mian'; did you mean main\?"):
        site.node("mian")
    with pytest.raises(UsageError, match="no node 'x'; there is none"):
        Site(folder=tmp_path).node("x")


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (0x0000, None), (0xB000, None), (0xB006, None), (0xB007, None), (0x0001, None), (0xFF00, None), (0xFF01, None),
        (0xA700, Problem.OUT_OF_RESOURCES), (0xA7FF, Problem.OUT_OF_RESOURCES), (0x0213, Problem.OUT_OF_RESOURCES),
        (0xA900, Problem.REJECTED), (0xA801, Problem.REJECTED), (0xC000, Problem.REJECTED), (0xCFFF, Problem.REJECTED),
        (0x0110, Problem.REJECTED), (0x0122, Problem.REJECTED), (0xFE00, Problem.REJECTED),
    ],
)  # fmt: skip
def test_what_a_status_means(status, problem) -> None:
    assert of_status(status) is problem


def test_every_problem_has_a_meaning_and_a_trouble_survives_a_process() -> None:
    assert set(PROBLEMS) == set(Problem)
    assert set(Problem) > TRANSIENT
    first = Trouble(Problem.TIMEOUT, "pacs: Doe^Jane 1.2.840.113619.2.5.1.1 waits")
    again = pickle.loads(pickle.dumps(first))
    assert (again.problem, again.detail, str(again)) == (first.problem, first.detail, str(first))
    assert again.transient
    assert not Trouble(Problem.REJECTED).transient
    assert "Doe" not in str(first)
    assert "113619" not in str(first)


@pytest.mark.parametrize("wrong", [{"study_uids": ("../x",)}, {"date": "yesterday"}, {"modality": "M?"}])
def test_what_cannot_be_asked_for(wrong) -> None:
    with pytest.raises(UsageError):
        Wanted(**wrong)


def test_a_node_may_be_written_to_only_if_it_says_so() -> None:
    assert not Node(name="n", host="h", port=1, ae_title="A").write
