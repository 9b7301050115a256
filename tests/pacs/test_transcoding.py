"""Compressed objects in the archive arrive without compression, and bit by bit the same picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import JPEGLosslessSV1, RLELossless

from medsal.pacs.associations import UNCOMPRESSED
from medsal.pacs.dimse import DimseClient
from medsal.pacs.objects import Path, file_name

LOSSLESS = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "image_dfl.dcm": None,
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "JPEG-LL.dcm": None,
    "SC_rgb_rle.dcm": "SC_rgb.dcm",
}
"""Bundled with pydicom -> the same picture without compression, where there is one."""


@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_comes_uncompressed_and_exact(orthanc, tmp_path, name, way) -> None:
    path = Path(get_testdata_file(name))
    first = dcmread(path)
    orthanc.clear()
    orthanc.upload([path])
    node = replace(orthanc.node, retrieve=way)
    assert DimseClient(node).fetch(str(first.StudyInstanceUID), tmp_path) == 1
    again = dcmread(tmp_path / file_name(first.SOPInstanceUID))
    assert str(again.file_meta.TransferSyntaxUID) in UNCOMPRESSED
    plain = LOSSLESS[name]
    if plain is not None:
        expected = dcmread(get_testdata_file(plain)).pixel_array
    elif first.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        expected = _by_dcmtk(path, tmp_path)
    else:
        expected = first.pixel_array
    assert np.array_equal(again.pixel_array, expected)


def _by_dcmtk(path: Path, folder: Path) -> np.ndarray:
    """The picture as DCMTK decompresses it: pydicom alone cannot."""
    import subprocess

    from tests.dicom.tools import program

    plain = folder / "plain"
    subprocess.run([program("dcmdjpeg", "Debian package dcmtk"), str(path), str(plain)], check=True)
    return dcmread(plain).pixel_array


def test_what_is_sent_compressed_stays_compressed(orthanc, tmp_path) -> None:
    path = Path(get_testdata_file("MR_small_RLE.dcm"))
    orthanc.clear()
    (end,) = DimseClient(orthanc.node).store([path])
    assert end.problem is None
    stored = tmp_path / "stored.dcm"
    stored.write_bytes(orthanc.file(end.uid))
    assert dcmread(stored).file_meta.TransferSyntaxUID == RLELossless
