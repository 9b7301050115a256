"""Rules choose exactly one series of a study, or say why each was not taken."""

from __future__ import annotations

import json
import logging

import pytest

from medsal.dicom import PRESETS, Reason, load_rules, scan_folder, select_series
from medsal.dicom.reasons import Refusal
from medsal.errors import UsageError
from tests.dicom.builders import AXIAL, CANARY, CORONAL, SAGITTAL, enhanced_of, film, save, save_all, slices_of


def rules(conditions=None, name="wanted", **require):
    return {"selections": [{"name": name, "conditions": conditions or {}, "require": require}]}


@pytest.fixture
def mixed(tmp_path):
    """A study: a volume, a localizer, a series with a gap, a result of medsal, a broken file, and no DICOM."""
    volume = slices_of(12, series="volume")
    for one in volume:
        one.SeriesDescription, one.SliceThickness, one.MagneticFieldStrength = "T1 MPRAGE", 3, 1.5
    scout = [one for plane in (AXIAL, SAGITTAL, CORONAL) for one in slices_of(4, plane, series="scout")]
    for index, one in enumerate(scout):
        one.SeriesDescription = "FAST LOCALIZER"
        one.SOPInstanceUID += str(index)
    gappy = [one for index, one in enumerate(slices_of(14, series="gappy")) if index != 5]
    for one in gappy:
        one.SeriesDescription = "T2"
    own = slices_of(12, series="own")
    for one in own:
        one.SeriesDescription, one.Manufacturer = "medsal overlay (research)", "medsal"
    for name, made in (("volume", volume), ("scout", scout), ("gappy", gappy), ("own", own)):
        save_all(made, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "broken.dcm").write_bytes((tmp_path / "volume" / "IM0001.dcm").read_bytes()[:700])
    return tmp_path


def taken(selection):
    return [series.first.text("SeriesDescription") for _, series in selection.chosen]


def reasons(selection):
    return {
        one.series.first.text("SeriesDescription") if one.series else "": one.refusal.reason
        for one in selection.rejected
    }


def test_a_mixed_study(mixed, caplog):
    found = scan_folder(mixed)
    assert len(found.series) == 4
    assert found.counts() == {"not_dicom": 1, "broken": 1}
    with caplog.at_level(logging.DEBUG):
        selection = select_series(found.series, "mr_volume")
    assert taken(selection) == ["T1 MPRAGE"]
    assert reasons(selection) == {
        "FAST LOCALIZER": Reason.MIXED_ORIENTATIONS,
        "T2": Reason.MISSING_SLICES,
        "medsal overlay (research)": Reason.OWN_RESULT,
    }
    lines = "\n".join(selection.lines())
    assert "T1 MPRAGE" not in lines + caplog.text
    assert "12 slices" in lines
    assert not any(value in lines + caplog.text for value in CANARY.values())


def test_monai_deploys_conditions(mixed):
    series = scan_folder(mixed).series
    good = {
        "SeriesDescription": "^t1",
        "Modality": "mr",
        "SliceThickness": [2, 4],
        "ImageType": ["PRIMARY", "original", "!SECONDARY"],
        "ImageOrientationPatient": "Axial",
        "InstanceNumber": [0, ">"],
        "MagneticFieldStrength": 1.5,
        "Rows": "1\\d",
        "StudyDescription": "",
    }
    assert taken(select_series(series, rules(good))) == ["T1 MPRAGE"]
    bad = {
        "SeriesDescription": "^MPRAGE",
        "Modality": "CT",
        "SliceThickness": [3.5, 4],
        "ImageType": ["!PRIMARY"],
        "ImageOrientationPatient": "Coronal",
        "InstanceNumber": [5, "<="],
        "MagneticFieldStrength": [1.5, "!="],
        "Rows": "1",
        "StudyDescription": "(.*?)",
    }
    for keyword, wanted in bad.items():
        selection = select_series(series, rules(good | {keyword: wanted}))
        assert not selection.chosen, keyword
        assert Reason.NO_MATCH in [one.refusal.reason for one in selection.rejected]


def test_conditions_hold_for_every_file_not_for_the_first(tmp_path):
    made = slices_of()
    made[-1].SeriesDescription = "other"
    for one in made[:-1]:
        one.SeriesDescription = "T1"
    series = scan_folder(save_all(made, tmp_path)).series
    assert not select_series(series, rules({"SeriesDescription": "T1"})).chosen


def test_ambiguous_unless_all_are_wanted(tmp_path):
    for name in ("one", "two"):
        save_all(slices_of(series=name), tmp_path / name)
    series = scan_folder(tmp_path).series
    selection = select_series(series, rules({"Modality": "MR"}))
    assert not selection.chosen
    assert [one.refusal.reason for one in selection.rejected] == [Reason.AMBIGUOUS] * 2
    assert len(select_series(series, rules({"Modality": "MR"}), all_matched=True).chosen) == 2


def test_every_study_by_itself(tmp_path):
    for name in ("one", "two"):
        made = slices_of(series=name)
        for one in made:
            one.StudyInstanceUID += {"one": "1", "two": "2"}[name]
        save_all(made, tmp_path / name)
    assert len(select_series(scan_folder(tmp_path).series, rules({"Modality": "MR"})).chosen) == 2


REQUIRE = [
    ({"min_slices": 8}, {"min_slices": 9}, Reason.RULE),
    ({"max_slices": 8}, {"max_slices": 7}, Reason.RULE),
    ({"orientations": 1}, {"orientations": 3}, Reason.MIXED_ORIENTATIONS),
    ({"slice_spacing": [2.9, 3.1]}, {"slice_spacing": [0.5, 2.0]}, Reason.RULE),
    ({"exclude": "PILOT"}, {"exclude": "orig"}, Reason.RULE),
    ({"modality": "mr"}, {"modality": ["CT", "PT"]}, Reason.RULE),
    ({"sop_class": "1.2.840.10008.5.1.4.1.1.4"}, {"sop_class": "1.2"}, Reason.RULE),
    ({"body_part": ["HEAD", "brain"]}, {"body_part": "CHEST"}, Reason.RULE),
    ({"contrast": False}, {"contrast": True}, Reason.RULE),
    ({"field_strength": [1.4, 3.1]}, {"field_strength": [2.9, 7]}, Reason.RULE),
    ({"colour": False}, {"colour": True}, Reason.COLOUR),
]


@pytest.mark.parametrize(("good", "bad", "reason"), REQUIRE)
def test_requirements(good, bad, reason, tmp_path):
    made = slices_of()
    for one in made:
        one.BodyPartExamined, one.MagneticFieldStrength = "BRAIN", 1.5
    series = scan_folder(save_all(made, tmp_path)).series
    assert len(select_series(series, rules(**good)).chosen) == 1
    selection = select_series(series, rules(**bad))
    assert not selection.chosen
    assert selection.rejected[0].refusal.reason is reason


def test_geometry_of_doubled_slices_and_of_multiframe_objects(tmp_path):
    doubled = slices_of(4, series="doubled") + slices_of(4, series="doubled")
    for index, one in enumerate(doubled):
        one.SOPInstanceUID += str(index)
    series = scan_folder(save_all(doubled, tmp_path / "doubled")).series
    for require in ({"no_duplicates": True}, {"regular_spacing": True}):
        assert select_series(series, rules(**require)).rejected[0].refusal.reason is Reason.DUPLICATE_POSITIONS
    series = scan_folder(save_all([enhanced_of(slices_of(9, SAGITTAL))], tmp_path / "enhanced")).series
    wanted = rules({"ImageOrientationPatient": "sagittal"}, regular_spacing=True, min_slices=9)
    assert len(select_series(series, wanted).chosen) == 1


def test_films_by_view_and_annotation(tmp_path):
    for number, values in enumerate(
        [
            {},
            {"ViewPosition": "LL"},
            {"BurnedInAnnotation": "YES"},
            {"PhotometricInterpretation": "PALETTE COLOR"},
            {"Modality": "OT"},
        ]
    ):
        made = film(**values)
        made.SeriesInstanceUID += str(number)
        save(made, tmp_path / f"{number}.dcm")
    selection = select_series(scan_folder(tmp_path).series, "chest_film")
    assert [series.first.path.name for _, series in selection.chosen] == ["0.dcm"]
    assert [one.refusal.reason for one in selection.rejected] == [
        Reason.RULE,
        Reason.BURNED_IN,
        Reason.COLOUR,
        Reason.RULE,
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no_such_preset", "mr_volume"),
        ('{"selections": ', "JSON"),
        ("[1]", "JSON"),
        ({"selection": []}, "list 'selections'"),
        ({"selections": []}, "list 'selections'"),
        ({"selections": [{"name": "x"}]}, "got none"),
        (rules({"SeriesDescripton": "a"}), "no DICOM attribute"),
        (rules({"SeriesDescription": "(a"}), "regular expression"),
        (rules(min_slice=3), "did you mean 'min_slices'"),
        (rules(min_slices="3"), "wanted a number"),
        (rules(min_slices=True), "wanted a number"),
        (rules(regular_spacing=1), "wanted true"),
        (rules(exclude="(a"), "regular expression"),
    ],
)
def test_rules_that_cannot_be(given, says):
    with pytest.raises(UsageError, match=".*" + says.replace("(", "\\(")):
        load_rules(given)


def test_rules_from_text_and_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(PRESETS["mr_volume"]))
    assert load_rules(path) == load_rules(path.read_text()) == load_rules("mr_volume")


def test_a_value_that_cannot_be_read_rejects_its_series_only(tmp_path):
    good, bad = slices_of(series="good"), slices_of(series="bad")
    save_all(good, tmp_path / "good")
    folder = save_all(bad, tmp_path / "bad")
    path = folder / "IM0003.dcm"
    content = path.read_bytes()
    assert content.count(b"1.5\\1.25") == 1
    path.write_bytes(content.replace(b"1.5\\1.25", b"1.x\\1.25"))
    selection = select_series(scan_folder(tmp_path).series, rules(regular_spacing=True))
    assert len(selection.chosen) == 1
    assert selection.rejected[0].refusal.reason is Reason.BROKEN
    assert isinstance(selection.rejected[0].refusal, Refusal)
