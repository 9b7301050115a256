"""Metrics as MONAI's: buffers, reductions, what is left out, several processes, and the handler of an engine."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.handlers import IgniteMetricHandler, MetricsSaver, from_engine
from monai.networks.nets import DenseNet
from monai.transforms import CopyItemsd

from medsal.engines import AttributionEvaluator
from medsal.errors import UsageError
from medsal.evaluation import average_precision, region_scores
from medsal.metrics import (
    AveragePrecisionMetric,
    EntropyMetric,
    RegionScoresMetric,
    RelevanceMetric,
    SpearmanMetric,
)


def maps(count: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 6, 7, generator=generator), torch.rand(count, 1, 6, 7, generator=generator) < 0.2


def test_values_are_kept_and_reduced_as_monai_does() -> None:
    relevance, mask = maps()
    wanted = average_precision(relevance.abs(), mask)
    metric = AveragePrecisionMetric()
    assert metric(relevance[:2], mask[:2]).shape == (2, 1)
    metric([MetaTensor(one) for one in relevance[2:]], list(mask[2:]))
    assert len(metric) == 5
    assert torch.equal(metric.get_buffer()[:, 0], wanted)
    assert metric.aggregate().item() == pytest.approx(wanted.mean().item(), abs=1e-6)
    assert metric.aggregate("sum").item() == pytest.approx(wanted.sum().item(), abs=1e-6)
    assert metric.aggregate("mean_batch").shape == (1,)
    assert torch.equal(metric.aggregate("none")[:, 0], wanted)
    metric.reset()
    assert len(metric) == 0


def test_images_without_an_answer_are_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    relevance, mask = maps()
    mask[1], mask[3], relevance[4, 0, 2, 2] = False, True, torch.nan
    metric = AveragePrecisionMetric(get_not_nans=True)
    metric(relevance, mask)
    value, count = metric.aggregate()
    wanted = average_precision(relevance.abs(), mask)
    assert wanted.isnan().tolist() == [False, True, False, True, True]
    assert value.item() == pytest.approx(wanted.nanmean().item(), abs=1e-6)
    assert count.item() == 2
    assert metric.left_out() == {"truth empty": 1, "truth everywhere": 1, "map not finite": 1}
    assert metric.get_buffer().isnan().sum() == 3  # aggregating did not write into it
    assert "average_precision: 3 of 5 images have no answer: map not finite (1), truth empty (1)" in caplog.text


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_batch", "sum_batch", "mean_channel", "sum_channel"])
def test_nothing_to_sum_up_is_nan_and_never_0(reduction: str) -> None:
    relevance, mask = maps()
    metric = AveragePrecisionMetric(reduction=reduction)
    metric(relevance, mask & False)
    assert metric.aggregate().isnan().all()
    assert AveragePrecisionMetric().aggregate().isnan().all()


def test_regions_are_columns_and_must_be_named() -> None:
    relevance, _ = maps()
    labels = torch.randint(0, 3, (5, 1, 6, 7), generator=torch.Generator().manual_seed(1))
    labels[2][labels[2] == 2] = 1
    metric = RegionScoresMetric(regions=[2, 1], side="as is", reduction="mean_batch", get_not_nans=True)
    metric(relevance[:3], labels[:3])
    metric(relevance[3:], labels[3:])
    wanted = region_scores(relevance, labels, regions=[2, 1])
    torch.testing.assert_close(metric.get_buffer(), wanted, equal_nan=True)
    value, count = metric.aggregate()
    torch.testing.assert_close(value.double(), wanted.nanmean(0), rtol=1e-5, atol=1e-6)
    assert count.tolist() == [4, 5]
    assert sum(metric.left_out().values()) == 1
    with pytest.raises(UsageError, match="name the regions"):
        RegionScoresMetric()


def test_voxels_to_ignore_are_a_second_channel() -> None:
    relevance, mask = maps()
    ignore = torch.zeros_like(mask)
    ignore[..., 4:] = True
    found = AveragePrecisionMetric()(relevance, torch.cat([mask, ignore], 1))
    assert torch.equal(found[:, 0], average_precision(relevance.abs(), mask, ignore=ignore))
    assert not torch.equal(found[:, 0], average_precision(relevance.abs(), mask))
    with pytest.raises(UsageError, match=r"wanted a truth of one channel, got \(5, 3, 6, 7\)"):
        AveragePrecisionMetric()(relevance, torch.cat([mask, ignore, ignore], 1))
    with pytest.raises(UsageError, match="wanted a truth of one channel"):
        SpearmanMetric()(relevance, torch.cat([relevance, relevance], 1))


def test_a_metric_without_truth_takes_none_and_one_with_truth_wants_it() -> None:
    relevance, _ = maps()
    assert EntropyMetric()(relevance).shape == (5, 1)
    with pytest.raises(UsageError, match="wanted a truth for the maps"):
        AveragePrecisionMetric()(relevance)
    with pytest.raises(UsageError, match="insertion runs the network"):
        RelevanceMetric("insertion")


PROCESS = """
import json, sys
import numpy as np
import torch
import torch.distributed as dist
from medsal.metrics import AveragePrecisionMetric
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, count = dist.get_rank(), dist.get_world_size()
data = np.load(sys.argv[1])
metric = AveragePrecisionMetric(get_not_nans=True)
found = []
for chosen in (range(rank, 5, count), range(0, 2) if rank == 1 else range(0)):
    for i in chosen:
        metric(torch.from_numpy(data["relevance"][i:i + 1]), torch.from_numpy(data["mask"][i:i + 1]))
    value, not_nans = metric.aggregate()
    found.append([value.item(), not_nans.item(), sorted(metric.get_buffer().flatten().tolist(), key=str),
                  metric.left_out(), len(metric)])
    metric.reset()
with open(f"{sys.argv[2]}{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def test_two_processes_give_what_one_gives_also_where_one_sees_no_image(tmp_path: Path, repository: Path) -> None:
    relevance, mask = maps()
    mask[1] = False
    np.savez(tmp_path / "maps.npz", relevance=relevance.numpy(), mask=mask.numpy())
    (tmp_path / "process.py").write_text(PROCESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    files = [str(tmp_path / name) for name in ("process.py", "maps.npz", "rank")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *files], check=False, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert str(first) == str(second)
    for found, chosen in zip(first, (slice(5), slice(2)), strict=True):
        metric = AveragePrecisionMetric(get_not_nans=True)
        metric(relevance[chosen], mask[chosen])
        value, count = metric.aggregate()
        values = sorted(metric.get_buffer().flatten().tolist(), key=str)
        assert found[0] == pytest.approx(value.item(), abs=1e-6)  # MONAI sums up in single precision
        assert str(found[1:]) == str([count.item(), values, metric.left_out(), len(metric)])
        assert found[3] == {"truth empty": 1}


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")  # MetricsSaver, of an image with no answer
def test_a_handler_of_an_engine_gives_value_and_details(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    cases: list[dict[str, Any]] = []
    for i in range(3):
        mask = torch.zeros(1, 16, 16, 16)
        mask[0, 2:6, 3:8, i : i + 5] = float(i != 2)
        image = MetaTensor(torch.rand(1, 16, 16, 16, generator=generator), meta={"filename_or_obj": f"sub-{i}.nii"})
        cases.append({"image": image, "label": 1, "mask": MetaTensor(mask), "case": f"sub-{i}"})
    network = DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)
    handler = IgniteMetricHandler(
        AveragePrecisionMetric(), output_transform=from_engine(["saliency_saliency", "truth"]), save_details=True
    )
    evaluator = AttributionEvaluator(
        "cpu",
        DataLoader(Dataset(cases), batch_size=2),
        network,
        "saliency",
        postprocessing=CopyItemsd("mask", names="truth"),
        key_val_metric={"average_precision": handler},
        val_handlers=[
            MetricsSaver(
                str(tmp_path),
                metric_details="average_precision",
                batch_transform=lambda batch: [item["image"].meta for item in batch],
            )
        ],
    )
    evaluator.run()
    details = evaluator.state.metric_details["average_precision"]
    assert details.shape == (3, 1)
    assert details.isnan().flatten().tolist() == [False, False, True]
    assert evaluator.state.metrics["average_precision"] == pytest.approx(details[:2].mean().item(), abs=1e-6)
    assert 0 < evaluator.state.metrics["average_precision"] < 1
    rows = (tmp_path / "average_precision_raw.csv").read_text().splitlines()
    assert [row.split("\t")[0].split(",")[0] for row in rows[1:]] == ["sub-0.nii", "sub-1.nii", "sub-2.nii"]
    assert math.isnan(float(rows[3].replace("\t", ",").split(",")[1]))
