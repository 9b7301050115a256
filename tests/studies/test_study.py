"""The whole study: explainers that must fail fail, a network with a known reason passes, a killed study goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from medsal.errors import InputError, UsageError
from medsal.evaluation.baselines import edge_filter, mean_training_mask
from medsal.studies import Study, StudySettings
from medsal.studies.trust.verdicts import ARUN, CHANCE, PRIOR, QUESTIONS, REPEATS, REPRODUCES, WEIGHTS
from tests.networks_for_studies import Matched, films


def edges(network, image, target):
    return edge_filter(image)


def constant(network, image, target):
    return torch.zeros(len(image), 1, *image.shape[2:])


def noise(network, image, target):
    """Noise of its own for each network and image, the same whenever it is asked for."""
    maps = []
    for one in image:
        digest = hashlib.sha256(one.numpy().tobytes())
        for value in network.state_dict().values():
            digest.update(value.numpy().tobytes())
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7]))
        maps.append(torch.rand(1, *one.shape[1:], generator=generator))
    return torch.stack(maps)


METHODS = ["input_x_gradient", "gradcam", edges, noise, constant]
SETTINGS = {"batch_size": 12, "resamples": 200, "null_shifts": 29, "partners": 2, "random_pairs": 20, "target": "label"}


def networks(seeds: int = 3) -> dict[str, list[nn.Module]]:
    return {
        "shallow": [Matched(seed) for seed in range(seeds)],
        "deep": [Matched(10 + seed, deep=True) for seed in range(seeds)],
    }


def prior():
    masks = [(f"train-{item['case']}", item["mask"]) for item in films(30)[:15]]
    return mean_training_mask(masks, {case: "train" for case, _ in masks})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    return folder, Study(networks(), films(), METHODS, str(folder), SETTINGS, prior=prior()).run()


def answers(tables):
    found = tables["verdicts"]
    return {(row["method"], row["question"]): row["answer"] for row in found.to_dict("records")}


def test_a_method_on_networks_with_a_known_reason_passes_everything(whole):
    found = answers(whole[1])
    for method in ("input_x_gradient", "gradcam"):
        assert {question: found[method, question] for question in QUESTIONS} == dict.fromkeys(QUESTIONS, "yes")


def test_explainers_that_must_fail_fail(whole):
    found = answers(whole[1])
    assert found["edges", WEIGHTS] == "no"
    assert found["edges", ARUN] == "no"
    assert found["edges", REPEATS] == found["edges", REPRODUCES] == "yes"
    assert found["noise", REPEATS] == found["noise", REPRODUCES] == "no"
    assert found["noise", WEIGHTS] == "yes"  # a map of nothing passes randomisation easily: a gate, no ranking
    assert found["noise", CHANCE] == found["noise", PRIOR] == "no"
    assert found["constant", CHANCE] == found["constant", PRIOR] == "no"
    assert found["constant", REPEATS] == found["constant", WEIGHTS] == "not testable"


def test_each_verdict_has_its_interval(whole):
    found = whole[1]["verdicts"]
    known = found[(found["answer"] != "not testable") & (found["question"] != ARUN)]
    assert (known["low"] <= known["estimate"] + 1e-12).all()
    assert (known["estimate"] <= known["high"] + 1e-12).all()
    assert (known["patients"] >= 3).all()
    assert found.loc[found["answer"] == "not testable", "reason"].ne("").all()


def test_similarity_at_every_step(whole):
    table = whole[1]["randomisation"]
    steps = {"shallow": 2, "deep": 3}
    for (architecture, order), part in table.groupby(["architecture", "order"]):
        assert part["step"].nunique() == steps[architecture], order
        assert len(part) == steps[architecture] * 3 * 5 * 12
    edge = table[table["method"] == "edges"]
    assert np.allclose(edge[["ssim", "ssim_corrected", "spearman", "top_k_overlap"]], 1)
    last = table.groupby("network")["step"].transform("max") == table["step"]
    ends = [
        table[last & (table["order"] == order)].sort_values(["network", "method", "case"])["ssim"].to_numpy()
        for order in ("top_down", "bottom_up")
    ]
    assert np.array_equal(*ends, equal_nan=True)  # one network, reached from either end


def test_each_step_states_what_was_changed_and_what_became_of_the_network(whole):
    table = whole[1]["states"]
    full = table[(table["order"] == "top_down") & (table["step"] == table.groupby("network")["step"].transform("max"))]
    assert (full["parameters_changed"] == full["parameters"]).all()
    assert (full["jensen_shannon"] > 0.01).all()
    assert table["auroc"].between(0, 1).all()
    assert (whole[1]["networks"]["auroc"] == 1).all()


def test_pairs_state_performance_and_the_cases_that_both_have_right(whole):
    tables = whole[1]
    summary = tables["pair_summary"]
    assert (summary["auroc_difference"] == 0).all()
    assert set(summary["subset"]) == {"all", "both right"}
    one = tables["pairs"][tables["pairs"]["method"] == "noise"]
    assert one.groupby("kind")[["first", "second"]].apply(lambda p: len(p.drop_duplicates())).to_dict() == {
        "repeatability": 6,
        "reproducibility": 9,
    }


def test_costs_are_counted_beside_those_of_a_loop(whole):
    table = whole[1]["passes"].set_index("method")
    cases, members = 12, 6
    loop = {"shallow": 1 + 3 * 2 + 1 + 5, "deep": 1 + 3 * 3 + 1 + 5}  # states, utility, pairs
    maps = cases * 3 * sum(loop.values())
    assert table.loc["gradcam", "passes_of_the_loop"] == 2 * maps  # a forward and a backward each
    assert table.loc["edges", "passes_of_the_loop"] == table.loc["edges", "passes"] == 0
    assert table.loc["all", "passes"] <= 2 * cases * members * (1 + 3 * 2.5)
    assert table.drop("all")["passes"].sum() == pytest.approx(table.loc["all", "passes"])
    assert table.loc[["gradcam", "input_x_gradient", "all"], "ratio"].min() >= 3


def test_tables_are_written_as_they_are_returned(whole):
    folder, tables = whole
    for name, table in tables.items():
        read = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert list(read.columns) == list(table.columns)
        for column in table.select_dtypes("float"):
            assert np.array_equal(read[column], table[column], equal_nan=True), (name, column)
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "randomisation-shallow.png", "randomisation-deep.png", "pairs.png",
    }  # fmt: skip


class Killed(BaseException):
    """Ends a study where no handler expects it."""


SMALL = {**SETTINGS, "figures": False, "batch_size": 3, "draws": 2, "orders": ["top_down", "independent"]}


def small(folder, fails_after=None):
    made = {"shallow": [Matched(0), Matched(1)], "deep": [lambda: Matched(10, deep=True)]}
    study = Study(made, films(4), ["saliency", "scorecam", noise], str(folder), SMALL)
    if fails_after is not None:
        write, done = study.records.write, []

        def stop(key, content):
            if len(done) >= fails_after:
                raise Killed
            done.append(key)
            write(key, content)

        study.records.write = stop
    return study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    small(folder).run()
    return folder


def test_a_killed_study_goes_on_to_the_same_numbers_bit_by_bit(tmp_path, finished):
    steps = len(list((finished / "steps").rglob("*.json")))
    stops = (3, 3 * steps // 4)
    for after in stops:
        folder = tmp_path / f"killed-{after}"
        with pytest.raises(Killed):
            small(folder, after).run()
        assert not (folder / "verdicts.csv").exists()
        small(folder).run()
    for path in finished.glob("*.csv"):
        if path.name == "passes.csv":  # what was really run: features forgotten by a kill are computed again
            continue
        for after in stops:
            assert path.read_bytes() == (tmp_path / f"killed-{after}" / path.name).read_bytes(), path.name


def share(folder, who):
    """One of two processes on one study; notes which steps it did."""
    torch.set_num_threads(1)
    study = small(folder)
    write = study.records.write

    def note(key, content):
        (folder / who).open("a").write(f"{key}\n")
        write(key, content)

    study.records.write = note
    (folder / f"{who} is here").touch()
    while len(list(folder.glob("* is here"))) < 2:
        time.sleep(0.05)
    study.run()


def test_two_processes_share_a_study(tmp_path, finished):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=share, args=(tmp_path, who)) for who in ("one", "other")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    did = [(tmp_path / who).read_text().splitlines() for who in ("one", "other")]
    assert all(did)
    assert sorted(did[0] + did[1]) == sorted(
        str(path.relative_to(tmp_path / "steps").with_suffix("")) for path in (tmp_path / "steps").rglob("*.json")
    )
    for path in finished.glob("*.csv"):
        if path.name != "passes.csv":  # each process remembers features of its own
            assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
    assert not list(tmp_path.rglob("*.lock"))


def test_a_finished_study_is_not_done_again(finished):
    again = small(finished)
    again._subject = None  # nothing may be explained
    again.run()


def test_another_study_in_the_folder_is_refused(tmp_path):
    small(tmp_path)
    with pytest.raises(UsageError, match=r"holds another study \(other methods\)"):
        Study({"shallow": [Matched(0), Matched(1)], "deep": [Matched(10, deep=True)]}, films(4), ["saliency"],
              str(tmp_path), SMALL)  # fmt: skip
    with pytest.raises(UsageError, match=r"other networks"):
        Study({"shallow": [Matched(0), Matched(2)], "deep": [Matched(10, deep=True)]}, films(4),
              ["saliency", "scorecam", noise], str(tmp_path), SMALL)  # fmt: skip


def test_remembered_features_change_nothing(tmp_path):
    made = {"deep": [Matched(10, deep=True)]}
    tables = {}
    for budget in (0, 2**30):
        settings = {**SMALL, "features_budget": budget, "parts": ["randomisation"]}
        study = Study(made, films(4), ["gradcam", "scorecam"], str(tmp_path / str(budget)), settings)
        tables[budget] = study.run()
    pd.testing.assert_frame_equal(tables[0]["randomisation"], tables[2**30]["randomisation"], check_exact=True)
    assert tables[2**30]["passes"]["passes"].iloc[-1] < 0.95 * tables[0]["passes"]["passes"].iloc[-1]


def test_a_network_that_drawing_anew_does_not_break_tests_nothing(tmp_path):
    class Deaf(nn.Module):
        """Its logits do not depend on its weight."""

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x):
            y = 0 * self.first(x).flatten(1).sum(1, keepdim=True) + x.flatten(1).sum(1, keepdim=True)
            return torch.cat([-y, y], 1)

    settings = {**SETTINGS, "parts": ["randomisation"], "figures": False}
    tables = Study({"deaf": Deaf()}, films(6), ["input_x_gradient"], str(tmp_path), settings).run()
    row = tables["verdicts"].set_index("question").loc[WEIGHTS]
    assert row["answer"] == "not testable"
    assert "nothing was broken" in row["reason"]


def test_random_weights_that_give_no_finite_logits_are_recorded(tmp_path):
    class Fragile(Matched):
        def forward(self, x):
            return super().forward(x) / (self.head.bias[1] == -0.25)

    settings = {**SETTINGS, "parts": ["randomisation"], "figures": False, "orders": ["top_down"]}
    tables = Study({"fragile": Fragile()}, films(6), ["saliency", edges], str(tmp_path), settings).run()
    assert (tables["states"]["reason"] == "the network's logits are not finite for this image").all()
    assert tables["randomisation"]["ssim"].isna().all()
    answer = tables["verdicts"].set_index(["method", "question"]).loc[("saliency", WEIGHTS)]
    assert (answer["answer"], answer["left_out"]) == ("not testable", 6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": []}, UsageError, "at least one case"),
        ({"items": [*films(2), films(1)[0]]}, UsageError, "two cases are called 'film-0'"),
        ({"items": [{"case": "a", "image": torch.full((1, 9, 9), torch.nan), "label": 0}]}, InputError, "not finite"),
        ({"items": [{"case": "a", "label": 0}]}, InputError, "no 'image'"),
        ({"items": [{"case": "a", "image": torch.zeros(1, 9, 9)}]}, UsageError, "a has no label; give target"),
        ({"methods": ["salience"]}, UsageError, "Did you mean saliency"),
        ({"methods": []}, UsageError, "at least one"),
        ({"networks": {}}, UsageError, "networks: wanted at least one"),
        ({"networks": {"a": [lambda: 3]}}, UsageError, "a/0 to be a network, got int"),
        ({"settings": {"orders": ["up"]}}, UsageError, "orders: wanted one of top_down"),
        ({"settings": {"draws": 0}}, UsageError, "draws: wanted a whole number"),
        ({"settings": {"target": "truth"}}, UsageError, "target: wanted one of label"),
        ({"settings": {"reinitialise": "shuffle"}}, UsageError, "reinitialise: wanted one of"),
    ],
)
def test_bad_input_is_named(tmp_path, change, error, message):
    given = {"networks": {"shallow": [Matched(0)]}, "items": films(3), "methods": ["saliency"], **change}
    with pytest.raises(error, match=message):
        Study(given["networks"], given["items"], given["methods"], str(tmp_path), given.get("settings"))


def test_a_map_of_the_wrong_shape_is_named(tmp_path):
    def flat(network, image, target):
        return image.flatten(1)

    with pytest.raises(UsageError, match=r"flat: wanted a map of shape \(3, 1, 40, 40\)"):
        Study({"shallow": Matched(0)}, films(3), [flat], str(tmp_path), SETTINGS).run()


def test_the_setup_is_written(tmp_path):
    Study({"shallow": Matched(0)}, films(3), ["saliency"], str(tmp_path), StudySettings(seed=4))
    setup = json.loads((tmp_path / "study.json").read_text())["setup"]
    assert setup["settings"]["seed"] == 4
    assert setup["methods"] == {"saliency": {"method": "saliency"}}
    shutil.rmtree(tmp_path)
