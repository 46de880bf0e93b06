"""Label-free correction of zero-shot logits by the photos that are scored (Zhu et al., NeurIPS 2024)."""

from __future__ import annotations

import numpy as np

from flip.arrays import Float64Array, FloatArray
from flip.classify.calibration import softmax

#: Rounds of correction at most, steps of the power iteration, and the change of a logarithm that ends the rounds.
ROUNDS, STEPS, SETTLED = 11, 200, 1e-2


def log_prior(logits: FloatArray) -> Float64Array:
    """Return the logarithm of the prior over class names that a model brings along, to subtract from its logits.

    Frolic's label-free prior correction (Zhu et al., NeurIPS 2024, 2410.19294): row k of P is the mean prediction of
    the photos that are surely named k, and the prior is the stationary distribution of Pᵀ, found by power iteration.
    Corrected logits give other sure photos, so that it is repeated until it settles. It presumes that the classes are
    about as frequent as each other among the photos.

    Parameters
    ----------
    logits : float array of shape (n, c)
        Of the photos that are scored together; labels are not used.

    Returns
    -------
    float64 array of shape (c,)
        Zero on average where nothing is preferred.
    """
    total = np.zeros(logits.shape[1])
    for _ in range(ROUNDS):
        step = np.log(stationary(class_predictions(logits - total.astype(np.float32))) * len(total))
        total += step
        if np.abs(step).max() < SETTLED:
            break
    return total


def class_predictions(logits: FloatArray) -> Float64Array:
    """Return P (c, c): the mean prediction of the photos named k, of those whose two best are over 1 / c apart.

    The row of a class that no photo is surely named is one-hot: it keeps its share.
    """
    classes = logits.shape[1]
    probabilities = softmax(logits).astype(np.float64)
    ranked = np.sort(probabilities, axis=1)
    sure = ranked[:, -1] - ranked[:, -2] > 1.0 / classes
    named = probabilities.argmax(axis=1)
    out = np.eye(classes)
    for k in np.unique(named[sure]):
        out[k] = probabilities[sure & (named == k)].mean(axis=0)
    return out


def stationary(predictions: Float64Array) -> Float64Array:
    """Return the distribution π (c,) with ``Pᵀ π = π``, by power iteration from the uniform one; entries above 0."""
    share = np.full(len(predictions), 1.0 / len(predictions))
    for _ in range(STEPS):
        before, share = share, predictions.T @ share
        share /= share.sum()
        if np.abs(share - before).max() < 1e-10:
            break
    return np.asarray(np.maximum(share, 1e-6))
