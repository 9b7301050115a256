"""Maps of other tools: patterns, tables, boxes; what is in one place only is left out with its reason."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsal.errors import InputError, NothingToDoError, UsageError
from medsal.scoring.boxes import read_boxes
from medsal.scoring.reading import CaseReader
from medsal.scoring.sources import folder_cases, matches

RNG = np.random.default_rng(0)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


@pytest.fixture
def study(tmp_path):
    """Three cases of two patients, two methods, masks of 0 and 255."""
    for case, patient in (("a1", "pa"), ("a2", "pa"), ("b_1", "pb")):
        for method in ("gradcam", "guided_gradcam"):
            png(tmp_path / f"maps/{method}/{patient}/{case}.png", RNG.integers(0, 255, (6, 8)))
        mask = np.zeros((6, 8))
        mask[1:3, 4:7] = 255
        png(tmp_path / f"masks/{case}_mask.png", mask)
    return tmp_path


def patterns(study):
    return f"{study}/maps/{{method}}/{{patient}}/{{case}}.png", {"mask": f"{study}/masks/{{case}}_mask.png"}


def test_patterns_find_maps_truth_and_patients(study):
    found = folder_cases(*patterns(study))
    assert [(one.case, one.patient, list(one.maps)) for one in found.found] == [
        ("a1", "pa", ["gradcam", "guided_gradcam"]),
        ("a2", "pa", ["gradcam", "guided_gradcam"]),
        ("b_1", "pb", ["gradcam", "guided_gradcam"]),
    ]
    assert found.found[2].truth["mask"] == study / "masks/b_1_mask.png"
    assert (found.excluded, found.methods, found.facts["patients_known"]) == ({}, ("gradcam", "guided_gradcam"), True)
    reader = CaseReader(found.found[0])
    assert torch.equal(reader.mask()[0].nonzero().amin(0), torch.tensor([1, 4]))
    assert reader.mask().sum() == 6
    assert reader.resampled == {}


def test_a_name_that_can_be_read_in_two_ways_is_refused(tmp_path):
    png(tmp_path / "b_1_guided_gradcam.png", np.ones((2, 2)))
    with pytest.raises(UsageError, match=r"b_1_guided_gradcam.png may mean case 'b', method '1_guided_gradcam' or"):
        matches(f"{tmp_path}/{{case}}_{{method}}.png")
    assert matches(f"{tmp_path}/{{case}}_gradcam.png")[0][1] == {"case": "b_1_guided"}


def test_letters_that_mean_something_in_patterns_are_letters(tmp_path):
    folder = tmp_path / "a[1]+(x)?"
    png(folder / "c[0].png", np.ones((2, 2)))
    png(folder / "c0.png", np.ones((2, 2)))
    assert [fields for _, fields in matches(f"{folder}/{{case}}.png")] == [{"case": "c0"}, {"case": "c[0]"}]
    assert [path.name for path, _ in matches(f"{folder}/{{case}}.png", case="c[0]")] == ["c[0].png"]
    with pytest.raises(UsageError, match=r"wanted the fields \{case\}"):
        matches("{subject}.png")


def test_what_is_in_one_place_only_is_left_out_and_named(study):
    png(study / "masks/z_mask.png", np.zeros((6, 8)))
    (study / "masks/a2_mask.png").unlink()
    (study / "maps/gradcam/pb/b_1.png").unlink()
    found = folder_cases(*patterns(study))
    assert found.excluded == {"a2": "has maps, but no mask", "z": "has mask, but no map"}
    assert [one.case for one in found.found] == ["a1", "b_1"]
    assert list(found.found[1].maps) == ["guided_gradcam"]


@pytest.mark.parametrize(
    ("maps", "truth", "words"),
    [
        ("maps/*.png", {}, "wanted {case}"),
        ("{case}.png", {"masks": "x"}, "truth: wanted mask"),
        (None, {}, "a table, or a pattern"),
        ("{case}.png", {"mask": "mask.png"}, "in the pattern of the truth"),
    ],
)
def test_patterns_that_say_nothing_are_refused(study, maps, truth, words, monkeypatch):
    monkeypatch.chdir(study / "maps/gradcam/pa")
    with pytest.raises(UsageError, match=words):
        folder_cases(maps, truth)


def test_no_map_at_all_is_nothing_to_do(tmp_path):
    with pytest.raises(NothingToDoError, match="no map matches"):
        folder_cases(f"{tmp_path}/{{case}}.npy")


def test_two_files_for_one_case_are_refused(study):
    png(study / "masks/a1_x_mask.png", np.zeros((6, 8)))
    with pytest.raises(UsageError, match="wanted one file for case 'a1'"):
        folder_cases(patterns(study)[0], {"mask": f"{study}/masks/{{case}}*mask.png"})


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_names_everything_and_paths_are_relative_to_it(study):
    rows = [
        f"{case},{patient},{method},maps/{method}/{patient}/{case}.png,masks/{case}_mask.png,r1.png;r2.png"
        for case, patient in (("a1", "pa"), ("b_1", "pb"))
        for method in ("gradcam", "guided_gradcam")
    ]
    for name in ("r1.png", "r2.png"):
        png(study / name, np.eye(6, 8) * 255)
    found = folder_cases(table=table(study / "t.csv", "case,patient,method,map,mask,reader", *rows))
    by_pattern = folder_cases(*patterns(study))
    assert [(one.case, one.maps, one.truth) for one in found.found] == [
        (one.case, one.maps, one.truth) for one in by_pattern.found if one.case != "a2"
    ]
    assert [reader.sum().item() for reader in CaseReader(found.found[0]).readers()] == [6, 6]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["case,mask", "a,m.png"], "no column 'map'"),
        (["case,map", "a,m.png"], "one of the columns mask, boxes, layers, regions"),
        (["case,map,mask,maks", "a,m,m,m"], "columns maks"),
        (["case,map,mask", "a,m.png,m.png", "a,n.png,m.png"], "row 3: case 'a' has two maps of 'map'"),
        (["case,method,map,mask", "a,x,m,m", "a,y,m,n"], "row 3: wanted the same patient, truth"),
        (["case,map,mask", ",m,m"], "row 2: no case"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, lines, words):
    with pytest.raises(UsageError, match=words):
        folder_cases(table=table(tmp_path / "t.csv", *lines))


def test_rows_of_a_table_without_truth_or_map_are_left_out(study):
    lines = [
        "case,map,mask",
        "a1,maps/gradcam/pa/a1.png,",
        "a2,,masks/a2_mask.png",
        "b_1,maps/gradcam/pb/b_1.png,m.png",
    ]
    found = folder_cases(table=table(study / "t.csv", *lines))
    assert found.excluded == {"a1": "has maps, but no mask", "a2": "has truth, but no map"}
    assert [one.case for one in found.found] == ["b_1"]


def test_boxes_are_half_open_and_x_counts_along_the_columns(tmp_path):
    corners = table(tmp_path / "c.csv", "case,x_min,y_min,x_max,y_max", "a,4,1,7,3", "a,0,0,1,1", "none,,,,")
    sizes = table(tmp_path / "s.csv", "patientId,x,y,width,height,Target", "a,4,1,3,2,1", "a,0,0,1,1,1", "none,,,,,0")
    axes = table(tmp_path / "x.csv", "case,start_0,stop_0,start_1,stop_1", "a,1,3,4,7", "a,0,1,0,1", "none,,,,")
    wanted = {"a": (((1, 4), (3, 7)), ((0, 0), (1, 1))), "none": ()}
    assert read_boxes(corners) == read_boxes(sizes) == read_boxes(axes) == wanted


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["case,x_min,y_min", "a,1,2"], "wanted the columns case and x_min"),
        (["case,x_min,y_min,x_max,y_max", "a,4,1,4,3"], "ends after it starts"),
        (["case,x_min,y_min,x_max,y_max", "a,4,1,x,3"], "wanted finite numbers"),
        (["case,x_min,y_min,x_max,y_max", "a,4,1,,3"], "in all cells or in none"),
        (["case,x_min,y_min,x_max,y_max", "a,4,1,inf,3"], "finite"),
    ],
)
def test_boxes_that_are_none_are_refused(tmp_path, lines, words):
    with pytest.raises(UsageError, match=words):
        read_boxes(table(tmp_path / "b.csv", *lines))


def test_boxes_are_truth_an_image_without_one_is_empty_and_one_not_listed_is_left_out(study):
    boxes = table(study / "b.csv", "case,x_min,y_min,x_max,y_max", "a1,4,1,7,3", "b_1,,,,", "q,0,0,1,1")
    found = folder_cases(patterns(study)[0], {"boxes": str(boxes)})
    assert found.excluded == {"a2": "has maps, but no boxes", "q": "has boxes, but no map"}
    by_mask = CaseReader(folder_cases(*patterns(study)).found[0]).mask()
    assert torch.equal(CaseReader(found.found[0]).mask(), by_mask)
    assert CaseReader(found.found[1]).mask().sum() == 0


def test_boxes_in_pixels_of_a_larger_image_come_to_the_map_when_asked(study):
    for case in ("a1", "a2", "b_1"):
        Image.fromarray(RNG.integers(0, 255, (12, 16, 3)).astype(np.uint8)).save(study / f"{case}.jpg")
    boxes = table(study / "b.csv", "case,x_min,y_min,x_max,y_max", *(f"{c},8,2,14,6" for c in ("a1", "a2", "b_1")))
    truth = {"boxes": str(boxes), "image": f"{study}/{{case}}.jpg"}
    found = folder_cases(patterns(study)[0], truth).found[0]
    with pytest.raises(InputError, match="boxes: wanted the grid of the map"):
        CaseReader(found).mask()
    reader = CaseReader(found, resample=True)
    assert torch.equal(reader.mask(), CaseReader(folder_cases(*patterns(study)).found[0]).mask())
    assert reader.resampled == {"boxes": "nearest, stretched"}
    alone = folder_cases(patterns(study)[0], {"boxes": str(boxes)}).found[0]
    with pytest.raises(InputError, match="is not inside an image of"):
        CaseReader(alone).mask()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: np.where(m > 0, 128, np.eye(*m.shape) * 255), "got greys between"),
        (lambda m: m[:, :5], "wanted the grid of the map"),
        (lambda m: m.T, "transposed"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(study, change, words):
    file = study / "masks/a1_mask.png"
    png(file, change(np.array(Image.open(file))))
    with pytest.raises(InputError, match=words) as caught:
        CaseReader(folder_cases(*patterns(study)).found[0]).mask()
    assert "masks/a1_mask.png" in str(caught.value)


def test_masks_with_numbers_that_are_none_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4)))
    mask = np.zeros((4, 4))
    for value, words in ((np.nan, "1 of its values are NaN or infinite"), (0.5, "values between"), (-1, "or below")):
        mask[0, 0] = value
        np.save(tmp_path / "m.npy", mask)
        found = folder_cases(table=table(tmp_path / "t.csv", "case,map,mask", "a,a.npy,m.npy"))
        with pytest.raises(InputError, match=words):
            CaseReader(found.found[0]).mask()


def test_codes_between_whole_numbers_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4)))
    np.save(tmp_path / "l.npy", np.full((4, 4), 1.5))
    found = folder_cases(table=table(tmp_path / "t.csv", "case,map,regions", "a,a.npy,l.npy"))
    with pytest.raises(InputError, match="whole numbers as codes"):
        CaseReader(found.found[0]).labels("regions")


def test_the_mask_is_brought_to_the_map_and_the_map_never_to_the_mask(study):
    mask = np.zeros((12, 16))
    mask[2:6, 8:14] = 255
    file = study / "masks/a1_mask.png"
    before = CaseReader(folder_cases(*patterns(study)).found[0])
    wanted, relevance = before.mask(), before.map("gradcam")
    png(file, mask)
    reader = CaseReader(folder_cases(*patterns(study)).found[0], resample=True)
    assert torch.equal(reader.mask(), wanted)
    assert torch.equal(reader.map("gradcam"), relevance)
    assert reader.resampled == {"mask": "nearest, stretched"}


def test_masks_and_boxes_of_one_case_are_refused(study):
    maps, truth = patterns(study)
    boxes = table(study / "boxes.csv", "case,x_min,y_min,x_max,y_max", "a1,1,1,3,3")
    with pytest.raises(UsageError, match="masks or boxes, got both"):
        folder_cases(maps, truth | {"boxes": str(boxes)})
    both = table(study / "t.csv", "case,map,mask,boxes", "a1,m.png,m.png,boxes.csv")
    with pytest.raises(UsageError, match="case 'a1': wanted a mask or boxes, got both"):
        folder_cases(table=both)


def test_names_of_masks_that_the_maps_tell_are_read_in_one_way(tmp_path):
    for patient in ("p_1", "p_2"):
        png(tmp_path / f"maps/{patient}/c_1{patient[-1]}.png", np.eye(4))
        png(tmp_path / f"masks/{patient}_c_1{patient[-1]}.png", np.eye(4) * 255)
    found = folder_cases(
        f"{tmp_path}/maps/{{patient}}/{{case}}.png", {"mask": f"{tmp_path}/masks/{{patient}}_{{case}}.png"}
    )
    assert [files.truth["mask"].name for files in found.found] == ["p_1_c_11.png", "p_2_c_12.png"]


def test_a_mask_of_a_patient_without_maps_is_named(tmp_path):
    png(tmp_path / "maps/p1/c1.png", np.eye(4))
    for patient in ("p1", "p2"):
        png(tmp_path / f"masks/{patient}.png", np.eye(4) * 255)
    found = folder_cases(f"{tmp_path}/maps/{{patient}}/{{case}}.png", {"mask": f"{tmp_path}/masks/{{patient}}.png"})
    assert found.excluded == {"p2": "has mask, but no map"}


@pytest.mark.parametrize(("most", "refused"), [(250, True), (128, True), (3, False)])
def test_a_picture_of_greys_is_no_mask_whatever_its_highest_grey(study, most, refused):
    png(study / "masks/a1_mask.png", np.where(np.eye(6, 8) > 0, most, np.arange(8)[None] % 2 * (most // 3)))
    reader = CaseReader(folder_cases(*patterns(study)).found[0])
    if refused:
        with pytest.raises(InputError, match="got greys between"):
            reader.mask()
    else:
        assert reader.mask().any()


def scan(path, array, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)


def far_and_near(tmp_path, shift):
    """A map of 8 mm, and a mask of 4 mm from 2 mm on, moved along the first axis."""
    scan(tmp_path / "maps/a.nii.gz", RNG.random((8, 8, 8)), np.eye(4))
    mask = np.zeros((8, 8, 8))
    mask[2:6, 2:6, 2:6] = 1
    moved = np.eye(4)
    moved[0, 3] = shift
    scan(tmp_path / "masks/a.nii.gz", mask, moved)
    return folder_cases(
        f"{tmp_path}/maps/{{case}}.nii.gz", {"mask": f"{tmp_path}/masks/{{case}}.nii.gz"}, resample=True
    )


def test_truth_outside_of_the_map_is_not_taken_for_no_truth(tmp_path):
    (one,) = far_and_near(tmp_path, 500.0).found
    with pytest.raises(InputError, match="nothing of the truth is left on the grid of the map"):
        CaseReader(one, resample=True).mask()


def test_how_much_of_the_truth_the_map_does_not_cover_is_told(tmp_path):
    (one,) = far_and_near(tmp_path, 4.0).found
    reader = CaseReader(one, resample=True)
    assert int(reader.mask().sum()) == 2 * 4 * 4
    assert reader.resampled["mask"] == "nearest, about 50% outside of the map"
    (one,) = far_and_near(tmp_path / "near", 1.0).found
    reader = CaseReader(one, resample=True)
    assert int(reader.mask().sum()) == 4**3
    assert reader.resampled["mask"] == "nearest"
