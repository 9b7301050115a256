"""The table of scores of a run: from the postprocessing of an engine to the files, in one process and in two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.networks.nets import DenseNet
from monai.transforms import Compose

from medsal.attribution.explain import explain
from medsal.engines import AttributionEvaluator, Failure
from medsal.errors import InputError, UsageError
from medsal.evaluation import average_precision, prevalence
from medsal.handlers import ScoreTable
from medsal.scoring.table import read_scores
from medsal.transforms import AveragePrecisiond, Entropyd, RegionScoresd

KEYS = ["saliency_saliency", "saliency_gradcam"]


def cases(count: int = 4) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        mask = torch.zeros(1, 16, 16, 16)
        mask[0, 2:6, 3:8, i : i + 5] = 1
        image = MetaTensor(torch.rand(1, 16, 16, 16, generator=generator))
        found.append({"image": image, "label": 1, "mask": mask, "case": f"c{i}_a", "subject": f"s{i // 2}"})
    return found


def network() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2,), bn_size=1)


def run(items: list[dict[str, Any]], folder: Path, transforms: list[Any], batch_size: int = 2) -> ScoreTable:
    def collate(found: list[dict[str, Any]]) -> dict[str, Any]:
        good = [item for item in found if "error" not in item]
        return {
            **(list_data_collate(good) if good else {}),
            "failures": [item for item in found if "error" in item],
        }

    table = ScoreTable(folder)
    loader = DataLoader(Dataset(items), batch_size=batch_size, collate_fn=collate)
    AttributionEvaluator(
        "cpu",
        loader,
        network(),
        "saliency,gradcam",
        postprocessing=Compose(transforms),
        val_handlers=[table],
    ).run()
    return table


def test_every_score_is_a_row_of_the_files(tmp_path: Path) -> None:
    items = cases()
    items[1]["mask"] = items[1]["mask"] * 0
    written = run(items, tmp_path, [AveragePrecisiond(KEYS), Entropyd(KEYS)]).table
    assert written is not None
    table = read_scores(tmp_path)
    assert table.equals(written)
    assert table.equals(read_scores(tmp_path / "scores.csv"))
    assert len(table) == 4 * 2 * 2
    assert set(table["kind"]) == {"method"}
    assert list(dict.fromkeys(table["method"])) == ["saliency", "gradcam"]
    assert list(dict.fromkeys(zip(table["case"], table["patient"], strict=True))) == [
        ("c0_a", "s0"), ("c1_a", "s0"), ("c2_a", "s1"), ("c3_a", "s1"),
    ]  # fmt: skip
    for item in items:
        maps = explain(network(), item["image"][None].as_tensor(), ["saliency", "gradcam"])
        ours = table[(table["case"] == item["case"]) & (table["metric"] == "average_precision")]
        for name, relevance in maps.items():
            row = ours[ours["method"] == name].iloc[0]
            if item["mask"].any():
                wanted = average_precision(relevance.abs(), item["mask"][None]).item()
                assert row["value"] == pytest.approx(wanted, abs=1e-6)
                assert row["null"] == prevalence(item["mask"][None]).item()
                assert (row["side"], row["reason"]) == ("absolute", "")
            else:
                assert row[["value", "null"]].isna().all()
                assert row["reason"] == "truth empty"


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_cases_that_fail_have_rows_without_a_value(
    tmp_path: Path, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    items = cases()
    items[2]["image"][0, 1, 2, 3] = torch.nan
    items.append({"case": "broken", "subject": "s9", "error": "broken.nii: cut off"})
    labels = torch.arange(3).repeat_interleave(6)[:16].expand(1, 16, 16, 16)
    for item in items:
        item["labels"] = labels
    chain = [AveragePrecisiond(KEYS), RegionScoresd(KEYS[0], regions=[1, 2])]
    table = run(items, tmp_path, chain, batch_size).table
    assert table is not None
    assert table.groupby("case").size().to_dict() == dict.fromkeys(("c0_a", "c1_a", "c2_a", "c3_a", "broken"), 4)
    failed = table[table["case"].isin(["c2_a", "broken"])]
    assert failed["value"].isna().all()
    assert set(failed["reason"]) == {"not explained"}
    assert set(failed["part"]) == {"", "1", "2"}
    assert set(failed["patient"]) == {"s1", "s9"}
    assert not table["value"][~table.index.isin(failed.index)].isna().any()
    assert "8 scores have no answer: not explained (8)" in caplog.text
    assert "cut off" not in (tmp_path / "scores.csv").read_text()


def test_a_run_without_scores_and_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no scores: put transforms such as AveragePrecisiond"):
        run(cases(1), tmp_path, [])
    items = cases(2)
    items[1]["case"] = items[0]["case"]
    with pytest.raises(InputError, match="same case, map, metric and part"):
        run(items, tmp_path, [AveragePrecisiond(KEYS)])
    assert not (tmp_path / "scores.csv").exists()


def test_a_case_whose_maps_could_not_be_written_keeps_its_scores_and_earlier_cases_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = ScoreTable(tmp_path, ledger=SimpleNamespace(skipped=["c7_a", "c8_a"]))  # type: ignore[arg-type]  # all it asks
    evaluator = AttributionEvaluator(
        "cpu", DataLoader(Dataset(cases(2)), batch_size=2), network(), "gradcam",
        postprocessing=AveragePrecisiond(KEYS[1]),
    )  # fmt: skip

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _fail(engine: Any) -> None:
        engine.state.failures.append(Failure({"case": "c1_a", "subject": "s0"}, "the disk is full"))

    table.attach(evaluator)
    evaluator.run()
    assert table.table is not None
    assert table.table["case"].tolist() == ["c0_a", "c1_a"]
    assert not table.table["value"].isna().any()
    assert "2 cases were finished before and are not in the table of scores" in caplog.text


PROCESS = """
import sys
import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset, DistributedSampler
from medsal.engines import AttributionEvaluator
from medsal.handlers import ScoreTable
from medsal.transforms import AveragePrecisiond
sys.path.insert(0, sys.argv[2])
from tests.test_score_table import KEYS, cases, network
torch.set_num_threads(1)
dist.init_process_group("gloo")
items = cases(5)
items[3]["image"][0, 1, 2, 3] = torch.nan
data = Dataset(items)
table = ScoreTable(sys.argv[1])
sampler = DistributedSampler(data, even_divisible=True, shuffle=False)  # the first case comes twice
AttributionEvaluator(
    "cpu", DataLoader(data, batch_size=1, sampler=sampler), network(), "saliency,gradcam",
    postprocessing=AveragePrecisiond(KEYS), val_handlers=[table],
).run()
assert (table.table is None) == (dist.get_rank() > 0)
dist.destroy_process_group()
"""


def test_two_processes_write_the_table_that_one_writes(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path]), "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        files = [str(tmp_path / "process.py"), str(tmp_path / str(count)), str(repository)]
        done = subprocess.run(
            [*launcher, *files], check=False, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    one, two = (read_scores(tmp_path / count) for count in ("1", "2"))
    assert list(dict.fromkeys(one["case"])) == [f"c{i}_a" for i in range(5)]
    assert len(one) == 10
    assert one["value"].isna().sum() == 2
    assert (tmp_path / "1/scores.csv").read_bytes() == (tmp_path / "2/scores.csv").read_bytes()
    assert one.equals(two)
