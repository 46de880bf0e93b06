"""The paper's head: Linear → ReLU → BatchNorm → Linear on image and text features side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.classify.calibration import row_losses
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns, centre_and_scale
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import Candidate, FusedHead, Setting
from flip.device import resolve_device

if TYPE_CHECKING:
    import torch

HIDDEN = 512
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
#: Most epochs, and epochs without a lower held-out loss after which training stops.
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

    hidden_weights: FloatArray
    hidden_bias: FloatArray
    weights: FloatArray
    bias: FloatArray

    def __init__(self, n_classes: int, seed: int = 0, alpha: float | None = None, device: str = "auto") -> None:
        super().__init__(n_classes, seed, alpha)
        self.device = device

    def held_out_scores(self, columns: Columns, training: TrainingRows) -> Iterator[Candidate]:
        """Yield the held-out logits at the best epoch."""
        folds = training.folds if len(columns) <= SINGLE_FOLD_ROWS else training.folds[:1]
        nets = [
            self._network(
                columns, training, weight_without(training.weight, training.labels, training.left_out(rows)), f
            )
            for f, rows in enumerate(folds)
        ]
        held = [columns.subset(rows) for rows in folds]
        truth = training.labels[np.concatenate(folds)]
        best_loss, best_epoch = np.inf, 0
        best_scores: FloatArray = np.empty((0, self.n_classes), np.float32)
        for epoch in range(1, MOST_EPOCHS + 1):
            for net in nets:
                net.epoch()
            scores = np.concatenate([net.logits(rows) for net, rows in zip(nets, held, strict=True)])
            loss = float(np.mean(row_losses(scores, truth)))
            if loss < best_loss:
                best_loss, best_epoch, best_scores = loss, epoch, scores
            elif epoch - best_epoch >= PATIENCE:
                break
        yield Candidate({"epochs": best_epoch}, best_scores)

    def train(self, columns: Columns, training: TrainingRows, setting: Setting) -> None:
        """Train on all rows for the number of epochs chosen."""
        net = self._network(columns, training, training.weight, len(training.folds))
        for _ in range(setting["epochs"]):
            net.epoch()
        self.hidden_weights, self.hidden_bias, self.weights, self.bias = net.folded()
        # Training never raised a class without rows, but may not have lowered it enough either.
        absent = np.bincount(training.labels, weights=training.weight, minlength=self.n_classes) == 0
        self.weights[:, absent] = self.weights[:, ~absent].mean(axis=1, keepdims=True)
        self.bias[absent] = self.bias[~absent].mean() - 1

    def scores(self, columns: Columns) -> FloatArray:
        """Return the network's logits, computed in NumPy."""
        return forward(columns, TwoLayers(self.hidden_weights, self.hidden_bias, self.weights, self.bias))

    def _network(self, columns: Columns, training: TrainingRows, weight: FloatArray, number: int) -> Network:
        return Network(columns, training.labels, weight, self.n_classes, self.seed * 1009 + number, self.device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: splitting the small products of a batch over threads costs more than it gains."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TwoLayers(NamedTuple):
    """``relu(x @ hidden_weights + hidden_bias) @ weights + bias`` with h hidden units.

    ``hidden_weights`` (d, h), ``hidden_bias`` (h,), ``weights`` (h, c), ``bias`` (c,).
    """

    hidden_weights: FloatArray
    hidden_bias: FloatArray
    weights: FloatArray
    bias: FloatArray


def forward(columns: Columns, layers: TwoLayers) -> FloatArray:
    """Return the output of two layers, shape (n, c), chunk by chunk."""
    out = np.empty((len(columns), len(layers.bias)), np.float32)
    for part, block in columns.chunks():
        hidden = block @ layers.hidden_weights + layers.hidden_bias  # (rows, h)
        out[part] = np.maximum(hidden, 0, out=hidden) @ layers.weights + layers.bias
    return out


class Network:
    """One network in training, with its optimiser and its order of rows."""

    def __init__(
        self, columns: Columns, labels: IntArray, weight: FloatArray, n_classes: int, seed: int, device: str
    ) -> None:
        import torch

        self.columns, self.labels, self.weight = columns, labels, weight
        self.rows = np.flatnonzero(weight)
        self.mean, scale = centre_and_scale(columns)
        # Inputs of unit variance per dimension, on average, whatever the model's cone of features.
        self.gain = np.float32(np.sqrt(columns.width) / scale)
        self.device = resolve_device(device).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = (torch.nn.Linear(columns.width, HIDDEN), torch.nn.ReLU(), torch.nn.BatchNorm1d(HIDDEN))
            self.net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN, n_classes)).to(self.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.rng = np.random.default_rng(seed)

    def epoch(self) -> None:
        """Train one epoch, the rows in a new random order."""
        with _one_thread():
            self._epoch()

    def _epoch(self) -> None:
        import torch

        self.net.train()
        # Batches of one size: BatchNorm cannot work on a batch of one.
        for batch in np.array_split(self.rng.permutation(self.rows), max(1, round(len(self.rows) / BATCH))):
            block = (self.columns.take(batch) - self.mean) * self.gain
            x = torch.from_numpy(block).to(self.device)
            y = torch.from_numpy(self.labels[batch]).to(self.device)
            weight = torch.from_numpy(self.weight[batch]).to(self.device)
            losses = torch.nn.functional.cross_entropy(self.net(x), y, reduction="none")
            self.optimizer.zero_grad()
            torch.autograd.backward((losses * weight).sum() / weight.sum())
            self.optimizer.step()

    def folded(self) -> TwoLayers:
        """Return the network as two layers: centring folded into the first, BatchNorm into the second.

        In evaluation BatchNorm is ``slope · h + shift`` of each hidden unit, by its running statistics.
        """
        first, _, norm, last = (cast(Any, layer) for layer in self.net)
        w1, b1, w2, b2 = (_numpy(p) for p in (first.weight, first.bias, last.weight, last.bias))  # (h, d), …, (c, h)
        slope = _numpy(norm.weight) / np.sqrt(_numpy(norm.running_var) + norm.eps)  # (h,)
        shift = _numpy(norm.bias) - _numpy(norm.running_mean) * slope
        hidden = np.ascontiguousarray(w1.T * self.gain)  # (d, h)
        weights = np.ascontiguousarray((w2 * slope).T)  # (h, c)
        return TwoLayers(hidden, b1 - self.mean @ hidden, weights, b2 + w2 @ shift)

    def logits(self, columns: Columns) -> FloatArray:
        """Return the logits (n, c) of the network as it is now."""
        return forward(columns, self.folded())


def _numpy(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)
