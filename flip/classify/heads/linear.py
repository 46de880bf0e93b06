"""Multinomial logistic regression with the zero-shot classifier as the prior mean of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.calibration import fit_logit_weights, row_losses, temperature_of
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
#: Standard errors of the difference in held-out loss by which a candidate has to trail the best to drop out.
STANDARD_ERRORS = 2.0
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
        race = _Race(columns, training, basis, self.n_classes, self.seed)
        best = race.run(STRENGTHS if likely > 0 else STRENGTHS_WITHOUT_TEXT, likely)
        self.strength, self.text_weight, logits = best.strength, best.text_weight, best.joined()
        self.temperature = temperature_of(best.weight)
        self.out_of_fold = OutOfFold(training.held_out, logits / np.float32(self.temperature))
        how = f"least log-loss in {describe(training.folds)}"
        self.protocol["C"] = f"{self.strength}, {how}"
        self.protocol["text weight"] = f"{self.text_weight:.3g}, {how}; the largest tried is the likeliest on train"
        self.protocol["temperature"] = f"{self.temperature:.3g}, {how}"
        return best.coordinates


class _Candidate:
    """A pair of C and a: its held-out logits so far, their scale and row losses, and where its next fit starts."""

    def __init__(self, strength: float, text_weight: float, coordinates: Array | None) -> None:
        self.strength, self.text_weight = strength, text_weight
        self.coordinates: Array = np.empty(0) if coordinates is None else coordinates
        self.logits: list[FloatArray] = []
        self.weight, self.loss = 1.0, np.inf
        self.row_losses: Array = np.empty(0)

    def joined(self) -> FloatArray:
        return np.concatenate(self.logits)

    def add(self, logits: FloatArray, labels: IntArray) -> None:
        """Add the logits of a fold; ``labels`` are of all held-out rows so far."""
        self.logits.append(logits)
        fitted = fit_logit_weights([self.joined()], labels)
        self.weight, self.loss = float(fitted.weights[0]), fitted.log_loss
        self.row_losses = row_losses(np.float32(self.weight) * self.joined(), labels)

    def is_worse(self, other: _Candidate) -> bool:
        """Whether its loss is significantly higher than another's on the rows so far."""
        more = self.row_losses - other.row_losses
        return bool(more.mean() > STANDARD_ERRORS * more.std() / np.sqrt(len(more)))


class _Race:
    """The search for C and a: after each fold the candidates that are significantly worse than the best drop out."""

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

    def run(self, strengths: Sequence[float], likely: float) -> _Candidate:
        """Return the candidate of least held-out log-loss."""
        alive = self._first_fold(strengths, likely)
        for fold in range(1, len(self.folds)):
            for candidate in alive:
                self._fit(candidate, fold)
            best = min(alive, key=lambda candidate: candidate.loss)
            alive = [candidate for candidate in alive if not candidate.is_worse(best)]
        return min(alive, key=lambda candidate: candidate.loss)

    def _first_fold(self, strengths: Sequence[float], likely: float) -> list[_Candidate]:
        """Follow the path of C until held-out log-loss has risen twice, then try less text at the best C."""
        tried: list[_Candidate] = []
        worse = 0
        for strength in strengths:
            candidate = _Candidate(strength, likely, tried[-1].coordinates if tried else None)
            self._fit(candidate, 0)
            worse = worse + 1 if tried and candidate.loss >= min(other.loss for other in tried) else 0
            tried.append(candidate)
            if worse == 2 and min(other.loss for other in tried) < 0.99 * np.log(self.n_classes):
                break
        best = min(tried, key=lambda candidate: candidate.loss)
        for share in TEXT_SHARES if likely > 0 else ():
            candidate = _Candidate(best.strength, share * likely, best.coordinates)
            self._fit(candidate, 0)
            tried.append(candidate)
        best = min(tried, key=lambda candidate: candidate.loss)
        return [candidate for candidate in tried if not candidate.is_worse(best)]

    def _fit(self, candidate: _Candidate, fold: int) -> None:
        """Fit without a fold and score it."""
        offset = _offset(self.zero_shot, candidate.text_weight)
        problem = Problem(self.columns, self.labels, offset, self.basis, self.n_classes)
        weight = weight_without(self.weight, self.labels, self.left_out[fold])
        start = candidate.coordinates if len(candidate.coordinates) else None
        solution = regress(problem, weight, candidate.strength, start, tolerance=1e-4, most_iterations=200)
        candidate.coordinates = solution.coordinates
        weights, bias = weights_of(solution.coordinates, self.basis)
        rows = self.folds[fold]
        held = self.columns.take(rows) @ weights + bias
        labels = self.labels[np.concatenate(self.folds[: fold + 1])]
        candidate.add(held if offset is None else held + offset[rows], labels)


def _offset(zero_shot: FloatArray | None, text_weight: float) -> FloatArray | None:
    return None if zero_shot is None or text_weight == 0 else np.float32(text_weight) * zero_shot
