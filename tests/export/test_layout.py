from __future__ import annotations

import pytest

from medsal.errors import UsageError
from medsal.export.layout import LAYOUTS, check_unique, names_of, repeated_subjects, safe_name

HOSTILE = [
    "../../up",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..",
    ".",
    "",
    "nul\0",
    "a\nb",
    "=cmd()",
    "ümlaut",
    "x" * 400,
    "-rf",
]


def rows(*triples):
    """Rows of a data list."""
    return [dict(zip(("case", "subject", "session"), row, strict=True)) for row in triples]


def test_the_seed_layout_is_the_seeds_tree(tmp_path):
    names = names_of("sub-0001_ses-01", "sub-0001", "ses-01", repeated=frozenset())
    paths = {
        kind: names.path(tmp_path, "seed", kind, method="saliency", cut="40").relative_to(tmp_path).as_posix()
        for kind in LAYOUTS["seed"]
    }
    assert paths == {
        "summary": "saliency/sub-0001/sub-0001_saliency_summary.png",
        "slice": "saliency/sub-0001/sub-0001_saliency_slice_40.png",
        "npy": "saliency/sub-0001/sub-0001_saliency_attributions.npy",
        "nifti": "saliency/sub-0001/sub-0001_saliency.nii.gz",
    }


def test_the_bids_layout_names_entities(tmp_path):
    names = names_of("sub-001_ses-01", "sub-001", "ses-01")
    path = names.path(tmp_path, "bids", "nifti", method="integrated_gradients")
    expected = "sub-001/ses-01/anat/sub-001_ses-01_space-T1w_desc-integratedGradients_attr.nii.gz"
    assert path.relative_to(tmp_path).as_posix() == expected


def test_bids_keeps_cases_apart_that_subject_and_session_do_not():
    first, second = names_of("scan-1", "sub-1", ""), names_of("scan-2", "sub-1", "")
    assert first.stem != second.stem
    assert names_of("a_b", "a_b").stem != names_of("ab", "ab").stem


def test_two_sessions_of_one_subject_stay_apart():
    cases = rows(("s1_a", "s1", "a"), ("s1_b", "s1", "b"), ("s2_a", "s2", "a"))
    repeated = repeated_subjects(cases)
    assert [names_of(r["case"], r["subject"], repeated=repeated).name for r in cases] == ["s1_a", "s1_b", "s2"]
    check_unique(cases, "seed", repeated)


def test_without_the_data_list_every_case_keeps_its_own_name():
    assert names_of("s1_a", "s1", "a").name == "s1_a"


def test_a_subject_named_like_another_case_does_not_take_its_place():
    cases = rows(("s1_a", "s1", "a"), ("s1_b", "s1", "b"), ("other", "s1_a", ""))
    check_unique(cases, "seed", repeated_subjects(cases))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_names_that_differ_only_in_case_are_refused(layout):
    cases = rows(("Sub", "Sub", ""), ("sub", "sub", ""))
    with pytest.raises(UsageError, match="'Sub' and 'sub' would write the same files"):
        check_unique(cases, layout, repeated_subjects(cases))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_the_output_folder(tmp_path, layout, name):
    for kind in LAYOUTS[layout]:
        names = names_of(name, name, name, repeated=frozenset())
        path = names.path(tmp_path, layout, kind, method=name, cut=name)
        assert path.resolve().is_relative_to(tmp_path.resolve())
        assert ".." not in path.relative_to(tmp_path).parts
        known = names.path(tmp_path, layout, kind, method="smooth_integrated_gradients", cut="coronal_-100.0mm")
        assert all(len(part) < 255 for part in known.relative_to(tmp_path).parts)


def test_changed_names_stay_different():
    assert len({safe_name(name) for name in [*HOSTILE, "a-b", "a|b", "a?b"]}) == len(HOSTILE) + 3


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "saliency").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="outside"):
        names_of("a", "a").path(out, "seed", "nifti", method="saliency")


def test_an_unknown_layout_says_which_exist(tmp_path):
    with pytest.raises(UsageError, match="seed, bids, flat"):
        names_of("a", "a").path(tmp_path, "sed", "nifti", method="m")
