"""Multinomial logistic regression with the zero-shot classifier as the prior mean of its weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from flip.arrays import Array, FloatArray
from flip.classify.calibration import fit_logit_weights, temperature_of
from flip.classify.heads.base import OutOfFold
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns
from flip.classify.heads.folds import describe, stratified_subset, weight_without
from flip.classify.heads.fused import FeatureHead, text_evidence
from flip.classify.heads.regression import Basis, Precision, Problem, basis_of, regress, weights_of
from flip.classify.text_side import Inputs

#: Strengths C tried, weakest fit first; the path stops when held-out log-loss has risen twice.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: The same without text: there is no prior mean to stay near.
STRENGTHS_WITHOUT_TEXT = (1.0, 3.0, 10.0, 30.0, 100.0)
#: C with nothing to validate on is this to the power of the share of the uncertainty that text leaves.
DEFAULT_STRENGTH = 10.0
#: Shares of the text weight that are tried too, at the chosen C.
TEXT_SHARES = (0.5, 0.0)
#: More training rows than this are searched on a stratified part of this size; the last fit is on all of them.
SEARCH_ROWS = 50_000


class LinearHead(FeatureHead):
    """Logistic regression to convergence; C and the weight a of the zero-shot prior on held-out rows of train."""

    name: ClassVar[str] = "linear"
    most_work: ClassVar[float | None] = 4e9
    arrays: ClassVar[tuple[str, ...]] = ("weights", "bias")
    values: ClassVar[tuple[str, ...]] = ("use_text", "text_weight", "strength", "iterations", "gradient")

    weights: FloatArray
    bias: FloatArray
    text_weight: float = 0.0
    strength: float = DEFAULT_STRENGTH
    iterations: int = 0
    gradient: float = 0.0

    def _fit(self, training: TrainingRows) -> None:
        """Choose C and a, then fit to all rows."""
        columns = self.choose_view(training)
        zero_shot = training.inputs.zero_shot
        text = text_evidence(zero_shot, training.labels)
        basis = basis_of(columns, training.weight)
        start = None
        if training.folds:
            start = self._search(columns, training, basis, text.weight)
        else:
            self.text_weight, self.strength, self.temperature = text.weight, DEFAULT_STRENGTH**text.unexplained, 1.0
            self.protocol["C"] = (
                f"{self.strength:.3g}, by the {text.unexplained:.0%} of the uncertainty that text leaves: "
                "nothing to validate on"
            )
            self.protocol["text weight"] = f"{text.weight:.3g}, by its likelihood on the training photos"
        problem = Problem(columns, training.labels, _offset(zero_shot, self.text_weight), basis, self.n_classes)
        precision: Precision = np.float64 if len(columns) <= SEARCH_ROWS else np.float32
        solution = regress(problem, training.weight, self.strength, start, precision=precision)
        self.weights, self.bias = weights_of(solution.coordinates, basis)
        self.iterations, self.gradient = solution.iterations, solution.gradient
        self.protocol["convergence"] = f"{self.iterations} iterations, largest gradient entry {self.gradient:.1e}"

    def _logits(self, inputs: Inputs) -> FloatArray:
        out = np.empty((len(inputs), self.n_classes), np.float32)
        for part, block in self.view(inputs).chunks():
            out[part] = block @ self.weights + self.bias
        offset = _offset(inputs.zero_shot, self.text_weight)
        return out if offset is None else out + offset

    def _search(self, columns: Columns, training: TrainingRows, basis: Basis, likely: float) -> Array:
        """Choose C and a on held-out rows; return coordinates to start the last fit from."""
        search = _Search(columns, training, basis, self.n_classes, self.seed)
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
    """The search for C and a: the best held-out logits so far, and each fold's last solution to start from."""

    def __init__(self, columns: Columns, training: TrainingRows, basis: Basis, n_classes: int, seed: int) -> None:
        rows = np.arange(len(columns))
        if len(columns) > SEARCH_ROWS:
            rows = stratified_subset(training.labels, SEARCH_ROWS, seed, training.held_out)
            columns = columns.subset(rows)
        self.columns, self.basis, self.n_classes = columns, basis, n_classes
        self.labels, self.weight = training.labels[rows], training.weight[rows]
        self.zero_shot = None if training.inputs.zero_shot is None else training.inputs.zero_shot[rows]
        self.folds = [np.searchsorted(rows, fold) for fold in training.folds]
        self.left_out = [np.flatnonzero(np.isin(rows, training.left_out(fold))) for fold in training.folds]
        self.paths: list[Array | None] = [None] * len(self.folds)
        self.loss = np.inf
        self.strength, self.text_weight, self.temperature = DEFAULT_STRENGTH, 0.0, 1.0
        self.logits: FloatArray = np.empty((0, n_classes), np.float32)
        self.mean_coordinates: Array = np.empty(0)

    def try_out(self, strength: float, text_weight: float) -> bool:
        """Fit every fold with these two; keep them and return True when held-out log-loss is the least so far."""
        offset = _offset(self.zero_shot, text_weight)
        problem = Problem(self.columns, self.labels, offset, self.basis, self.n_classes)
        logits = []
        for f, rows in enumerate(self.folds):
            weight = weight_without(self.weight, self.labels, self.left_out[f])
            solution = regress(problem, weight, strength, self.paths[f], tolerance=1e-4, most_iterations=200)
            self.paths[f] = solution.coordinates
            weights, bias = weights_of(solution.coordinates, self.basis)
            held = self.columns.take(rows) @ weights + bias
            logits.append(held if offset is None else held + offset[rows])
        joined = np.concatenate(logits)
        fitted = fit_logit_weights([joined], self.labels[np.concatenate(self.folds)])
        if fitted.log_loss >= self.loss:
            return False
        self.loss, self.strength, self.text_weight, self.logits = fitted.log_loss, strength, text_weight, joined
        self.temperature = temperature_of(float(fitted.weights[0]))
        self.mean_coordinates = np.mean([path for path in self.paths if path is not None], axis=0)
        return True


def _offset(zero_shot: FloatArray | None, text_weight: float) -> FloatArray | None:
    return None if zero_shot is None or text_weight == 0 else np.float32(text_weight) * zero_shot
