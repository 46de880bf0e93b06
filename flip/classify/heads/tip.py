"""Tip-Adapter: the training photos as a key-value cache (Zhang et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from flip.classify.calibration import fit_logit_weights, softmax
from flip.classify.heads.base import Array, Floats, Rows, Training
from flip.classify.heads.columns import Features
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import FusedHead, Setting, fuse

#: Sharpness of the affinity; the paper's is 5.5, searched there up to about 12.
BETAS = (1.0, 2.0, 5.5, 10.0, 20.0, 40.0)
#: Queries handled at a time: bounds the affinities to this many rows.
QUERIES = 512
#: Tuning the keys: passes over the rows, rows a step, and Adam's step size, as in the paper's code.
EPOCHS, BATCH, STEP = 20, 256, 1e-3
#: By default keys are tuned with at most this many training rows: each pass compares all with all.
MOST_TUNED_ROWS = 1_000


def affinities(similarities: Array, beta: float) -> Floats:
    """Return ``exp(−β (1 − f · F_train))`` of cosine similarities (Zhang et al., ECCV 2022, equation 4)."""
    out = np.float32(beta) * (np.asarray(similarities, dtype=np.float32) - np.float32(1))
    return np.asarray(np.exp(out, out=out))


def unit_rows(block: Array) -> Floats:
    """Return rows of length one: image and text side by side are √2 long."""
    return np.asarray(block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12), dtype=np.float32)


class TipHead(FusedHead):
    """Zero-shot logits plus α times the cache's votes, α and β on held-out rows of train.

    Parameters
    ----------
    n_classes, seed, alpha
        As for every fused head.
    tune : bool, optional
        Whether to try keys tuned by gradient descent too (Tip-Adapter-F); they are kept if they do better on held-out
        rows, so never with one photo a class. By default where there are few training rows.
    """

    name: ClassVar[str] = "tip"
    most_rows: ClassVar[int | None] = 50_000
    arrays: ClassVar[tuple[str, ...]] = ("class_bias", "keys", "weight", "key_counts")
    default_setting: ClassVar[Setting] = {"beta": 1.0}

    keys: Floats
    weight: Floats
    key_counts: Rows

    def __init__(self, n_classes: int, seed: int = 0, alpha: float | None = None, tune: bool | None = None) -> None:
        super().__init__(n_classes, seed, alpha)
        self.tune = tune

    def held_out_scores(self, features: Features, training: Training) -> Iterator[tuple[Setting, Floats]]:
        """Yield the votes of all keys outside a row's own fold, for each β, then those of tuned keys."""
        order = self._store(features, training)
        scores = np.empty((len(BETAS), len(training.held_out), self.n_classes), np.float32)
        start = 0
        for fold in training.folds:
            weight = weight_without(training.weight, training.labels, training.left_out(fold))[order]
            for first in range(0, len(fold), QUERIES):
                rows = fold[first : first + QUERIES]
                similarities = unit_rows(features.take(rows)) @ self.keys.T
                for b, beta in enumerate(BETAS):
                    scores[b, start : start + len(rows)] = self._votes(affinities(similarities, beta), weight)
                start += len(rows)
        for b, beta in enumerate(BETAS):
            yield {"beta": beta}, scores[b]
        if self.tune or (self.tune is None and features.n <= MOST_TUNED_ROWS):
            # By now the caller has kept the best β of those above.
            beta = self.setting["beta"]
            yield from self._tuned(features, training, order, beta, scores[BETAS.index(beta)])

    def train(self, features: Features, training: Training, setting: Setting) -> None:
        """Keep all rows as keys, tuned where that was chosen."""
        order = self._store(features, training)
        if "epochs" in setting:
            self.keys = self._tune_keys(training, order, self.weight, setting)

    def scores(self, features: Features) -> Floats:
        """Return the cache's votes, shape (n, c)."""
        out = np.empty((features.n, self.n_classes), np.float32)
        for part, block in features.chunks(QUERIES):
            out[part] = self._votes(affinities(unit_rows(block) @ self.keys.T, self.setting["beta"]), self.weight)
        return out

    def _store(self, features: Features, training: Training) -> Rows:
        # Keys lie class after class, so that the product with one-hot labels is a sum over neighbours.
        order = np.argsort(training.labels, kind="stable")
        self.keys = unit_rows(features.take(order))
        self.weight = training.weight[order]
        self.key_counts = np.bincount(training.labels, minlength=self.n_classes)
        return order

    def _votes(self, affinity: Floats, weight: Floats) -> Floats:
        affinity *= weight
        present = np.flatnonzero(self.key_counts)
        starts = (np.cumsum(self.key_counts) - self.key_counts)[present]
        votes = np.zeros((len(affinity), self.n_classes), np.float32)
        votes[:, present] = np.add.reduceat(affinity, starts, axis=1)
        return votes

    def _tuned(
        self, features: Features, training: Training, order: Rows, beta: float, scores: Floats
    ) -> Iterator[tuple[Setting, Floats]]:
        rows, zero_shot = training.held_out, training.inputs.zero_shot
        sources = [scores] if zero_shot is None else [zero_shot[rows], scores]
        weights = fit_logit_weights(sources, training.labels[rows]).weights
        text = 0.0 if zero_shot is None else float(weights[0])
        setting = {"beta": beta, "epochs": EPOCHS, "tuning": [text, float(weights[-1])]}
        tuned = []
        for fold in training.folds:
            weight = weight_without(training.weight, training.labels, training.left_out(fold))[order]
            keys = self._tune_keys(training, order, weight, setting)
            tuned.append(self._votes(affinities(unit_rows(features.take(fold)) @ keys.T, beta), weight))
        yield setting, np.concatenate(tuned)

    def _tune_keys(self, training: Training, order: Rows, weight: Floats, setting: Setting) -> Floats:
        """Return keys after Adam has lowered the log-loss of ``text · zero_shot + image · votes`` (Tip-Adapter-F)."""
        text, image = setting["tuning"]
        beta, own = setting["beta"], training.labels[order]
        zero_shot = None if training.inputs.zero_shot is None else training.inputs.zero_shot[order]
        queries, keys = self.keys, self.keys.copy()
        first, second = np.zeros_like(keys), np.zeros_like(keys)
        used, rng, step = np.flatnonzero(weight), np.random.default_rng(self.seed), 0
        for _ in range(setting["epochs"]):
            for batch in np.array_split(rng.permutation(used), max(1, round(len(used) / BATCH))):
                affinity = affinities(queries[batch] @ keys.T, beta) * weight
                prior = None if zero_shot is None else zero_shot[batch]
                error = softmax(fuse(prior, self._votes(affinity.copy(), np.ones_like(weight)), image, text))
                error[np.arange(len(batch)), own[batch]] -= 1
                error *= weight[batch, None] / weight[batch].sum()
                gradient = (error[:, own] * affinity).T @ queries[batch] * np.float32(image * beta)
                step += 1
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                keys -= STEP * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-4)
        return np.asarray(keys, dtype=np.float32)
