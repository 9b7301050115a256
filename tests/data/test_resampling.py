"""A marked place keeps its world position through crop, pad, resize and resampling, in all 48 orientations."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medsal.data.grids import Grid
from medsal.data.preprocessing import network_mri_transforms, seed_mri_transforms
from medsal.data.resampling import ResampleToGrid, ResizeSlices
from medsal.errors import InputError, UsageError

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]
MARK = np.array([-17.3, 21.6, -9.8])  # far from every centre, so that a flip moves it by centimetres
SPACING = (0.9, 1.3, 1.7)
TOLERANCE = 0.25  # of a voxel: half a voxel fails


def marked(axes: str, spacing: tuple[float, float, float], size: tuple[int, int, int]) -> MetaTensor:
    """A head-sized ball with a brighter blob at MARK, its array turned to the given axes."""
    grid = Grid((0.0, 0.0, 0.0), spacing, size)
    affine = grid.affine
    affine[:3, 3] = -np.asarray(spacing) * (np.asarray(size) - 1) / 2 + [3.1, -2.2, 1.7]
    places = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) * spacing + affine[:3, 3]
    image = 100 * np.exp(-((places - MARK) ** 2).sum(-1) / (2 * 4.0**2))
    nifti = nib.Nifti1Image(image.astype(np.float32), affine)
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    nifti = nifti.as_reoriented(change)
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(nifti.get_fdata(dtype=np.float32)))[None], affine=nifti.affine
    )


def miss(image: MetaTensor) -> float:
    """Distance of the blob's centre from MARK by the image's own affine, in voxels of the image."""
    weight = np.clip(image.numpy()[0].astype(float) - 0.3 * float(image.max()), 0, None)
    index = [
        (np.arange(n) * weight.sum(tuple({0, 1, 2} - {k}))).sum() / weight.sum() for k, n in enumerate(weight.shape)
    ]
    affine = np.asarray(image.affine, dtype=float)
    away = (affine @ [*index, 1.0])[:3] - MARK
    return float(np.abs(np.linalg.solve(affine[:3, :3], away)).max())


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_the_fixed_grid_keeps_the_mark(axes: str) -> None:
    image = marked(axes, SPACING, (70, 64, 44))
    grid = Grid((-27.0, 6.0, -25.0), (2.0, 2.0, 2.0), (20, 22, 24))
    out = ResampleToGrid(grid.origin, grid.spacing, grid.size)(image)
    assert out.shape == (1, *grid.size)
    assert np.allclose(out.affine, grid.affine)
    assert miss(out) < TOLERANCE


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_slices_resize_and_pad_keep_the_mark(axes: str) -> None:
    """The whole chain of the coronal network: crop along one axis, resize in the plane, pad."""
    image = marked(axes, (0.8, 1.0, 1.1), (130, 126, 128))
    out = seed_mri_transforms(load=False)({"image": image})["image"]
    assert out.shape == (1, 128, 115, 128)
    assert miss(out) < TOLERANCE


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_the_way_back_by_inverse_keeps_the_mark(axes: str) -> None:
    image = marked(axes, SPACING, (70, 64, 44))
    for transform in (ResampleToGrid("center", 1.5, (48, 56, 52)), ResizeSlices((60, 50))):
        back = transform.inverse(transform(image))
        assert back.shape == image.shape
        assert torch.allclose(back.affine, image.affine)
        assert miss(back) < TOLERANCE
        assert np.corrcoef(back.numpy().ravel(), image.numpy().ravel())[0, 1] > 0.99


def test_the_measure_sees_a_flip_and_half_a_voxel() -> None:
    out = ResampleToGrid((-27.0, 6.0, -25.0), 2.0, (20, 22, 24))(marked("RAS", SPACING, (70, 64, 44)))
    assert miss(out) < TOLERANCE
    for axis in (1, 2, 3):
        assert miss(MetaTensor(out.as_tensor().flip(axis), affine=out.affine)) > 1
        shifted = out.affine.clone()
        shifted[axis - 1, 3] += 1.0  # half a voxel
        assert miss(MetaTensor(out.as_tensor(), affine=shifted)) > TOLERANCE


def test_a_resize_without_its_half_voxel_is_seen() -> None:
    image = marked("RAS", (0.8, 1.0, 1.1), (130, 126, 128))
    out = ResizeSlices((56, 60))(image)
    naive = image.affine.clone()
    naive[:3, 0] *= 130 / 56
    naive[:3, 2] *= 128 / 60
    assert miss(out) < TOLERANCE
    assert miss(MetaTensor(out.as_tensor(), affine=naive)) > TOLERANCE


def test_centre_of_the_grid_is_the_centre_of_the_image() -> None:
    image = marked("PIR", SPACING, (70, 64, 44))
    out = ResampleToGrid("center", 1.5, (28, 40, 28))(image)
    middles = [np.asarray(part.affine) @ [*((np.asarray(part.shape[1:]) - 1) / 2), 1] for part in (image, out)]
    assert np.allclose(*middles)


def test_coarser_grids_do_not_alias() -> None:
    """A pattern that changes sign from voxel to voxel is grey on a grid three times coarser, not stripes."""
    stripes = torch.tensor([1.0, -1.0]).repeat(15)[None, :, None, None].expand(1, 30, 30, 30).contiguous()
    coarse = ResampleToGrid((3.0, 3.0, 3.0), 3.0, (8, 8, 8))(MetaTensor(stripes))
    assert float(coarse[:, 1:-1, 1:-1, 1:-1].abs().max()) < 0.2
    fine = ResampleToGrid((3.0, 3.0, 3.0), 1.0, (8, 8, 8))(MetaTensor(stripes))
    assert float(fine.abs().min()) > 0.99


def test_masks_stay_masks() -> None:
    mask = (marked("LPS", SPACING, (70, 64, 44)) > 50).float()
    out = ResampleToGrid((-27.0, 6.0, -25.0), 2.0, (20, 22, 24), mode="nearest")(mask)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert miss(out) < 0.5


def test_an_image_elsewhere_is_refused_by_name() -> None:
    image = MetaTensor(torch.rand(1, 9, 9, 9), affine=torch.eye(4), meta={"filename_or_obj": "far.nii.gz"})
    with pytest.raises(InputError, match=r"'far.nii.gz': no voxel lies in the network's field of view"):
        ResampleToGrid((500.0, 0.0, 0.0), 2.0, (8, 8, 8))(image)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="three numbers in mm or 'center', got 'middle'"):
        ResampleToGrid("middle", 2.0, (8, 8, 8))
    with pytest.raises(UsageError, match="got 'cubic'"):
        ResampleToGrid("center", 2.0, (8, 8, 8), mode="cubic")


def test_resampling_agrees_with_simpleitk() -> None:
    import SimpleITK as sitk  # noqa: N813  (its users' own name for it)

    image = marked("RAS", SPACING, (70, 64, 44))
    out = ResampleToGrid((-27.0, 6.0, -25.0), (1.2, 1.4, 1.6), (20, 22, 24))(image)  # no anti-aliasing at these ratios
    flip = np.array([-1, -1, 1])  # ITK's world is LPS

    def itk(data: MetaTensor) -> sitk.Image:
        made = sitk.GetImageFromArray(data.numpy()[0].transpose(2, 1, 0))
        spacing = np.diag(np.asarray(data.affine))[:3]
        made.SetSpacing(spacing.tolist())
        made.SetDirection(np.diag(flip).astype(float).ravel().tolist())
        made.SetOrigin((np.asarray(data.affine)[:3, 3] * flip).tolist())
        return made

    reference = sitk.GetArrayFromImage(sitk.Resample(itk(image), itk(out), sitk.Transform(), sitk.sitkLinear, 0.0))
    assert np.abs(reference.transpose(2, 1, 0) - out.numpy()[0]).max() < 1e-3


def test_slices_are_resized_as_torchvision_resizes_pil_slices(tmp_path: Path) -> None:
    """The seed's loop over PIL slices, step by step, on a volume of CAT12's size and on a larger one."""
    from PIL import Image
    from torchvision import transforms as tv

    for size in ((113, 137, 113), (91, 130, 150)):
        image = torch.from_numpy(np.random.default_rng(0).gamma(2.0, 50.0, size).astype(np.float32))
        path = tmp_path / f"mwp1sub-01_ses-01_T1w_{size[0]}.nii"
        nib.save(nib.Nifti1Image(image.numpy(), np.diag([1.5, 1.5, 1.5, 1])), path)
        volume = nib.load(path).get_fdata()
        volume = (volume - np.mean(volume)) / np.std(volume)
        step = tv.Compose([tv.Resize((112, 112)), tv.Pad((8, 8, 8, 8), fill=0), tv.ToTensor()])
        wanted = torch.stack([step(Image.fromarray(volume[:, i, :])) for i in range(10, 125)]).squeeze(1)
        got = seed_mri_transforms()({"image": str(path)})["image"]
        assert got.shape == (1, 128, 115, 128)
        assert torch.allclose(got.as_tensor()[0].movedim(1, 0), wanted, atol=2e-4)


def test_the_seed_chain_refuses_too_few_slices_and_takes_other_grids() -> None:
    from medsal.data.grids import SEED_GRID

    image = marked("LPS", SPACING, (140, 120, 80))
    with pytest.raises(RuntimeError) as caught:
        seed_mri_transforms(load=False)({"image": image})
    assert isinstance(caught.value.__cause__, InputError)
    assert "(1, 125, 1)" in str(caught.value.__cause__)
    out = seed_mri_transforms(load=False, grid=SEED_GRID)({"image": image})["image"]
    assert out.shape == (1, 128, 115, 128)
    assert miss(out) < TOLERANCE
    turned = seed_mri_transforms(load=False, grid=SEED_GRID, orientation="LAS")({"image": image})["image"]
    assert nib.aff2axcodes(turned.affine.numpy()) == ("L", "A", "S")
    assert miss(turned) < TOLERANCE


def test_the_network_chain_normalises_clamps_and_keeps_the_background() -> None:
    image = marked("PIR", (1.0, 1.0, 1.0), (80, 80, 80))
    image = image * (image > 1)  # background 0
    grid = Grid((-39.0, -19.0, -39.0), (2.0, 2.0, 2.0), (30, 30, 30))
    chain = network_mri_transforms(grid=grid, clamp=1.5, load=False, mask_keys=("lesion",))
    assert isinstance(chain, Compose)
    before = image.clone()
    out = chain({"image": image, "lesion": (image > 60).float()})
    assert torch.equal(before, image)
    inside = image[image > 0]
    expected = float((image.max() - inside.mean()) / inside.std(correction=0))
    assert expected > 1.5
    assert float(out["image"].max()) == 1.5
    assert float(out["image"][0, -1, -1, -1]) == 0
    assert out["lesion"].shape == out["image"].shape


def test_an_image_that_hardly_reaches_the_grid_is_refused_and_its_share_is_recorded() -> None:
    whole = marked("RAS", (1.0, 1.0, 1.0), (60, 60, 60))
    low = whole.affine[:3, 3].tolist()
    inside = ResampleToGrid(low, 2.0, (20, 20, 20))
    assert inside(whole).meta["field_of_view"] == 1.0
    half = ResampleToGrid([low[0] - 20, *low[1:]], 2.0, (20, 20, 20))
    assert half(whole).meta["field_of_view"] == pytest.approx(0.5)
    hardly = ResampleToGrid([low[0] - 37, *low[1:]], 2.0, (20, 20, 20))
    with pytest.raises(InputError, match=r"only 5.0% of what the network looks at .* at least 10%"):
        hardly(whole)
    assert "field_of_view" not in hardly(whole, mode="nearest").meta
    with pytest.raises(UsageError, match="grid: wanted three numbers each"):
        ResampleToGrid(low, 2.0, (44, 28))


def test_any_background_gives_the_same_input() -> None:
    head = marked("RAS", (1.0, 1.0, 1.0), (60, 60, 60))
    head = head * (head > 1) * 100
    head[:, 0], head[:, -1] = 0, 0
    places = (head.affine[:3, 3].tolist(), (2.0, 2.0, 2.0), (30, 30, 30))
    chain = network_mri_transforms(grid=Grid(*places), load=False)
    wanted = chain({"image": head})["image"]
    assert wanted.meta["background"] == 0
    for value in (-1000.0, 24.0):
        for other in (head + value, torch.where(head == 0, value, head)):
            found = chain({"image": MetaTensor(other.as_tensor(), affine=head.affine)})["image"]
            assert found.meta["background"] == value
            torch.testing.assert_close(found.as_tensor(), wanted.as_tensor(), atol=1e-3, rtol=1e-3)


def test_an_image_without_one_background_is_not_touched() -> None:
    from medsal.transforms import BackgroundToZero

    noise = torch.rand(1, 8, 8, 8)
    assert BackgroundToZero()(noise) is noise
