"""Gaussian discriminant analysis with a shared, shrunk covariance (Wang et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from flip.arrays import Array, Float64Array, FloatArray
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns, LinearMap, class_means, class_sums
from flip.classify.heads.fused import Candidate, FusedHead, Setting


class Moments(NamedTuple):
    """Weighted sums over rows, float64.

    Attributes
    ----------
    counts, squares : arrays of shape (c,)
        Sum of the weights of each class, and of their squares.
    sums : array of shape (c, d)
        Sum of the rows of each class.
    second : array of shape (d, d)
        Sum of all rows' outer products.
    """

    counts: Array
    squares: Array
    sums: Array
    second: Array

    def without(self, other: Moments) -> Moments:
        """Return the moments of the rows that are not in ``other``."""
        counts = np.where(self.counts - other.counts > 1e-6, self.counts - other.counts, 0.0)
        return Moments(counts, self.squares - other.squares, self.sums - other.sums, self.second - other.second)


def shrunk_precision(covariance: Array, n: float) -> Float64Array:
    """Return the shrunk precision matrix ``d · ((n − 1) Σ + tr(Σ) I)⁻¹`` (Wang et al., ICLR 2024, equation 6).

    The empirical Bayes ridge estimator of Kubokawa and Srivastava (2008), which stays well-conditioned when there are
    fewer rows than dimensions.

    Parameters
    ----------
    covariance : float array of shape (d, d)
        Σ, shared by all classes: products of deviations from the class means, averaged over rows.
    n : float
        Number of rows behind it.
    """
    d = len(covariance)
    ridge = (n - 1) * covariance.astype(np.float64)
    ridge[np.diag_indices(d)] += np.trace(covariance)
    return np.asarray(d * np.linalg.inv(ridge))


def discriminant(means: Array, precision: Array, prior: Array) -> LinearMap:
    """Return the discriminant ``W = Σ⁻¹ μ``, ``b = log prior − ½ μᵀ Σ⁻¹ μ`` (Wang et al., ICLR 2024, equation 5).

    Parameters
    ----------
    means : float array of shape (c, d)
    precision : float array of shape (d, d)
    prior : float array of shape (c,)
    """
    weights = precision @ means.T  # (d, c)
    return LinearMap(weights, np.log(prior) - 0.5 * np.einsum("cd,dc->c", means, weights))


def fit_gda(moments: Moments, counts: Array) -> LinearMap:
    """Return the discriminant from the moments of the training rows and the class counts (c,) behind the prior.

    Where no class has two photos there is no scatter within classes, and the scatter about the grand mean stands in.
    """
    total, present = moments.counts.sum(), moments.counts > 0
    means = class_means(moments.counts, moments.sums)
    grand = moments.sums.sum(axis=0) / total
    # Degrees of freedom left by the class means, so that the scale does not depend on the number of photos per class.
    freedom = total - (moments.squares[present] / moments.counts[present]).sum()
    covariance = (moments.second - (means * moments.counts[:, None]).T @ means) / max(freedom, 1e-9)
    # So it does where the photos of each class are copies of one.
    if freedom < 1e-6 * total or np.trace(covariance) < 1e-6 * np.trace(moments.second) / total:
        covariance = moments.second / total - np.outer(grand, grand)
    precision = shrunk_precision(covariance, total)
    # A class without rows counts half a row: its logarithm has to be finite.
    weights, bias = discriminant(means, precision, np.maximum(counts, 0.5) / counts.sum())
    return LinearMap(weights.astype(np.float32), bias.astype(np.float32))


def moments_of(columns: Columns, labels: Array, weight: Array, n_classes: int) -> Moments:
    """Return the moments of some rows, summed in float64 chunk by chunk."""
    counts, sums = class_sums(columns, labels, weight, n_classes)
    second = np.zeros((columns.width, columns.width))
    for part, block in columns.chunks():
        rooted = block * np.sqrt(weight[part, None], dtype=np.float64)
        second += rooted.T @ rooted
    squares = np.bincount(labels, weights=weight.astype(np.float64) ** 2, minlength=n_classes)
    return Moments(counts, squares, sums, second)


class GdaHead(FusedHead):
    """Zero-shot logits plus α times the discriminant, α on held-out rows of train."""

    name: ClassVar[str] = "gda"
    arrays: ClassVar[tuple[str, ...]] = ("class_bias", "weights", "bias")

    weights: FloatArray
    bias: FloatArray
    _moments: Moments | None = None

    def held_out_scores(self, columns: Columns, training: TrainingRows) -> Iterator[Candidate]:
        """Yield the one candidate; each fold's moments are subtracted from the moments of all rows."""
        labels, weight = training.labels, training.weight
        moments = self._moments = moments_of(columns, labels, weight, self.n_classes)
        scores = []
        for rows in training.folds:
            left, held = training.left_out(rows), columns.subset(rows)
            rest = moments.without(moments_of(columns.subset(left), labels[left], weight[left], self.n_classes))
            weights, bias = fit_gda(rest, moments.counts)
            scores.append(held.all() @ weights + bias)
        yield Candidate({}, np.concatenate(scores))

    def train(self, columns: Columns, training: TrainingRows, setting: Setting) -> None:
        """Fit weights and bias to all rows."""
        moments = self._moments or moments_of(columns, training.labels, training.weight, self.n_classes)
        self.weights, self.bias = fit_gda(moments, moments.counts)
        self._moments = None

    def scores(self, columns: Columns) -> FloatArray:
        """Return the discriminant of each row."""
        out = np.empty((len(columns), self.n_classes), np.float32)
        for part, block in columns.chunks():
            out[part] = block @ self.weights + self.bias
        return out
