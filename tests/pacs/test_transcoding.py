"""Compressed objects in the archive arrive without compression, and bit by bit the same picture."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

from medsal.pacs.associations import UNCOMPRESSED
from medsal.pacs.dimse import DimseClient
from medsal.pacs.objects import Path, file_name
from tests.dicom.tools import program

BUNDLED = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "image_dfl.dcm": "image_dfl.dcm",
    "SC_rgb_rle.dcm": "SC_rgb_rle.dcm",
}
"""A file of pydicom's -> where the picture is that it must become; itself where pydicom decodes it."""

MADE = {"first-order": "+e1", "process-14": "+el"}
"""JPEG lossless, the commonest of archives, made by DCMTK: pydicom alone cannot decode it."""


@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("name", [*BUNDLED, *MADE])
def test_compressed_comes_uncompressed_and_exact(orthanc, tmp_path, name, way) -> None:
    if name in BUNDLED:
        path = Path(get_testdata_file(name))
        plain = get_testdata_file(BUNDLED[name])
    else:
        path, plain = tmp_path / "compressed.dcm", get_testdata_file("MR_small.dcm")
        command = [program("dcmcjpeg", "Debian package dcmtk"), MADE[name], "+un", str(plain), str(path)]
        subprocess.run(command, check=True)
    first = dcmread(path)
    assert str(first.file_meta.TransferSyntaxUID) not in UNCOMPRESSED
    orthanc.clear()
    orthanc.upload([path])
    client = DimseClient(replace(orthanc.node, retrieve=way))
    assert client.fetch(str(first.StudyInstanceUID), tmp_path / "got") == 1
    again = dcmread(tmp_path / "got" / file_name(first.SOPInstanceUID))
    assert str(again.file_meta.TransferSyntaxUID) in UNCOMPRESSED
    assert np.array_equal(again.pixel_array, dcmread(plain).pixel_array)


def test_what_is_sent_compressed_stays_compressed(orthanc, tmp_path) -> None:
    path = Path(get_testdata_file("MR_small_RLE.dcm"))
    orthanc.clear()
    (end,) = DimseClient(orthanc.node).store([path])
    assert end.problem is None
    stored = tmp_path / "stored.dcm"
    stored.write_bytes(orthanc.file(end.uid))
    assert dcmread(stored).file_meta.TransferSyntaxUID == RLELossless
