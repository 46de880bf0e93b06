"""Accuracies, their intervals, calibration and confusions: arrays in, numbers out. Accuracies are in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flip.arrays import Array, IntArray

#: Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


class Confusion(NamedTuple):
    """An ordered pair of classes that was confused, and the number of photos."""

    truth: int
    predicted: int
    n: int


class ReliabilityBin(NamedTuple):
    """One bin of a reliability curve; ``confidence`` and ``accuracy`` are fractions (0 to 1)."""

    confidence: float
    accuracy: float
    n: int


def topk_accuracy(logits: Array, labels: Array, k: int) -> float:
    """Return the percentage of rows whose label is among the ``k`` largest logits; NaN without rows.

    Parameters
    ----------
    logits : array of shape (n, c)
        Larger means likelier; of equals the lower class comes first.
    labels : int array of shape (n,)
    k : int
        Above ``c`` it counts as ``c``.
    """
    if len(labels) == 0:
        return math.nan
    k = min(k, logits.shape[1])
    # Ties go to the lower class index, as argmax does, so that top-1 equals argmax everywhere.
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean((top == np.asarray(labels)[:, None]).any(axis=1)))


def mean_per_class(predicted: Array, labels: Array) -> float:
    """Return the mean of the per-class accuracies in percent, over the classes that ``labels`` has; NaN without rows.

    Parameters
    ----------
    predicted, labels : int arrays of shape (n,)
    """
    if len(labels) == 0:
        return math.nan
    return float(np.mean([100.0 * np.mean(predicted[labels == c] == c) for c in np.unique(labels)]))


def wilson_interval(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, in percent (Wilson, JASA 1927); NaN with ``n`` = 0.

    Parameters
    ----------
    correct, n : int
        Successes among trials.
    z : float
        Quantile of the standard normal distribution.
    """
    if n == 0:
        return (math.nan, math.nan)
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 100.0 / (1 + z * z / n)
    return (max(0.0, scale * (centre - half)), min(100.0, scale * (centre + half)))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, lower and upper end of the 95 % Student-t interval over draws; the ends are NaN with one draw."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return (mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return (mean, mean - half, mean + half)


def paired_interval(correct_a: Array, correct_b: Array) -> tuple[float, float, float]:
    """Return the difference a − b of two accuracies on the same n photos with its 95 % interval, in points.

    This is the normal interval of the mean of the n paired differences, which is McNemar's large-sample interval.

    Parameters
    ----------
    correct_a, correct_b : bool arrays of shape (n,)
        Whether each classifier is correct on each photo.

    Returns
    -------
    (float, float, float)
        Difference, lower and upper end; the ends are NaN with fewer than two photos.
    """
    difference = np.asarray(correct_a, dtype=np.float64) - np.asarray(correct_b, dtype=np.float64)
    n = len(difference)
    if n < 2:
        return (100.0 * float(difference.mean()) if n else math.nan, math.nan, math.nan)
    mean = float(difference.mean())
    half = Z95 * float(difference.std(ddof=1)) / math.sqrt(n)
    return (100.0 * mean, 100.0 * (mean - half), 100.0 * (mean + half))


def paired_interval_over_draws(correct_a: Array, correct_b: Array) -> tuple[float, float, float]:
    """Return the difference a − b of two accuracies over s draws and n photos with its 95 % interval, in points.

    Every draw scores the same photos, so the differences form a table of s draws by n photos, both of them samples. In
    its two-way analysis of variance, with mean squares MS_draw, MS_photo and MS_rest, the variance of the mean is
    estimated by ``(MS_photo + MS_draw − MS_rest) / (n s)`` (Cornfield & Tukey, Annals of Mathematical Statistics 1956),
    a variance component below zero counting as zero; the interval is Student's with Satterthwaite's degrees of freedom
    (Biometrics Bulletin 1946). With one draw it is ``paired_interval``.

    Parameters
    ----------
    correct_a, correct_b : bool arrays of shape (s, n)
        Whether the classifier fitted on each draw is correct on each photo.
    """
    from scipy import stats

    difference = np.asarray(correct_a, dtype=np.float64) - np.asarray(correct_b, dtype=np.float64)
    s, n = difference.shape
    if s < 2 or n < 2:
        return paired_interval(np.ravel(correct_a), np.ravel(correct_b))
    mean = float(difference.mean())
    # Effects of draws (s,) and of photos (n,), and what they leave (s, n).
    by_draw, by_photo = difference.mean(axis=1), difference.mean(axis=0)
    rest = difference - by_draw[:, None] - by_photo + mean
    free = ((s - 1) * (n - 1), s - 1, n - 1)
    squares = float((rest**2).sum()) / free[0], n * float(by_draw.var(ddof=1)), s * float(by_photo.var(ddof=1))
    # A variance component below zero counts as zero: its mean square, and one of the rest, are left out.
    kept = [square > squares[0] for square in squares[1:]]
    parts = (1 - sum(kept), *map(int, kept))
    total = sum(part * square for part, square in zip(parts, squares, strict=True))
    if total <= 0:
        return (100.0 * mean,) * 3
    satterthwaite = sum((part * square) ** 2 / f for part, square, f in zip(parts, squares, free, strict=True))
    half = float(stats.t.ppf(0.975, total**2 / satterthwaite)) * math.sqrt(total / (n * s))
    return (100.0 * mean, 100.0 * (mean - half), 100.0 * (mean + half))


def reliability(probabilities: Array, labels: Array, bins: int = 15) -> list[ReliabilityBin]:
    """Return the non-empty bins of the reliability curve of the most likely class.

    Parameters
    ----------
    probabilities : array of shape (n, c)
        Rows sum to one.
    labels : int array of shape (n,)
    bins : int
        Bins of equal width over (0, 1].
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    curve = []
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            mean_confidence, accuracy = float(confidence[inside].mean()), float(correct[inside].mean())
            curve.append(ReliabilityBin(mean_confidence, accuracy, int(inside.sum())))
    return curve


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """Return the expected calibration error as a fraction (Guo et al., ICML 2017, equation 3); NaN without rows.

    Parameters are those of :func:`reliability`.
    """
    if len(labels) == 0:
        return math.nan
    curve = reliability(probabilities, labels, bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in curve) / len(labels)


def coverage_curve(
    probabilities: Array, labels: Array, coverages: Sequence[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
) -> list[tuple[float, float, float]]:
    """Return the accuracy when only the most confident share of rows is answered.

    Parameters
    ----------
    probabilities : array of shape (n, c)
    labels : int array of shape (n,)
    coverages : sequence of float
        Fractions of the rows.

    Returns
    -------
    list of (float, float, float)
        Coverage (a fraction), accuracy (a percentage), and threshold: the least probability that is answered.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    curve = []
    for coverage in coverages:
        kept = order[: max(1, round(coverage * len(order)))]
        curve.append((float(coverage), 100.0 * float(correct[kept].mean()), float(confidence[kept[-1]])))
    return curve


def confusion_matrix(predicted: IntArray, labels: IntArray, classes: int) -> IntArray:
    """Return the confusion matrix (c, c): photos of each class (rows) by predicted class (columns).

    Parameters
    ----------
    predicted, labels : int arrays of shape (n,)
    classes : int
        Number of classes c.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def confused_pairs(predicted: Array, labels: Array, most: int = 10) -> list[Confusion]:
    """Return the ordered pairs (truth, predicted) that are confused most often, most frequent first.

    Parameters
    ----------
    predicted, labels : int arrays of shape (n,)
    most : int
        Pairs that are returned.
    """
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -counts))[:most]
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]
