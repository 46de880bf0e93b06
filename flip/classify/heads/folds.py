"""Which training rows are held out when a head chooses for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

#: Most folds of a cross-validation.
FOLDS = 5
#: Most rows that are ever held out, over all folds; beyond it more rows say nothing new.
MOST_HELD_OUT = 20_000


def held_out_folds(
    labels: Rows,
    real: npt.NDArray[np.bool_],
    seed: int,
    folds: int = FOLDS,
    most: int = MOST_HELD_OUT,
    group: Rows | None = None,
) -> tuple[Rows, ...]:
    """Return stratified, disjoint sets of rows; each is held out once while all other rows are fitted.

    Every fold leaves each class at least one row to fit on: a class of one row is never held out, the rows of a rare
    class lie in different folds. Rows that are not ``real`` (generated photos) are only ever fitted on. Returns
    an empty tuple when no class has a row to spare: one photo a class.

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


def weight_without(weight: npt.NDArray[np.float32], labels: Rows, rows: Rows) -> npt.NDArray[np.float32]:
    """Return weights (n,) that are 0 for left-out rows and keep every class at its whole weight.

    Without that a held-out row's own class would be rarer than the others in the fit that judges it, by half with two
    photos a class, and whatever learns how common a class is would look worse than it is.
    """
    rest = weight.copy()
    rest[rows] = 0.0
    whole, left = np.bincount(labels, weights=weight), np.bincount(labels, weights=rest)
    factor = np.divide(whole, left, out=np.ones_like(whole), where=left > 0)
    return (rest * factor[labels]).astype(np.float32)


def stratified_subset(labels: Rows, size: int, seed: int, must: Rows) -> Rows:
    """Return about ``size`` row numbers, the rows of ``must`` among them, each class in proportion but present."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    grouped = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    quota = np.ceil(counts * (size / len(labels))).astype(np.int64)
    return np.union1d(grouped[rank < np.repeat(quota, counts)], must)


def describe(folds: tuple[Any, ...]) -> str:
    """Return how a choice was validated, as a protocol prints it."""
    return f"{len(folds)}-fold cross-validation on train" if len(folds) > 1 else "a held-out part of train"
