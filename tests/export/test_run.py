from __future__ import annotations

import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsal.errors import MedsalError, UsageError
from medsal.export import ExportOptions, export_case, prepare_export, run
from medsal.report import case_page

CASES = [{"case": "sub-0001_ses-01", "subject": "sub-0001", "session": "ses-01"}]


def tree(folder):
    """Every file in a folder, as text."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_seeds_tree(make_case, tmp_path):
    options = prepare_export(tmp_path, CASES, ExportOptions(slices=[3, 4]))
    done = export_case(make_case(), tmp_path, options)
    names = ["_attributions.npy", "_slice_03.png", "_slice_04.png", "_summary.png", ".nii.gz"]
    expected = [f"{m}/sub-0001/sub-0001_{m}{n}" for m in ("saliency", "integrated_gradients") for n in names]
    assert tree(tmp_path) == sorted([*expected, "report/sub-0001_ses-01.json"])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in done.files) == tree(tmp_path)
    assert [row["method"] for row in done.statistics] == ["saliency", "integrated_gradients"]
    assert done.statistics[0]["subject_id"] == "sub-0001"
    assert set(done.seconds) == {"draw", "write", "report"}
    assert all(value > 0 for value in done.seconds.values())


def test_the_marked_voxel_is_in_every_file(make_case, oblique, tmp_path):
    result = make_case(marks={(3, 4, 5): 2.0})
    export_case(result, tmp_path, ExportOptions(layout="flat", slices=4))
    image = nib.load(tmp_path / "sub-0001_ses-01_saliency.nii.gz")
    place = np.unravel_index(np.asarray(image.dataobj).argmax(), image.shape)
    np.testing.assert_allclose(image.affine @ [*place, 1], oblique @ [3, 4, 5, 1], atol=1e-4)
    assert np.load(tmp_path / "sub-0001_ses-01_saliency_attributions.npy")[4, 3, 5] == 2.0
    picture = np.asarray(Image.open(tmp_path / "sub-0001_ses-01_saliency_slice_04.png")).astype(int)
    red = (picture[..., 0] - picture[..., 2] > 60) & (picture[..., 1] < 60)
    assert red.any()


def test_the_bids_derivative(make_case, tmp_path):
    options = prepare_export(tmp_path, CASES, ExportOptions(layout="bids", slices=[3], model={"sha256": "ab"}))
    export_case(make_case(), tmp_path, options)
    anat = tmp_path / "sub-0001" / "ses-01" / "anat"
    facts = json.loads((anat / "sub-0001_ses-01_space-T1w_desc-integratedGradients_attr.json").read_text())
    assert facts["Method"] == "integrated_gradients"
    assert facts["Parameters"] == {"steps": 32}
    assert facts["ModelHash"] == "ab"
    assert facts["CompletenessDelta"] == [0.01]
    assert facts["Sources"] == ["name.nii.gz"]
    assert (anat / "sub-0001_ses-01_space-T1w_desc-integratedGradients_attr.nii.gz").is_file()
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert "*_attr.*" in (tmp_path / ".bidsignore").read_text().splitlines()


@pytest.mark.parametrize("layout", ["seed", "bids", "flat"])
def test_an_image_in_the_plane(make_case, tmp_path, layout):
    result = make_case((9, 12), np.eye(4))
    done = export_case(result, tmp_path, ExportOptions(layout=layout))
    assert len(done.files) == (9 if layout != "bids" else 11)
    assert done.statistics[0]["shape"] == "(9, 12)"


def test_parts_can_be_left_out(make_case, tmp_path):
    export_case(make_case(), tmp_path, ExportOptions(write=("nifti",)))
    assert {Path(name).suffixes[-1] for name in tree(tmp_path)} == {".gz"}


def test_the_same_case_gives_the_same_files(make_case, tmp_path):
    for name in ("a", "b"):
        export_case(make_case(), tmp_path / name, ExportOptions(slices=[3]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for name in tree(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_two_sessions_do_not_overwrite_each_other(make_case, tmp_path):
    cases = [*CASES, {"case": "sub-0001_ses-02", "subject": "sub-0001", "session": "ses-02"}]
    options = prepare_export(tmp_path, cases, ExportOptions(slices=[3]))
    first = export_case(make_case(), tmp_path, options)
    second = export_case(make_case(case="sub-0001_ses-02", session="ses-02"), tmp_path, options)
    assert not set(first.files) & set(second.files)
    assert len(tree(tmp_path)) == len(first.files) + len(second.files)


def test_limits_by_volume_compare_and_limits_by_slice_do_not(make_case, tmp_path):
    result = make_case(marks={(3, 4, 5): 2.0, (3, 6, 5): 0.02})
    pictures = {}
    for limits in ("volume", "slice"):
        export_case(result, tmp_path / limits, ExportOptions(layout="flat", slices=[6], limits=limits))
        picture = Image.open(tmp_path / limits / "sub-0001_ses-01_saliency_slice_06.png")
        array = np.asarray(picture).astype(int)
        pictures[limits] = ((array[..., 0] - array[..., 2] > 60) & (array[..., 1] < 60)).sum()
    # the colour bar is red in both, the faint voxel only where its slice has its own scale
    assert pictures["slice"] > pictures["volume"] + 100


@pytest.mark.parametrize(
    ("options", "text"),
    [({"layout": "x"}, "seed, bids, flat"), ({"write": ("nii",)}, "nifti"), ({"limits": "x"}, "volume or slice"),
     ({"scale": 0}, "scale"), ({"slices": "x"}, "slices: wanted")],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_done(options, text):
    with pytest.raises(UsageError, match=text):
        ExportOptions(**options)


def test_a_map_of_another_shape_is_refused(make_case, make_tensor, tmp_path):
    maps = {"saliency": make_tensor(np.zeros((3, 3, 3), dtype=np.float32), np.eye(4))}
    with pytest.raises(MedsalError, match=r"case sub-0001_ses-01: wanted a map of the image's shape \(12, 10, 8\)"):
        export_case(make_case(maps=maps, native_maps=maps), tmp_path, ExportOptions())


def test_a_full_disk_leaves_whole_files_only(make_case, tmp_path, monkeypatch):
    written = []
    replace = Path.replace

    def filling(self, target):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(Path(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", filling)
    with pytest.raises(MedsalError, match="No space left on device"):
        export_case(make_case(), tmp_path, ExportOptions(slices=[3]))
    assert tree(tmp_path) == sorted(path.relative_to(tmp_path).as_posix() for path in written)


def test_an_output_that_is_a_file_is_found_before_the_first_case(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(MedsalError, match="cannot write"):
        prepare_export(tmp_path / "out", CASES, ExportOptions())


def test_no_letters_are_drawn_where_left_and_right_are_unknown(tmp_path, make_case, monkeypatch):
    case, seen, real = make_case(), [], run.cut_tile
    monkeypatch.setattr(run, "cut_tile", lambda *given: (seen.append(given[2]), real(*given))[1])
    export_case(case, tmp_path)
    assert "".join(seen[0].letters)
    assert "".join(case_page(case)["letters"])
    for volume in (case.image, case.native):
        volume.meta |= {"sform_code": 0, "qform_code": 0}
    seen.clear()
    export_case(case, tmp_path)
    assert not "".join(letter for view in seen for letter in view.letters)
    assert not "".join(case_page(case)["letters"])
