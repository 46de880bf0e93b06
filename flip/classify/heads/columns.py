"""Image and text features side by side as one matrix, read in chunks of rows; their class sums and means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray, IntArray

#: Rows handled at a time; bounds the working memory, which comes on top of the features.
CHUNK = 8192


class Columns:
    """Blocks of columns (image, text) read as one float32 matrix of shape (n, width), never joined as a whole."""

    def __init__(self, *blocks: Array) -> None:
        self.blocks = blocks
        self.width = sum(block.shape[1] for block in blocks)

    def __len__(self) -> int:
        return len(self.blocks[0])

    def take(self, rows: IntArray | slice) -> FloatArray:
        """Return these rows joined; a view when there is one block and a slice."""
        if len(self.blocks) == 1:
            return np.asarray(self.blocks[0][rows], dtype=np.float32)
        return np.concatenate([block[rows] for block in self.blocks], axis=1, dtype=np.float32)

    def all(self) -> FloatArray:
        """Return the whole matrix."""
        return self.take(slice(None))

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, FloatArray]]:
        """Yield slices of rows and those rows."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.take(part)

    def subset(self, rows: IntArray) -> Columns:
        """Return a copy of some rows."""
        return Columns(*(block[rows] for block in self.blocks))


class LinearMap(NamedTuple):
    """``x @ weights + bias`` with weights (d, c) and bias (c,)."""

    weights: FloatArray
    bias: FloatArray


class CentreAndScale(NamedTuple):
    """The mean row (width,), and the root mean square length of the rows about it."""

    mean: FloatArray
    scale: float


class ClassSums(NamedTuple):
    """The weighted count (c,) and the weighted sum of rows (c, width) of each class, float64."""

    counts: Array
    sums: Array


def centre_and_scale(columns: Columns) -> CentreAndScale:
    """Return the mean row, and the root mean square length of the rows about it."""
    total, squares = np.zeros(columns.width), 0.0
    for _, block in columns.chunks():
        total += block.sum(axis=0, dtype=np.float64)
        squares += float(np.einsum("ij,ij->", block, block, dtype=np.float64))
    mean = total / len(columns)
    variance = squares / len(columns) - float(mean @ mean)
    return CentreAndScale(mean.astype(np.float32), max(variance, 1e-12) ** 0.5)


def class_sums(columns: Columns, labels: IntArray, weight: Array, n_classes: int) -> ClassSums:
    """Return the weighted count and the weighted sum of rows of each class, summed in float64 chunk by chunk."""
    from scipy.sparse import csr_array

    counts = np.bincount(labels, weights=weight, minlength=n_classes)
    sums = np.zeros((n_classes, columns.width))
    for part, block in columns.chunks():
        own, w = labels[part], weight[part]
        rows = np.arange(len(own))
        # One-hot labels times weight, (c, rows), by the rows, (rows, width).
        sums += csr_array((w.astype(np.float64), (own, rows)), shape=(n_classes, len(own))) @ block
    return ClassSums(counts, sums)


def class_means(counts: Array, sums: Array) -> Array:
    """Return class means (c, width); a class without rows gets the mean of all rows, which favours none."""
    present = counts > 0
    means = np.empty_like(sums)
    means[present] = sums[present] / counts[present, None]
    means[~present] = sums.sum(axis=0) / max(counts.sum(), 1e-12)
    return means


def held_out_mean_scores(
    columns: Columns,
    labels: IntArray,
    weight: Array,
    folds: Sequence[IntArray],
    left_out: Sequence[IntArray],
    n_classes: int,
) -> FloatArray:
    """Return nearest-class-mean scores ``x·μ − ½|μ|²`` of held-out rows, fold after fold, shape (m, c).

    The means are of all rows that are not left out with the fold.
    """
    counts, sums = class_sums(columns, labels, weight, n_classes)
    scores = []
    for rows, left in zip(folds, left_out, strict=True):
        held = columns.subset(rows)
        less, fewer = class_sums(columns.subset(left), labels[left], weight[left], n_classes)
        means = class_means(np.maximum(counts - less, 0), sums - fewer).astype(np.float32)  # (c, width)
        scores.append(held.all() @ means.T - 0.5 * np.einsum("ij,ij->i", means, means))
    return np.concatenate(scores)
