"""Multinomial logistic regression with the zero-shot classifier as the prior mean of its weights."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from flip.classify.calibration import fit_logit_weights, temperature_of
from flip.classify.heads.base import Array, Floats, Inputs, OutOfFold, Rows, Training
from flip.classify.heads.features import Features
from flip.classify.heads.folds import describe, stratified_subset, weight_without
from flip.classify.heads.fused import BIAS_VARIANCE, FeatureHead, text_evidence

#: Strengths C tried, weakest fit first; the path stops when held-out log-loss has risen twice.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: The same without text: there is no prior mean to stay near, and the weights have everything to learn.
STRENGTHS_WITHOUT_TEXT = (1.0, 3.0, 10.0, 30.0, 100.0)
#: C with nothing to validate on is this to the power of the share of the uncertainty that text leaves.
DEFAULT_STRENGTH = 10.0
#: Shares of the text weight tried beside the whole of it, at the chosen C.
TEXT_SHARES = (0.5, 0.0)
#: More training rows than this are searched on a stratified part of this size; the last fit is on all of them.
SEARCH_ROWS = 50_000


Precision = type[np.float32] | type[np.float64]


class Basis(NamedTuple):
    """Principal directions of the centred features, in which the problem is solved.

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
    """Rows, labels, and the logits that come before any weight."""

    features: Features
    labels: Rows
    offset: Floats | None
    basis: Basis
    n_classes: int


def basis_of(features: Features, weight: Array) -> Basis:
    """Return mean, scale and principal directions of weighted rows."""
    total = float(weight.sum())
    mean = np.zeros(features.width)
    second = np.zeros((features.width, features.width))
    for part, block in features.chunks():
        weighted = block * weight[part, None]
        mean += weighted.sum(axis=0, dtype=np.float64) / total
        second += (weighted.T @ block) / total
    variances, directions = np.linalg.eigh(second - np.outer(mean, mean))
    scale = float(np.sqrt(max(variances.sum(), 1e-12)))
    kept = variances > 1e-7 * variances[-1]
    return Basis(mean, scale, directions[:, kept], variances[kept] / scale**2)


def weights_of(coordinates: Array, basis: Basis, precision: Precision = np.float32) -> tuple[Array, Array]:
    """Return weights (d, c) and bias (c,) that act on the features as they are."""
    weights = basis.directions @ coordinates[:-1] / basis.scale
    return weights.astype(precision), (coordinates[-1] - basis.mean @ weights).astype(precision)


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

    The logits are ``offset + (x − mean) W / scale + bias``: with ``offset`` = a · zero-shot logits, the penalty is on
    the deviation from a times the zero-shot classifier, which is the prior mean (as in CLAP, Silva-Rodríguez et al.,
    CVPR 2024). The bias has a penalty of its own, the same at every C. Each coordinate is scaled by the curvature
    expected along it, which saves iterations and moves no minimum.

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
        Of the products with the features. In float32 the rounding of a mean over few rows hides the last digits.
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
    weights, bias = weights_of(coordinates, problem.basis, precision)
    loss, by_weight, by_bias = 0.0, np.zeros(weights.shape), np.zeros(len(bias))
    for part, block in problem.features.chunks():
        logits = block @ weights
        logits += bias
        if problem.offset is not None:
            logits += problem.offset[part]
        rows, own, w = np.arange(len(block)), problem.labels[part], weight[part]
        logits -= logits.max(axis=1, keepdims=True)
        at_label = logits[rows, own].astype(np.float64)
        np.exp(logits, out=logits)
        mass = logits.sum(axis=1, keepdims=True)
        loss += float(w @ (np.log(mass[:, 0], dtype=np.float64) - at_label))
        logits *= w[:, None] / mass
        logits[rows, own] -= w
        by_weight += block.T @ logits
        by_bias += logits.sum(axis=0, dtype=np.float64)
    basis = problem.basis
    by_coordinate = basis.directions.T @ (by_weight - np.outer(basis.mean, by_bias)) / basis.scale
    return loss, np.vstack([by_coordinate, by_bias])


class LinearHead(FeatureHead):
    """Logistic regression to convergence; C and the weight a of the zero-shot prior on held-out rows of train."""

    name: ClassVar[str] = "linear"
    arrays: ClassVar[tuple[str, ...]] = ("weights", "bias")
    values: ClassVar[tuple[str, ...]] = ("use_text", "text_weight", "strength", "iterations", "gradient")

    weights: Floats
    bias: Floats
    text_weight: float = 0.0
    strength: float = DEFAULT_STRENGTH
    iterations: int = 0
    gradient: float = 0.0

    def fit_checked(self, training: Training) -> None:
        """Choose C and a, then fit to all rows."""
        features = self.choose_view(training)
        zero_shot = training.inputs.zero_shot
        text = text_evidence(zero_shot, training.labels)
        basis = basis_of(features, training.weight)
        start = None
        if training.folds:
            start = self._search(features, training, basis, text.weight)
        else:
            self.text_weight, self.strength, self.temperature = text.weight, DEFAULT_STRENGTH**text.unexplained, 1.0
            self.protocol["C"] = (
                f"{self.strength:.3g}, by the {text.unexplained:.0%} of the uncertainty that text leaves: "
                "nothing to validate on"
            )
            self.protocol["text weight"] = f"{text.weight:.3g}, by its likelihood on the training photos"
        problem = Problem(features, training.labels, _offset(zero_shot, self.text_weight), basis, self.n_classes)
        precision: Precision = np.float64 if features.n <= SEARCH_ROWS else np.float32
        solution = regress(problem, training.weight, self.strength, start, precision=precision)
        self.weights, self.bias = weights_of(solution.coordinates, basis)
        self.iterations, self.gradient = solution.iterations, solution.gradient
        self.protocol["convergence"] = f"{self.iterations} iterations, largest gradient entry {self.gradient:.1e}"

    def raw_logits(self, inputs: Inputs) -> Floats:
        """Return a · zero-shot logits plus the linear part."""
        out = np.empty((inputs.n, self.n_classes), np.float32)
        for part, block in self.view(inputs).chunks():
            out[part] = block @ self.weights + self.bias
        offset = _offset(inputs.zero_shot, self.text_weight)
        return out if offset is None else out + offset

    def _search(self, features: Features, training: Training, basis: Basis, likely: float) -> Array:
        search = _Search(features, training, basis, self.n_classes, self.seed)
        worse = 0
        for strength in STRENGTHS if likely > 0 else STRENGTHS_WITHOUT_TEXT:
            worse = 0 if search.try_out(strength, likely) else worse + 1
            if worse == 2 and search.loss < 0.99 * np.log(self.n_classes):
                break
        if likely > 0:
            for share in TEXT_SHARES:
                search.try_out(search.strength, share * likely)
        self.strength, self.text_weight, self.temperature = search.strength, search.text_weight, search.temperature
        self.out_of_fold = OutOfFold(training.held_out, search.logits / np.float32(self.temperature))
        how = f"least log-loss in {describe(training.folds)}"
        self.protocol["C"] = f"{self.strength}, {how}"
        self.protocol["text weight"] = f"{self.text_weight:.3g}, {how}; the largest tried is the likeliest on train"
        self.protocol["temperature"] = f"{self.temperature:.3g}, {how}"
        return search.mean_coordinates


class _Search:
    """The best held-out logits so far, and where each fold's path of fits stands."""

    def __init__(self, features: Features, training: Training, basis: Basis, n_classes: int, seed: int) -> None:
        rows = np.arange(features.n)
        if features.n > SEARCH_ROWS:
            rows = stratified_subset(training.labels, SEARCH_ROWS, seed, training.held_out)
            features = features.subset(rows)
        self.features, self.basis, self.n_classes = features, basis, n_classes
        self.labels, self.weight = training.labels[rows], training.weight[rows]
        self.zero_shot = None if training.inputs.zero_shot is None else training.inputs.zero_shot[rows]
        self.folds = [np.searchsorted(rows, fold) for fold in training.folds]
        self.paths: list[Array | None] = [None] * len(self.folds)
        self.loss = np.inf
        self.strength, self.text_weight, self.temperature = DEFAULT_STRENGTH, 0.0, 1.0
        self.logits: Floats = np.empty((0, n_classes), np.float32)
        self.mean_coordinates: Array = np.empty(0)

    def try_out(self, strength: float, text_weight: float) -> bool:
        """Fit every fold with these two; keep them and return True when held-out log-loss is the least so far."""
        offset = _offset(self.zero_shot, text_weight)
        problem = Problem(self.features, self.labels, offset, self.basis, self.n_classes)
        logits = []
        for f, rows in enumerate(self.folds):
            weight = weight_without(self.weight, self.labels, rows)
            solution = regress(problem, weight, strength, self.paths[f], tolerance=1e-4, most_iterations=200)
            self.paths[f] = solution.coordinates
            weights, bias = weights_of(solution.coordinates, self.basis)
            held = self.features.take(rows) @ weights + bias
            logits.append(held if offset is None else held + offset[rows])
        joined = np.concatenate(logits)
        fitted = fit_logit_weights([joined], self.labels[np.concatenate(self.folds)])
        if fitted.log_loss >= self.loss:
            return False
        self.loss, self.strength, self.text_weight, self.logits = fitted.log_loss, strength, text_weight, joined
        self.temperature = temperature_of(float(fitted.weights[0]))
        self.mean_coordinates = np.mean([path for path in self.paths if path is not None], axis=0)
        return True


def _offset(zero_shot: Any, text_weight: float) -> Floats | None:
    return None if zero_shot is None or text_weight == 0 else np.float32(text_weight) * zero_shot
