"""Calibration: softmax, log-loss, and the weights of logits that minimise held-out log-loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray
from flip.classify.minimise import minimise

#: Weights are searched between these, in units of one over the spread of the logits they multiply.
LARGEST_WEIGHT = 1e3


class LogitWeights(NamedTuple):
    """Non-negative weights (m,) of summed logits, a bias per class (c,), and the smoothed log-loss they reach."""

    weights: Array
    bias: Array
    log_loss: float


def softmax(logits: Array, temperature: float = 1.0) -> FloatArray:
    """Return probabilities ``softmax(logits / temperature)`` of shape (n, c), float32; rows sum to one."""
    # SciPy's takes longer to import than it takes to answer.
    scaled = np.asarray(logits, dtype=np.float32) / np.float32(temperature)
    shares: FloatArray = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def log_softmax(logits: Array) -> FloatArray:
    """Return the logarithms of ``softmax(logits)``, shape (n, c), float32."""
    wide = np.asarray(logits, dtype=np.float32)
    shifted: FloatArray = wide - wide.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def row_losses(logits: Array, labels: Array) -> Array:
    """Return each row's negative log-probability of its label, shape (n,), float64."""
    wide = np.asarray(logits, dtype=np.float64)  # (n, c)
    shifted = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def fit_logit_weights(sources: Sequence[Array], labels: Array, bias_variance: float = 0.0) -> LogitWeights:
    """Return the weights w ≥ 0 and biases b for which ``softmax(Σ w_m · sources[m] + b)`` has the least log-loss.

    With one source and no bias this is temperature scaling, T = 1/w (Guo et al., ICML 2017, section 4.2); with two it
    also weighs text against image; with biases it is bias-corrected temperature scaling (Alexandari et al., ICML 2020).
    The problem is convex. Targets are smoothed by one part in n + 2, as Platt (1999, section 2.2) does, so that a
    handful of rows that are all predicted correctly cannot make w infinite.

    Parameters
    ----------
    sources : sequence of float arrays of shape (n, c)
        Logits of rows that the models behind them were not fitted on.
    labels : int array of shape (n,)
    bias_variance : float
        Prior variance of the per-class bias, in squared nats; 0 for no biases.
    """
    m, classes = len(sources), sources[0].shape[1]
    spreads = np.array([float(np.std(s - s.mean(axis=1, keepdims=True))) or 1.0 for s in sources])
    stack = [np.asarray(s / spread, dtype=np.float32) for s, spread in zip(sources, spreads, strict=True)]
    objective = _SmoothedLogLoss(stack, labels, bias_variance)
    start = np.append(np.ones(m), np.zeros(classes if bias_variance else 0))
    is_weight = np.arange(len(start)) < m
    lower, upper = np.where(is_weight, 0.0, -np.inf), np.where(is_weight, LARGEST_WEIGHT, np.inf)
    # A smaller tolerance is lost in the rounding of float32.
    found, loss = minimise(objective, start, lower, upper, tolerance=1e-7)
    bias = found[m:] if bias_variance else np.zeros(classes)
    return LogitWeights(found[:m] / spreads, bias, loss)


class _SmoothedLogLoss:
    """Mean smoothed log-loss of ``softmax(Σ w_m · sources[m] + b)``, and its gradient.

    Its parameters are the m weights and, with a ``bias_variance``, the c biases.
    """

    def __init__(self, sources: Sequence[FloatArray], labels: Array, bias_variance: float) -> None:
        self.sources, self.bias_variance = sources, bias_variance
        self.n, self.classes = sources[0].shape
        smoothing = 1.0 / (self.n + 2)
        self.at_target = np.array([_smoothed_target(s, labels, smoothing).mean() for s in sources])
        counts = np.bincount(labels, minlength=self.classes)
        self.frequency = (1 - smoothing) * counts / self.n + smoothing / self.classes

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        m, n = len(self.sources), self.n
        weights, bias = parameters[:m], parameters[m:]
        total = np.zeros((n, self.classes), np.float32)
        for w, s in zip(weights, self.sources, strict=True):
            total += np.float32(w) * s
        if len(bias):
            total += bias.astype(np.float32)
        log_mass, total = _normalise(total)
        gradient = np.array([float(np.vdot(total, s)) / n for s in self.sources]) - self.at_target
        loss = log_mass - float(weights @ self.at_target)
        if len(bias):
            loss += float(bias @ (bias / (2 * self.bias_variance * n) - self.frequency))
            by_bias = total.mean(axis=0, dtype=np.float64) - self.frequency + bias / (self.bias_variance * n)
            gradient = np.append(gradient, by_bias)
        return loss, gradient


def _normalise(logits: Array) -> tuple[float, Array]:
    """Return the mean log-sum-exp of the rows, and the logits turned into their softmax in place."""
    top = logits.max(axis=1, keepdims=True)
    logits -= top
    np.exp(logits, out=logits)
    mass = logits.sum(axis=1, keepdims=True)
    logits /= mass
    return float(np.mean(np.log(mass, dtype=np.float64) + top)), logits


def fit_temperature(logits: Array, labels: Array) -> float:
    """Return the temperature T for which ``softmax(logits / T)`` has the least log-loss (Guo et al., ICML 2017).

    Parameters
    ----------
    logits : float array of shape (n, c)
        Of rows that the model behind them was not fitted on.
    labels : int array of shape (n,)
    """
    return temperature_of(float(fit_logit_weights([logits], labels).weights[0]))


def temperature_of(weight: float) -> float:
    """Return 1 / weight, finite also for a weight of zero (uninformative logits)."""
    return 1.0 / max(weight, 1e-6)


def fit_mixture(probabilities: Sequence[Array], labels: Array, prior: float = 10.0, steps: int = 200) -> Array:
    """Return the weights (m,) of a mixture of predictions, which sum to one, by expectation maximisation.

    A Dirichlet prior worth ``prior`` rows for each model keeps the weights near uniform when there are few rows.

    Parameters
    ----------
    probabilities : sequence of m float arrays of shape (n, c)
        Of held-out rows.
    labels : int array of shape (n,)
    """
    rows = np.arange(len(labels))
    likelihood = np.stack([p[rows, labels] for p in probabilities], axis=1).astype(np.float64) + 1e-12  # (n, m)
    weights = np.full(likelihood.shape[1], 1.0 / likelihood.shape[1])
    for _ in range(steps):
        share = likelihood * weights
        share /= share.sum(axis=1, keepdims=True)
        weights = share.sum(axis=0) + prior
        weights /= weights.sum()
    return weights


def _smoothed_target(logits: Array, labels: Array, smoothing: float) -> Array:
    own = logits[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray((1.0 - smoothing) * own + smoothing * logits.mean(axis=1, dtype=np.float64))
