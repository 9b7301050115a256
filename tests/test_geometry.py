"""A marked voxel keeps its place in the world, in all 48 orientations and through every change of grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Compose, Orientation, Resize, Spacing, SpatialPad, SpatialResample
from nibabel import Nifti1Image
from nibabel.orientations import aff2axcodes, axcodes2ornt, ornt_transform

from medsal.attribution.explain import explain
from medsal.attribution.relevance import resize
from medsal.errors import InputError, UsageError
from medsal.geometry import full_affine, layer_affine, patient_grid, placed, plane_axis, to_grid

ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(["RL", "AP", "SI"]) for letters in itertools.product(*order)
]
SPACING = (1.0, 1.5, 2.5)


def head(orientation: str, mark: tuple[float, float, float] = (6.0, -8.0, 5.0), width: float = 3.0) -> MetaTensor:
    """A volume stored in an orientation, with a blob at a place in millimetres that no flip maps to itself."""
    ras = np.diag([*SPACING, 1.0])
    ras[:3, 3] = -22, -28, -30
    turn = ornt_transform(axcodes2ornt(tuple("RAS")), axcodes2ornt(tuple(orientation)))
    stored = Nifti1Image(np.zeros((40, 36, 24)), ras).as_reoriented(turn)
    affine, stored_shape = stored.affine, stored.shape
    assert "".join(aff2axcodes(affine)) == orientation
    index = np.stack(np.meshgrid(*[np.arange(n) for n in stored_shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    blob = np.exp(-((world - mark) ** 2).sum(-1) / (2 * width**2))
    volume = placed(torch.from_numpy(blob)[None], torch.from_numpy(affine))
    volume.meta.update(original_affine=affine, spatial_shape=np.array(stored_shape))
    return volume


def centre(volume: MetaTensor) -> np.ndarray:
    """The centre of mass in millimetres."""
    weights = volume.as_tensor()[0].numpy()
    index = np.stack(np.meshgrid(*[np.arange(n) for n in weights.shape], indexing="ij"), -1)
    place = (index * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    affine = np.asarray(full_affine(volume.affine))
    return affine[:3, :3] @ place + affine[:3, 3]


WAYS_IN = {
    "orientation": [Orientation("RAS", labels=None)],
    "spacing": [Orientation("LPS", labels=None), Spacing((2.0, 2.0, 2.0), mode="bilinear")],
    "crop and pad": [Orientation("RAS", labels=None), CenterSpatialCrop((36, 30, 24)), SpatialPad((44, 40, 30))],
    "resize": [Orientation("RAS", labels=None), Resize((33, 29, 31), mode="trilinear", align_corners=False)],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("way", WAYS_IN)
def test_a_mark_survives_the_way_in_and_out(orientation, way):
    volume = head(orientation)
    seen = Compose(WAYS_IN[way])(volume)
    np.testing.assert_allclose(centre(seen), (6, -8, 5), atol=0.25)
    back = to_grid(seen, *patient_grid(seen))
    assert back.shape == volume.shape
    torch.testing.assert_close(full_affine(back.affine), full_affine(volume.affine))
    np.testing.assert_allclose(centre(back), (6, -8, 5), atol=0.25)
    peak = np.unravel_index(int(back.as_tensor().argmax()), back.shape)
    wanted = np.unravel_index(int(volume.as_tensor().argmax()), volume.shape)
    assert np.abs(np.subtract(peak, wanted)).max() <= 1


@pytest.mark.parametrize("fault", ["flip", "half a voxel"])
def test_a_flip_and_half_a_voxel_would_be_seen(fault):
    seen = Orientation("RAS", labels=None)(head("LPS"))
    if fault == "flip":
        seen = placed(seen.as_tensor().flip(1), seen.affine, seen.meta)
    else:
        shift = torch.eye(4, dtype=torch.float64)
        shift[2, 3] = 0.5
        seen = placed(seen.as_tensor(), full_affine(seen.affine) @ shift, seen.meta)
    assert np.abs(centre(to_grid(seen, *patient_grid(seen))) - (6, -8, 5)).max() > 0.25


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorienting_alone_changes_no_value(orientation):
    volume = head(orientation)
    seen = Orientation("RAS", labels=None)(volume)
    back = to_grid(seen, *patient_grid(seen))
    torch.testing.assert_close(back.as_tensor(), volume.as_tensor(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", ["RAS", "ILP", "ASR"])
def test_only_the_field_of_view_is_resampled_and_nothing_of_it_is_lost(orientation):
    volume = head(orientation)
    small = MetaTensor(CenterSpatialCrop((9, 8, 7))(volume))
    oblique = full_affine(small.affine) @ full_affine(rotation(0.3))
    whole = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float64)(
        placed(small.as_tensor(), oblique), dst_affine=full_affine(volume.affine), spatial_size=volume.shape[1:]
    )
    found = to_grid(placed(small.as_tensor(), oblique), volume.affine, volume.shape[1:])
    torch.testing.assert_close(found.as_tensor(), whole.as_tensor().double(), rtol=0, atol=1e-6)
    away = full_affine(volume.affine).clone()
    away[:3, 3] += 1000
    assert not to_grid(volume, away, (5, 5, 5)).any()


def rotation(angle: float) -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def test_labels_stay_labels():
    labels = placed(torch.zeros(1, 6, 6, 6, dtype=torch.uint8), torch.eye(4))
    labels[0, 2:4, 2:4, 2:4] = 7
    fine = to_grid(labels, np.diag([0.5, 0.5, 0.5, 1]), (12, 12, 12), mode="nearest")
    assert fine.dtype == torch.uint8
    assert set(fine.unique().tolist()) == {0, 7}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL", "IRP"])
def test_planes_are_found_whatever_the_orientation(orientation):
    affine = head(orientation).affine
    for plane, letters in {"sagittal": "RL", "coronal": "AP", "axial": "SI"}.items():
        assert orientation[plane_axis(affine, plane)] in letters
    with pytest.raises(UsageError, match="wanted one of sagittal, coronal, axial, got 'oblique'"):
        plane_axis(affine, "oblique")


def test_a_low_resolution_map_keeps_its_place_with_its_own_affine():
    volume = Orientation("RAS", labels=None)(head("PIR", width=6.0))
    small = torch.nn.functional.interpolate(volume.as_tensor()[None], (13, 12, 8), mode="area")[0]
    own = placed(small, layer_affine(volume.affine, volume.shape[1:], (13, 12, 8)), volume.meta)
    np.testing.assert_allclose(centre(own), (6, -8, 5), atol=0.5)
    large = placed(resize(small[None], volume.shape[1:])[0], volume.affine)
    np.testing.assert_allclose(centre(large), (6, -8, 5), atol=0.5)
    wrong = placed(small, volume.affine)
    assert np.abs(centre(wrong) - (6, -8, 5)).max() > 5


def test_relevance_of_a_marked_voxel_comes_back_to_the_patient():
    volume = Compose(WAYS_IN["resize"])(head("ILP"))
    place = np.array([9, 20, 14])

    class Looks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = x[:, 0, place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2, place[2] - 1 : place[2] + 2]
            return torch.stack([seen.sum((1, 2, 3)), -seen.sum((1, 2, 3))], 1)

    relevance = explain(Looks(), volume[None], ["saliency"], target=0)["saliency"][0]
    native = to_grid(relevance, *patient_grid(volume))
    affine = np.asarray(full_affine(volume.affine))
    np.testing.assert_allclose(centre(native), affine[:3, :3] @ place + affine[:3, 3], atol=0.3)


def test_grids_that_do_not_fit_are_refused():
    volume = head("RAS")
    with pytest.raises(UsageError, match="wanted 3 sizes"):
        to_grid(volume, np.eye(4), (3, 3))
    with pytest.raises(InputError, match="load it with LoadImaged"):
        patient_grid(MetaTensor(torch.zeros(1, 2, 2, 2)))
