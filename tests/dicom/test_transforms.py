"""DICOM in a MONAI chain and in a bundle's configuration."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Orientationd, Resized

from medsal.dicom import NativeGrid, map_to_native
from medsal.dicom.transforms import LoadDicomFilmd, LoadDicomSeriesd, SaveDicomd
from medsal.errors import InputError
from tests.dicom.builders import film, oblique, save, save_all, slices_of


def test_a_chain_of_a_bundle_and_the_way_back(tmp_path):
    folders = [
        save_all(slices_of(12, oblique(), rows=20, columns=24, series=name), tmp_path / name) for name in ("a", "b")
    ]
    parser = ConfigParser(
        {
            "chain": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "medsal.dicom.transforms.LoadDicomSeriesd", "keys": "image"},
                    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
                ],
            }
        }
    )
    cases = [{"image": str(folder)} for folder in folders]
    batches = list(DataLoader(Dataset(cases, parser.get_parsed_content("chain")), batch_size=2))
    assert batches[0]["image"].shape[0] == 2
    direct = Compose([LoadDicomSeriesd("image")])({"image": folders[1]})["image"]
    single = Compose([LoadDicomSeriesd("image"), Orientationd("image", "RAS", labels=None)])({"image": folders[1]})
    native = map_to_native(single["image"], NativeGrid.of(single["image"]))
    np.testing.assert_allclose(native.numpy(), direct.numpy(), atol=1e-2)


def test_films_in_a_chain(tmp_path):
    path = save(film(WindowCenter=2000, WindowWidth=1000), tmp_path / "film.dcm")
    case = Compose([LoadDicomFilmd("image", voi=0), Resized("image", (10, 15))])({"image": path, "label": 1})
    assert case["image"].shape == (1, 10, 15)
    assert 0 <= float(case["image"].min()) < float(case["image"].max()) <= 1


def test_a_refusal_is_an_input_error_and_missing_keys_can_be_allowed(tmp_path):
    folder = save_all([one for index, one in enumerate(slices_of()) if index != 3], tmp_path)
    with pytest.raises(InputError, match="missing_slices"):
        LoadDicomSeriesd("image")({"image": folder})
    assert LoadDicomSeriesd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_maps_of_a_chain_are_written_for_their_images(tmp_path):
    source = save_all(slices_of(12, oblique(), rows=20, columns=24), tmp_path / "source")
    chain = Compose(
        [LoadDicomSeriesd("image"), Orientationd("image", "RAS", labels=None), Resized("image", (16, 18, 10))]
    )
    case = chain({"image": source, "findings": {"prediction": "HC", "probabilities": {"HC": 0.9}}})
    case["gradcam"] = case["image"].clone()
    saver = SaveDicomd("gradcam", tmp_path / "out", {"bundle": "demo"}, findings_key="findings")
    files = saver(case)["gradcam_dicom"]
    assert len(files) == 8 + 1 + 1
    assert {path.parent.name for path in files} == {case["image"].meta["filename_or_obj"]}
    assert {str(pydicom.dcmread(path).SeriesDescription) for path in files} == {
        "medsal gradcam overlay (research)",
        "medsal gradcam top region (research)",
        "medsal gradcam report (research)",
    }
    film_source = save(film(WindowCenter=2000, WindowWidth=1000), tmp_path / "film.dcm")
    case = Compose([LoadDicomFilmd("image", voi=0), Resized("image", (10, 15))])({"image": film_source})
    made = {"bundle": "demo", "method": "gradcam"}
    files = SaveDicomd("image", tmp_path / "out", made)(case)["image_dicom"]
    assert [path.name[:2] for path in files] == ["sc", "sr"]
    case["other"] = case["image"].clone()
    grid = json.loads(case["other"].meta["dicom"])
    grid["facts"]["voi"] = None
    case["other"].meta["dicom"] = json.dumps(grid)
    unwindowed = SaveDicomd("other", tmp_path / "other", made)(case)["other_dicom"]
    assert (pydicom.dcmread(files[0]).pixel_array != pydicom.dcmread(unwindowed[0]).pixel_array).any()
