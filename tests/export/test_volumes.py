from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medsal.errors import InputError
from medsal.export.volumes import save_nifti, save_npy


@pytest.mark.parametrize("name", ["map.nii.gz", "map.nii"])
def test_a_marked_voxel_comes_back_at_its_place_in_the_world(tmp_path, make_tensor, oblique, name):
    voxels = np.random.default_rng(0).normal(size=(7, 5, 40)).astype(np.float32)
    voxels[2, 3, 31] = 9
    path = save_nifti(tmp_path / name, make_tensor(voxels, oblique), description="medsal", intent="saliency")
    image = nib.load(path)
    back = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(back, voxels)
    place = np.unravel_index(back.argmax(), back.shape)
    np.testing.assert_allclose(image.affine @ [*place, 1], oblique @ [2, 3, 31, 1], atol=1e-4)


def test_the_header_says_what_viewers_need(tmp_path, make_tensor):
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]])
    map_ = make_tensor(np.array([[[0.5, -3.0]]], dtype=np.float32), affine)
    header = nib.load(
        save_nifti(tmp_path / "a.nii.gz", map_, description="é" * 200, intent="integrated_gradients")
    ).header
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert (float(header["cal_min"]), float(header["cal_max"])) == (-3.0, 3.0)
    assert header.get_intent()[0] == "estimate"
    assert header.get_intent()[2] == "integrated_grad"
    assert header.get_xyzt_units()[0] == "mm"
    assert np.isnan(header["scl_slope"]) or float(header["scl_slope"]) == 1


def test_the_space_of_the_file_is_kept(tmp_path, make_tensor):
    map_ = make_tensor(np.ones((2, 2, 2), dtype=np.float32), np.eye(4))
    map_.meta["sform_code"] = np.array(4, dtype=np.int16)
    assert int(nib.load(save_nifti(tmp_path / "a.nii.gz", map_)).header["sform_code"]) == 4


def test_the_same_map_gives_the_same_bytes(tmp_path, make_tensor):
    map_ = make_tensor(np.ones((4, 4, 4), dtype=np.float32), np.eye(4))
    first, second = (save_nifti(tmp_path / name, map_) for name in ("a.nii.gz", "b.nii.gz"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time of day in the gzip header


def test_a_map_in_the_plane_becomes_one_slice(tmp_path, make_tensor):
    map_ = make_tensor(np.arange(6, dtype=np.float32).reshape(2, 3), np.diag([0.5, 0.25, 1, 1]))
    image = nib.load(save_nifti(tmp_path / "a.nii.gz", map_))
    assert image.shape == (2, 3, 1)
    assert image.header.get_zooms() == (0.5, 0.25, 1.0)


def test_npy_has_its_slices_first(tmp_path, make_tensor):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6))
    back = np.load(save_npy(tmp_path / "a.npy", make_tensor(voxels, np.eye(4)), 1))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, voxels.astype(np.float32).transpose(1, 0, 2))
    flat = np.load(save_npy(tmp_path / "b.npy", make_tensor(voxels[0], np.eye(4)), 1))
    assert flat.shape == (5, 6)


def test_several_channels_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"one channel.*\(3, 4, 4\)"):
        save_nifti(tmp_path / "a.nii.gz", np.zeros((3, 4, 4)))


def test_an_unknown_position_stays_unknown(tmp_path, make_tensor):
    map_ = make_tensor(np.ones((2, 2, 2), dtype=np.float32), np.eye(4))
    map_.meta |= {"sform_code": np.array(0, dtype=np.int16), "qform_code": np.array(0, dtype=np.int16)}
    header = nib.load(save_nifti(tmp_path / "a.nii.gz", map_)).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


def test_a_sheared_affine_is_told_by_the_sform_alone(tmp_path, make_tensor):
    affine = np.array([[1, 0.1, 0, -9], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    image = nib.load(save_nifti(tmp_path / "a.nii.gz", make_tensor(np.ones((2, 2, 2), dtype=np.float32), affine)))
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
