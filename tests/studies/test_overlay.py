"""The overlay of the published study runs on a bundle's ids, with several checkpoints."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser

from medsal.errors import UsageError
from medsal.studies import checkpoints, training_prior
from tests.networks_for_studies import Matched, films


def test_the_overlay_of_a_published_study_runs(repository, tmp_path):
    for seed in range(2):
        torch.save(Matched(seed).state_dict(), tmp_path / f"{seed}.pt")
    (tmp_path / "inference.json").write_text('{"imports": ["$import torch"]}')
    parser = ConfigParser()
    parser.read_config([str(tmp_path / "inference.json"), str(repository / "configs" / "studies" / "arun2021.yaml")])
    config = parser.get()
    training = [{**item, "split": "train", "case": f"train-{item['case']}"} for item in films(3)]
    faulty = [
        *films(4),
        {"case": "far-off", "image": "absent.png", "label": 1, "fault": "'t.csv' row 6: a box outside"},
    ]
    config |= {
        "dataset": {"_target_": "monai.data.Dataset", "data": faulty, "transform": "$lambda item: item"},
        "network_def": Matched(9), "device": torch.device("cpu"), "output_dir": str(tmp_path),
        "checkpoints": [str(tmp_path / f"{seed}.pt") for seed in range(2)], "orders": ["top_down"], "draws": 1,
        "methods": {"GRAD": {"method": "saliency"}}, "prior_dataset": training, "resamples": 100,
    }  # fmt: skip
    parser = ConfigParser(config)
    parser.parse()
    parser.get_parsed_content("run")
    found = pd.read_csv(tmp_path / "study" / "verdicts.csv")
    assert set(found["method"]) == {"GRAD"}
    assert len(found) == 6
    assert pd.read_csv(tmp_path / "study" / "networks.csv")["network"].tolist() == ["network/0", "network/1"]
    left = pd.read_csv(tmp_path / "study" / "left_out.csv")
    assert left.to_dict("records") == [{"case": "far-off", "reason": "'t.csv' row 6: a box outside"}]


def test_checkpoints_are_loaded_one_by_one(tmp_path):
    torch.save(Matched(3).state_dict(), tmp_path / "a.pt")
    (load, missing) = checkpoints(Matched(0), f"{tmp_path / 'a.pt'}, {tmp_path / 'b.pt'}")
    assert torch.equal(load().detect.weight, Matched(3).detect.weight)
    with pytest.raises(UsageError, match=r"b\.pt"):
        missing()
    with pytest.raises(UsageError, match="at least one path"):
        checkpoints(Matched(0), " ")


def test_the_prior_takes_training_cases_only():
    items = [{**item, "split": "train"} for item in films(3)]
    assert training_prior(items).cases == {"film-0", "film-1", "film-2"}
    assert training_prior(None) is None
    with pytest.raises(UsageError, match="wanted cases of the split 'train'"):
        training_prior([*items[:2], {**items[2], "split": "test"}])
