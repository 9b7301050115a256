"""What OHIF makes of SEG and Parametric Maps: its own adapters, from npm, in node. Slow: they are installed first."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medsal.dicom import Provenance, read_series, write_dicom
from tests.dicom.builders import AXIAL, CORONAL, SAGITTAL, oblique, save_all, slices_of
from tests.dicom.maps_made import blob, lps, peak_by_pydicom
from tests.dicom.tools import program

pytestmark = pytest.mark.slow
PACKAGES = ("@cornerstonejs/adapters@5.14.0", "@babel/runtime@7")
SCRIPT = Path(__file__).with_name("ohif_reads.mjs")
PLANES = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "oblique": oblique(),
    "turned": (-1.0, 0, 0, 0, 1, 0),
}
MADE = Provenance(bundle="demo", model_sha256="ab" * 32, method="gradcam", target="1")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder with OHIF's adapters; they take the seventh part of a gigabyte."""
    npm, folder = program("npm", "Debian packages nodejs npm"), tmp_path_factory.mktemp("ohif")
    program("node", "Debian packages nodejs npm")
    (folder / "package.json").write_text("{}")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    if done.returncode:
        says = f"npm cannot install {' '.join(PACKAGES)}: {done.stderr[-300:]}"
        pytest.fail(says) if os.environ.get("CI") == "true" else pytest.skip(says)
    return folder


def read_by_ohif(adapters, kind, result, sources):
    shuffled = [sources[index] for index in np.random.default_rng(1).permutation(len(sources))]
    done = subprocess.run(
        [program("node", "Debian package nodejs"), SCRIPT, kind, result, *shuffled],
        cwd=adapters,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["seg", "pm"])
@pytest.mark.parametrize("name", PLANES)
def test_the_peak_lies_where_it_was_planted(adapters, name, kind, tmp_path):
    sources = sorted(save_all(slices_of(9, PLANES[name], rows=12, columns=16), tmp_path / "source").iterdir())
    image = read_series(tmp_path / "source")
    (path,) = write_dicom(blob(image), tmp_path / "results", MADE, kinds=[kind])
    found = read_by_ohif(adapters, kind, path, sources)
    assert found["slices"] == 9
    assert np.linalg.norm(np.array(found["place"]) - lps(image)) < 0.5 * 1.25


@pytest.mark.parametrize(("rows", "columns"), [(10, 10), (9, 10), (9, 11), (11, 12)])
def test_regions_of_odd_matrices_are_neither_refused_nor_moved(adapters, rows, columns, tmp_path):
    sources = sorted(save_all(slices_of(20, rows=rows, columns=columns), tmp_path / "source").iterdir())
    image = read_series(tmp_path / "source")
    (path,) = write_dicom(blob(image), tmp_path / "results", MADE, kinds=["seg"])
    found = read_by_ohif(adapters, "seg", path, sources)
    assert np.linalg.norm(np.array(found["place"]) - peak_by_pydicom(path)) < 0.01


def test_frames_in_the_other_order_would_lie_elsewhere(adapters, tmp_path):
    """OHIF takes frames of a Parametric Map as they come: the reason why medsal writes them ascending."""
    sources = sorted(save_all(slices_of(9, rows=12, columns=16), tmp_path / "source").iterdir())
    image = read_series(tmp_path / "source")
    (path,) = write_dicom(blob(image), tmp_path / "results", MADE, kinds=["pm"])
    result = pydicom.dcmread(path)
    result.FloatPixelData = np.ascontiguousarray(result.pixel_array[::-1]).astype("<f4").tobytes()
    result.PerFrameFunctionalGroupsSequence = list(result.PerFrameFunctionalGroupsSequence)[::-1]
    result.save_as(path)
    found = read_by_ohif(adapters, "pm", path, sources)
    assert np.linalg.norm(np.array(found["place"]) - lps(image)) > 3
