"""The paper's head: Linear → ReLU → BatchNorm → Linear on image and text features side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import numpy as np

from flip.classify.calibration import row_losses
from flip.classify.heads.base import Floats, Rows, Training
from flip.classify.heads.columns import Features, centre_and_scale
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import FusedHead, Setting
from flip.device import place

HIDDEN = 512
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
#: Most passes over the rows, and passes without a lower held-out loss after which training stops.
MOST_EPOCHS = 60
PATIENCE = 6
#: With more rows than this one fold is held out rather than each in turn: five networks take five times as long.
SINGLE_FOLD_ROWS = 2_000


class MlpHead(FusedHead):
    """The paper's network; the number of epochs, fusion and temperature on held-out rows of train.

    The networks of all folds are trained side by side. The epoch with the least held-out loss over all of them
    is the number of epochs that the last network, fitted to every row, is trained for.

    Parameters
    ----------
    n_classes, seed, alpha
        As for every fused head.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to train; Accelerate's choice by default.
    """

    name: ClassVar[str] = "mlp"
    most_rows: ClassVar[int | None] = 200_000
    arrays: ClassVar[tuple[str, ...]] = ("class_bias", "hidden_weights", "hidden_bias", "weights", "bias")
    default_setting: ClassVar[Setting] = {"epochs": 20}

    hidden_weights: Floats
    hidden_bias: Floats
    weights: Floats
    bias: Floats

    def __init__(self, n_classes: int, seed: int = 0, alpha: float | None = None, device: str = "auto") -> None:
        super().__init__(n_classes, seed, alpha)
        self.device = device

    def held_out_scores(self, features: Features, training: Training) -> Iterator[tuple[Setting, Floats]]:
        """Yield the held-out logits at the best epoch."""
        folds = training.folds if features.n <= SINGLE_FOLD_ROWS else training.folds[:1]
        nets = [
            self._trainer(
                features, training, weight_without(training.weight, training.labels, training.left_out(rows)), f
            )
            for f, rows in enumerate(folds)
        ]
        held = [features.subset(rows) for rows in folds]
        truth = training.labels[np.concatenate(folds)]
        best_loss, best_epoch = np.inf, 0
        best_scores: Floats = np.empty((0, self.n_classes), np.float32)
        for epoch in range(1, MOST_EPOCHS + 1):
            for net in nets:
                net.epoch()
            scores = np.concatenate([net.logits(rows) for net, rows in zip(nets, held, strict=True)])
            loss = float(np.mean(row_losses(scores, truth)))
            if loss < best_loss:
                best_loss, best_epoch, best_scores = loss, epoch, scores
            elif epoch - best_epoch >= PATIENCE:
                break
        yield {"epochs": best_epoch}, best_scores

    def train(self, features: Features, training: Training, setting: Setting) -> None:
        """Train on all rows for the number of epochs chosen."""
        net = self._trainer(features, training, training.weight, len(training.folds))
        for _ in range(setting["epochs"]):
            net.epoch()
        self.hidden_weights, self.hidden_bias, self.weights, self.bias = net.folded()
        # Training never raised a class without rows, but may not have lowered it enough either.
        absent = np.bincount(training.labels, weights=training.weight, minlength=self.n_classes) == 0
        self.weights[:, absent] = self.weights[:, ~absent].mean(axis=1, keepdims=True)
        self.bias[absent] = self.bias[~absent].mean() - 1

    def scores(self, features: Features) -> Floats:
        """Return the network's logits, in numpy."""
        return forward(features, self.hidden_weights, self.hidden_bias, self.weights, self.bias)

    def _trainer(self, features: Features, training: Training, weight: Floats, number: int) -> _Trainer:
        return _Trainer(features, training.labels, weight, self.n_classes, self.seed * 1009 + number, self.device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: sharing out the small products of a batch costs more than it gains."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forward(features: Features, hidden_weights: Floats, hidden_bias: Floats, weights: Floats, bias: Floats) -> Floats:
    """Return ``relu(x · hidden_weights + hidden_bias) · weights + bias`` of shape (n, c), chunk by chunk."""
    out = np.empty((features.n, len(bias)), np.float32)
    for part, block in features.chunks():
        hidden = block @ hidden_weights + hidden_bias
        out[part] = np.maximum(hidden, 0, out=hidden) @ weights + bias
    return out


class _Trainer:
    """One network in training."""

    def __init__(
        self, features: Features, labels: Rows, weight: Floats, n_classes: int, seed: int, device: str
    ) -> None:
        import torch

        self.features, self.labels, self.weight = features, labels, weight
        self.rows = np.flatnonzero(weight)
        self.mean, scale = centre_and_scale(features)
        # Inputs of unit variance a dimension, on average, whatever the model's cone of features.
        self.gain = np.float32(np.sqrt(features.width) / scale)
        self.device = place(device).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = (torch.nn.Linear(features.width, HIDDEN), torch.nn.ReLU(), torch.nn.BatchNorm1d(HIDDEN))
            self.net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN, n_classes)).to(self.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.rng = np.random.default_rng(seed)

    def epoch(self) -> None:
        """Pass over the rows once, in a fresh order."""
        with _one_thread():
            self._epoch()

    def _epoch(self) -> None:
        import torch

        self.net.train()
        # Batches of one size: BatchNorm cannot work on a batch of one.
        for batch in np.array_split(self.rng.permutation(self.rows), max(1, round(len(self.rows) / BATCH))):
            block = (self.features.take(batch) - self.mean) * self.gain
            x = torch.from_numpy(block).to(self.device)
            y = torch.from_numpy(self.labels[batch]).to(self.device)
            weight = torch.from_numpy(self.weight[batch]).to(self.device)
            losses = torch.nn.functional.cross_entropy(self.net(x), y, reduction="none")
            self.optimizer.zero_grad()
            torch.autograd.backward((losses * weight).sum() / weight.sum())
            self.optimizer.step()

    def folded(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the network as two layers: centring in the first, BatchNorm's running statistics in the second."""
        first, _, norm, last = (cast(Any, layer) for layer in self.net)
        w1, b1, w2, b2 = (_numpy(p) for p in (first.weight, first.bias, last.weight, last.bias))
        slope = _numpy(norm.weight) / np.sqrt(_numpy(norm.running_var) + norm.eps)
        shift = _numpy(norm.bias) - _numpy(norm.running_mean) * slope
        hidden = np.ascontiguousarray(w1.T * self.gain)
        return hidden, b1 - self.mean @ hidden, np.ascontiguousarray((w2 * slope).T), b2 + w2 @ shift

    def logits(self, features: Features) -> Floats:
        """Return the network's logits as they are now."""
        return forward(features, *self.folded())


def _numpy(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)
