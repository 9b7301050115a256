"""From DICOM series through MONAI's engine and back: each map belongs to its series, and a bad series stops nobody."""

from __future__ import annotations

import numpy as np
import pydicom
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.networks.nets import DenseNet
from monai.transforms import Compose, Orientationd, Resized

from medsal.data import CaseDataset, collate_cases
from medsal.dicom import NativeGrid, map_to_native, read_series
from medsal.dicom.transforms import LoadDicomSeriesd, SaveDicomd
from medsal.engines import AttributionEvaluator
from tests.dicom.builders import AXIAL, CORONAL, save_all, slices_of


def test_explain_series_of_dicom_and_write_the_maps_back(tmp_path):
    torch.manual_seed(0)
    for name, plane in (("one", AXIAL), ("two", CORONAL)):
        made = slices_of(14, plane, rows=20, columns=18, series=name)
        save_all(made, tmp_path / name)
        save_all([one for index, one in enumerate(made) if index != 5], tmp_path / "gap")
    network = DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)
    chain = Compose(
        [
            LoadDicomSeriesd("image"),
            Orientationd("image", "RAS", labels=None),
            Resized("image", (16, 20, 16)),
        ]
    )
    cases = [{"image": str(tmp_path / name), "label": 0, "case": name} for name in ("one", "gap", "two")]
    loader = DataLoader(CaseDataset(cases, chain), batch_size=3, collate_fn=collate_cases)
    evaluator = AttributionEvaluator("cpu", loader, network, methods=["saliency"])
    found = {}

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _keep(engine):
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            found[item["case"]] = output

    evaluator.run()
    assert list(found) == ["one", "two"]
    (failure,) = evaluator.state.failures
    assert failure.case["case"] == "gap"
    assert "missing_slices" in failure.error
    for name, output in found.items():
        relevance = output["saliency_saliency"]
        grid = NativeGrid.of(relevance)
        image = read_series(tmp_path / name)
        assert grid.series_uid == NativeGrid.of(image).series_uid
        native = map_to_native(relevance, grid)
        np.testing.assert_allclose(native.affine.numpy(), image.affine.numpy())
        saver = SaveDicomd("saliency_saliency", tmp_path / "out", {"method": "saliency"}, ["pm"])
        files = saver(output)["saliency_saliency_dicom"]
        written = pydicom.dcmread(files[0])
        np.testing.assert_allclose(written.pixel_array, native[0].numpy().transpose(2, 1, 0), rtol=1e-5)
