"""Options: what MONAI takes in silence is refused, with a suggestion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from medsal.bundle import options
from medsal.bundle.command_line import read_config
from medsal.bundle.options import check_command_line, check_options, configured, run_configuration
from medsal.bundle.values import read_values
from medsal.errors import UsageError

MAIN = "/somewhere/monai/bundle/__main__.py"


@pytest.fixture
def config(bundle: Path, overlays: Path) -> dict[str, Any]:
    """The tiny bundle with the overlay."""
    return read_config([str(bundle / "configs/inference.json"), str(overlays / "explain.yaml")])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methds": "saliency"}, "unknown option --methds; did you mean --methods"),
        ({"model_path": "x"}, "--model_path; did you mean --ckpt_path"),
        ({"parameters_path": "x"}, "did you mean --network_def"),
        ({"dataset_dirr": "x"}, "did you mean --dataset_dir"),
        ({"output_dri": "x"}, "did you mean --output_dir"),
        ({"evaluator#metods": "x"}, "did you mean --evaluator::methods"),
        ({"evaluator::network_": "x"}, "did you mean --evaluator::network"),
        ({"evaluator.methods": "x"}, "did you mean --evaluator::methods"),
        ({"salency#target": 1}, "unknown option --salency#target"),
        ({"options#salincy#absolute": 1}, "did you mean --options::saliency"),
        ({"network_def#bn_sizes": 1}, "did you mean --network_def::bn_size"),
        ({"preprocessing#transforms#9#keys": 1}, "unknown option"),
        ({"zzzz": 1}, "the config has"),
        ({"max_samples": "many"}, "--max_samples: wanted a number such as 0, got 'many'"),
        ({"methods": None}, "None has no effect"),
        ({"methods": "salincy"}, "unknown method 'salincy'. Did you mean saliency"),
        ({"methods": ("saliency", "ig2")}, "unknown method 'ig2'"),
        ({"device": "cuda:99"}, "device: cannot compute on 'cuda:99'"),
        ({"device": "gpu"}, "try --device cpu"),
        ({"options#gradcam#relu": "flase"}, "--options#gradcam#relu: wanted true or false, got 'flase'"),
        ({"options": {"gradcam": {"relu": "maybe"}}}, "--options::gradcam::relu: wanted true or false"),
        ({"dataloader#shuffle": "flase"}, "wanted true or false, got 'flase'"),
        ({"evaluator#amp": "flase"}, "wanted true or false, got 'flase'"),
        ({"csv_path": ""}, "--csv_path: wanted a path, got nothing; is a variable of the shell unset"),
        ({"csv_path": True}, "--csv_path: wanted a value, got none"),
        ({"output_dir": " "}, "--output_dir: wanted a path, got nothing"),
        ({"device": True}, "--device: wanted a value such as 'cpu', got none"),
        ({"seed": True}, "--seed: wanted a value such as 0, got none"),
        ({"seed": 1.5}, "--seed: wanted a whole number such as 0, got 1.5"),
        ({"max_samples": 1.5}, "--max_samples: wanted a whole number such as 0, got 1.5"),
        ({"max_samples": -1}, "--max_samples: wanted 0"),
        ({"target": 1.5}, "--target: wanted a class number, label or predicted, got 1.5"),
        ({"target": True}, "--target: wanted a class number"),
        ({"memory_format": "channels_last"}, "channels_last is not for images in 3D"),
    ],
)
def test_what_would_go_unnoticed_is_refused(config: dict[str, Any], given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_options(config, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"methods": "saliency,gradcam"},
        {"methods": ("saliency", "gradcam")},
        {"key_slices": (30, 40)},
        {"max_samples": 0},
        {"max_samples": "$1 + 1"},
        {"output_dir": "x"},
        {"device": "cpu"},
        {"ckpt_path": "x"},
        {"csv_path": "x"},
        {"target": None},
        {"target": "label"},
        {"options#integrated_gradients#steps": 5},
        {"options::smoothgrad::samples": 5},
        {"network_def#out_channels": 3},
        {"network_def::dropout_prob": 0.5},
        {"evaluator#amp": True},
        {"evaluator::memory_format": "contiguous"},
        {"preprocessing#transforms#0#reader": "NibabelReader"},
        {"preprocessing#transforms#0#_disabled_": True},
        {"_meta_#version": "2"},
        {"_meta_#anything": "2"},
        {"+handlers": []},
        {"run_id": "run"},
        {"logging_file": "x"},
        {"workflow_name": "medsal.bundle.Workflow"},
    ],
)
def test_what_exists_is_taken(config: dict[str, Any], given: dict[str, Any]) -> None:
    check_options(config, given)


def test_options_are_put_into_the_configuration_and_the_files_own_stays(config: dict[str, Any]) -> None:
    merged = check_options(config, {"options#saliency": {"absolute": False}, "seed": 3, "logging_file": "x"})
    assert merged["options"]["saliency"] == {"absolute": False}
    assert merged["seed"] == 3
    assert "logging_file" not in merged
    assert config["seed"] == 0
    assert config["options"]["saliency"] == {}


@pytest.mark.parametrize(
    ("given", "meant"), [("false", False), ("no", False), ("True", True), (0, False), (False, False), (True, True)]
)
def test_text_means_the_boolean_that_it_names(config: dict[str, Any], given: Any, meant: bool) -> None:
    keys = ("options#gradcam#relu", "evaluator#amp", "dataloader#drop_last")
    for key in keys:
        found = read_values(config, {key: given})[key]
        assert (found, type(found)) == (meant, bool), key
    whole = check_options(config, {"options": {"gradcam": {"relu": given}}})
    assert whole["options"]["gradcam"]["relu"] is meant


def test_text_that_is_no_boolean_stays_text(config: dict[str, Any]) -> None:
    given = {"methods": "saliency", "target": "label", "csv_path": "false", "layout": "seed", "dataloader": "@no"}
    assert read_values(config, given) == given


def test_every_method_may_be_given_options(config: dict[str, Any]) -> None:
    from medsal.attribution import ALIASES, METHODS

    assert set(config["options"]) == {*METHODS, *ALIASES}


def words(bundle: Path, overlays: Path, *more: str) -> list[str]:
    files = [str(bundle / "configs/inference.json"), str(overlays / "explain.yaml")]
    return [MAIN, "run", "--config_file", repr(files), *more]


@pytest.fixture
def _hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the hook for uncaught errors, and the configuration of this process, back after the test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(options, "_RUN", type(options._RUN)())


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "saliency", "gradcam"], "--methods takes one value, got 2; write --methods saliency,gradcam"),
        (["--key_slices", "30", "40", "50"], "write --key_slices 30,40,50"),
        (["--methods=saliency", "gradcam"], "write --methods saliency,gradcam"),
        (["--methds", "saliency"], "did you mean --methods"),
        (["--methods", "salincy"], "Did you mean saliency"),
        (["--args_file", "absent.yaml"], "args_file: cannot read absent.yaml"),
        (["--options#gradcam#relu", "false"], "plain monai.bundle takes 'false' as text; write False"),
        (["--csv_path", "--max_samples", "1"], "--csv_path: wanted a value, got none"),
        (["--csv_path="], "--csv_path: wanted a path, got nothing"),
    ],
)
def test_a_command_line_of_plain_monai(bundle: Path, overlays: Path, more: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_command_line(words(bundle, overlays, *more))


@pytest.mark.usefixtures("_hook")
def test_a_word_in_front_of_the_options_must_be_an_id(bundle: Path, overlays: Path) -> None:
    argv = words(bundle, overlays)
    check_command_line([*argv[:2], "run", *argv[2:]])
    with pytest.raises(UsageError, match="unknown word 'evaluating'"):
        check_command_line([*argv[:2], "evaluating", *argv[2:]])


@pytest.mark.usefixtures("_hook")
def test_an_args_file_is_checked_too_and_the_command_line_wins(bundle: Path, overlays: Path, tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    files = [str(bundle / "configs/inference.json"), str(overlays / "explain.yaml")]
    file.write_text(f"config_file: {files}\nseed: 3\nmax_samples: 2\n")
    check_command_line([MAIN, "run", "--args_file", str(file), "--seed", "4", "--output-dir", "x"])
    found = run_configuration()
    assert found is not None
    assert (found["seed"], found["max_samples"], found["output_dir"]) == (4, 2, "x")
    file.write_text(f"config_file: {files}\nmethds: saliency\n")
    with pytest.raises(UsageError, match="did you mean --methods"):
        check_command_line([MAIN, "run", "--args_file", str(file)])


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize(
    "argv", [["/usr/bin/pytest", "--methds", "a"], [MAIN, "verify_metadata", "--methds", "a"], [""]]
)
def test_a_process_that_is_no_bundle_run_is_left_alone(argv: list[str]) -> None:
    hook = sys.excepthook
    check_command_line(argv)
    assert sys.excepthook is hook
    assert run_configuration() is None


@pytest.mark.usefixtures("_hook")
def test_a_workflow_vouches_for_its_configuration_only_while_it_runs() -> None:
    with configured({"seed": 5}):
        check_command_line([MAIN, "run", "--methds", "a"])
        assert run_configuration() == {"seed": 5}
    assert run_configuration() is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "arun21"}, "preset: wanted one of arun2021"),
        ({"preset": "mri_tle", "methods": "saliency"}, "--preset mri_tle names the methods: leave --methods out"),
        ({"methods": {"a": {"method": "salience"}}}, "Did you mean saliency"),
        (
            {"methods": "@nothing"},
            "config: methods wants the id nothing, which the bundle does not have",
        ),
    ],
)
def test_presets_and_named_maps_are_checked(config: dict[str, Any], given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_options(config, given)


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "mri_tle"},
        {"methods": {"a": {"method": "saliency", "channels": "sum"}, "gradcam": {}}},
        {"methods": {"a": {"method": "saliency"}}, "options#a": {"channels": "sum"}},
        {"autocast": "bfloat16"},
    ],
)
def test_presets_named_maps_and_precision_are_taken(config: dict[str, Any], given: dict[str, Any]) -> None:
    check_options(config, given)


@pytest.mark.parametrize(("methods", "preset"), [("sumer2023", None), ("sumer2023", ""), (["saliency"], "sumer2023")])
def test_the_name_of_a_preset_may_stand_for_its_methods(methods, preset):
    from medsal.attribution.presets import PRESETS
    from medsal.bundle.asked import asked_methods

    assert asked_methods(methods, preset) == asked_methods([], "sumer2023")
    assert list(asked_methods(methods, preset)) == list(PRESETS["sumer2023"])
