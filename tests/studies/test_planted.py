"""The gate passes a network whose reason is known and fails one that looks elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medsal.errors import MedsalError, UsageError
from medsal.studies import PlantedTruth, random_weights


class Reads(nn.Module):
    """Its first feature is the image inside a box; ``reset_parameters`` makes it read at random."""

    def __init__(self, where: tuple[slice, ...]) -> None:
        super().__init__()
        self.head = Weighted((8, 8, 8))
        with torch.no_grad():
            self.head.weight.zero_()[where] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Weighted(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x[:, 0] * self.weight).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


LESION = (slice(1, 3), slice(4, 7), slice(2, 5))


@pytest.fixture
def dataset():
    affine = np.diag([2.0, 2, 2, 1])
    items = []
    for i in range(4):
        mask = np.zeros((8, 8, 8), np.uint8)
        if i:
            mask[LESION] = 1
        image = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.from_numpy(affine))
        items.append(
            {
                "case": f"sub-{i}",
                "image": image,
                "lesion": MetaTensor(torch.from_numpy(mask)[None], affine=torch.from_numpy(affine)),
            }
        )
    return items


def test_a_network_with_a_known_reason_passes(dataset, tmp_path):
    table = PlantedTruth(Reads(LESION), dataset, "saliency, input_x_gradient", str(tmp_path)).run()
    assert table["saliency"]["trained_ap"] == 1
    assert table["saliency"]["prevalence"] == pytest.approx(18 / 512)
    assert table["saliency"]["random_ap"] < 0.2
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written["passed"] == {"saliency": True, "input_x_gradient": True}
    assert {row["case"] for row in written["cases"]} == {"sub-1", "sub-2", "sub-3"}


def test_a_network_that_looks_elsewhere_fails(dataset, tmp_path):
    elsewhere = (slice(5, 8), slice(0, 3), slice(5, 8))
    with pytest.raises(MedsalError, match="saliency did not find what was planted"):
        PlantedTruth(Reads(elsewhere), dataset, ["saliency"], str(tmp_path)).run()


def test_two_lesions_decide_nothing(dataset, tmp_path, caplog):
    with caplog.at_level("INFO", "medsal"), pytest.raises(UsageError, match=r"at least 3 cases .* got 2"):
        PlantedTruth(Reads(LESION), dataset[:3], "saliency", str(tmp_path)).run()
    assert "too few" in caplog.text
    assert "PASS" not in caplog.text


def test_nothing_planted_is_an_error(dataset, tmp_path):
    with pytest.raises(MedsalError, match="no case has a mask"):
        PlantedTruth(Reads(LESION), dataset[:1], ["saliency"], str(tmp_path)).run()


def test_random_weights_change_every_parameter_and_leave_the_network_alone():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.PReLU(), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(7)
    state = torch.get_rng_state()
    fresh = random_weights(network, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert all((weight == 7).all() for weight in network.parameters())
    assert not any((weight == 7).any() for weight in fresh.parameters())
    assert torch.equal(fresh[0].weight, random_weights(network, 3)[0].weight)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    with pytest.raises(UsageError, match="has no reset_parameters"):
        random_weights(nn.Sequential(Odd()), 0)
