"""Folds: the training rows that are held out while a head chooses its settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray

#: Most folds of a cross-validation.
FOLDS = 5
#: Most rows that are ever held out, over all folds; more rows would hardly change a choice.
MOST_HELD_OUT = 20_000


def held_out_folds(
    labels: IntArray,
    real: BoolArray,
    seed: int,
    folds: int = FOLDS,
    most: int = MOST_HELD_OUT,
    group: IntArray | None = None,
) -> tuple[IntArray, ...]:
    """Return stratified, disjoint sets of rows; each is held out once while all other rows are fitted.

    Every fold leaves each class at least one row to fit on: a class of one row is never held out, the rows of a rare
    class lie in different folds. Rows that are not ``real`` (generated images) are only ever fitted on. Returns
    an empty tuple when no class has a row to spare: one photo per class.

    Parameters
    ----------
    labels : int array of shape (n,)
    real : bool array of shape (n,)
        Rows that may be held out.
    seed : int
    folds, most : int
        Most folds, and most rows held out over all folds.
    group : int array of shape (n,), optional
        Rows of one group are left out together, so that a class of one group has nothing to spare.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels if group is None else labels[np.unique(group, return_index=True)[1]])
    spare = np.flatnonzero(real & (counts[labels] > 1))
    shuffled = spare[rng.permutation(len(spare))]
    shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Classes start one after the other where the class before stopped, so that folds are of one size.
    fold_of = np.arange(len(shuffled)) % folds
    if len(shuffled) > most:
        chosen = rng.permutation(len(shuffled))[:most]
        shuffled, fold_of = shuffled[chosen], fold_of[chosen]
    return tuple(np.sort(shuffled[fold_of == f]) for f in range(folds) if (fold_of == f).any())


def most_held_out(n_classes: int) -> int:
    """Return the most rows that are held out: fewer with many classes, for every row has a score of each class."""
    return max(2_000, min(MOST_HELD_OUT, 40_000_000 // n_classes))


def weight_without(weight: FloatArray, labels: IntArray, rows: IntArray) -> FloatArray:
    """Return weights (n,) that are 0 for left-out rows and keep every class at its whole weight.

    Otherwise a held-out row's own class would be rarer than the others in the fit that predicts it, by half with two
    photos per class, and any method that learns class frequencies would look worse than it is.
    """
    rest = weight.copy()
    rest[rows] = 0.0
    whole, left = np.bincount(labels, weights=weight), np.bincount(labels, weights=rest)
    factor = np.divide(whole, left, out=np.ones_like(whole), where=left > 0)
    return (rest * factor[labels]).astype(np.float32)


def stratified_subset(labels: IntArray, size: int, seed: int, must: IntArray) -> IntArray:
    """Return about ``size`` sorted row numbers: each class in proportion but present, and the rows of ``must``."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    grouped = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    quota = np.ceil(counts * (size / len(labels))).astype(np.int64)
    return np.union1d(grouped[rank < np.repeat(quota, counts)], must)


def describe(folds: Sequence[IntArray]) -> str:
    """Return the sentence with which a protocol says how a choice was validated."""
    return f"{len(folds)}-fold cross-validation on train" if len(folds) > 1 else "a held-out part of train"
