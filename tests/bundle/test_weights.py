"""Weights: everything fits or nothing is loaded; no code of a file runs."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medsal.bundle import load_weights, weights_record
from medsal.errors import UsageError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return network().state_dict()


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda found: {prefix + key: value for key, value in found.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda found: found,
        lambda found: {"state_dict": found, "epoch": 3},
        lambda found: {"model_state_dict": found},
        lambda found: {"model": found},
        lambda found: {"network": {"state_dict": found}},
        _prefixed("module."),
        _prefixed("model."),
        lambda found: {"state_dict": _prefixed("model.module.")(found)},
    ],
)
def test_the_usual_wrappings_are_understood(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    torch.save(wrap(state()), tmp_path / "w.pt")
    loaded = load_weights(network(), tmp_path / "w.pt")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state().items())


def test_safetensors_and_the_record(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    net = network()
    assert load_weights(net, str(tmp_path / "w.safetensors"), device="cpu") is net
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert weights_record(net) == {"path": str(tmp_path / "w.safetensors"), "sha256": digest}
    assert torch.equal(net[0].weight, state()["0.weight"])


def test_a_prefix_of_the_network_itself_stays(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(1, 1)

    torch.save(Outer().state_dict(), tmp_path / "w.pt")
    load_weights(Outer(), tmp_path / "w.pt")


def _without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state().items() if name != key}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_without("0.bias"), r"1 missing \(0\.bias\)"),
        ({**state(), "head.weight": torch.ones(1)}, r"1 unexpected \(head\.weight\)"),
        ({**state(), "2.weight": torch.ones(2, 4)}, r"2\.weight wants \(1, 4\), got \(2, 4\)"),
        ({}, "wanted a state dict"),
        ({"epoch": 3}, "got keys epoch"),
        ([1, 2], "got list"),
        ({f"x{i}": torch.ones(1) for i in range(9)}, r"9 unexpected \(x0, x1, x2, \.\.\.\)"),
    ],
)
def test_what_does_not_fit_is_named_and_the_network_stays_as_it_was(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UsageError, match=words) as caught:
        load_weights(net, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    with pytest.raises(UsageError, match="random weights"):
        weights_record(net)


@pytest.mark.parametrize("path", ["absent.pt", ""])
def test_a_missing_file_is_named_with_the_option_that_sets_it(path: str) -> None:
    with pytest.raises(UsageError, match=f"no file '{path}'; set --ckpt_path"):
        load_weights(network(), path)


class Harm:
    """A pickle that would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_a_pickle_with_code_is_refused_and_not_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / name).write_bytes(pickle.dumps(Harm(tmp_path / "mark")))
    with pytest.raises(UsageError, match="no readable state dict"):
        load_weights(network(), tmp_path / name)
    torch.save({"a": Harm(tmp_path / "mark")}, tmp_path / name)
    with pytest.raises(UsageError, match="no readable state dict"):
        load_weights(network(), tmp_path / name)
    assert not (tmp_path / "mark").exists()


def test_a_digest_beside_the_file_must_hold(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    (tmp_path / "w.pt.sha256").write_text(f"{digest.upper()}  w.pt\n")
    load_weights(network(), tmp_path / "w.pt")
    (tmp_path / "w.pt.sha256").write_text("0" * 64)
    with pytest.raises(UsageError, match="has sha256"):
        load_weights(network(), tmp_path / "w.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([[1.0, float("nan")]]), "bias": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"NaN or infinite numbers in 1 tensors \(weight\)"):
        load_weights(nn.Linear(2, 1), tmp_path / "a.pt")
