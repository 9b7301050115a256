"""What every row of METRICS must satisfy, in 2D and 3D."""

from __future__ import annotations

import inspect
import pickle
import pkgutil
import re
from importlib import import_module

import pytest
import torch
from monai.data import MetaTensor

import medsal
from medsal import evaluation, metrics, transforms
from medsal.evaluation import FLIP, INCREASING, METRICS, PERMUTE, SCALE
from tests.networks_for_tests import case, settled

SPACES = {"2D": (12, 16), "3D": (12, 8, 10)}
every_row = pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)
every_space = pytest.mark.parametrize("kind", SPACES)
FEW = {
    "insertion": {"steps": 6},
    "deletion": {"steps": 6},
    "infidelity": {"samples": 4},
    "sensitivity_max": {"samples": 2},
    "ssim": {"data_range": 1e4},
    "ssim_corrected": {"data_range": 1e4},
}


def rows_with(what):
    rows = [row for row in METRICS.values() if what in row.invariances]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def given(row, kind, batch=3):
    """What a row takes, for a batch; maps have ties, both signs, and no exact zero."""
    network, image = case(kind, batch=batch)
    generator = torch.Generator().manual_seed(5)
    space = SPACES[kind] if row.family != "similarity" else {"2D": (12, 16), "3D": (12, 13, 14)}[kind]
    relevance = torch.randint(1, 12, (batch, 1, *space), generator=generator).double() - 4.5
    mask = torch.rand(batch, 1, *space, generator=generator) < 0.3
    codes = torch.tensor([255, 128, 64, 32, 0])[torch.randint(5, (batch, 1, *space), generator=generator)]
    known = {"relevance": relevance, "mask": mask, "layers": codes, "labels": codes // 32, "network": network}
    known |= {"image": image, "method": "saliency", "other": relevance.roll(1, 2) + relevance}
    return {name: known[name] for name in row.takes}


def scored(row, what):
    return row.function(*what.values(), **FEW.get(row.name, {}))


def changed(what, change, names=("relevance", "other", "mask", "layers", "labels")):
    return {name: change(value) if name in names else value for name, value in what.items()}


def test_every_public_metric_function_has_a_row_and_every_row_is_whole():
    assert medsal.METRICS is METRICS
    taken = {row.takes[:2] for row in METRICS.values()} | {("relevance",)}
    found = set()
    for module in pkgutil.iter_modules(evaluation.__path__, "medsal.evaluation."):
        for name, function in inspect.getmembers(import_module(module.name), inspect.isfunction):
            signature = inspect.signature(function)
            first = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            public = function.__module__ == module.name and not name.startswith("_")
            if public and tuple(first[:2]) in taken and signature.return_annotation == "Tensor":
                found.add(name)
    # of maps, but not a score of them
    helpers = {"finite", "mean_cover", "shuffled", "unit_range", "mass_at_shifts", "any_hit_chance"}
    assert found - helpers == set(METRICS)
    for name, row in METRICS.items():
        assert row.name == name
        assert row.paper.partition(", ")[2].startswith(("arXiv:", "doi:10.", "PMLR"))
        assert row.better in {"higher", "lower"}
        assert row.range[0] < row.range[1]
        assert row.signed in {"positive part", "magnitude", "as is"}
        assert row.family in {
            "localisation",
            "layers",
            "regions",
            "complexity",
            "confidence",
            "faithfulness",
            "similarity",
        }
        assert (row.cost > 0) == ("network" in row.takes)
        assert row.chance
        assert "chance" in (row.function.__doc__ or "").lower() or "constant map" in row.function.__doc__ or row.cost


def test_every_metric_of_stored_maps_has_its_transform_and_its_monai_metric():
    words = {"iou": "IoU", "ssim": "SSIM"}
    rows = [row for row in METRICS.values() if "network" not in row.takes]
    named = {"".join(words.get(w, w.capitalize()) for w in row.name.split("_")): row.name for row in rows}
    ours = set(transforms.scores.__all__) - {"Scored"}
    assert {f"{name}{ending}" for name in named for ending in ("d", "D", "Dict")} == ours <= set(transforms.__all__)
    assert {f"{name}Metric" for name in named} == set(metrics.__all__) - {"RelevanceMetric"}
    for name, row in named.items():
        dictionary = getattr(transforms, f"{name}d")
        assert getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict") is dictionary
        assert dictionary.__name__ == f"{name}d"
        assert dictionary("map").scorer.metric == row
        metric = getattr(metrics, f"{name}Metric")
        assert metric.__name__ == f"{name}Metric"
        assert metric(**({"regions": [1]} if row == "region_scores" else {})).scorer.metric == row
        assert pickle.loads(pickle.dumps(dictionary)) is dictionary


def test_the_table_of_the_documentation_is_the_table(repository):
    text = (repository / "docs" / "metrics.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| *(\w*) *\|[^|]*\| ([\w ]+) \|$", text, re.MULTILINE)
    assert told == [(n, row.better * (row.family != "regions"), row.signed) for n, row in METRICS.items()]


@every_row
@every_space
def test_scores_are_one_number_in_double_precision_within_the_range(row, kind):
    found = scored(row, given(row, kind))
    assert found.shape == ((3,) if row.family != "regions" else (3, 4))
    assert found.dtype == torch.float64
    assert type(found) is torch.Tensor
    assert (found >= row.range[0]).all()
    assert (found <= row.range[1]).all()


@every_row
@every_space
def test_images_of_a_batch_do_not_mix(row, kind):
    what = given(row, kind)
    together = scored(row, what)
    for i in range(3):
        alone = scored(row, {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in what.items()})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)


@every_row
def test_what_is_given_is_left_as_it_was_and_meta_tensors_are_taken(row):
    what = given(row, "2D")
    copies = {name: value.clone() for name, value in what.items() if isinstance(value, torch.Tensor)}
    dressed = changed(what, MetaTensor, names=tuple(copies))
    found = scored(row, dressed)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, scored(row, what))
    assert all(torch.equal(what[name], copy) for name, copy in copies.items())


@every_row
def test_a_volume_of_one_slice_equals_the_picture(row):
    what = given(row, "2D")
    flat, deep = scored(row, what), changed(what, lambda t: t.unsqueeze(2))
    if "network" in what:
        volume, _ = case("3D")
        with torch.no_grad():
            for thick, thin in zip(volume.parameters(), what["network"].parameters(), strict=True):
                (thick.zero_()[:, :, 1] if thick.ndim == 5 else thick).copy_(thin)
            for thick, thin in zip(volume.buffers(), what["network"].buffers(), strict=True):
                thick.copy_(thin)
        deep |= {"network": volume, "image": what["image"].unsqueeze(2)}
    torch.testing.assert_close(scored(row, deep), flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", [r for r in METRICS.values() if "network" in r.takes], ids=lambda row: row.name)
def test_the_cost_is_the_number_of_passes(row):
    what, seen = given(row, "2D", batch=1), []
    what["network"].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    row.function(*what.values())
    assert row.cost == sum(seen) * (2 if row.name == "sensitivity_max" else 1)  # its maps have a backward each


@rows_with(INCREASING)
@every_space
def test_a_strictly_increasing_transform_changes_nothing(row, kind):
    what = given(row, kind)
    for transform in (torch.exp, torch.arctan, lambda r: r**3 + 100):
        moved = changed(what, transform, names=("relevance",))
        torch.testing.assert_close(scored(row, moved), scored(row, what), rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", [r for r in METRICS.values() if INCREASING not in r.invariances], ids=lambda r: r.name)
def test_a_row_without_that_invariance_does_not_have_it(row):
    what = given(row, "2D")
    if "relevance" not in what:
        pytest.skip("it makes its own maps")
    transforms = (torch.exp, lambda r: r - 3, lambda r: r**3)
    moved = [scored(row, changed(what, transform, names=("relevance",))) for transform in transforms]
    differs = [not torch.allclose(scored(row, what), other) for other in moved]
    assert any(differs) or row.name in {"layer_hit_rate", "increase_in_confidence"}  # the peak; one of two values


@rows_with(SCALE)
@every_space
def test_a_positive_factor_changes_nothing(row, kind):
    what = given(row, kind)
    for factor in (1e-6, 3.0, 1e6):
        moved = changed(what, lambda r, f=factor: r * f, names=("relevance",))
        torch.testing.assert_close(scored(row, moved), scored(row, what), rtol=1e-12, atol=1e-12)


@rows_with(FLIP)
def test_axes_may_be_flipped_and_exchanged(row):
    what = given(row, "3D")
    for change in (lambda t: t.flip(2), lambda t: t.flip(3, 4), lambda t: t.permute(0, 1, 4, 2, 3)):
        torch.testing.assert_close(scored(row, changed(what, change)), scored(row, what), rtol=1e-12, atol=1e-12)


@rows_with(PERMUTE)
@every_space
def test_the_order_of_voxels_does_not_matter(row, kind):
    what = given(row, kind)
    order = torch.randperm(what["relevance"][0].numel())
    moved = changed(what, lambda t: t.flatten(2)[..., order].view_as(t))
    torch.testing.assert_close(scored(row, moved), scored(row, what), rtol=1e-12, atol=1e-12)


@every_row
def test_a_map_that_is_not_finite_has_no_answer_and_says_so(row):
    what = given(row, "2D")
    if "relevance" not in what:
        pytest.skip("it makes its own maps")
    for value in (torch.nan, torch.inf, -torch.inf):
        what["relevance"][1, 0, 3, 3] = value
        found = scored(row, what)
        assert found.reshape(3, -1).isnan().all(1).tolist() == [False, True, False]
        truth = what[row.takes[1]] if row.takes[0] == "relevance" and len(row.takes) > 1 else None
        assert row.reasons(found, what["relevance"], truth) == ["", "map not finite", ""]


@every_row
@every_space
def test_a_constant_map_scores_the_chance_value(row, kind):
    what = given(row, kind)
    chance = row.chance_value(what[row.takes[1]]) if callable(row.chance) else None
    if chance is None:
        pytest.skip(f"chance is {row.chance}")
    for value in (1.0, 0.3):
        constant = changed(what, lambda r, v=value: torch.full_like(r, v), names=("relevance",))
        torch.testing.assert_close(scored(row, constant), chance, rtol=0, atol=1e-15)


@every_row
def test_independent_noise_scores_the_chance_value_on_average(row):
    if not callable(row.chance) or row.name in {"auprc_trapezoid", "iou", "dice", "best_iou"}:
        pytest.skip("its chance value is that of a blank map, or told in words")
    space = (1500, 1, 30, 30)
    mask = torch.rand(1, 1, 30, 30) < 0.3
    if row.family == "layers":
        mask = torch.tensor([255, 128, 64, 32, 0])[torch.randint(5, (1, 1, 30, 30))]
    found = row.function(torch.rand(space), mask.expand(space))
    error = found.std() / 1500**0.5
    assert abs(found.mean() - row.chance_value(mask)).item() < 5 * error.item() + 0.005


def test_the_laws_have_a_network_that_looks_at_the_image():
    network, image = case("2D")
    assert not torch.allclose(network(image), settled(network, 1)(image))


@pytest.mark.parametrize("row", [r for r in METRICS.values() if "network" not in r.takes], ids=lambda row: row.name)
@every_space
def test_transforms_and_monai_metrics_give_what_the_function_gives(row, kind):
    what, options = given(row, kind), dict(FEW.get(row.name, {}))
    if row.family == "regions":
        options["regions"] = [1, 2, 7]
    wanted = row.function(*what.values(), **options).reshape(3, -1)
    metric = metrics.RelevanceMetric(row.name, side="as is", **options)
    torch.testing.assert_close(metric(*what.values()), wanted)
    torch.testing.assert_close(metric.get_buffer(), wanted)
    scored = transforms.Scored("relevance", row.name, side="as is", output="it", **options)
    for i in range(3):
        case = scored({name: MetaTensor(value[i]) for name, value in what.items()})
        torch.testing.assert_close(torch.as_tensor(case["it"], dtype=torch.float64).reshape(-1), wanted[i])
        assert isinstance(case["relevance"], MetaTensor)
        assert torch.equal(case["relevance"].as_tensor(), what["relevance"][i])
        assert [one["value"] for one in case["scores"]] == wanted[i].tolist()
