"""A map goes back to the pixels of the DICOM objects that it came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Orientation, Resize, Spacing

from medsal.dicom import NativeGrid, Reason, Refusal, map_to_native, read_film, read_series
from medsal.geometry import patient_grid, placed
from tests.dicom.builders import AXIAL, CORONAL, SAGITTAL, film, oblique, save, save_all, slices_of

PLANES = [AXIAL, SAGITTAL, CORONAL, oblique()]


@pytest.mark.parametrize("plane", PLANES, ids=["axial", "sagittal", "coronal", "oblique"])
def test_the_peak_of_a_map_on_another_grid_comes_back_to_its_voxel(plane, tmp_path):
    image = read_series(save_all(slices_of(16, plane, rows=40, columns=36), tmp_path))
    grid = NativeGrid.of(image)
    place = (11, 27, 6)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    away = (index - place) @ image.affine.numpy()[:3, :3].T
    blob = placed(torch.from_numpy(np.exp(-(away**2).sum(-1) / 40))[None].float(), image.affine, image.meta)
    prepared = Compose([Orientation("RAS", labels=None), Spacing((1.3, 1.9, 2.2))])(blob)
    assert prepared.shape != blob.shape
    native = map_to_native(prepared, NativeGrid.of(prepared))
    assert native.shape == (1, *grid.shape)
    assert np.unravel_index(int(native[0].argmax()), grid.shape) == place
    np.testing.assert_allclose(native.affine.numpy(), image.affine.numpy())
    affine, shape = patient_grid(prepared)
    np.testing.assert_allclose(affine.numpy(), grid.affine)
    assert shape == grid.shape


def test_films_go_back_too(tmp_path):
    image = read_film(save(film(), tmp_path / "film.dcm"))
    grid = NativeGrid.of(image)
    blob = torch.zeros(1, 20, 30)
    blob[0, 12:15, 5:8] = 1
    small = Resize((10, 15), mode="area")(placed(blob, image.affine, image.meta))
    native = map_to_native(small, grid)
    assert native.shape == (1, 20, 30)
    assert np.abs(np.array(np.unravel_index(int(native[0].argmax()), (20, 30))) - (13, 6)).max() <= 1


def test_maps_that_do_not_belong_are_refused(tmp_path):
    image = read_series(save_all(slices_of(), tmp_path))
    grid = NativeGrid.of(image)
    elsewhere = image.affine.clone()
    elsewhere[:3, 3] += 1000
    flat = image.affine.clone()
    flat[:3, 0] = 0
    half = placed(image.as_tensor()[:, :6], image.affine)
    for wrong in (
        placed(image.as_tensor(), elsewhere),
        placed(image.as_tensor(), flat),
        placed(image.as_tensor()[..., 0], image.affine),
        placed(torch.full_like(image.as_tensor(), float("nan")), image.affine),
    ):
        with pytest.raises(Refusal) as caught:
            map_to_native(wrong, grid)
        assert caught.value.reason is Reason.NOT_NATIVE
    assert float(map_to_native(half, grid, covered=0.5)[:, 6:].abs().max()) == 0
    with pytest.raises(Refusal) as caught:
        map_to_native(half, grid, covered=0.6)
    assert caught.value.detail == "the map covers 50% of the images"
    with pytest.raises(Refusal):
        NativeGrid.of(MetaTensor(torch.zeros(1, 2, 2)))


def test_the_grid_survives_batches_of_different_series(tmp_path):
    images = [read_series(save_all(slices_of(8, series=name), tmp_path / name)) for name in ("one", "two")]
    again = decollate_batch(list_data_collate([{"image": image} for image in images]))
    for case, image in zip(again, images, strict=True):
        assert NativeGrid.of(case["image"]) == NativeGrid.of(image)
