"""What a training leaves on the disk."""

from __future__ import annotations

import hashlib

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medsal.bundle import load_weights
from medsal.errors import MedsalError, UsageError
from medsal.networks import EfficientNetV2, LearningCurve, save_weights


def test_saved_weights_come_back_bit_by_bit_and_their_digest_is_checked(tmp_path):
    network = EfficientNetV2(3, 1, 1, "nano").to(memory_format=torch.channels_last_3d)
    path = save_weights(network, tmp_path / "new" / "a.safetensors")
    assert (path.parent / "a.safetensors.sha256").read_text().split()[0] == hashlib.sha256(
        path.read_bytes()
    ).hexdigest()
    other = load_weights(EfficientNetV2(3, 1, 1, "nano"), path)
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="sha256"):
        load_weights(other, path)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    network = nn.Linear(3, 2)
    first, second = (save_weights(network, tmp_path / f"{name}.safetensors") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors", ".safetensors", ".sha256", ".sha256"]


def test_another_format_or_an_impossible_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="safetensors"):
        save_weights(nn.Linear(1, 1), tmp_path / "a.pt")
    with pytest.raises(MedsalError, match="cannot write"):
        save_weights(nn.Linear(1, 1), tmp_path / "file" / "a.safetensors")


def test_the_curve_holds_each_epochs_mean_loss_and_its_own_validation(tmp_path):
    validator = Engine(lambda _engine, _batch: None)
    trainer = Engine(lambda _engine, batch: [{"loss": torch.tensor(batch)}])

    def validate(engine):
        validator.state.metrics = {"auc": engine.state.epoch / 10}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    curve = LearningCurve(validator)
    curve.attach(trainer)
    trainer.run([1.0, 2.0, 6.0], max_epochs=2)
    assert curve.rows == [{"epoch": 1, "loss": 3.0, "auc": 0.1}, {"epoch": 2, "loss": 3.0, "auc": 0.2}]
    save_weights(nn.Linear(1, 1), tmp_path / "a.safetensors", curve=curve)
    assert (tmp_path / "a_curve.csv").read_text() == "epoch,loss,auc\n1,3,0.1\n2,3,0.2\n"
