"""The maps of a run as cases: what a reader gives lies where the run's own files on the patient's grid say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.networks.nets import DenseNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Resized

from medsal.bundle.results import places
from medsal.bundle.weights import load_weights
from medsal.data.cases import CaseDataset, collate_cases
from medsal.engines import AttributionEvaluator
from medsal.errors import InputError, UsageError
from medsal.export import ExportOptions
from medsal.geometry import placed, to_grid
from medsal.handlers import ExplanationExporter
from medsal.ledger import Ledger
from medsal.scoring.reading import CaseReader
from medsal.scoring.runs import names_of_regions, run_cases, scored_cases

TRUTH = {"mask": "lesion", "regions": "regions"}
CHAIN = Compose(
    [
        LoadImaged("image", reader="NibabelReader"),
        EnsureChannelFirstd("image"),
        Orientationd("image", "RAS", labels=None),
        Resized("image", (16, 12, 14)),
    ]
)
NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": (2,),
}


def ball(shape, affine, centre, radius=6.0):
    """What lies near a place of the world, on any grid."""
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return (np.linalg.norm(at - centre, axis=-1) < radius).astype(np.uint8)


@pytest.fixture
def items(tmp_path):
    """Three heads on grids of their own, with a lesion and regions."""
    rng, found = np.random.default_rng(0), []
    for number in range(3):
        affine = np.diag([-1.5, 1.0, 2.0, 1.0])[[[1, 0, 2, 3], [0, 1, 2, 3], [2, 1, 0, 3]][number]]
        affine[:3, 3] = (number, 5, -3)
        paths = {key: str(tmp_path / f"{key}-{number}.nii.gz") for key in ("image", "lesion", "regions")}
        shape = (12, 14, 10)
        middle = affine[:3, :3] @ (np.array(shape) / 3) + affine[:3, 3]
        lesion = ball(shape, affine, middle)
        volumes = (rng.normal(size=shape).astype(np.float32), lesion, lesion * 2 + 1)
        for path, volume in zip(paths.values(), volumes, strict=True):
            nib.save(nib.Nifti1Image(volume, affine), path)
        found.append({**paths, "case": f"sub-{number}", "subject": f"p{number // 2}", "middle": middle.tolist()})
    return found


def explain(items, folder, *, path="untrained", slice_axis=1, seed=0, methods="saliency,gradcam", layout="seed"):
    """A run, in process."""
    network = DenseNet(**NETWORK)
    load_weights(network, path)
    ledger = Ledger(folder, config={"methods": methods, "seed": seed}, network=network)
    loader = DataLoader(CaseDataset(ledger.pending(items), CHAIN), collate_fn=collate_cases)
    options = ExportOptions(slices="8", layout=layout)
    exporter = ExplanationExporter(ledger, options, slice_axis=slice_axis)
    AttributionEvaluator("cpu", loader, network, methods, seed=seed, val_handlers=[exporter]).run()
    return folder


@pytest.mark.parametrize(("slice_axis", "layout"), [(0, "bids"), (1, "seed"), (2, "flat")])
def test_the_maps_on_the_networks_grid_are_those_on_the_patients(tmp_path, items, slice_axis, layout):
    folder = explain(items, tmp_path / "out", slice_axis=slice_axis, layout=layout)
    network, patient = (run_cases(folder, items, TRUTH, grid=grid) for grid in ("network", "patient"))
    assert [(one.case, one.patient) for one in network.found] == [("sub-0", "p0"), ("sub-1", "p0"), ("sub-2", "p1")]
    for ours, theirs in zip(network.found, patient.found, strict=True):
        reader, native = CaseReader(ours), CaseReader(theirs)
        for method in ("saliency", "gradcam"):
            place = placed(reader.map(method), reader.like.affine)
            there = to_grid(place, native.like.affine, native.space).as_tensor()
            torch.testing.assert_close(there, native.map(method), atol=1e-6, rtol=1e-5)
        assert native.map("saliency").abs().max() > 0
        assert reader.space == (16, 12, 14)
        assert ours.grids["gradcam"] != (16, 12, 14)
        assert "saliency" not in ours.grids
        assert theirs.grids == {}


def test_truth_comes_to_the_networks_grid_by_nearest_neighbour_in_the_world(tmp_path, items):
    found = run_cases(explain(items, tmp_path / "out"), items, TRUTH)
    for files, item in zip(found.found, items, strict=True):
        reader = CaseReader(files)
        wanted = ball(reader.space, reader.like.affine.numpy(), np.array(item["middle"]))
        mask = reader.mask()[0].numpy()
        assert 2 * (mask & (wanted > 0)).sum() / (mask.sum() + wanted.sum()) > 0.85
        assert 2 * (mask[::-1] & (wanted > 0)).sum() / (mask.sum() + wanted.sum()) < 0.6
        assert set(reader.labels("regions").unique().tolist()) <= {0, 1, 3}
        assert reader.resampled == {"mask": "nearest", "regions": "nearest"}
    for files, item in zip(run_cases(tmp_path / "out", items, TRUTH, grid="patient").found, items, strict=True):
        native = CaseReader(files)
        np.testing.assert_array_equal(native.mask()[0], nib.load(item["lesion"]).get_fdata() > 0)
        assert native.resampled == {}


def test_the_image_is_prepared_as_the_network_saw_it(tmp_path, items):
    found = run_cases(explain(items, tmp_path / "out"), items, TRUTH, transform=CHAIN)
    reader = CaseReader(found.found[2])
    torch.testing.assert_close(reader.image(), CHAIN(dict(items[2]))["image"].as_tensor())
    assert "image" not in reader.resampled
    broken = run_cases(tmp_path / "out", items, TRUTH, transform=lambda item: item["nothing"])
    with pytest.raises(InputError, match="cannot be prepared as the network saw it: KeyError"):
        CaseReader(broken.found[0]).image()


def test_every_case_that_cannot_be_scored_is_left_out_with_its_reason(tmp_path, items):
    Path(items[1]["image"]).write_bytes(b"this is no image")
    folder = explain(items, tmp_path / "out")
    extra = {**items[0], "case": "sub-9"}
    bare = {key: value for key, value in items[2].items() if key not in {"lesion", "regions"}}
    assert set(run_cases(folder, [*items, extra], TRUTH).excluded) == {"sub-1", "sub-9"}
    found = run_cases(folder, [extra, bare], TRUTH)
    assert not found.found
    assert found.excluded == {
        "sub-9": "is in the data list, but has no maps: not explained",
        "sub-2": "has no truth: no lesion or regions in the data list",
        "sub-0": "has maps, but is not in the data list",
        "sub-1": "has maps, but is not in the data list",
    }
    assert "was not explained: " in run_cases(folder, items, TRUTH).excluded["sub-1"]


def change(folder, case, **entries):
    path = folder / "cases" / f"{case}.json"
    record = json.loads(path.read_text()) | entries
    path.write_text(json.dumps(record))


def test_a_record_that_does_not_say_where_its_maps_lie_is_left_out(tmp_path, items):
    folder = explain(items, tmp_path / "out")
    change(folder, "sub-0", grid=None)
    change(folder, "sub-1", maps={"saliency": {"nifti": "x.nii.gz"}})
    assert run_cases(folder, items, TRUTH).excluded == {
        "sub-0": "its record does not say where its maps lie: explain it again",
        "sub-1": "its maps were not written as npy",
    }
    (folder / "cases/sub-2.json").write_text("{")
    with pytest.raises(UsageError, match=r"sub-2.json is no record"):
        run_cases(folder, items, TRUTH)


def test_cases_of_another_setup_are_not_mixed_in(tmp_path, items):
    folder = explain(items[:1], tmp_path / "out", seed=1)
    explain(items[1:], folder)
    found = run_cases(folder, items, TRUTH)
    assert found.excluded == {"sub-0": "explained by an earlier run of another setup"}
    (folder / "run.json").unlink()
    with pytest.raises(UsageError, match="cases of 2 setups"):
        run_cases(folder, items, TRUTH)


def test_maps_of_untrained_weights_come_beside_and_trained_ones_are_refused(tmp_path, items):
    torch.manual_seed(3)
    torch.save(DenseNet(**NETWORK).state_dict(), tmp_path / "model.pt")
    trained = explain(items, tmp_path / "out", path=tmp_path / "model.pt")
    untrained = explain(items[:2], tmp_path / "untrained", methods="saliency")
    found = run_cases(trained, items, TRUTH, untrained_dir=untrained)
    assert [list(one.untrained) for one in found.found] == [["saliency"], ["saliency"], []]
    reader = CaseReader(found.found[0])
    assert not torch.equal(reader.untrained("saliency"), reader.map("saliency"))
    own = run_cases(untrained, items[:2], TRUTH)
    torch.testing.assert_close(CaseReader(own.found[0]).map("saliency"), reader.untrained("saliency"))
    with pytest.raises(UsageError, match=r"untrained_dir: wanted a finished run with --ckpt_path untrained.*model.pt"):
        run_cases(trained, items, TRUTH, untrained_dir=trained)
    record = json.loads((untrained / "cases/sub-0.json").read_text())
    record["grid"]["shape"] = [16, 12, 15]
    change(untrained, "sub-0", grid=record["grid"])
    with pytest.raises(UsageError, match="sub-0 lies on another grid"):
        run_cases(trained, items, TRUTH, untrained_dir=untrained)


def test_a_map_that_is_not_on_the_grid_of_its_record_is_refused(tmp_path, items):
    folder = explain(items, tmp_path / "out")
    files = run_cases(folder, items, TRUTH).found[0]
    voxels = np.load(files.maps["saliency"])
    np.save(files.maps["saliency"], voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match=r"wanted the network's grid \(16, 12, 14\), got"):
        CaseReader(files).map("saliency")


def test_errors_of_anonymous_cases_name_no_file(tmp_path, items):
    secret = [{**item, "anonymous": True} for item in items]
    folder = explain(secret, tmp_path / "out")
    Path(items[0]["lesion"]).unlink()
    with pytest.raises(InputError) as caught:
        CaseReader(run_cases(folder, secret, TRUTH).found[0]).mask()
    assert str(caught.value) == "mask of sub-0: no such file"


@pytest.mark.parametrize("options", [{"grid": "image"}, {"untrained_dir": "nowhere"}])
def test_what_cannot_be_meant_is_refused(tmp_path, items, options):
    folder = explain(items[:1], tmp_path / "out")
    with pytest.raises(UsageError, match=next(iter(options))):
        run_cases(folder, items, TRUTH, **options)
    with pytest.raises(UsageError, match="no run in"):
        run_cases(tmp_path / "nowhere", items, TRUTH)


def test_names_of_regions_come_from_a_mapping_or_a_file(tmp_path, items):
    (tmp_path / "names.json").write_text('{"1": "left"}')
    assert names_of_regions(tmp_path / "names.json") == names_of_regions({1: "left"}) == {1: "left"}
    with pytest.raises(UsageError, match="region_names: wanted code: name"):
        names_of_regions("absent.json")
    found = scored_cases(items, explain(items, tmp_path / "out"), truth=TRUTH, region_names={"3": "right"})
    assert found.region_names == {3: "right"}
    assert scored_cases(found, "nowhere", truth=TRUTH).found == found.found


def test_one_map_for_all_slices_has_one_place_along_them():
    image = placed(torch.zeros(1, 8, 5, 8), torch.eye(4))
    records = {
        "cam": {"layer_shape": [2, 3], "repeated_over_slices": 5},
        "volume": {"layer_shape": [4, 2, 4]},
        "pixels": {},
    }
    result = SimpleNamespace(image=image, native=image, slice_axis=0, records=records)
    assert places(result, {})["grid"]["layers"] == {"cam": [2, 1, 3], "volume": [4, 2, 4]}
