"""Lung fields: sides, zones, doubts, and the list of films with masks."""

import numpy as np
import pytest

from medsal.data.films.lungs import LUNG_REGIONS, lung_doubts, lung_field_cases, lung_regions, lung_sides
from medsal.errors import InputError, UsageError


def lungs(gap=20, right=(10, 40), left=(60, 90), rows=(10, 82), shape=(100, 100)):
    mask = np.zeros(shape, dtype=bool)
    mask[rows[0] : rows[1], right[0] : right[1]] = True
    mask[rows[0] : rows[1], left[0] : left[1]] = True
    return mask


def test_the_patients_right_is_the_left_of_the_array():
    sides = lung_sides(lungs())
    assert set(np.unique(sides[:, :50])) == {0, 1}
    assert set(np.unique(sides[:, 50:])) == {0, 2}


def test_a_film_turned_over_changes_sides():
    mask = lungs(right=(10, 40), left=(60, 80))
    turned = lung_sides(mask[:, ::-1])
    assert (turned == 1).sum() == (lung_sides(mask) == 2).sum()


def test_touching_lungs_are_cut_where_they_are_narrowest():
    mask = lungs()
    mask[40:43, 40:60] = True
    sides = lung_sides(mask)
    assert (sides[mask] > 0).all()
    assert (sides[:, :40][mask[:, :40]] == 1).all()
    assert (sides[:, 60:][mask[:, 60:]] == 2).all()


def test_crumbs_belong_to_no_lung():
    mask = lungs()
    mask[95:97, 48:50] = True
    assert not lung_sides(mask)[95:97].any()


def test_zones_have_equal_heights_on_each_side_of_its_own():
    mask = lungs()
    mask[:40, 60:90] = False  # the left lung is shorter
    found = lung_regions(mask)
    assert sorted(np.unique(found)) == [0, *LUNG_REGIONS]
    assert [int((found == label).any(1).sum()) for label in LUNG_REGIONS] == [24, 24, 24, 14, 14, 14]
    assert LUNG_REGIONS[found[12, 20]] == "right upper"
    assert LUNG_REGIONS[found[80, 70]] == "left lower"
    assert ((found > 0) == mask).all()


def test_an_empty_mask_has_no_regions():
    assert not lung_regions(np.zeros((8, 8))).any()


def test_only_masks_of_films_are_taken():
    with pytest.raises(UsageError, match="rows and columns"):
        lung_sides(np.ones((2, 2, 2)))


@pytest.mark.parametrize(
    ("probability", "doubt"),
    [
        (lungs().astype(float), ""),
        (np.zeros((100, 100)), "no lung was found"),
        (lungs(left=(60, 60)).astype(float), "no left lung"),
        (lungs(right=(0, 0)).astype(float), "no right lung"),
        (lungs(left=(60, 70)).astype(float), "3.0 times the other"),
        (lungs(rows=(0, 100), right=(0, 45), left=(50, 100)).astype(float), "lungs fill 95%"),
        (np.where(lungs(), 0.7, 0.0), "undecided"),
    ],
)
def test_odd_masks_are_doubted(probability, doubt):
    found = lung_doubts(probability)
    assert (doubt in "; ".join(found)) if doubt else found == []


def test_no_patient_is_in_both_splits(real_data):
    cases = lung_field_cases(real_data / "cxr_hannover")
    train, test = ({case["subject"] for case in cases if case["split"] == name} for name in ("train", "test"))
    assert len(cases) == 77
    assert train
    assert test
    assert not train & test
    assert lung_field_cases(real_data / "cxr_hannover", split="test") == [c for c in cases if c["split"] == "test"]


def test_real_masks_have_two_lungs(real_data):
    from PIL import Image

    for case in lung_field_cases(real_data / "cxr_hannover"):
        mask = np.asarray(Image.open(case["mask"])) > 0
        sides = lung_sides(mask)
        assert set(np.unique(sides)) == {0, 1, 2}, case["case"]
        assert ((sides > 0) != mask).sum() < 0.02 * mask.sum(), case["case"]
        assert np.nonzero(sides == 1)[1].mean() < np.nonzero(sides == 2)[1].mean()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"data\.csv.*no such file"):
        lung_field_cases(tmp_path)
    (tmp_path / "data.csv").write_text("patient_id,image_id\np,a\n")
    with pytest.raises(InputError, match="holds no film"):
        lung_field_cases(tmp_path)
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a_lungmask\.png.*no such file"):
        lung_field_cases(tmp_path)
    (tmp_path / "png" / "b.png").write_bytes(b"")
    (tmp_path / "lung_masks").mkdir()
    (tmp_path / "lung_masks" / "a_lungmask.png").write_bytes(b"")
    with pytest.raises(InputError, match="no patient_id for the image_id b"):
        lung_field_cases(tmp_path)
    with pytest.raises(UsageError, match="split"):
        lung_field_cases(tmp_path, split="val")
