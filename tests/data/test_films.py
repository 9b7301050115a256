"""Films of every kind come as (channels, rows, columns) from 0 to 1 on their own grid; others are refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medsal.data.cases import CaseDataset
from medsal.data.films.loading import FILM_SUFFIXES, LoadFilm, LoadFilmd, find_films
from medsal.errors import InputError, UsageError
from tests.data.films_made import write_dicom, write_picture

LEVELS = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_rows_stay_rows_and_the_top_stays_the_top(tmp_path: Path) -> None:
    film = LoadFilm()(write_picture(tmp_path / "a.png", LEVELS))
    assert isinstance(film, MetaTensor)
    assert film.dtype == torch.float32
    assert film.shape == (1, 3, 4)
    assert np.allclose(film[0].numpy(), LEVELS / 255)
    assert torch.equal(film.affine, torch.eye(4, dtype=torch.float64))
    assert film.meta["spacing"] == "unknown"
    assert film.meta["spatial_shape"].tolist() == [3, 4]


def test_sixteen_bits_are_not_cut(tmp_path: Path) -> None:
    deep = (LEVELS.astype(np.uint16) * 257) + 3
    film = LoadFilm()(write_picture(tmp_path / "a.png", deep))
    assert np.allclose(film[0].numpy(), deep / 65535, atol=1e-7)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    film = LoadFilm()(write_picture(tmp_path / "a.png", LEVELS > 100))
    assert np.array_equal(film[0].numpy(), (LEVELS > 100).astype(np.float32))


def test_grey_saved_as_colours_is_grey(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    grey = (128 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)
    copies = np.stack([grey] * 3, -1)
    opaque = np.dstack([copies, np.full_like(grey, 255)])
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "palette.png")
    for file in (
        write_picture(tmp_path / "rgb.png", copies),
        write_picture(tmp_path / "rgba.png", opaque),
        tmp_path / "palette.png",
    ):
        assert np.allclose(LoadFilm()(file)[0].numpy(), grey / 255, atol=1e-6), file.name
    film = LoadFilm()(write_picture(tmp_path / "rgb.jpg", copies, quality=90))
    assert np.abs(film[0].numpy() - grey / 255).max() < 0.05


def test_colours_are_refused_weighed_or_kept(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[..., 0], colours[1, 2] = 200, (10, 20, 30)
    path = write_picture(tmp_path / "a.png", colours)
    with pytest.raises(InputError, match=r"a\.png': has colours \(channels differ by up to 200 of 255\)"):
        LoadFilm()(path)
    assert torch.equal(LoadFilm("keep")(path), torch.from_numpy(colours / 255).permute(2, 0, 1).float())
    weighed = LoadFilm("luminance")(path)
    assert weighed.shape == (1, 4, 5)
    assert weighed[0, 1, 2].item() == pytest.approx((0.299 * 10 + 0.587 * 20 + 0.114 * 30) / 255)
    grey = write_picture(tmp_path / "b.png", LEVELS)
    assert LoadFilm("keep")(grey).shape == (3, 3, 4)
    with pytest.raises(UsageError, match="wanted refuse, luminance, keep"):
        LoadFilm("any")


def test_a_window_is_shown_as_a_viewer_shows_it(tmp_path: Path) -> None:
    stored = np.array([[0, 1200], [1500, 4095]], np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        BitsStored=12,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=[2000, 9],
        WindowWidth=[2000, 9],
    )
    shown = LoadFilm()(path)[0].numpy()
    value = stored * 2.0 - 1000
    linear = np.clip((value - (2000 - 0.5)) / (2000 - 1) + 0.5, 0, 1)  # DICOM PS3.3 C.11.2.1.2.1
    assert np.allclose(shown, linear, atol=1e-6)
    assert 0 < shown[0, 1] < shown[1, 0] < 1
    inverted = write_dicom(
        tmp_path / "b.dcm",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=2000,
        WindowWidth=2000,
    )
    assert np.allclose(LoadFilm()(inverted)[0].numpy(), 1 - linear, atol=1e-6)


@pytest.mark.parametrize(("slope", "window"), [(-1, False), (-1, True), (1, False), (1, True)])
def test_a_falling_rescale_turns_the_film_round(tmp_path: Path, slope: int, window: bool) -> None:
    stored = np.array([[0, 50], [100, 255]], np.uint8)
    elements = {"RescaleSlope": slope, "RescaleIntercept": 255 if slope < 0 else 0}
    if window:
        elements |= {"WindowCenter": 128, "WindowWidth": 256}
    shown = LoadFilm()(write_dicom(tmp_path / "a.dcm", stored, **elements))[0].numpy()
    truth = stored / 255 if slope > 0 else 1 - stored / 255
    assert np.allclose(shown, truth, atol=1e-6)


def test_signed_pixels_and_sigmoid_windows_are_read(tmp_path: Path) -> None:
    stored = np.array([[-128, -20], [0, 127]], np.int8)
    assert np.allclose(LoadFilm()(write_dicom(tmp_path / "a.dcm", stored))[0].numpy(), (stored + 128.0) / 255)
    path = write_dicom(tmp_path / "b.dcm", stored, WindowCenter=0, WindowWidth=50, VOILUTFunction="SIGMOID")
    assert np.allclose(LoadFilm()(path)[0].numpy(), 1 / (1 + np.exp(-4.0 * stored / 50)), atol=1e-6)


def test_a_table_of_shown_values_is_used_before_the_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (65535 * (np.arange(256) / 255) ** 2).astype("<u2").tobytes()
    stored = np.array([[0, 64], [128, 255]], np.uint8)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        VOILUTSequence=Sequence([table]),
        WindowCenter=10,
        WindowWidth=5,
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    assert np.allclose(LoadFilm()(path)[0].numpy(), (stored / 255.0) ** 2, atol=1e-4)


def test_compressed_dicom_without_an_ending_is_read(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :48]
    levels = (120 + 80 * np.sin(x / 8 + y / 11)).astype(np.uint8)
    path = write_dicom(tmp_path / "1.2.276", levels, jpeg=True)
    assert np.abs(LoadFilm()(path)[0].numpy() - levels / 255).max() < 0.03


@pytest.mark.parametrize("name", ["PixelSpacing", "ImagerPixelSpacing"])
def test_the_distance_of_pixels_is_the_affine(tmp_path: Path, name: str) -> None:
    film = LoadFilm()(write_dicom(tmp_path / "a.dcm", LEVELS, **{name: [0.2, 0.3]}))
    assert torch.allclose(film.affine, torch.diag(torch.tensor([0.2, 0.3, 1, 1], dtype=torch.float64)))
    assert torch.equal(film.affine, film.meta["original_affine"])
    assert film.meta["spacing"] == name


def test_nothing_of_a_person_is_kept(tmp_path: Path) -> None:
    film = LoadFilm()(write_dicom(tmp_path / "a.dcm", LEVELS))
    assert "secret-17" not in str(film.meta)
    assert "Jane" not in str(film.meta)
    assert set(film.meta) == {
        *("affine", "original_affine", "spatial_shape", "filename_or_obj", "original_channel_dim"),
        *("spacing", "loader", "space"),
    }


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def test_what_is_no_film_is_refused_in_one_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    fake = tmp_path / "fake.dcm"
    fake.write_text("no dicom")
    clear = np.dstack([noise, noise, noise, noise])
    moving = tmp_path / "moving.png"
    Image.fromarray(noise).save(moving, save_all=True, append_images=[Image.fromarray(noise.T)])
    for path, words in (
        (tmp_path / "absent.png", "no such file; wanted a film"),
        (text, "cannot be read as a film"),
        (fake, "is no DICOM file"),
        (cut_off(write_picture(tmp_path / "half.png", noise)), "cannot be read as a film"),
        (cut_off(write_dicom(tmp_path / "half.dcm", noise)), "cannot be decoded"),
        (write_picture(tmp_path / "clear.png", clear), "has transparent places"),
        (moving, "2 pictures in one file"),
        (write_dicom(tmp_path / "frames.dcm", noise, Rows=32, NumberOfFrames=2), "2 frames; wanted a film of one"),
        (write_dicom(tmp_path / "p.dcm", noise, PhotometricInterpretation="PALETTE COLOR"), "is 'PALETTE COLOR'"),
        (write_dicom(tmp_path / "flat.dcm", noise, RescaleSlope=0, RescaleIntercept=3), "all values are 3"),
        (write_dicom(tmp_path / "w.dcm", noise, WindowCenter=3, WindowWidth=0), "cannot be decoded"),
    ):
        with pytest.raises(InputError, match=path.name) as error:
            LoadFilm()(path)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_an_error_of_an_anonymous_case_does_not_name_its_file(tmp_path: Path) -> None:
    case = {"case": "anon-0001", "image": str(tmp_path / "doe-jane.png"), "anonymous": True}
    error = CaseDataset([case], LoadFilmd("image"))[0]["error"]
    assert error == f"'image of anon-0001': no such file; wanted a film ({', '.join(FILM_SUFFIXES)})"


def test_films_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b/1.2.3.PNG", "a/1.2.4.dcm", "a/x.JPEG", "a/.hidden.png", "a/note.txt", "b/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {name: [str(file.relative_to(tmp_path)) for file in files] for name, files in find_films(tmp_path).items()}
    assert found == {"1.2.4": ["a/1.2.4.dcm"], "x": ["a/x.JPEG", "b/x.png"], "1.2.3": ["b/1.2.3.PNG"]}


def test_the_real_films_are_read(real_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder, number in (("cxr_hannover/png", 77), ("cxr_pediatric", 40)):
            films = find_films(real_data / folder)
            if not films:
                pytest.skip(f"no films in {real_data / folder}")
            assert len(films) == number
            for files in list(films.values())[::8]:
                film = LoadFilm()(files[0])
                stored = np.asarray(Image.open(files[0]))
                assert np.allclose(film[0].numpy() * 255, stored, atol=1e-3)
