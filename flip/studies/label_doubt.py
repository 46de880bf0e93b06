"""Labels in doubt: out-of-fold probabilities, a model of label noise, and confident learning. Arrays in, arrays out.

A head is fitted on all photos but a fold and names the fold's, so that no photo speaks for its own label. Its logits
are brought to probabilities by a temperature that is fitted together with the rate of wrong labels: fitted alone, as
calibration does it, the temperature would explain wrong labels by a head that is unsure everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flip.arrays import Array, BoolArray, FloatArray, IntArray
from flip.classify.calibration import softmax

#: The rate of wrong labels is taken to be this at least: one wrong label among two hundred is to be found.
LEAST_RATE = 0.005
#: Probability of another class from which confident learning's candidates are in doubt.
SURE = 0.9
#: Weight at least that a photo has in the second fit, however doubtful its label.
LEAST_WEIGHT = 1e-3


class LabelNoise(NamedTuple):
    """A temperature and the rate of labels that are wrong (0 to 0.5)."""

    temperature: float
    rate: float


class LabelDoubts(NamedTuple):
    """The labels of n photos, judged.

    Attributes
    ----------
    judged : bool array of shape (n,)
        Photos that could be left out of a fit: not those that are alone in their class.
    wrong : float array of shape (n,)
        Probability that the label is wrong; NaN where it was not judged.
    given : float array of shape (n,)
        Out-of-fold probability of the label; NaN where it was not judged. The lowest are the most doubtful.
    suggested : int array of shape (n,)
        The likeliest class.
    in_doubt : bool array of shape (n,)
        The default cut.
    noise : LabelNoise
    confident : int
        Number of labels off the diagonal of confident learning's joint.
    """

    judged: BoolArray
    wrong: FloatArray
    given: FloatArray
    suggested: IntArray
    in_doubt: BoolArray
    noise: LabelNoise
    confident: int


def doubt_labels(features: FloatArray, labels: IntArray, n_classes: int, *, seed: int = 0) -> LabelDoubts:
    """Judge the labels of n photos by the others.

    Gaussian discriminant analysis names each photo from a fit without it; a second fit weighs each photo by the
    probability that its label is right. In doubt is a label that is more probably wrong than right under the fitted
    noise (see :func:`fit_noise`), or that confident learning doubts while the head is sure of another class: noise
    between look-alikes is not uniform, and the first rule alone would pass it.

    Parameters
    ----------
    features : float32 array of shape (n, d)
    labels : int array of shape (n,)
        0 to ``n_classes`` - 1, of two classes or more.
    n_classes : int
    seed : int
        Decides the folds.
    """
    judged, noise, probabilities = _out_of_fold(features, labels, n_classes, seed, None)
    if judged.any():
        doubt = np.zeros(len(labels))
        doubt[judged] = wrong_label(probabilities, labels[judged], noise.rate)
        weight = np.maximum(1 - doubt, LEAST_WEIGHT)
        judged, noise, probabilities = _out_of_fold(features, labels, n_classes, seed, weight)
    return _judgement(judged, noise, probabilities, labels)


def _out_of_fold(
    features: FloatArray, labels: IntArray, n_classes: int, seed: int, weight: Array | None
) -> tuple[BoolArray, LabelNoise, FloatArray]:
    """Return the rows that were left out of a fit, the noise, and those rows' probabilities (m, c) in their order."""
    from flip.classify.heads import Inputs, build_head

    head = build_head("gda", n_classes, seed).fit(Inputs(features), labels, sample_weight=weight)
    judged = np.zeros(len(labels), bool)
    if head.out_of_fold is None:
        return judged, LabelNoise(1.0, LEAST_RATE), np.zeros((0, n_classes), np.float32)
    rows = head.out_of_fold.rows
    judged[rows] = True
    logits = np.zeros((len(labels), n_classes), np.float32)
    logits[rows] = head.out_of_fold.logits
    noise = fit_noise(logits[judged], labels[judged])
    return judged, noise, softmax(logits[judged], noise.temperature)


def _judgement(judged: BoolArray, noise: LabelNoise, probabilities: FloatArray, labels: IntArray) -> LabelDoubts:
    wrong, given = np.full(len(labels), np.nan, np.float32), np.full(len(labels), np.nan, np.float32)
    suggested, in_doubt, confident = labels.copy(), np.zeros(len(labels), bool), 0
    if judged.any():
        own = labels[judged]
        given[judged] = probabilities[np.arange(len(own)), own]
        wrong[judged] = wrong_label(probabilities, own, noise.rate)
        suggested[judged] = probabilities.argmax(axis=1)
        disputed = confident_disputes(probabilities, own)
        confident = int(disputed.sum())
        sure = (probabilities.max(axis=1) >= SURE) & (probabilities.argmax(axis=1) != own)
        in_doubt[judged] = (wrong[judged] > 0.5) | (disputed & sure)
    return LabelDoubts(judged, wrong, given, suggested, in_doubt, noise, confident)


def fit_noise(logits: FloatArray, labels: IntArray) -> LabelNoise:
    """Return the temperature T and the rate of wrong labels ε that make n given labels likeliest.

    A label is the photo's class with probability 1 − ε, and any other class alike otherwise:
    P(label y) = (1 − ε) p_y + ε (1 − p_y) / (c − 1), where p = softmax(logits / T).

    Parameters
    ----------
    logits : float array of shape (n, c)
        Of photos that the head was not fitted on.
    labels : int array of shape (n,)
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax

    classes, rows = logits.shape[1], np.arange(len(labels))
    scaled = np.asarray(logits, np.float64)

    def loss(at: Array) -> float:
        own = np.exp(log_softmax(scaled * np.exp(-at[0]), axis=1)[rows, labels])
        rate = 0.5 * expit(at[1])
        return -float(np.log((1 - rate) * own + rate * (1 - own) / (classes - 1) + 1e-300).mean())

    starts = [(temperature, rate) for temperature in (0.0, -0.7) for rate in (-2.0, -5.0)]
    best = min((minimize(loss, start, method="Nelder-Mead") for start in starts), key=lambda found: found.fun)
    return LabelNoise(float(np.exp(best.x[0])), max(LEAST_RATE, 0.5 * float(expit(best.x[1]))))


def wrong_label(probabilities: FloatArray, labels: IntArray, rate: float) -> FloatArray:
    """Return the probability (n,) that each label is wrong, by Bayes' rule under uniform noise of this rate.

    It falls with the probability of the label, so it ranks labels as that does.
    """
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    wrong = (1 - own) * rate / (probabilities.shape[1] - 1)
    return np.asarray(wrong / np.maximum(wrong + own * (1 - rate), 1e-300), np.float32)


def confident_disputes(probabilities: FloatArray, labels: IntArray) -> BoolArray:
    """Return which of n labels lie off the diagonal of the confident joint (Northcutt et al., JAIR 2021, equation 1).

    A photo counts for the likeliest of the classes whose probability reaches that class's threshold, the mean
    probability that the class has among the photos labelled so; its label is disputed if that is another class.

    Parameters
    ----------
    probabilities : float array of shape (n, c)
        Out-of-fold.
    labels : int array of shape (n,)
    """
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)  # (n, c)
    return np.asarray((reached.max(axis=1) >= 0) & (reached.argmax(axis=1) != labels))


def class_similarities(features: FloatArray, labels: IntArray, n_classes: int) -> tuple[FloatArray, FloatArray]:
    """Return each photo's cosine with the mean of its own class, without itself, and the largest with any class.

    Features are centred first: the part that all photos share says nothing about what they show.

    Parameters
    ----------
    features : float array of shape (n, d)
    labels : int array of shape (n,)
    n_classes : int

    Returns
    -------
    own, best : float arrays of shape (n,)
        ``own`` is 0 for a photo that is alone in its class.
    """
    centred = features - features.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((n_classes, features.shape[1]), centred.dtype)
    np.add.at(sums, labels, centred)
    similarities = centred @ _unit(sums).T  # (n, c)
    others = sums[labels] - centred
    alone = np.bincount(labels, minlength=n_classes)[labels] == 1
    own = np.where(alone, 0.0, (centred * _unit(others)).sum(axis=1))
    similarities[np.arange(len(labels)), labels] = own
    return own.astype(np.float32), similarities.max(axis=1)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
