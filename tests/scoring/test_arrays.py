"""Reading maps and masks, and bringing one to the grid of another: nothing moves that was not asked to."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsal.errors import InputError
from medsal.scoring.arrays import BY_INDEX, Volume, as_bundle_reads, brought, oriented, read_volume, same_place

RNG = np.random.default_rng(0)


def nifti(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_a_nifti_keeps_its_axes_and_its_place(tmp_path):
    array, affine = RNG.normal(size=(3, 4, 5)).astype(np.float32), np.diag([2.0, -1, 3, 1])
    found = read_volume(nifti(tmp_path / "a.nii.gz", array, affine))
    np.testing.assert_array_equal(found.values[0], array)
    np.testing.assert_allclose(found.affine, affine)
    assert not found.picture


def test_one_slice_is_a_picture_and_a_first_axis_of_one_is_a_channel(tmp_path):
    array = RNG.normal(size=(3, 4)).astype(np.float32)
    assert read_volume(nifti(tmp_path / "a.nii", array[..., None])).space == (3, 4)
    np.save(tmp_path / "a.npy", array[None])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").values[0], array)
    np.save(tmp_path / "v.npy", RNG.normal(size=(1, 3, 4, 3)))
    assert read_volume(tmp_path / "v.npy").space == (3, 4, 3)


@pytest.mark.parametrize(("kind", "most"), [(np.uint8, 255), (np.uint16, 65535), (bool, 1)])
def test_a_grey_picture_has_its_rows_first(tmp_path, kind, most):
    array = (RNG.random((3, 5)) * (most + 0.999)).astype(kind)
    Image.fromarray(array).save(tmp_path / "a.png")
    found = read_volume(tmp_path / "a.png")
    np.testing.assert_array_equal(found.values[0], array.astype(np.float32))
    assert found.picture
    turned = as_bundle_reads(found)
    np.testing.assert_array_equal(turned.values[0], array.T)
    assert as_bundle_reads(found, (3, 5)).space == (3, 5)


def test_a_run_reads_pictures_as_monai_does(tmp_path):
    from monai.transforms import LoadImage

    Image.fromarray((RNG.random((3, 5)) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    theirs = LoadImage(reader="PILReader", image_only=True, ensure_channel_first=True)(tmp_path / "a.png")
    assert torch.equal(as_bundle_reads(read_volume(tmp_path / "a.png")).values, theirs.as_tensor())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_a_colour_picture_is_refused_as_a_map_and_grey_as_an_image(tmp_path, mode):
    Image.fromarray((RNG.random((4, 4)) * 255).astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"colour picture \\(mode {mode}\\) shows relevance, its numbers are not"):
        read_volume(tmp_path / "a.png")
    assert read_volume(tmp_path / "a.png", image=True).space == (4, 4)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.npy", None, "no such file"),
        ("a.npy", b"nothing", "cannot be read as NPY"),
        ("a.png", b"nothing", "cannot be read as a picture"),
        ("a.nii.gz", b"nothing", "cannot be read as NIfTI"),
        ("a.jpg", b"nothing", "wanted a file that ends in"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / name, source="mask of sub-1")
    assert "mask of sub-1" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3)), "that of a colour picture"),
        (np.zeros((4, 4), complex), "real numbers"),
        (np.array([object()]), "cannot be read as NPY"),
        (np.zeros(4), "2D or 3D"),
        (np.zeros((0, 4)), "2D or 3D"),
        (np.zeros((2, 4, 4, 4)), "2D or 3D"),
    ],
)
def test_arrays_that_are_no_maps_are_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "a.npy")


def volume(*space, affine=None, picture=False):
    place = None if affine is None else torch.as_tensor(np.asarray(affine, float))
    values = torch.arange(float(np.prod(space))).reshape(1, *space)
    return Volume(values, place, "mask m", picture)


def test_the_same_grid_is_left_as_it_is_and_another_is_refused_unless_asked():
    mask = volume(4, 4, 4, affine=np.eye(4))
    assert brought(mask, volume(4, 4, 4, affine=np.eye(4)), resample=False) == (mask.values, "")
    moved = np.eye(4)
    moved[0, 3] = 1.0
    like = volume(4, 4, 4, affine=moved)
    with pytest.raises(InputError, match=r"mask m: wanted the grid of the map .* from 1.0, .*--resample true"):
        brought(mask, like, resample=False)
    found, how = brought(mask, like, resample=True)
    assert how == "nearest"
    assert torch.equal(found[:, :-1], mask.values[:, 1:])
    assert not found[:, -1].any()


def test_resampling_goes_by_the_world_and_not_by_the_array():
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 3
    mask, like = volume(4, 4, 4, affine=np.eye(4)), volume(4, 4, 4, affine=flipped)
    assert torch.equal(brought(mask, like, resample=True)[0], mask.values.flip(1))


def test_what_has_no_place_is_stretched_when_asked_and_never_transposed():
    small, large = volume(2, 3), volume(4, 6)
    with pytest.raises(InputError, match=r"\(2 x 3 voxels\).*--resample true"):
        brought(small, large, resample=False)
    found, how = brought(small, large, resample=True)
    assert how == "nearest, stretched"
    assert torch.equal(found[0], small.values[0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    with pytest.raises(InputError, match="one of them is transposed"):
        brought(volume(3, 2), small, resample=True)


def test_a_picture_and_a_nifti_are_never_laid_on_each_other():
    picture, scan = volume(4, 4, picture=True), volume(4, 4, affine=np.eye(4))
    assert not same_place(picture, scan)
    for one, other in ((picture, scan), (scan, picture)):
        with pytest.raises(InputError, match="cannot be laid on each other"):
            brought(one, other, resample=True)
    assert same_place(volume(4, 4, 4), volume(4, 4, 4, affine=np.eye(4)))
    with pytest.raises(InputError, match="cannot be laid"):
        brought(volume(2, 2, 2), volume(4, 4, 4, affine=np.eye(4)), resample=True)


def test_a_picture_beside_a_film_has_rows_first_also_where_it_is_square(tmp_path):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    found = read_volume(tmp_path / "square.png")
    assert as_bundle_reads(found, (4, 4)).values[0, 0, 1] == 4
    film = as_bundle_reads(found, (4, 4), np.diag([0.5, 0.25, 1, 1]))
    assert film.values[0, 0, 1] == 1
    assert torch.equal(film.affine, torch.diag(torch.tensor([0.5, 0.25, 1, 1], dtype=torch.float64)))
    coarse = as_bundle_reads(found, (8, 8), np.eye(4))  # pixels of twice the size: the first centre lies at 0.5
    assert coarse.affine[0].tolist() == [2, 0, 0, 0.5]


@pytest.mark.parametrize("factor", [1e40, 1e-50, 1e-42, 1.0])
def test_values_that_single_precision_cannot_hold_keep_their_ranks(tmp_path, factor):
    wanted = np.random.default_rng(0).random((6, 5)) * factor
    np.save(tmp_path / "map.npy", wanted)
    found = read_volume(tmp_path / "map.npy").values[0].numpy()
    assert np.isfinite(found).all()
    assert (found.ravel().argsort() == wanted.ravel().argsort()).all()
    assert found.dtype == (np.float32 if factor == 1 else np.float64)


def test_large_whole_numbers_keep_their_ranks(tmp_path):
    np.save(tmp_path / "map.npy", np.array([[2**24, 2**24 + 1], [3, 4]]))
    assert len(np.unique(read_volume(tmp_path / "map.npy").values)) == 4


def test_an_array_beside_a_nifti_is_taken_on_trust_and_said_to_be():
    array, scan = volume(4, 4, 4), volume(4, 4, 4, affine=np.eye(4))
    assert brought(array, scan, resample=False) == (array.values, BY_INDEX)
    assert brought(scan, array, resample=False) == (scan.values, BY_INDEX)
    assert brought(array, volume(4, 4, 4), resample=False) == (array.values, "")


def test_an_error_tells_axes_that_run_the_other_way():
    mask, like = volume(4, 4, 4, affine=np.diag([-1.0, 1, 1, 1])), volume(4, 4, 4, affine=np.eye(4))
    with pytest.raises(InputError, match=r"axes RAS\), got .* axes LAS\)"):
        brought(mask, like, resample=False)


def test_an_error_names_a_file_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.nii.gz").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"^map m\.nii\.gz: cannot be read"):
        read_volume("m.nii.gz", source="map m.nii.gz")


def test_a_volume_stored_another_way_round_is_turned_to_the_axes_of_another():
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    like = torch.eye(4, dtype=torch.float64)
    stored = nib.Nifti1Image(values[0].numpy(), np.eye(4)).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt("PSL"))
    )
    turned = oriented(torch.from_numpy(stored.get_fdata())[None], torch.from_numpy(stored.affine), like)
    assert torch.equal(turned, values.double())
    assert oriented(values, None, like) is values
