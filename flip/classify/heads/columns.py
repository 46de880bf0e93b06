"""Image and text features side by side without a joined copy, in chunks of rows, and their class sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

#: Rows handled at a time; bounds the working memory beside the features themselves.
CHUNK = 8192


class Features:
    """Blocks of columns (image, text) read as one float32 matrix of shape (n, width), never joined as a whole."""

    def __init__(self, *blocks: Array) -> None:
        self.blocks = blocks
        self.n = len(blocks[0])
        self.width = sum(block.shape[1] for block in blocks)

    def take(self, rows: Rows | slice) -> Floats:
        """Return these rows joined; a view when there is one block and a slice."""
        if len(self.blocks) == 1:
            return np.asarray(self.blocks[0][rows], dtype=np.float32)
        return np.concatenate([block[rows] for block in self.blocks], axis=1, dtype=np.float32)

    def all(self) -> Floats:
        """Return the whole matrix."""
        return self.take(slice(None))

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, Floats]]:
        """Yield slices of rows and those rows."""
        for start in range(0, self.n, size):
            part = slice(start, min(start + size, self.n))
            yield part, self.take(part)

    def subset(self, rows: Rows) -> Features:
        """Return a copy of some rows."""
        return Features(*(block[rows] for block in self.blocks))


def centre_and_scale(features: Features) -> tuple[Floats, float]:
    """Return the mean row, and the root mean square length of the rows about it."""
    total, squares = np.zeros(features.width), 0.0
    for _, block in features.chunks():
        total += block.sum(axis=0, dtype=np.float64)
        squares += float(np.einsum("ij,ij->", block, block, dtype=np.float64))
    mean = total / features.n
    variance = squares / features.n - float(mean @ mean)
    return mean.astype(np.float32), max(variance, 1e-12) ** 0.5


def class_sums(features: Features, labels: Rows, weight: Array, n_classes: int) -> tuple[Array, Array]:
    """Return the weighted count (c,) and the weighted sum of rows (c, width) of each class, float64."""
    from scipy.sparse import csr_array

    counts = np.bincount(labels, weights=weight, minlength=n_classes)
    sums = np.zeros((n_classes, features.width))
    for part, block in features.chunks():
        own, w = labels[part], weight[part]
        columns = np.arange(len(own))
        sums += csr_array((w.astype(np.float64), (own, columns)), shape=(n_classes, len(own))) @ block
    return counts, sums


def class_means(counts: Array, sums: Array) -> Array:
    """Return class means (c, width); a class without rows gets the mean of the others, which favours no row."""
    present = counts > 0
    means = np.empty_like(sums)
    means[present] = sums[present] / counts[present, None]
    means[~present] = sums.sum(axis=0) / max(counts.sum(), 1e-12)
    return means


def held_out_mean_scores(
    features: Features,
    labels: Rows,
    weight: Array,
    folds: Sequence[Rows],
    left_out: Sequence[Rows],
    n_classes: int,
) -> Floats:
    """Return nearest-class-mean scores ``x·μ − ½|μ|²`` of every fold's rows from the means of all rows not left out."""
    counts, sums = class_sums(features, labels, weight, n_classes)
    scores = []
    for rows, left in zip(folds, left_out, strict=True):
        held = features.subset(rows)
        less, fewer = class_sums(features.subset(left), labels[left], weight[left], n_classes)
        means = class_means(np.maximum(counts - less, 0), sums - fewer).astype(np.float32)
        scores.append(held.all() @ means.T - 0.5 * np.einsum("ij,ij->i", means, means))
    return np.concatenate(scores)
