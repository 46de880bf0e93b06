"""The paper's network."""

from __future__ import annotations

import numpy as np
import torch

from flip.classify.heads import Inputs, build_head, mlp
from flip.classify.heads.columns import Columns
from tests.classify.heads_data import CLASSES, birds, photos


def test_two_folded_layers_equal_the_network(monkeypatch):
    """Linear → ReLU → BatchNorm → Linear in torch gives what the saved arrays give in numpy."""
    monkeypatch.setattr(mlp, "HIDDEN", 16)
    features, labels = photos(10, seed=1)
    trainer = mlp.Network(Columns(features), labels, np.ones(len(labels), np.float32), CLASSES, 0, "cpu")
    for _ in range(3):
        trainer.epoch()
    trainer.net.eval()
    with torch.inference_mode():
        expected = trainer.net(torch.from_numpy((features - trainer.mean) * trainer.gain)).numpy()
    np.testing.assert_allclose(trainer.logits(Columns(features)), expected, atol=1e-4)
    assert [type(layer).__name__ for layer in trainer.net] == ["Linear", "ReLU", "BatchNorm1d", "Linear"]


def test_training_stops_early_and_refits_for_as_many_epochs(monkeypatch):
    monkeypatch.setattr(mlp, "HIDDEN", 32)
    monkeypatch.setattr(mlp, "LEARNING_RATE", 3e-2)
    inputs, labels = birds(12, noise=0.6)
    epochs = []
    whole = mlp.Network.epoch
    monkeypatch.setattr(mlp.Network, "epoch", lambda self: epochs.append(self) or whole(self))
    head = build_head("mlp", CLASSES, device="cpu").fit(inputs, labels)
    last = epochs[-1]
    assert sum(net is last for net in epochs) == head.setting["epochs"] < mlp.MOST_EPOCHS
    assert len(set(map(id, epochs))) == 6, "five folds and the network that is kept"
    assert "cross-validation on train" in head.protocol["epochs"]


def test_global_randomness_is_left_alone(monkeypatch):
    monkeypatch.setattr(mlp, "MOST_EPOCHS", 2)
    inputs, labels = birds(3)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_head("mlp", CLASSES, seed=4).fit(inputs, labels)
    assert torch.rand(1) == expected


def test_one_fold_is_enough_for_many_rows(monkeypatch):
    monkeypatch.setattr(mlp, "SINGLE_FOLD_ROWS", 20)
    monkeypatch.setattr(mlp, "MOST_EPOCHS", 3)
    inputs, labels = birds(10)
    head = build_head("mlp", CLASSES).fit(Inputs(inputs.image), labels)
    assert len(head.out_of_fold.rows) == 8
