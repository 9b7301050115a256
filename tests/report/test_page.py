from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from medsal.export import ExportOptions, export_case
from medsal.report import page as page_module
from medsal.report import write_index

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>@@MEDSAL:SCRIPT@@"


def air(make_tensor, shape, affine):
    """An image with nothing near its edges."""
    image = np.zeros(shape, dtype=np.float32)
    image[4:-9, :, 7:-5] = 1
    return make_tensor(image, affine)


def run(make_case, folder, count=2, **changes):
    """A finished run of some cases and one that failed."""
    records = []
    for number in range(count):
        case = f"sub-{number:04d}"
        result = make_case(**{"case": case, "subject": case, "session": "", **changes})
        export_case(result, folder, ExportOptions(write=("nifti", "report")))
        records.append({"case": result.case, "status": "done"})
    return [*records, {"case": "sub-broken", "status": "failed", "error": "wanted 3D, got 4D"}]


def data_of(text):
    """The data inside a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_every_case_and_every_reason(make_case, tmp_path):
    path = write_index(tmp_path, run(make_case, tmp_path), model={"name": "tle", "sha256": "ab" * 32})
    data = data_of(path.read_text())
    assert path == tmp_path / "index.html"
    assert [case["case"] for case in data["cases"]] == ["sub-0000", "sub-0001"]
    assert data["failed"] == [{"case": "sub-broken", "error": "wanted 3D, got 4D"}]
    assert data["model"]["sha256"] == "ab" * 32
    assert (tmp_path / data["cases"][0]["methods"]["saliency"]["nifti"]).is_file()
    assert "A saliency map is not a lesion map" in path.read_text()


def test_the_page_asks_for_nothing_from_outside(make_case, tmp_path):
    text = write_index(tmp_path, run(make_case, tmp_path)).read_text()
    assert not re.search("https?:|://", text)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|webgl", text, re.IGNORECASE)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", text)


def test_the_policy_allows_this_script_and_style_alone(make_case, tmp_path):
    text = write_index(tmp_path, run(make_case, tmp_path)).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_names_and_errors_cannot_become_markup(make_case, tmp_path):
    records = run(make_case, tmp_path, 1, case=HOSTILE, subject=HOSTILE, label_name=HOSTILE)
    records.append({"case": HOSTILE, "status": "failed", "error": HOSTILE})
    text = write_index(tmp_path, records, model={"name": HOSTILE}).read_text()
    clean = write_index(tmp_path / "clean", []).read_text()
    assert text.count("<script") == clean.count("<script") == 2
    assert "<img" not in text
    data = data_of(text)
    assert data["cases"][0]["case"] == data["cases"][0]["label_name"] == data["model"]["name"] == HOSTILE


def test_a_case_whose_file_is_gone_or_broken_is_named(make_case, tmp_path):
    records = run(make_case, tmp_path)
    (tmp_path / "report" / "sub-0000.json").unlink()
    (tmp_path / "report" / "sub-0001.json").write_text('{"case": ')
    failed = data_of(write_index(tmp_path, records).read_text())["failed"]
    assert [row["case"] for row in failed] == ["sub-0000", "sub-0001", "sub-broken"]
    assert "No such file" in failed[0]["error"]


def test_many_cases_are_dealt_out_to_pages(make_case, tmp_path, monkeypatch):
    records = run(make_case, tmp_path, 5)
    monkeypatch.setattr(page_module, "PAGE_BYTES", 2 * (tmp_path / "report" / "sub-0000.json").stat().st_size + 9)
    write_index(tmp_path, records)
    pages = sorted(tmp_path.glob("index*.html"))
    assert len(pages) == 3
    cases = [case["case"] for path in pages for case in data_of(path.read_text())["cases"]]
    assert cases == [f"sub-{n:04d}" for n in range(5)]
    monkeypatch.undo()
    write_index(tmp_path, records)
    assert [path.name for path in tmp_path.glob("index*.html")] == ["index.html"]


def browse(folder, fragment, *flags):
    """Open the page in a browser without a screen; what it prints."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: the page's own check was not run")
    common = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
              "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
              "--virtual-time-budget=8000", "--window-size=1300,1300", "--hide-scrollbars"]  # fmt: skip
    address = (folder / "index.html").as_uri() + fragment
    return subprocess.run([browser, *common, *flags, address], capture_output=True, text=True, timeout=120, check=True)


def look(folder, fragment):
    """What the page says of itself."""
    done = browse(folder, fragment, "--dump-dom")
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stdout


def screenshot(folder, fragment):
    """What a reader of the page sees: rows, columns, colours."""
    browse(folder, fragment, f"--screenshot={folder / 'seen.png'}")
    with Image.open(folder / "seen.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize(("fragment", "side"), [("#check", 1), ("#check-neurological", -1)])
def test_in_a_browser_the_peak_is_red_at_its_millimetres_on_its_side(make_case, make_tensor, tmp_path, fragment, side):
    affine = np.array([[2.0, 0, 0, -40], [0, 2, 0, -60], [0, 0, 2, -20], [0, 0, 0, 1]])
    shape, marks, native = (40, 60, 30), {(5, 37, 8): 3.0}, air(make_tensor, (40, 60, 30), affine)
    records = run(make_case, tmp_path, 1, shape=shape, affine=affine, marks=marks, native=native, case=HOSTILE)
    write_index(tmp_path, records)
    (found,), dom = look(tmp_path, fragment)
    assert found["voxel"] == [5, 37, 8]
    assert "x -30.0  y 14.0  z -4.0 mm" in found["read"]
    assert "relevance 3.00" in found["read"]
    assert found["pixel"][0] > 80 > found["pixel"][2]
    assert (found["share"] - 0.5) * side > 0  # x < 0 is the patient's left: on the right, unless turned round
    assert "<img" not in dom
    assert "wanted 3D, got 4D" in dom


def test_in_a_browser_the_sliders_fade_films_from_image_to_map_all_of_them_or_one(make_case, make_tensor, tmp_path):
    film = np.zeros((90, 120), dtype=np.float32)
    film[10:80, 20:100] = 1  # an L: dark at the lower right, so that a turned or mirrored film shows
    film[50:80, 60:100] = 0.2
    marks = {(row, column): 3.0 for row in range(20, 24) for column in range(30, 34)}
    write_index(
        tmp_path, run(make_case, tmp_path, 3, shape=film.shape, marks=marks, native=make_tensor(film, np.eye(4)))
    )
    found, dom = look(tmp_path, "#check")
    assert [one["case"] for one in found] == ["sub-0000", "sub-0001", "sub-0002"]
    assert all(
        one["read"].startswith(f"row {one['voxel'][0]}, column {one['voxel'][1]}  relevance 3.00") for one in found
    )
    assert re.search(r'<label hidden="">Show as', dom)  # a film says nothing of left and right
    places = [tuple(int(part) for part in one["at"]) for one in found]
    pixels = {part: screenshot(tmp_path, f"#check-{part}") for part in ("all-0", "all-50", "all-100", "first-0")}

    def reds(part):
        """By how much each film is redder than it is blue, where its map is largest."""
        return [int(pixels[part][y, x, 0] - pixels[part][y, x, 2]) for x, y in places]

    assert reds("all-0") == [0, 0, 0]
    assert all(20 < half < whole for half, whole in zip(reds("all-50"), reds("all-100"), strict=True))
    assert reds("first-0")[0] == 0
    assert min(reds("first-0")[1:]) > 20
    (x, y), scale = places[0], 340 / 76  # 70 rows of the film and three around them are shown
    seen = [
        pixels["all-0"][int(y + down * scale), int(x + right * scale), 0]
        for down, right in ((0, 20), (40, 0), (40, 50))
    ]
    assert seen[0] > 200
    assert seen[1] > 200
    assert seen[2] < 100
