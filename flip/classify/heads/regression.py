"""Multinomial logistic regression by L-BFGS: the objective, and the coordinates it is solved in.

The coordinates are principal components of the centred rows: ``logits = offset + (x − mean) / scale @ directions @
coordinates[:-1] + coordinates[-1]``. With n rows of d features there are k ≤ min(n, d) of them, so that a few photos
give a small problem whatever the width of the features. With ``offset`` = a · zero-shot logits the penalty is on the
deviation from a times the zero-shot classifier, which is then the prior mean of the weights (as in CLAP,
Silva-Rodríguez et al., CVPR 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.heads.columns import Columns, LinearMap
from flip.classify.heads.fused import BIAS_VARIANCE

Precision = type[np.float32] | type[np.float64]


class Basis(NamedTuple):
    """Principal directions of the centred features: mean (d,), directions (d, k), and their scaled variances (k,).

    Features are centred by ``mean`` and divided by ``scale`` (their root mean square length), so that C means the same
    for every model. Weights lie in the span of the rows (representer theorem), so nothing is lost with fewer rows than
    dimensions.
    """

    mean: Array
    scale: float
    directions: Array
    variances: Array


class Solution(NamedTuple):
    """Coordinates (k + 1, c) of the weights and, last, the bias; iterations; largest gradient entry."""

    coordinates: Array
    iterations: int
    gradient: float


class Problem(NamedTuple):
    """Training rows (n, d) and labels (n,), and the logits (n, c) to which the linear part is added, or None."""

    columns: Columns
    labels: IntArray
    offset: FloatArray | None
    basis: Basis
    n_classes: int


def basis_of(columns: Columns, weight: Array) -> Basis:
    """Return mean, scale and principal directions of weighted rows."""
    total = float(weight.sum())
    mean = np.zeros(columns.width)
    second = np.zeros((columns.width, columns.width))
    for part, block in columns.chunks():
        weighted = block * weight[part, None]
        mean += weighted.sum(axis=0, dtype=np.float64) / total
        second += (weighted.T @ block) / total
    variances, directions = np.linalg.eigh(second - np.outer(mean, mean))
    scale = float(np.sqrt(max(variances.sum(), 1e-12)))
    kept = variances > 1e-7 * variances[-1]
    return Basis(mean, scale, directions[:, kept], variances[kept] / scale**2)


def weights_of(coordinates: Array, basis: Basis, precision: Precision = np.float32) -> LinearMap:
    """Return the linear map, of the uncentred features, that coordinates (k + 1, c) stand for."""
    weights = basis.directions @ coordinates[:-1] / basis.scale  # (d, c)
    return LinearMap(weights.astype(precision), (coordinates[-1] - basis.mean @ weights).astype(precision))


def regress(
    problem: Problem,
    weight: Array,
    strength: float,
    start: Array | None = None,
    tolerance: float = 1e-5,
    most_iterations: int = 1000,
    precision: Precision = np.float32,
) -> Solution:
    """Minimise ``Σ w_i · loss_i + |W|² / (2 C)`` over weights and bias by L-BFGS.

    The bias has a penalty of its own, the same at every C. Each coordinate is scaled by its expected curvature, which
    saves iterations and moves no minimum.

    Parameters
    ----------
    problem : Problem
    weight : float array of shape (n,)
        Rows of weight 0 take no part.
    strength : float
        C, as scikit-learn's.
    start : float array of shape (k + 1, c), optional
        Coordinates to start from.
    tolerance : float
        Stop when no entry of the gradient of the mean loss is larger.
    most_iterations : int
    precision : {numpy.float32, numpy.float64}
        Of the products with the features; float32 rounds away the last digits of a mean over few rows.
    """
    from scipy.optimize import minimize

    total = float(weight.sum())
    penalty = np.append(np.full(len(problem.basis.variances), 1.0 / strength), 1.0 / BIAS_VARIANCE)[:, None] / total
    curvature = np.append(problem.basis.variances, 1.0)[:, None] / problem.n_classes
    step = 1.0 / np.sqrt(curvature + penalty)
    shape = (len(step), problem.n_classes)

    def objective(flat: Array) -> tuple[float, Array]:
        coordinates = step * flat.reshape(shape)
        loss, gradient = _loss_and_gradient(problem, weight / total, coordinates, precision)
        loss += 0.5 * float(np.sum(penalty * coordinates**2))
        return loss, (step * (gradient + penalty * coordinates)).ravel()

    first = np.zeros(shape) if start is None else start / step
    options = {"maxiter": most_iterations, "maxfun": 2 * most_iterations, "gtol": tolerance, "ftol": 0.0, "maxcor": 15}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return Solution(step * found.x.reshape(shape), int(found.nit), float(np.abs(found.jac).max()))


def _loss_and_gradient(
    problem: Problem, weight: Array, coordinates: Array, precision: Precision
) -> tuple[float, Array]:
    """Return the weighted sum of row losses, and its gradient by the coordinates (k + 1, c)."""
    weights, bias = weights_of(coordinates, problem.basis, precision)
    loss, by_weight, by_bias = 0.0, np.zeros(weights.shape), np.zeros(len(bias))
    for part, block in problem.columns.chunks():
        logits = block @ weights  # (rows, c)
        logits += bias
        if problem.offset is not None:
            logits += problem.offset[part]
        rows, own, w = np.arange(len(block)), problem.labels[part], weight[part]
        logits -= logits.max(axis=1, keepdims=True)
        at_label = logits[rows, own].astype(np.float64)
        np.exp(logits, out=logits)
        mass = logits.sum(axis=1, keepdims=True)
        loss += float(w @ (np.log(mass[:, 0], dtype=np.float64) - at_label))
        # From here on they are the gradient by the logits: weight · (probability − one-hot label).
        logits *= w[:, None] / mass
        logits[rows, own] -= w
        by_weight += block.T @ logits
        by_bias += logits.sum(axis=0, dtype=np.float64)
    basis = problem.basis
    # The chain rule through ``weights_of``; the mean enters by the bias.
    by_coordinate = basis.directions.T @ (by_weight - np.outer(basis.mean, by_bias)) / basis.scale
    return loss, np.vstack([by_coordinate, by_bias])
