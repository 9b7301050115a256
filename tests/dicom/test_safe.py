"""Files from anybody: refused with a reason, quickly and with bounded memory; nothing outside is read."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from medsal.dicom import Limits, Reason, Refusal, files_below, open_file, read_film, read_series, scan_folder
from medsal.errors import InputError
from tests.dicom.builders import film, save, save_all, slices_of


def refused(path: Path, limits: Limits | None = None, reader=read_film) -> Reason:
    with pytest.raises(Refusal) as caught:
        reader(path, limits=limits or Limits())
    assert isinstance(caught.value, InputError)
    assert str(path) not in str(caught.value)
    return caught.value.reason


def raw(path: Path, body: bytes, syntax: str = "1.2.840.10008.1.2.1") -> Path:
    """A file of a meta group and a body that was made by hand."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", len(value)) + value + body)
    return path


def test_files_that_are_not_dicom(tmp_path):
    for number, content in enumerate([b"", b"no DICOM", b"\0" * 500, b"\0" * 128 + b"DICM"]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content)
        assert refused(path) is (Reason.BROKEN if content.endswith(b"DICM") else Reason.NOT_DICOM)
    assert refused(tmp_path / "absent.dcm") is Reason.MISSING


def test_limits(tmp_path):
    path = save(film(), tmp_path / "film.dcm")
    assert read_film(path, limits=Limits(voxels=600)).numel() == 600
    assert refused(path, Limits(voxels=599)) is Reason.TOO_LARGE
    assert refused(path, Limits(file_bytes=500)) is Reason.TOO_LARGE
    assert refused(path, Limits(elements=10)) is Reason.TOO_MANY_ELEMENTS
    save_all(slices_of(), tmp_path / "series")
    assert refused(tmp_path / "series", Limits(voxels=8 * 120 - 1), read_series) is Reason.TOO_LARGE
    assert refused(tmp_path / "series", Limits(files=7), read_series) is Reason.TOO_MANY_FILES


@pytest.mark.parametrize("defined", [False, True])
def test_twenty_thousand_nested_sequences(defined, tmp_path):
    body = b""
    if defined:
        for _ in range(4000):
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
            body = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    else:
        body = 20_000 * (
            struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
            + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        )
    start = time.monotonic()
    assert refused(raw(tmp_path / "deep.dcm", body)) is Reason.TOO_DEEP
    assert time.monotonic() - start < 1


def test_two_million_elements(tmp_path):
    path = raw(tmp_path / "many.dcm", struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 0) * 2_000_000)
    start = time.monotonic()
    assert refused(path) is Reason.TOO_MANY_ELEMENTS
    assert time.monotonic() - start < 5


def test_deflated_files_are_not_inflated(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"\0" * 50_000_000) + packer.flush()
    path = raw(tmp_path / "bomb.dcm", bomb, "1.2.840.10008.1.2.1.99")
    tracemalloc.start()
    assert refused(path) is Reason.SYNTAX
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def compressed(frame: bytes, syntax: str, **values) -> pydicom.FileDataset:
    made = film(bits=16, **values)
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    return made


def test_streams_of_another_size_than_the_header(tmp_path):
    header = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 30_000, 30_000, 0, 0) + b"\0" * 40
    path = save(compressed(header, JPEG2000Lossless), tmp_path / "j2k.dcm")
    assert refused(path) is Reason.PIXEL_LENGTH
    runs = b"\x81\x00" * 10_000_000
    bomb = struct.pack("<16I", 2, 64, 70, *[0] * 13) + b"\x81\x00" * 3 + runs
    tracemalloc.start()
    assert refused(save(compressed(bomb, RLELossless), tmp_path / "rle.dcm")) is Reason.PIXEL_LENGTH
    assert tracemalloc.get_traced_memory()[1] < 200_000_000
    tracemalloc.stop()


def test_sound_compressed_films_are_read(tmp_path):
    made = film()
    expected = read_film(save(made, tmp_path / "plain.dcm"))
    made.compress(RLELossless)
    path = save(made, tmp_path / "rle.dcm")
    assert path.stat().st_size != (tmp_path / "plain.dcm").stat().st_size
    np.testing.assert_array_equal(read_film(path).numpy(), expected.numpy())
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2
    assert refused(save(made, tmp_path / "mpeg.dcm")) is Reason.SYNTAX


@pytest.mark.parametrize("packed", [False, True])
def test_an_icon_within_a_film_is_no_film(packed, tmp_path):
    made = film()
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.SamplesPerPixel = 4, 4, 8, 1
    icon.PixelData = encapsulate([b"\xff\xd8" + bytes(range(16))]) if packed else bytes(16)
    icon["PixelData"].VR = "OB"
    icon["PixelData"].is_undefined_length = packed
    made.IconImageSequence = Sequence([icon])
    expected = read_film(save(film(), tmp_path / "plain.dcm"))
    np.testing.assert_array_equal(read_film(save(made, tmp_path / "film.dcm")).numpy(), expected.numpy())
    del made.PixelData
    assert refused(save(made, tmp_path / "icon.dcm")) is Reason.NO_PIXELS


def test_rows_and_columns_of_65535(tmp_path):
    start = time.monotonic()
    assert refused(save(film(Rows=65535, Columns=65535), tmp_path / "large.dcm")) is Reason.TOO_LARGE
    assert time.monotonic() - start < 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize("uid", ["../escaped", "/abs/path", "1." * 40 + "1", "", None])
def test_uids_that_are_none(uid, tmp_path):
    made = film()
    made.SOPInstanceUID = uid
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    assert refused(save(made, tmp_path / "film.dcm")) is Reason.INVALID_UID


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_links_and_dicomdir_entries_out_of_the_folder(tmp_path):
    outside = save(film(), tmp_path / "outside" / "secret.dcm")
    inside = save(film(), tmp_path / "in" / "film.dcm")
    (inside.parent / "link.dcm").symlink_to(outside)
    (inside.parent / "folder").symlink_to(outside.parent, target_is_directory=True)
    (inside.parent / "own.dcm").symlink_to(inside)
    found, refusals = files_below(inside.parent)
    assert [path.name for path in found] == ["film.dcm", "own.dcm"]
    assert [(refusal.reason, refusal.path.name) for refusal in refusals] == [(Reason.OUTSIDE, "link.dcm")]

    index = Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = index.SOPClassUID = "1.2.840.10008.1.3.10"
    index.file_meta.MediaStorageSOPInstanceUID = index.SOPInstanceUID = "1.2.3"
    index.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    records = []
    for parts in (["film.dcm"], ["..", "outside", "secret.dcm"], ["gone.dcm"]):
        record = Dataset()
        record.ReferencedFileID, record.DirectoryRecordType = parts, "IMAGE"
        records.append(record)
    index.DirectoryRecordSequence = Sequence(records)
    path = inside.parent / "DICOMDIR"
    index.save_as(path, enforce_file_format=True)
    found, refusals = files_below(path)
    assert [path.name for path in found] == ["film.dcm"]
    assert [refusal.reason for refusal in refusals] == [Reason.OUTSIDE, Reason.MISSING]
    assert len(scan_folder(path).series) == 1


def test_long_values_are_read_late(tmp_path):
    made = film()
    made.add_new(0x00091001, "UN", b"x" * 30_000_000)
    path = save(made, tmp_path / "film.dcm")
    tracemalloc.start()
    opened = open_file(path)
    assert opened.text("Modality") == "DX"
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    assert read_film(opened).shape == (1, 20, 30)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One of six ways to damage a file."""
    data = bytearray(content)
    way = int(rng.integers(6))
    place = int(rng.integers(128, len(data) - 8))
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        for spot in rng.integers(132, len(data), 8):
            data[spot] = int(rng.integers(256))
    elif way == 2:
        data[place : place + 4] = b"\xff\xff\xff\xff"
    elif way == 3:
        data[place:place] = data[132 : 132 + int(rng.integers(200))]
    elif way == 4:
        del data[place : place + int(rng.integers(1, 40))]
    else:
        header = min(len(data), 1200)
        for spot in rng.integers(132, header, 3):
            data[spot] = int(rng.integers(256))
    return bytes(data)


def test_three_hundred_damaged_files(tmp_path, recwarn):
    rng = np.random.default_rng(20)
    made = film(RescaleSlope=1, RescaleIntercept=0)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "planted"
    made.ViewCodeSequence = Sequence([item])
    sources = [save(made, tmp_path / "film.dcm"), save(slices_of(1)[0], tmp_path / "slice.dcm")]
    outcomes, chained = set(), False
    start = time.monotonic()
    for number in range(300):
        path = tmp_path / f"damaged{number}.dcm"
        path.write_bytes(mutated(sources[number % 2].read_bytes(), rng))
        try:
            (read_film if number % 2 == 0 else read_series)(path)
            outcomes.add("read")
        except Refusal as refusal:
            outcomes.add(refusal.reason.value)
            chained |= refusal.__context__ is not None or refusal.__cause__ is not None
    assert time.monotonic() - start < 60
    assert {"read", "broken"} < outcomes
    assert not chained
    assert not recwarn.list
