"""Truth of films in pictures: where it lies on the grid of a run that read its films rows first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from PIL import Image

from medsal.bundle.weights import load_weights
from medsal.data import film_transforms
from medsal.data.cases import CaseDataset, collate_cases
from medsal.engines import AttributionEvaluator
from medsal.export import ExportOptions
from medsal.handlers import ExplanationExporter
from medsal.ledger import Ledger
from medsal.networks import film_classifier
from medsal.scoring.arrays import as_bundle_reads, read_volume
from medsal.scoring.reading import CaseReader
from medsal.scoring.runs import run_cases


@pytest.mark.parametrize("shape", [(48, 48), (40, 60)])
def test_a_mask_lies_where_the_films_own_chain_puts_it(tmp_path, shape):
    film = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[3:12, 25:44] = 255  # above and to the right: neither on its own transpose nor on its mirror
    for name, array in (("film", film), ("mask", mask)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    item = {"case": "a", "subject": "a", "session": "", "image": str(tmp_path / "film.png")}
    truth = {**item, "mask": str(tmp_path / "mask.png")}
    chain = film_transforms(32, channels=1)
    network = film_classifier("resnet_small", in_channels=1)
    load_weights(network, "untrained")
    ledger = Ledger(tmp_path / "out", config={}, network=network)
    data = CaseDataset(ledger.pending([item]), film_transforms(32, channels=1, truth=False))
    exporter = ExplanationExporter(ledger, ExportOptions(write=("npy",)))
    loader = DataLoader(data, collate_fn=collate_cases)
    AttributionEvaluator("cpu", loader, network, "saliency", val_handlers=[exporter]).run()
    (files,) = run_cases(tmp_path / "out", [truth], {"mask": "mask"}).found
    found = CaseReader(files).mask()
    theirs = chain(dict(truth))["mask"].as_tensor() > 0
    assert bool(theirs.any())
    assert float((found != theirs).float().mean()) < 0.03  # edges, where a centre falls between two pixels
    assert float((found & theirs).sum() / theirs.sum()) > 0.9


def test_a_picture_of_a_film_takes_the_films_own_place(tmp_path):
    Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3)).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    affine = np.diag([0.2, 0.2, 1.0, 1.0])
    taken = as_bundle_reads(volume, (3, 3), affine)
    assert torch.equal(taken.values, volume.values)
    np.testing.assert_allclose(taken.affine, affine)
    assert torch.equal(as_bundle_reads(volume, (3, 3)).values, volume.values.transpose(1, 2))
