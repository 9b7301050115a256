"""An evaluation as a whole: known scores, bad cases, resumption, the prior, and the skin study's pair."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from medsal.bundle.exits import CasesFailedError
from medsal.errors import NothingToDoError, UsageError
from medsal.evaluation.layers import SIGNED
from medsal.scoring import Evaluation, Settings, folder_cases, read_scores, verify
from medsal.scoring import scorer as scorer_module
from medsal.scoring.cases import Cases
from medsal.scoring.record import read_record
from medsal.scoring.table import ADVERSARIES

QUICK = {"shifts": 9, "resamples": 50, "metrics": ["average_precision", "pointing_game"]}


@pytest.fixture
def study(tmp_path):
    """Six cases of five patients, two methods as NPY: one sees the finding, one is noise."""
    rng = np.random.default_rng(0)
    lines = ["case,patient,method,map,mask"]
    for number in range(6):
        case, patient = f"c{number}", f"p{min(number, 4)}"
        mask = np.zeros((20, 24), bool)
        row, column = 2 + 2 * number, 3 + 3 * number
        mask[row : row + 4 + number % 3, column : column + 4] = True
        np.save(tmp_path / f"mask_{case}.npy", mask)
        for method, signal in (("good", 2.0), ("noise", 0.0)):
            np.save(tmp_path / f"{method}_{case}.npy", rng.random(mask.shape) + signal * mask)
            lines.append(f"{case},{patient},{method},{method}_{case}.npy,mask_{case}.npy")
    (tmp_path / "maps.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def evaluate(study, *, prior=None, resample=False, **settings):
    cases = folder_cases(table=study / "maps.csv", resample=resample)
    return Evaluation(cases, Settings(**(QUICK | settings)), study / "out", prior=prior)


def scores(study):
    return read_scores(study / "out")


def one(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return table.iloc[0]


def test_scores_are_those_of_another_library_and_every_file_is_there(study, capsys):
    outcome = evaluate(study).run()
    assert (outcome.exit_code, set(outcome.cases.values())) == (0, {"done"})
    assert capsys.readouterr().err.strip() == f"medsal: 6 of 6 cases scored; results in {study / 'out'}"
    table = scores(study)
    for number in range(6):
        for method in ("good", "noise"):
            relevance = np.load(study / f"{method}_c{number}.npy").astype(np.float32)
            wanted = average_precision_score(np.load(study / f"mask_c{number}.npy").ravel(), relevance.ravel())
            found = one(table, case=f"c{number}", method=method, metric="average_precision", kind="method")
            assert found["value"] == pytest.approx(wanted, abs=1e-12)
            assert found["patient"] == f"p{min(number, 4)}"
    names = {path.relative_to(study / "out").as_posix() for path in (study / "out").rglob("*") if path.is_file()}
    assert names == {
        "scores.csv", "scores.parquet", "summary.csv", "comparisons.csv", "verdicts.csv", "evaluation.json",
        *(f"scores/c{number}.json" for number in range(6)),
        *(f"figures/{metric}{kind}.png" for metric in QUICK["metrics"] for kind in ("", "_differences")),
    }  # fmt: skip


def test_baselines_come_from_other_patients_only(study):
    run = evaluate(study)
    by_name = {files.case: files for files in run.cases.found}
    assert set(run.scorer.partners) == set(by_name)
    for seed in range(10):
        for case, partner in evaluate(study, seed=seed).scorer.partners.items():
            assert by_name[case].patient != by_name[partner].patient
    run.run()
    for case, partner in run.scorer.partners.items():
        mask = np.load(study / f"mask_{case}.npy")
        wanted = average_precision_score(
            mask.ravel(), np.load(study / f"good_{partner}.npy").astype(np.float32).ravel()
        )
        found = one(scores(study), case=case, method="another patient: good", metric="average_precision")
        assert found["value"] == pytest.approx(wanted, abs=1e-12)


def test_adversarial_maps_are_reported_and_the_planted_truth_is_found(study):
    evaluate(study, adversaries=True).run()
    report = pd.read_csv(study / "out/adversaries.csv").set_index(["metric", "map"])["verdict"]
    assert report["average_precision"]["planted truth"].startswith("beats chance")
    others = report["average_precision"].drop("planted truth")
    assert len(others) > 5
    assert not others.str.startswith("beats").any()


def test_another_patient_is_one_with_a_finding_where_there_is_one(study):
    for number in (0, 1, 2):
        np.save(study / f"mask_c{number}.npy", np.zeros((20, 24)))
    assert set(evaluate(study).scorer.partners.values()) <= {"c3", "c4", "c5"}


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(study, monkeypatch):
    evaluate(study).run()
    whole = {path.name: path.read_bytes() for path in (study / "out").glob("*.csv")}
    for path in sorted((study / "out").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    real, calls = scorer_module.score_case, []

    def stopping(case, settings):
        calls.append(case.case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(case, settings)

    monkeypatch.setattr(scorer_module, "score_case", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(study).run()
    assert len(list((study / "out/scores").glob("*.json"))) == 2
    outcome = evaluate(study).run()
    assert (calls, outcome.skipped) == (["c0", "c1", "c2", "c2", "c3", "c4", "c5"], 2)
    assert {path.name: path.read_bytes() for path in (study / "out").glob("*.csv")} == whole


def test_only_what_changed_is_scored_again(study):
    evaluate(study).run()
    run = evaluate(study, resamples=60, alpha=0.01)
    assert run.run().skipped == 6
    assert evaluate(study, shifts=10).run().skipped == 0
    np.save(study / "mask_c5.npy", np.roll(np.load(study / "mask_c5.npy"), 1, 0))
    again = evaluate(study, shifts=10)
    touched = {"c5", *(case for case, partner in again.scorer.partners.items() if partner == "c5")}
    assert again.run().skipped == 6 - len(touched)


def test_a_bad_case_is_recorded_and_the_others_go_on(study):
    np.save(study / "mask_c1.npy", np.zeros((20, 23)))
    (study / "good_c2.npy").write_bytes(b"this is no map")
    with pytest.raises(CasesFailedError, match="4 of 6 cases scored, 2 failed: c1: ") as caught:
        evaluate(study).run()
    assert caught.value.exit_code == 4
    assert set(scores(study)["case"]) == {"c0", "c3", "c4", "c5"}
    record = json.loads((study / "out/evaluation.json").read_text())
    assert set(record["exclusions"]) == {"c1", "c2"}
    assert "wanted the grid of the map (20 x 24 voxels), got (20 x 23 voxels)" in record["exclusions"]["c1"]
    assert "cannot be read as NPY" in record["exclusions"]["c2"]
    stored = json.loads((study / "out/scores/c1.json").read_text())
    assert (stored["status"], stored["rows"]) == ("failed", [])


def test_a_partner_that_cannot_be_read_does_not_take_others_down(study):
    partners = evaluate(study).scorer.partners
    broken = next(iter(partners.values()))
    (study / f"noise_{broken}.npy").write_bytes(b"this is no map")
    with pytest.raises(CasesFailedError, match=f"5 of 6 cases scored, 1 failed: {broken}: "):
        evaluate(study).run()
    record = json.loads((study / "out/evaluation.json").read_text())
    notes = {case for case, how in record["resampled"].items() if "another patient" in how}
    assert notes == {case for case, partner in partners.items() if partner == broken and case != broken}


def test_all_cases_failing_is_exit_code_5_and_no_case_at_all_3(study):
    for path in study.glob("mask_*.npy"):
        path.write_bytes(b"this is no mask")
    with pytest.raises(CasesFailedError) as caught:
        evaluate(study).run()
    assert caught.value.exit_code == 5
    with pytest.raises(NothingToDoError, match="no case can be scored, 1 left out: a: has maps, but no mask"):
        Evaluation(Cases(found=(), excluded={"a": "has maps, but no mask"}), Settings(), study)


def test_what_was_resampled_is_in_the_record(study):
    small = np.zeros((10, 12))
    small[2:5, 3:6] = 1
    np.save(study / "mask_c0.npy", small)
    evaluate(study, resample=True).run()
    record = json.loads((study / "out/evaluation.json").read_text())
    assert record["resampled"] == {"c0": {"mask": "nearest, stretched"}}
    wanted = average_precision_score(
        np.kron(small, np.ones((2, 2))).ravel(), np.load(study / "good_c0.npy").astype("f4").ravel()
    )
    found = one(scores(study), case="c0", method="good", metric="average_precision")
    assert found["value"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("mask_c0.npy", lambda a: a * 0, "truth empty"),
        ("mask_c0.npy", lambda a: a * 0 + 1, "truth everywhere"),
        ("good_c0.npy", lambda a: a * math.nan, "map not finite"),
        ("good_c0.npy", lambda a: np.where(a == a.max(), math.inf, a), "map not finite"),
    ],
)
def test_what_has_no_answer_is_no_number_and_says_why(study, file, change, reason):
    np.save(study / file, change(np.load(study / file).astype(float)))
    evaluate(study).run()
    found = one(scores(study), case="c0", method="good", metric="average_precision")
    assert math.isnan(found["value"])
    assert found["reason"] == reason
    record = json.loads((study / "out/evaluation.json").read_text())
    assert any(row["reason"] == reason and row["method"] == "good" for row in record["left_out"])


def test_a_method_without_a_map_of_a_case_is_counted(study):
    lines = (study / "maps.csv").read_text().splitlines()
    (study / "maps.csv").write_text("\n".join(line for line in lines if "noise_c3" not in line) + "\n")
    evaluate(study).run()
    found = one(scores(study), case="c3", method="noise", metric="average_precision")
    assert (math.isnan(found["value"]), found["reason"]) == (True, "no map of this method")


def test_one_patient_gives_scores_and_no_verdict(study, caplog):
    text = (study / "maps.csv").read_text()
    for number in range(5):
        text = text.replace(f",p{number},", ",same,")
    (study / "maps.csv").write_text(text)
    evaluate(study).run()
    assert "all cases are of one patient" in caplog.text
    table = scores(study)
    assert not table["method"].str.startswith("another patient").any()
    assert one(table, case="c0", method="good", metric="average_precision")["value"] > 0.9
    verdicts = pd.read_csv(study / "out/verdicts.csv")
    assert not verdicts.to_string().count("beats chance")


def prior_items(**change):
    mask = torch.zeros(1, 20, 24)
    mask[:, 5:15, 5:15] = 1
    return [
        {"mask": mask, "case": f"t{number}", "subject": f"q{number}", "split": "train"} | change for number in range(3)
    ]


def test_the_prior_is_a_baseline_made_of_training_cases(study):
    evaluate(study, prior=prior_items()[:1]).run()
    mask = np.load(study / "mask_c1.npy").ravel()
    found = one(scores(study), case="c1", method="mean training mask", metric="average_precision")
    wanted = average_precision_score(mask, prior_items()[0]["mask"].numpy().ravel())
    assert found["value"] == pytest.approx(wanted, abs=1e-12)
    assert json.loads((study / "out/evaluation.json").read_text())["prior"] == ["t0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "test"}, "wanted cases of the split 'train', got t0 of 'test'"),
        ({"case": "c3"}, "the case of c3 is scored"),
        ({"subject": "p2"}, r"the patient \(p2\) of t0 is scored"),
        ({"case": "t0"}, "t0 came twice"),
        ({"mask": torch.zeros(1, 20, 23)}, "wanted the grid of the map"),
        ({"mask": torch.full((1, 20, 24), 0.5)}, "values between"),
    ],
)
def test_a_prior_that_would_score_itself_is_refused(study, change, words):
    with pytest.raises(UsageError, match=words):
        evaluate(study, prior=prior_items(**change))


def test_a_prior_from_a_table_names_its_split(study):
    np.save(study / "t.npy", prior_items()[0]["mask"].numpy())
    path = study / "train.csv"
    path.write_text("case,patient,split,mask\nt0,q0,train,t.npy\n")
    assert evaluate(study, prior=str(path)).scorer.prior.prior.cases == {"t0"}
    path.write_text("case,patient,mask\nt0,q0,t.npy\n")
    with pytest.raises(UsageError, match="no column 'split'"):
        evaluate(study, prior=str(path))


def test_the_embedded_prior_shares_nobody_with_what_is_scored():
    from medsal.data import TRAINING_SEED, training_masks
    from medsal.data.grids import TEMPORAL_GRID

    items = training_masks(4)
    assert [item["case"] for item in items] == [f"planted-{TRAINING_SEED + 1 + 2 * n}" for n in range(4)]
    assert all(item["split"] == "train" and item["mask"].any() for item in items)
    assert items[0]["mask"].shape == (1, *TEMPORAL_GRID.size)
    np.testing.assert_allclose(items[0]["mask"].affine, TEMPORAL_GRID.affine)
    with pytest.raises(UsageError, match="at least 1 case"):
        training_masks(0)


def test_the_published_pair_of_the_skin_study_has_its_scores(real_data, tmp_path):
    skin = real_data / "skin"
    if not skin.is_dir():
        pytest.skip(f"no skin ultrasound pair in {skin}")
    heat, layers = skin / "HEATMAP_GRADCAMPLUSPLUS_DENSENET.png", skin / "SKIN_LAYERS_MAP.png"
    (tmp_path / "t.csv").write_text(f"case,method,map,layers\nskin,gradcam_plus_plus,{heat},{layers}\n")
    metrics = {
        "layer_hit_rate": {"scores": ["graded", "signed"]},
        "layer_coverage": {"part": ["mean", "background", "weighted"]},
    }
    Evaluation(folder_cases(table=tmp_path / "t.csv"), Settings(metrics=metrics), tmp_path / "out").run()
    table = read_scores(tmp_path / "out")
    found = table[table["kind"] == "method"].set_index(["metric", "part"])["value"]
    assert found["layer_hit_rate"].tolist() == [0, 0]
    assert found["layer_coverage"]["255"] == pytest.approx(0.6412, abs=5e-5)
    assert found["layer_coverage"]["background"] == pytest.approx(0.3918, abs=5e-5)
    assert found["layer_coverage"]["weighted"] == pytest.approx(0.2847, abs=5e-5)
    assert SIGNED[255] == 1


def test_colour_maps_are_a_failed_case_with_its_reason(real_data, tmp_path):
    overlay = real_data / "skin/HEATMAP_ON_IMAGE_GRADCAMPLUSPLUS_DENSENET.png"
    if not overlay.is_file():
        pytest.skip(f"no skin ultrasound pair in {overlay.parent}")
    (tmp_path / "t.csv").write_text(f"case,map,mask\nskin,{overlay},{overlay}\n")
    with pytest.raises(CasesFailedError, match=r"colour picture \(mode RGB\) shows relevance"):
        Evaluation(folder_cases(table=Path(tmp_path / "t.csv")), Settings(), tmp_path / "out").run()


def test_what_adversaries_are_said_to_get_is_verified(study):
    evaluate(study, adversaries=True).run()
    out = study / "out"
    assert verify(out) == []
    assert ADVERSARIES in read_record(out)["files"]
    told = (out / ADVERSARIES).read_text()
    assert "no better than chance" in told
    (out / ADVERSARIES).write_text(told.replace("no better than chance", "beats chance and every baseline", 1))
    digest, cell = verify(out)
    assert digest.startswith("adversaries.csv, sha256")
    assert cell.startswith("adversaries.csv, row")
    assert "recomputed no better than chance" in cell
    (out / ADVERSARIES).unlink()
    assert any(line.startswith("adversaries.csv") for line in verify(out))


def test_an_evaluation_leaves_nothing_of_an_earlier_one_beside_it(study):
    evaluate(study, adversaries=True).run()
    out = study / "out"
    (out / "figures" / "mine.png").write_bytes(b"")
    evaluate(study, metrics=["average_precision"]).run()
    assert not (out / ADVERSARIES).exists()
    left = {path.name for path in (out / "figures").iterdir()}
    assert left == {"average_precision.png", "average_precision_differences.png", "mine.png"}
    assert verify(out) == []


def test_upright_and_lying_films_share_one_prior(study):
    for kind in ("mask", "good", "noise"):
        path = study / f"{kind}_c2.npy"
        np.save(path, np.load(path).T)
    items = [prior_items()[0], prior_items()[1] | {"mask": torch.ones(1, 24, 20)}]
    with pytest.raises(UsageError, match="--resample true"):
        evaluate(study, prior=items, baselines=["mean training mask"])
    evaluate(study, prior=items, baselines=["mean training mask"], resample=True).run()
    table = scores(study)
    found = table[(table["method"] == "mean training mask") & (table["metric"] == "average_precision")]
    assert len(found) == 6
    assert found["value"].notna().all()


def test_rows_of_an_earlier_run_that_were_changed_are_made_again(study):
    run = evaluate(study)
    run.run()
    path = study / "out" / "scores" / "c1.json"
    wanted = path.read_text()
    for change in (lambda rows: rows.clear(), lambda rows: rows[0].update(value=0.99)):
        record = json.loads(wanted)
        change(record["rows"])
        path.write_text(json.dumps(record))
        again = evaluate(study)
        again.run()
        assert again.skipped == 5
        assert json.loads(path.read_text())["rows"] == json.loads(wanted)["rows"]


def test_pictures_and_volumes_in_one_evaluation_stand_in_for_their_own_kind_only(study):
    volume = np.random.default_rng(1).random((6, 7, 8))
    np.save(study / "volume.npy", volume[None])
    np.save(study / "mask_v.npy", (volume > 0.9)[None])
    with (study / "maps.csv").open("a") as table:
        table.write("v,pv,good,volume.npy,mask_v.npy\n")
    run = evaluate(study, adversaries=True)
    run.scorer.partners = dict.fromkeys(run.scorer.partners, "v") | {"v": "c0"}
    assert run.run().exit_code == 0
    record = json.loads((study / "out/evaluation.json").read_text())
    assert record["resampled"]["v"] == {"another patient": "left out: its map has 2 axes"}
    assert record["resampled"]["c0"] == {"another patient": "left out: its map has 3 axes"}


def test_an_empty_body_fails_the_case(study):
    np.save(study / "body.npy", np.zeros((20, 24), bool))
    lines = (study / "maps.csv").read_text().splitlines()
    body = ["body" if "case,p" in line else "body.npy" if line.startswith("c1,") else "" for line in lines]
    (study / "maps.csv").write_text("".join(f"{line},{end}\n" for line, end in zip(lines, body, strict=True)))
    with pytest.raises(CasesFailedError, match="body of c1: wanted a body"):
        evaluate(study).run()
