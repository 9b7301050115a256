"""The region study: planted differences are found, chance is chance, what is left out is counted and named."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from scipy import stats

from medsal.bundle import Workflow
from medsal.bundle.exits import CasesFailedError
from medsal.data import LUNG_REGIONS
from medsal.errors import NothingToDoError, UsageError
from medsal.evaluation.group_tests import region_tests
from medsal.scoring import folder_cases
from medsal.studies.regions import (
    RegionSettings,
    RegionStudy,
    compare_groups,
    compare_readers,
    detectable_difference,
    read_tables,
    study_cases,
)
from medsal.studies.regions.figures import common_regions

ROWS, COLUMNS = 12, 18
PATIENTS, FILMS = 8, 2


def label_picture():
    """Six regions, three beneath each other on either side, none in the middle."""
    labels = np.zeros((ROWS, COLUMNS), np.uint8)
    for side, columns in enumerate((slice(1, 7), slice(11, 17))):
        for zone in range(3):
            labels[1 + 3 * zone : 4 + 3 * zone, columns] = 3 * side + zone + 1
    return labels


def save(folder, name, array):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".png"):
        Image.fromarray(array).save(folder / name)
    else:
        np.save(folder / name, array)


@pytest.fixture
def films(tmp_path):
    """Two methods' maps of two groups of patients, two films each; `ig` has more in region 2 of the sick."""
    rng, table = np.random.default_rng(5), []
    for group in ("NORMAL", "PNEUMONIA"):
        for number in range(PATIENTS):
            own = rng.normal(0, 0.15)
            for film in range(FILMS):
                case = f"{group}-{number}-{film}"
                for method in ("ig", "noise"):
                    relevance = rng.uniform(0.4, 1.0, (ROWS, COLUMNS)).astype(np.float32)
                    if method == "ig":
                        relevance[label_picture() == 2] += 0.5 + own + (1.2 if group == "PNEUMONIA" else 0)
                    save(tmp_path, f"maps/{method}/{case}.npy", relevance)
                save(tmp_path, f"regions/{case}.png", label_picture())
                table.append({"case": case, "group": group, "patient": f"{group}{number}", "reader a": own, "b": ""})
    with (tmp_path / "groups.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return tmp_path


def gathered(films, regions=None, groups=None, pattern=True):
    truth = {"regions": f"{films}/regions/{{case}}.png"} if pattern else {}
    cases = folder_cases(f"{films}/maps/{{method}}/{{case}}.npy", truth)
    return study_cases(cases, "", regions=regions or {}, groups={"table": films / "groups.csv", **(groups or {})})


def read(folder, name):
    if name in {"regions.csv", "cases.csv"}:
        return read_tables(folder)[name == "cases.csv"]
    return pd.read_csv(folder / name, dtype={"reason": str}).fillna({"reason": ""})


def pick(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def test_a_planted_difference_is_found_where_it_is_and_nowhere_else(films):
    tests = RegionStudy(gathered(films), None, films / "out").run()
    own = pick(tests, preset="patients", reduce="mean", method="ig")
    assert list(own[own["significant"]]["region"]) == ["region 2"]
    found = own[own["region"] == "region 2"].iloc[0]
    assert (found["group"], found["reference"]) == ("PNEUMONIA", "NORMAL")
    assert found["difference"] > 0
    assert found["low"] > 0
    assert found["cohen_d"] > 2
    assert found["cliffs_delta"] == 1
    assert (found["n_group"], found["n_reference"], found["unit"]) == (PATIENTS, PATIENTS, "patient")
    assert not pick(tests, method="noise", preset="patients", reduce="mean")["significant"].any()
    most = pick(tests, preset="patients", reduce="density", method="ig").set_index("region")["cohen_d"]
    assert most.idxmax() == "region 2"
    assert (most.drop("region 2") < 0).all()  # what one region gains the others lose


def test_the_tables_are_read_whatever_a_group_is_called(films):
    table = pd.read_csv(films / "groups.csv")
    table["group"] = table["group"].map({"NORMAL": "None", "PNEUMONIA": "NA"})
    table.to_csv(films / "groups.csv", index=False)
    settings = RegionSettings(reduce=("density",), tests=("patients", "mixed"))
    tests = RegionStudy(gathered(films), settings, films / "out").run()
    assert set(tests["group"]) | set(tests["reference"]) == {"None", "NA"}
    pd.testing.assert_frame_equal(compare_groups(*read_tables(films / "out"), settings), tests)


def test_patients_of_both_groups_are_tested_by_the_mixed_model(films):
    table = pd.read_csv(films / "groups.csv")
    table["patient"] = table["case"].str.split("-").str[1]
    table.to_csv(films / "groups.csv", index=False)
    with pytest.raises(UsageError, match="use --tests mixed"):
        RegionStudy(gathered(films), {"tests": ["patients"]}, films / "out").run()
    tests = RegionStudy(gathered(films), {"tests": ["mixed"], "reduce": ["density"]}, films / "out").run()
    assert (tests["n_group"] == PATIENTS).all()
    assert pick(tests, method="ig", region="region 2")["significant"].all()


def test_density_does_not_know_the_scale_of_a_map_nor_the_size_of_its_region(films):
    before = RegionStudy(gathered(films), {"reduce": ["density"]}, films / "out").run()
    for number, path in enumerate((films / "maps").glob("*/*.npy"), 1):
        np.save(path, np.load(path) * 0.1 * number)
    after = RegionStudy(gathered(films), {"reduce": ["density"]}, films / "out").run()
    pd.testing.assert_frame_equal(before, after, rtol=1e-4)


def test_the_tests_are_scipys_over_the_means_of_patients(films):
    settings = RegionSettings(reduce=("density",), tests=("patients",))
    tests = RegionStudy(gathered(films), settings, films / "out").run()
    labels, raw = label_picture(), []
    for region in range(1, 7):
        sides = []
        for group in ("PNEUMONIA", "NORMAL"):
            of_patient = []
            for number in range(PATIENTS):
                maps = [np.load(films / f"maps/ig/{group}-{number}-{film}.npy") for film in range(FILMS)]
                of_patient.append(np.mean([one[labels == region].mean() / one.mean() for one in maps]))
            sides.append(of_patient)
        raw.append(stats.ttest_ind(*sides, equal_var=False))
    own = tests[tests["method"] == "ig"]
    np.testing.assert_allclose(own["p"], [one.pvalue for one in raw], rtol=1e-4)
    order, holm, worst = np.argsort([one.pvalue for one in raw]), np.empty(6), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, raw[at].pvalue * (6 - rank)))
        holm[at] = worst
    np.testing.assert_allclose(own["p_corrected"], holm, rtol=1e-4)
    assert (tests["p_all_methods"] >= tests["p_corrected"] - 1e-12).all()


def test_the_published_tree_counts_images_at_its_own_level(films):
    tests = RegionStudy(gathered(films), {"tests": "suemer2023", "reduce": "mean"}, films / "out").run()
    own = tests[tests["method"] == "ig"]
    assert set(own["unit"]) == {"image"}
    assert set(own["n_group"]) == {PATIENTS * FILMS}
    assert set(own["alpha"]) == {0.001}
    assert set(own["correction"]) == {"bonferroni"}
    scores, cases = read(films / "out", "regions.csv"), read(films / "out", "cases.csv")
    order = [*cases[cases["group"] == "PNEUMONIA"]["case"], *cases[cases["group"] == "NORMAL"]["case"]]
    table = {
        region: rows.set_index("case")["value"].reindex(order).to_numpy()
        for region, rows in pick(scores, method="ig").groupby("region", sort=False)
    }
    groups = ["PNEUMONIA"] * PATIENTS * FILMS + ["NORMAL"] * PATIENTS * FILMS
    theirs = region_tests(table, groups, preset="suemer2023")
    np.testing.assert_allclose(own["p"], [one.outcome.p for one in theirs])
    np.testing.assert_allclose(own["p_corrected"], [one.p_corrected for one in theirs])


def test_every_group_is_tested_against_the_reference_in_one_family(films):
    text = (films / "groups.csv").read_text().replace("NORMAL-0-0,NORMAL", "NORMAL-0-0,VIRUS")
    for number in range(4):
        for film in range(FILMS):
            text = text.replace(f"NORMAL-{number}-{film},NORMAL,", f"NORMAL-{number}-{film},VIRUS,")
    (films / "groups.csv").write_text(text)
    settings = RegionSettings(reduce=("share",), tests=("suemer2023",), reference="PNEUMONIA")
    tests = pick(RegionStudy(gathered(films), settings, films / "out").run(), method="ig")
    assert list(zip(tests["group"], tests["region"], strict=True))[5:7] == [
        ("NORMAL", "region 6"),
        ("VIRUS", "region 1"),
    ]
    np.testing.assert_allclose(tests["p_corrected"], np.minimum(1, tests["p"] * 12))


def test_a_constant_map_gets_what_chance_gives(films):
    for path in (films / "maps").glob("*/*.npy"):
        np.save(path, np.full((ROWS, COLUMNS), 3.0, np.float32))
    RegionStudy(gathered(films), {"reduce": ["density", "share", "mean", "sum"]}, films / "out").run()
    scores = read(films / "out", "regions.csv")
    np.testing.assert_allclose(scores["value"], scores["chance"], rtol=1e-6)
    expected = {"density": 1.0, "share": 18 / (ROWS * COLUMNS), "mean": 3.0, "sum": 54.0}
    for reduce, value in expected.items():
        np.testing.assert_allclose(pick(scores, reduce=reduce)["value"], value, rtol=1e-6)


@pytest.mark.parametrize(
    ("cells", "name", "part"),
    [
        ([1, 4], "strip 4", (slice(None), slice(12, None))),
        ([5, 1], "strip 5", (slice(8, None), slice(None))),
        ([2, 4], "row 2 column 4", (slice(6, None), slice(12, None))),
    ],
)
def test_the_last_cell_of_a_grid_takes_the_remainder(films, cells, name, part):
    study = gathered(films, {"cells": cells}, pattern=False)
    RegionStudy(study, {"reduce": ["sum", "mean"]}, films / "out").run()
    scores = pick(read(films / "out", "regions.csv"), case="NORMAL-1-0", method="ig", region=name)
    relevance = np.load(films / "maps/ig/NORMAL-1-0.npy").astype(float)
    np.testing.assert_allclose(scores["value"], [relevance[part].sum(), relevance[part].mean()], rtol=1e-6)


def lungs(films, doubted):
    """The folder that the bundle of lung fields writes."""
    with (films / "lung_fields.csv").open("w") as file:
        file.write("case,share,doubts\n")
        for path in sorted((films / "regions").glob("*.png")):
            save(films, f"lung_regions/{path.name}", label_picture())
            file.write(f"{path.stem},0.3,{'one lung is 3 times the other' if path.stem in doubted else ''}\n")
    return {"lungs_dir": films}


def test_doubted_lung_fields_are_left_out_counted_by_group_and_named(films):
    regions = lungs(films, {"PNEUMONIA-0-0", "PNEUMONIA-1-0", "PNEUMONIA-1-1"})
    tests = RegionStudy(gathered(films, regions, pattern=False), None, films / "out").run()
    assert list(dict.fromkeys(tests["region"])) == list(LUNG_REGIONS.values())
    assert set(pick(tests, preset="patients")["n_group"]) == {PATIENTS - 1}
    assert set(pick(tests, preset="suemer2023")["n_group"]) == {PATIENTS * FILMS - 3}
    record = json.loads((films / "out/region_study.json").read_text())
    assert record["films"]["PNEUMONIA"] == {"films": 13, "patients": 7, "left_out": 3}
    assert record["films"]["NORMAL"] == {"films": 16, "patients": 8, "left_out": 0}
    assert record["doubts"]["PNEUMONIA-0-0"] == "one lung is 3 times the other"
    kept = RegionStudy(gathered(films, regions, pattern=False), {"doubted": "keep"}, films / "kept").run()
    assert set(pick(kept, preset="patients")["n_group"]) == {PATIENTS}


def test_readers_are_set_against_every_region(films):
    RegionStudy(gathered(films, groups={"readers": ["reader a", "b"]}), {"reduce": "density"}, films / "out").run()
    found = pick(read(films / "out", "readers.csv"), method="ig")
    own = pick(found, reader="reader a", region="region 2").iloc[0]
    scores, cases = read(films / "out", "regions.csv"), read(films / "out", "cases.csv")
    joined = pick(scores, method="ig", region="region 2").merge(cases, on="case")
    means = joined.groupby("patient")[["value", "reader reader a"]].mean()
    assert own["rho"] == pytest.approx(stats.spearmanr(means).statistic)
    assert own["patients"] == 2 * PATIENTS
    assert set(pick(found, reader="b")["reason"]) == {"wanted 3 patients or more, got 0"}
    assert pick(found, reader="b")["rho"].isna().all()


def test_films_without_a_partner_are_left_out_with_the_reason(films):
    lines = (films / "groups.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",NORMAL,", ",,")
    (films / "groups.csv").write_text("\n".join([*lines, "ghost,NORMAL,x,,"]) + "\n")
    (films / "regions/NORMAL-0-1.png").unlink()
    study = gathered(films)
    assert study.cases.excluded == {
        "NORMAL-0-0": "has no group",
        "NORMAL-0-1": "has maps, but no regions",
        "ghost": "has a group, but no map",
    }
    assert len(study.cases.found) == 2 * PATIENTS * FILMS - 2


def test_a_film_that_cannot_be_read_is_named_and_the_others_go_on(films):
    save(films, "regions/NORMAL-0-0.png", np.zeros((ROWS, COLUMNS), np.uint8))
    relevance = np.load(films / "maps/ig/NORMAL-1-0.npy")
    relevance[0, 0] = np.nan
    np.save(films / "maps/ig/NORMAL-1-0.npy", relevance)
    with pytest.raises(CasesFailedError, match="1 failed: NORMAL-0-0: regions of NORMAL-0-0: wanted labels") as caught:
        RegionStudy(gathered(films), None, films / "out").run()
    assert caught.value.exit_code == 4
    scores = read(films / "out", "regions.csv")
    gone = pick(scores, case="NORMAL-1-0", method="ig")
    assert gone["value"].isna().all()
    assert set(gone["reason"]) == {"the map is not finite"}
    tests = read(films / "out", "tests.csv")
    assert set(pick(tests, method="ig", preset="suemer2023")["left_out"]) == {1}


def test_a_region_outside_of_the_image_has_no_score_and_says_so(films):
    save(films, "regions/NORMAL-0-0.png", np.where(label_picture() == 6, 0, label_picture()).astype(np.uint8))
    study = gathered(films, {"names": {n: f"zone {n}" for n in range(1, 7)}})
    RegionStudy(study, None, films / "out").run()
    gone = pick(read(films / "out", "regions.csv"), case="NORMAL-0-0", region="zone 6")
    assert gone["value"].isna().all()
    assert set(gone["reason"]) == {"the region is not in the image"}


def test_tables_follow_from_the_stored_scores_and_the_record_tells_their_digests(films):
    RegionStudy(gathered(films, groups={"readers": ["reader a"]}), None, films / "out").run()
    scores, cases = read(films / "out", "regions.csv"), read(films / "out", "cases.csv")
    for name, made in (("tests", compare_groups), ("readers", compare_readers)):
        again = pd.read_csv(io.StringIO(made(scores, cases, RegionSettings()).to_csv(index=False)))
        pd.testing.assert_frame_equal(again, pd.read_csv(films / f"out/{name}.csv"), rtol=1e-9, atol=1e-9)
    record = json.loads((films / "out/region_study.json").read_text())
    assert set(record["files"]) >= {"regions.csv", "cases.csv", "tests.csv", "readers.csv", "figures/groups_share.png"}
    for name, digest in record["files"].items():
        assert hashlib.sha256((films / "out" / name).read_bytes()).hexdigest() == digest
    first = (films / "maps/ig/NORMAL-0-0.npy").read_bytes()
    assert record["inputs"]["NORMAL-0-0"]["map ig"] == hashlib.sha256(first).hexdigest()
    before = {path.name: path.read_bytes() for path in (films / "out").glob("*.csv")}
    RegionStudy(gathered(films, groups={"readers": ["reader a"]}), None, films / "out").run()
    assert before == {path.name: path.read_bytes() for path in (films / "out").glob("*.csv")}


def test_most_films_say_where_a_region_is():
    one = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    one[..., :4, :] = 1
    other = torch.zeros(1, 1, 16, 16, dtype=torch.int64)
    other[..., 8:, :] = 2
    common = common_regions([one, one, other])
    assert common.shape == (160, 160)
    assert set(np.unique(common[:80])) == {1}
    assert set(np.unique(common[80:])) == {0}


def test_what_a_number_of_patients_can_show():
    from statsmodels.stats.power import TTestIndPower

    d = detectable_difference(20, 19, chance=0.8, alpha=0.05 / 6)
    assert TTestIndPower().power(d, 20, 0.05 / 6, ratio=19 / 20) == pytest.approx(0.8)
    assert detectable_difference(200, 190, alpha=0.05 / 6) < d / 3
    assert np.isnan(detectable_difference(1, 20))
    assert detectable_difference(2, 2, alpha=0.001) > 10


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"reduce": "median"}, "reduce: wanted some of density"),
        ({"tests": ["patients", "patients"]}, "each once"),
        ({"side": "left"}, "side: wanted one of absolute"),
        ({"side": "as is"}, "density and share divide by all relevance"),
        ({"doubted": "drop"}, "doubted: wanted one of leave out, keep"),
        ({"power": 1.0}, "power: wanted a chance between 0 and 1"),
        ({"level": 0.9}, "settings: wanted some of"),
    ],
)
def test_wrong_settings_are_refused(settings, text):
    with pytest.raises(UsageError, match=text):
        RegionSettings.from_dict(settings)


def test_what_cannot_be_a_study_is_refused(films):
    with pytest.raises(UsageError, match="regions: wanted one of lungs_dir, key, cells, got lungs_dir, cells"):
        gathered(films, {"lungs_dir": films, "cells": [1, 3]})
    with pytest.raises(UsageError, match=r"lung_fields\.csv"):
        gathered(films, {"lungs_dir": films / "regions"})
    with pytest.raises(UsageError, match="the reference 'HC' among them, got NORMAL, PNEUMONIA"):
        RegionStudy(gathered(films), {"reference": "HC"}, films / "out").run()
    text = (films / "groups.csv").read_text()
    (films / "groups.csv").write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(UsageError, match=r"groups\.csv' row 34: case 'NORMAL-0-0' is there twice"):
        gathered(films)
    (films / "groups.csv").write_text(text.replace("NORMAL-0-0,NORMAL,NORMAL0", "NORMAL-0-0,NORMAL,PNEUMONIA0"))
    with pytest.raises(UsageError, match="patient PNEUMONIA0 is in the groups PNEUMONIA and NORMAL"):
        RegionStudy(gathered(films), None, films / "out").run()
    (films / "groups.csv").write_text("case,group\nother,NORMAL\n")
    with pytest.raises(NothingToDoError, match="no film can be scored"):
        RegionStudy(gathered(films), None, films / "out")
    (films / "groups.csv").write_text("case,group,b\nNORMAL-0-0,NORMAL,many\n")
    with pytest.raises(UsageError, match="row 2: b: wanted a number or nothing, got 'many'"):
        gathered(films, groups={"readers": ["b"]})


@pytest.mark.filterwarnings(r"ignore:.*_target_.*:UserWarning")
@pytest.mark.parametrize("kind", [Workflow, ConfigWorkflow])
def test_the_overlay_runs_after_the_maps_of_another_tool(films, repository, kind):
    workflow = kind(
        config_file=[str(repository / "configs/maps.yaml"), str(repository / "configs/studies/regions.yaml")],
        logging_file=False, meta_file=None, workflow_type="infer", maps=f"{films}/maps/{{method}}/{{case}}.npy",
        regions=f"{films}/regions/{{case}}.png", groups=str(films / "groups.csv"), output_dir=str(films / "out"),
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    tests = read(films / "out/regions", "tests.csv")
    own = pick(tests, method="ig", preset="patients", reduce="mean")
    assert list(own[own["significant"]]["region"]) == ["region 2"]
    assert {path.name for path in (films / "out/regions/figures").iterdir()} == {
        f"{what}_{reduce}.png" for what in ("groups", "effects") for reduce in ("density", "share", "mean", "sum")
    }
