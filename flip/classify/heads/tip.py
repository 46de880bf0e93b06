"""Tip-Adapter: the training photos as a key-value cache (Zhang et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.calibration import fit_logit_weights, softmax
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import Candidate, FusedHead, Setting, fuse

#: Sharpness of the affinity; the paper's is 5.5, searched there up to about 12.
BETAS = (1.0, 2.0, 5.5, 10.0, 20.0, 40.0)
#: Queries handled at a time: bounds the affinities to this many rows.
QUERIES = 512
#: Tuning the keys: epochs, rows per step, and Adam's learning rate, as in the paper's code.
EPOCHS, BATCH, STEP = 20, 256, 1e-3
#: By default keys are tuned with at most this many training rows: each pass compares all with all.
MOST_TUNED_ROWS = 1_000


def affinities(similarities: Array, beta: float) -> FloatArray:
    """Return ``exp(−β (1 − f · F_train))`` of cosine similarities (Zhang et al., ECCV 2022, equation 4)."""
    out = np.float32(beta) * (np.asarray(similarities, dtype=np.float32) - np.float32(1))
    return np.asarray(np.exp(out, out=out))


def unit_rows(block: Array) -> FloatArray:
    """Return rows scaled to length one; image and text features side by side are √2 long."""
    return np.asarray(block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12), dtype=np.float32)


class TipHead(FusedHead):
    """Zero-shot logits plus α times the cache's votes, α and β on held-out rows of train.

    Parameters
    ----------
    n_classes, seed, alpha
        As for every fused head.
    tune : bool, optional
        Whether to try keys tuned by gradient descent too (Tip-Adapter-F); they are kept if they do better on held-out
        rows, so never with one photo per class. By default where there are few training rows.
    """

    name: ClassVar[str] = "tip"
    most_rows: ClassVar[int | None] = 50_000
    arrays: ClassVar[tuple[str, ...]] = ("class_bias", "keys", "weight", "key_counts")
    default_setting: ClassVar[Setting] = {"beta": 1.0}

    keys: FloatArray
    weight: FloatArray
    key_counts: IntArray

    def __init__(self, n_classes: int, seed: int = 0, alpha: float | None = None, tune: bool | None = None) -> None:
        super().__init__(n_classes, seed, alpha)
        self.tune = tune

    def held_out_scores(self, columns: Columns, training: TrainingRows) -> Iterator[Candidate]:
        """Yield the votes of all keys outside a row's own fold, for each β."""
        order = self._store(columns, training)
        scores = np.empty((len(BETAS), len(training.held_out), self.n_classes), np.float32)
        start = 0
        for fold in training.folds:
            weight = weight_without(training.weight, training.labels, training.left_out(fold))[order]
            for first in range(0, len(fold), QUERIES):
                rows = fold[first : first + QUERIES]
                similarities = unit_rows(columns.take(rows)) @ self.keys.T  # (rows, keys)
                for b, beta in enumerate(BETAS):
                    scores[b, start : start + len(rows)] = self._votes(affinities(similarities, beta), weight)
                start += len(rows)
        for b, beta in enumerate(BETAS):
            yield Candidate({"beta": beta}, scores[b])

    def refined_scores(self, columns: Columns, training: TrainingRows, best: Candidate) -> Iterator[Candidate]:
        """Yield the votes of keys that are tuned at the best β, with the fusion that suits it."""
        if not (self.tune or (self.tune is None and len(columns) <= MOST_TUNED_ROWS)):
            return
        order = self._store(columns, training)
        rows, zero_shot = training.held_out, training.inputs.zero_shot
        sources = [best.scores] if zero_shot is None else [zero_shot[rows], best.scores]
        weights = fit_logit_weights(sources, training.labels[rows]).weights
        text, beta = 0.0 if zero_shot is None else float(weights[0]), best.setting["beta"]
        setting = {"beta": beta, "epochs": EPOCHS, "tuning": [text, float(weights[-1])]}
        tuned = []
        for fold in training.folds:
            weight = weight_without(training.weight, training.labels, training.left_out(fold))[order]
            keys = self._tune_keys(training, order, weight, setting)
            tuned.append(self._votes(affinities(unit_rows(columns.take(fold)) @ keys.T, beta), weight))
        yield Candidate(setting, np.concatenate(tuned))

    def train(self, columns: Columns, training: TrainingRows, setting: Setting) -> None:
        """Keep all rows as keys, tuned where that was chosen."""
        order = self._store(columns, training)
        if "epochs" in setting:
            self.keys = self._tune_keys(training, order, self.weight, setting)

    def scores(self, columns: Columns) -> FloatArray:
        """Return the cache's votes, shape (n, c)."""
        out = np.empty((len(columns), self.n_classes), np.float32)
        for part, block in columns.chunks(QUERIES):
            out[part] = self._votes(affinities(unit_rows(block) @ self.keys.T, self.setting["beta"]), self.weight)
        return out

    def _store(self, columns: Columns, training: TrainingRows) -> IntArray:
        # Keys are sorted by class, so that the product with one-hot labels is a sum over a run of columns.
        order = np.argsort(training.labels, kind="stable")
        self.keys = unit_rows(columns.take(order))
        self.weight = training.weight[order]
        self.key_counts = np.bincount(training.labels, minlength=self.n_classes)
        return order

    def _votes(self, affinity: FloatArray, weight: FloatArray) -> FloatArray:
        """Return the weighted sum of affinities per class, (q, c), of affinities (q, keys), which are overwritten."""
        affinity *= weight
        present = np.flatnonzero(self.key_counts)
        starts = (np.cumsum(self.key_counts) - self.key_counts)[present]
        votes = np.zeros((len(affinity), self.n_classes), np.float32)
        votes[:, present] = np.add.reduceat(affinity, starts, axis=1)
        return votes

    def _tune_keys(self, training: TrainingRows, order: IntArray, weight: FloatArray, setting: Setting) -> FloatArray:
        """Return keys (n, d) after Adam has lowered the log-loss of ``text · zero_shot + image · votes``.

        This is Tip-Adapter-F (Zhang et al., ECCV 2022, section 3.2). Adam is written out in NumPy: the gradient has a
        closed form, and torch's optimiser rounds differently, which would move published figures in their last digits.

        Parameters
        ----------
        training : TrainingRows
        order : int array of shape (n,)
            Rows in the order of the keys.
        weight : float32 array of shape (n,)
            Of the keys; those of weight 0 are left out.
        setting : dict
            ``beta``, ``epochs`` and ``tuning``: the weights of text and image.
        """
        text, image = setting["tuning"]
        beta, own = setting["beta"], training.labels[order]
        zero_shot = None if training.inputs.zero_shot is None else training.inputs.zero_shot[order]
        queries, keys = self.keys, self.keys.copy()  # (n, d)
        first, second = np.zeros_like(keys), np.zeros_like(keys)
        used, rng, step = np.flatnonzero(weight), np.random.default_rng(self.seed), 0
        for _ in range(setting["epochs"]):
            for batch in np.array_split(rng.permutation(used), max(1, round(len(used) / BATCH))):
                affinity = affinities(queries[batch] @ keys.T, beta) * weight  # (b, n)
                prior = None if zero_shot is None else zero_shot[batch]
                error = softmax(fuse(prior, self._votes(affinity.copy(), np.ones_like(weight)), image, text))  # (b, c)
                error[np.arange(len(batch)), own[batch]] -= 1
                error *= weight[batch, None] / weight[batch].sum()
                gradient = (error[:, own] * affinity).T @ queries[batch] * np.float32(image * beta)  # (n, d)
                step += 1
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                keys -= STEP * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-4)
        return np.asarray(keys, dtype=np.float32)
