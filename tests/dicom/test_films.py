"""The 16 film cases, polarity twins, windows, and what is told of a film."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from medsal.dicom import NativeGrid, Reason, Refusal, read_film
from medsal.errors import UsageError
from tests.dicom.builders import CR, MR, SC, film, save
from tests.dicom.tools import program

RAMP = np.arange(600).reshape(20, 30) * 6 % 4096


def table(entries: np.ndarray, first: int = 0, bits: int = 12) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return Sequence([item])


def colours(stored: np.ndarray) -> FileDataset:
    made = film(np.zeros((20, 30)), bits=8, sop_class=SC)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.PixelData = stored.astype(np.uint8).tobytes()
    return made


def with_pixels(change: Callable[[bytes], bytes]) -> FileDataset:
    made = film()
    made.PixelData = change(made.PixelData)
    return made


def several_frames() -> FileDataset:
    made = film(NumberOfFrames=2)
    made.PixelData += made.PixelData
    return made


def with_values(dataset: FileDataset, **values) -> FileDataset:
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def empty_frames() -> FileDataset:
    made = film()
    made.add_new("NumberOfFrames", "IS", None)
    return made


SIGNED = (np.arange(600).reshape(20, 30) * 6 % 4096) - 2048
LOOKUP = np.sqrt(np.arange(4096) / 4095) * 4095 // 1
GREY = np.repeat((RAMP[..., None] // 16), 3, axis=2)

CASES: dict[str, tuple[Callable[[], FileDataset], np.ndarray | Reason]] = {
    "monochrome 2": (film, RAMP),
    "monochrome 1": (lambda: film(PhotometricInterpretation="MONOCHROME1"), 4095 - RAMP),
    "rescale, and a window that is not asked for": (
        lambda: film(RescaleSlope=2, RescaleIntercept=-100, WindowCenter=500, WindowWidth=10),
        2 * RAMP - 100,
    ),
    "garbage in unused high bits": (lambda: film(RAMP | 0x5000, bits=12), RAMP),
    "signed 12 in 16, sign not extended": (
        lambda: with_values(film(SIGNED & 0x0FFF), PixelRepresentation=1),
        SIGNED,
    ),
    "high bit 15 for 12 bits": (lambda: film(HighBit=15), Reason.BITS),
    "modality LUT": (lambda: film(ModalityLUTSequence=table(LOOKUP)), LOOKUP[RAMP]),
    "pixels 10 bytes short": (lambda: with_pixels(lambda data: data[:-10]), Reason.PIXEL_LENGTH),
    "pixels twice too long": (lambda: with_pixels(lambda data: data * 2), Reason.PIXEL_LENGTH),
    "slope 0": (lambda: film(RescaleSlope=0, RescaleIntercept=0), Reason.RESCALE),
    "number of frames empty": (empty_frames, RAMP),
    "only imager pixel spacing": (lambda: film(PixelSpacing=None, ImagerPixelSpacing=[0.16, 0.16]), RAMP),
    "palette colour": (lambda: film(PhotometricInterpretation="PALETTE COLOR"), Reason.COLOUR),
    "big endian": (film, RAMP),
    "capture in RGB, all channels equal": (lambda: colours(GREY), GREY[..., 0]),
    "capture in RGB with colour": (lambda: colours(GREY + np.array([0, 0, 1])), Reason.COLOUR),
    # beyond the 16
    "several frames": (several_frames, Reason.NOT_ONE_FILM),
    "polarity contradicts its LUT": (lambda: film(PresentationLUTShape="INVERSE"), Reason.PHOTOMETRIC),
    "implicit VR": (film, RAMP),
    "an MR slice": (lambda: film(sop_class=MR), Reason.UNSUPPORTED_CLASS),
    "slope without intercept": (lambda: film(RescaleSlope=2), Reason.RESCALE),
    "spacing 0": (lambda: film(PixelSpacing=[0, 0.2]), Reason.SPACING),
    "modality LUT cut off": (
        lambda: film(ModalityLUTSequence=table(LOOKUP[:-5], bits=12), ImageType=["ORIGINAL", "PRIMARY"]),
        LOOKUP[np.minimum(RAMP, 4090)],
    ),
    "modality LUT with entries beyond its bits": (
        lambda: film(ModalityLUTSequence=table(LOOKUP * 16)),
        Reason.MODALITY_LUT,
    ),
    "no pixels": (lambda: film(PixelData=None), Reason.NO_PIXELS),
    "own result": (lambda: film(Manufacturer="medsal"), Reason.OWN_RESULT),
}


@pytest.mark.parametrize("name", CASES)
def test_right_or_refused_with_its_code(name, tmp_path):
    build, expected = CASES[name]
    syntax = {"big endian": ExplicitVRBigEndian, "implicit VR": ImplicitVRLittleEndian}.get(name)
    path = save(build(), tmp_path / "film.dcm", syntax)
    if isinstance(expected, Reason):
        with pytest.raises(Refusal) as caught:
            read_film(path)
        assert caught.value.reason is expected
    else:
        image = read_film(path)
        assert image.shape == (1, 20, 30)
        np.testing.assert_array_equal(image[0].numpy(), expected)


def test_there_are_16_film_cases():
    assert list(CASES).index("several frames") == 16


def test_spacing_comes_from_where_it_is(tmp_path):
    image = read_film(save(film(), tmp_path / "calibrated.dcm"))
    np.testing.assert_allclose(np.diag(image.affine.numpy()), [0.2, 0.15, 1, 1])
    assert NativeGrid.of(image).facts["spacing_from"] == "PixelSpacing"
    image = read_film(save(film(PixelSpacing=None, ImagerPixelSpacing=[0.16, 0.17]), tmp_path / "detector.dcm"))
    np.testing.assert_allclose(np.diag(image.affine.numpy()), [0.16, 0.17, 1, 1])
    assert NativeGrid.of(image).facts["spacing_from"] == "ImagerPixelSpacing"
    image = read_film(save(film(PixelSpacing=None), tmp_path / "none.dcm"))
    np.testing.assert_allclose(np.diag(image.affine.numpy()), 1)
    assert NativeGrid.of(image).facts["spacing_from"] == ""


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": -0.5, "RescaleIntercept": 7}])
@pytest.mark.parametrize("voi", [None, 0])
def test_polarity_twins_give_equal_input(signed, rescale, voi, tmp_path):
    """A MONOCHROME1 film and the MONOCHROME2 film of the same picture: stored values and window mirrored."""
    low, high = (-2048, 2047) if signed else (0, 4095)
    stored = RAMP + low
    slope, intercept = rescale.get("RescaleSlope", 1), rescale.get("RescaleIntercept", 0)
    middle = slope * (low + high) / 2 + intercept
    centre, mirrored = middle + 60, middle - 60
    window = {"WindowWidth": 700, "VOILUTFunction": "LINEAR_EXACT"}
    one = film(stored, signed=signed, PhotometricInterpretation="MONOCHROME1", WindowCenter=centre, **window, **rescale)
    two = film(low + high - stored, signed=signed, WindowCenter=mirrored, **window, **rescale)
    first, second = (
        read_film(save(made, tmp_path / f"{made.PixelData[:8].hex()}.dcm"), voi=voi) for made in (one, two)
    )
    np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-6)
    assert float(first.std()) > 0.1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(function, tmp_path):
    from pydicom.pixels import apply_windowing

    made = film(WindowCenter=[1000, 2000.5], WindowWidth=[800, 333], VOILUTFunction=function)
    path = save(made, tmp_path / "film.dcm")
    for index in (0, 1):
        shown = read_film(path, voi=index)
        expected = apply_windowing(RAMP, made, index) / 4095
        np.testing.assert_allclose(shown[0].numpy(), expected, atol=1e-6)
    with pytest.raises(Refusal) as caught:
        read_film(path, voi=2)
    assert caught.value.reason is Reason.WINDOW


def test_voi_tables_windows_of_negative_slope_and_films_without(tmp_path):
    curve = np.minimum(np.arange(2000) * 2, 4095)
    image = read_film(save(film(VOILUTSequence=table(curve, first=500)), tmp_path / "table.dcm"), voi=0)
    np.testing.assert_allclose(image[0].numpy(), curve[np.clip(RAMP - 500, 0, 1999)] / 4095, atol=1e-6)
    negative = film(RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1000, WindowWidth=500)
    image = read_film(save(negative, tmp_path / "negative.dcm"), voi=0)
    assert image[0][RAMP == 0].min() == 1
    assert image[0].numpy().flat[RAMP.argmax()] == 0
    for number, values in enumerate([{}, {"WindowCenter": 5, "WindowWidth": 0}]):
        with pytest.raises(Refusal) as caught:
            read_film(save(film(**values), tmp_path / f"without{number}.dcm"), voi=0)
        assert caught.value.reason is Reason.WINDOW


def test_views_laterality_and_burned_in_annotation(tmp_path):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "272479007", "SCT", "postero-anterior"
    cases = {
        "PA": {},
        "AP": {"ViewPosition": "AP"},
        "LATERAL": {"ViewPosition": "LL", "ImageLaterality": "L", "BurnedInAnnotation": "YES"},
        "": {"ViewPosition": None},
    }
    for number, (view, values) in enumerate(cases.items()):
        facts = NativeGrid.of(read_film(save(film(sop_class=CR, **values), tmp_path / f"{number}.dcm"))).facts
        assert facts["view"] == view
        assert facts["burned_in"] is (view == "LATERAL")
        assert facts["laterality"] == ("L" if view == "LATERAL" else "")
    coded = film(ViewPosition=None, ViewCodeSequence=Sequence([code]))
    assert NativeGrid.of(read_film(save(coded, tmp_path / "coded.dcm"))).facts["view"] == "PA"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 1500, "WindowWidth": 900},
        {"WindowCenter": 1500, "WindowWidth": 900, "PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
    ],
)
def test_scaled_films_are_what_films_of_other_formats_are(values, tmp_path):
    from medsal.data import LoadFilm

    path = save(film(**values), tmp_path / "film.dcm")
    image = read_film(path, voi="any", scaled=True)
    np.testing.assert_allclose(image.numpy(), LoadFilm()(path).numpy(), atol=1e-6)
    np.testing.assert_allclose(image.affine.numpy(), LoadFilm()(path).affine.numpy())
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


def test_a_negative_slope_is_scaled_too_and_other_windows_are_refused(tmp_path):
    path = save(film(RescaleSlope=-1, RescaleIntercept=4095), tmp_path / "film.dcm")
    np.testing.assert_allclose(read_film(path, scaled=True)[0].numpy(), (4095 - RAMP) / 4095, atol=1e-6)
    with pytest.raises(UsageError, match="voi: wanted"):
        read_film(path, voi="first")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_package_itk_makes_no_difference(photometric, tmp_path, monkeypatch):
    """MONAI's loader inverts a MONOCHROME1 film or not by whether itk is installed."""
    path = save(film(RAMP, PhotometricInterpretation=photometric), tmp_path / "film.dcm")
    read = []
    for module in (None, types.SimpleNamespace()):  # not to be imported; there, and of no use to anybody
        monkeypatch.setitem(sys.modules, "itk", module)
        read.append(read_film(path).numpy()[0])
    top = 2**12 - 1
    np.testing.assert_array_equal(read[0], top - RAMP if photometric == "MONOCHROME1" else RAMP)
    np.testing.assert_array_equal(read[0], read[1])


def test_lossless_jpeg_from_disk_is_exact_with_the_codec_and_refused_without(tmp_path, monkeypatch):
    plain = save(film(RAMP), tmp_path / "plain.dcm")
    packed = tmp_path / "packed.dcm"
    subprocess.run([program("dcmcjpeg", "Debian's dcmtk"), "+e1", plain, packed], check=True)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    pytest.importorskip("gdcm", reason="needs medsal[codecs]: python-gdcm")
    np.testing.assert_array_equal(read_film(packed).numpy(), read_film(plain).numpy())
    monkeypatch.setattr(type(get_decoder(JPEGLosslessSV1)), "is_available", False)
    with pytest.raises(Refusal) as refused:
        read_film(packed)
    assert refused.value.reason is Reason.SYNTAX
