"""What is wrong with a study is named, before much is computed, and never passed over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsal.errors import InputError, MedsalError, UsageError
from medsal.evaluation.baselines import mean_training_mask
from medsal.studies import Study, StudySettings
from medsal.studies.trust.cases import Cases
from tests.networks_for_studies import Matched, films

SETTINGS = {
    "resamples": 50, "null_shifts": 5, "figures": False, "orders": ["top_down"], "random_pairs": 3,
    "parts": ["utility"],
}  # fmt: skip


def study(folder, networks=None, items=None, methods=("saliency",), settings=None, **more):
    given = {**SETTINGS, **(settings or {})}
    return Study(networks or {"a": Matched(0)}, items or films(3), list(methods), str(folder), given, **more)


def strength(network, image, target):
    return image.abs()


def test_two_networks_never_share_the_files_of_one_name(tmp_path):
    with pytest.raises(UsageError, match=r"'net\+aug' and 'net aug' are one name as a file's"):
        study(tmp_path, {"net+aug": Matched(0), "net aug": Matched(1)})


def test_two_functions_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="methods: two are called '<lambda>'"):
        study(tmp_path, methods=[lambda n, i, t: i, lambda n, i, t: -i])
    study(tmp_path, methods=[strength, strength])


@pytest.mark.parametrize("given", ["model.pt", ["model.pt"]])
def test_a_path_in_place_of_a_network_is_named(tmp_path, given):
    with pytest.raises(UsageError, match=r"a/0 to be a network, got str 'model.pt'; see checkpoints"):
        study(tmp_path, {"a": given})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed: wanted a whole number of 0 or more, got -1"),
        ({"part": ["pairs"]}, "settings: wanted some of parts, .*got 'part'. Did you mean part"),
        ({"parts": "utility, utilty"}, "parts: wanted one of utility, .*got 'utilty'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        study(tmp_path, settings=settings)


def test_settings_with_commas_are_lists():
    assert StudySettings(parts="utility, pairs", orders="top_down").parts == ["utility", "pairs"]


def test_an_unknown_key_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"keys: wanted some of image, .*got 'masks'"):
        study(tmp_path, keys={"masks": "m"})


@pytest.mark.parametrize("label", ["sick", 0.7, torch.tensor([0, 1])])
def test_a_label_that_is_no_class_is_named(label):
    with pytest.raises(InputError, match="film-0: wanted the label to be the number of a class"):
        Cases([{**films(1)[0], "label": label}])


def test_the_others_go_on_without_cases_that_are_none(tmp_path, caplog):
    good = films(6)
    bad = [
        {**good[1], "case": "outside", "fault": "'r.csv' row 4: box outside the film"},
        {"case": "absent", "error": "no such file"},
        {**good[1], "case": "nan", "image": good[1]["image"] * torch.nan},
        {**good[1], "case": "other grid", "mask": good[1]["mask"][:, :9]},
        {**good[1], "case": "word", "label": "sick"},
        {"image": good[1]["image"]},
    ]
    mixed = [item for pair in zip(bad, good, strict=True) for item in pair]
    made = study(tmp_path / "mixed", items=mixed)
    tables, alone = made.run(), study(tmp_path / "alone", items=good).run()
    assert tables["left_out"]["case"].tolist() == ["outside", "absent", "nan", "other grid", "word", "item 10"]
    assert tables["left_out"]["reason"][0] == "'r.csv' row 4: box outside the film"
    assert (tmp_path / "mixed" / "left_out.csv").is_file()
    assert "left out absent: no such file" in caplog.text
    for name in ("utility", "networks", "verdicts"):
        assert tables[name].equals(alone[name]), name
    assert "left_out" not in alone


@pytest.mark.parametrize("label", [None, float("nan"), "", -1])
def test_an_empty_label_is_none(label):
    assert Cases([{**films(1)[0], "label": label}]).labels == [None]


@pytest.mark.parametrize("blank", [None, "", float("nan")])
def test_cases_whose_patient_is_not_told_are_not_one_patient(blank):
    items = [{**item, "patient": blank} for item in films(3)]
    assert Cases(items).patients == ["film-0", "film-1", "film-2"]
    assert Cases([{**items[0], "subject": "somebody"}]).patients == ["somebody"]


def test_a_trained_network_without_finite_logits_is_named_with_its_step(tmp_path):
    class Broken(Matched):
        def forward(self, x):
            return super().forward(x) * torch.nan

    for method in ("saliency", strength):
        with pytest.raises(MedsalError, match=r"^b/0: .*the network's logits are not finite"):
            study(tmp_path / str(method)[:5], {"a": Matched(0), "b": Broken()}, methods=[method]).run()


def test_what_does_not_suit_a_network_is_known_before_anything_is_explained(tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(1600, 2))
    with pytest.raises(UsageError, match=r"^flat/0: blocks: target_layer: no layer of the network"):
        study(tmp_path, {"a": Matched(0), "flat": flat}, methods=["gradcam"]).run()
    assert not (tmp_path / "maps").exists()


def test_a_prior_that_cannot_be_used_is_refused_before_anything_is_explained(tmp_path):
    mask = films(3)[1]["mask"]
    for name, given, message in (("film-1", mask, "film-1"), ("x", mask[:, :9], r"prior: wanted the grid \(40, 40\)")):
        prior = mean_training_mask([(name, given)], {name: "train"})
        with pytest.raises(UsageError, match=message):
            study(tmp_path, prior=prior)
    assert not (tmp_path / "study.json").exists()
