"""Probabilities from logits: softmax, log-loss, and the weights that make held-out log-loss least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Weights are searched between these, in units of one over the spread of the logits they multiply.
LARGEST_WEIGHT = 1e3


class LogitWeights(NamedTuple):
    """Non-negative weights of summed logits, and the smoothed log-loss (nats a row) they reach."""

    weights: Array
    log_loss: float


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities of shape (n, c), in the precision given."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax(logits: Array, temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Return probabilities ``softmax(logits / temperature)`` of shape (n, c), float32; rows sum to one."""
    scaled = np.asarray(logits, dtype=np.float32) / np.float32(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def row_losses(logits: Array, labels: Array) -> Array:
    """Return each row's negative log-probability of its label, shape (n,), float64."""
    return -log_softmax(np.asarray(logits, dtype=np.float64))[np.arange(len(labels)), labels]


def fit_logit_weights(sources: Sequence[Array], labels: Array) -> LogitWeights:
    """Return the weights w ≥ 0 for which ``softmax(Σ w_m · sources[m])`` has the least log-loss on these rows.

    With one source this is temperature scaling, T = 1/w (Guo et al., ICML 2017, section 4.2); with two it also decides
    how much the text side is worth beside the image side. The problem is convex. Targets are smoothed by one part in
    n + 2, as Platt (1999, section 2.2) does, so that a handful of rows that are all right cannot make w infinite.

    Parameters
    ----------
    sources : sequence of float arrays of shape (n, c)
        Logits of rows that the models behind them were not fitted on.
    labels : int array of shape (n,)
    """
    from scipy.optimize import minimize

    n, classes = sources[0].shape
    spreads = [float(np.std(s - s.mean(axis=1, keepdims=True))) or 1.0 for s in sources]
    stack = [np.asarray(s / spread, dtype=np.float32) for s, spread in zip(sources, spreads, strict=True)]
    smoothing = 1.0 / (n + 2)
    at_target = np.array([_smoothed_target(s, labels, smoothing).mean() for s in stack])

    def objective(weights: Array) -> tuple[float, Array]:
        total = sum(
            (np.float32(w) * s for w, s in zip(weights, stack, strict=True)), np.zeros((n, classes), np.float32)
        )
        top = total.max(axis=1, keepdims=True)
        total -= top
        np.exp(total, out=total)
        mass = total.sum(axis=1, keepdims=True)
        total /= mass
        log_mass = float(np.mean(np.log(mass, dtype=np.float64) + top))
        expected = np.array([np.einsum("ij,ij->", total, s, dtype=np.float64) / n for s in stack])
        return log_mass - float(weights @ at_target), expected - at_target

    bounds = [(0.0, LARGEST_WEIGHT)] * len(stack)
    found = minimize(objective, np.ones(len(stack)), jac=True, method="L-BFGS-B", bounds=bounds)
    return LogitWeights(np.asarray(found.x) / spreads, float(found.fun))


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
    """Return 1 / weight, finite also for a weight of zero (logits that say nothing)."""
    return 1.0 / max(weight, 1e-6)


def fit_mixture(probabilities: Sequence[Array], labels: Array, prior: float = 1.0, steps: int = 200) -> Array:
    """Return the weights of a mixture of predictions, on the simplex, by expectation maximisation on held-out rows.

    ``prior`` rows' worth of evidence for each model keep the weights near uniform when there are few rows (the
    Dirichlet posterior mode).

    Parameters
    ----------
    probabilities : sequence of m float arrays of shape (n, c)
    labels : int array of shape (n,)
    """
    rows = np.arange(len(labels))
    likelihood = np.stack([p[rows, labels] for p in probabilities], axis=1).astype(np.float64) + 1e-12
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
