"""Kernel ridge regression on what the text leaves unexplained (ProKeR; Bendou et al., CVPR 2025)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from flip.arrays import Array, FloatArray
from flip.classify.calibration import fit_logit_weights, softmax
from flip.classify.heads.base import OutOfFold
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns, centre_and_scale
from flip.classify.heads.folds import describe, weight_without
from flip.classify.heads.fused import BIAS_VARIANCE, FeatureHead
from flip.classify.text_side import Inputs
from flip.errors import ConfigError

#: λ where the text says nothing. Chosen on photos of the sample's training half and of its other species.
NOISE = 0.15
#: Length of text features beside the image features'. How much a photo is like each class's text tells photos apart
#: even where the names are another's. Chosen as NOISE was.
TEXT_LENGTH = 0.5
#: The kernel matrix is n × n: with more rows it would take more than 270 MB.
MOST_ROWS = 8_192
#: With more rows than this the equations are solved in float32.
PRECISE_ROWS = 2_048
#: With more rows than this one fold is held out rather than each in turn: every fold is a matrix to factorise.
SINGLE_FOLD_ROWS = 4_096
#: Rows of a kernel that are worked on together.
BLOCK = 512
#: Scores below this are as good as impossible.
FLOOR = 0.01
#: The weight of the scores' logarithm with nothing to validate on.
DEFAULT_WEIGHT = 2.0


def two_width_kernel(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return ``½ exp(−½ |x − y|²) + ½ exp(−2 |x − y|²)``, shape (n, m), of rows whose mean squared length is 1.

    The mean of two Gaussian kernels of half and of twice the rows' own precision. The narrow one tells look-alikes
    apart, the wide one carries a correction of the text over all photos of a class.
    """
    out = left @ right.T
    out *= 2
    out -= np.einsum("ij,ij->i", left, left)[:, None]
    out -= np.einsum("ij,ij->i", right, right)
    np.minimum(out, 0.0, out=out)  # −|x − y|²
    out *= 0.5
    np.exp(out, out=out)
    for start in range(0, len(out), BLOCK):
        wide = out[start : start + BLOCK]
        # The narrow kernel is the fourth power of the wide one.
        wide += np.square(np.square(wide))
        wide *= 0.5
    return out.astype(np.float32, copy=False)


def ridge_coefficients(
    kernel: FloatArray, residual: Array, weight: Array, noise: float, *, overwrite_kernel: bool = False
) -> FloatArray:
    """Return ``α = (K + λ W⁻¹)⁻¹ R`` of shape (n, c), for row weights above zero.

    Kernel ridge regression of the residuals that a prior leaves (ProKeR: Bendou et al., CVPR 2025), with one weight per
    row.

    Parameters
    ----------
    kernel : float array of shape (n, n)
    residual : float array of shape (n, c)
        R, one-hot labels less the prior's probabilities.
    weight : float array of shape (n,)
        W.
    noise : float
        λ.
    overwrite_kernel : bool
        Use the kernel's memory for the factorisation.
    """
    from scipy.linalg import cho_factor, cho_solve

    precision = np.float64 if len(kernel) <= PRECISE_ROWS else np.float32
    matrix: Array = kernel.astype(precision, copy=not overwrite_kernel)
    matrix.flat[:: len(matrix) + 1] += (noise / weight).astype(precision)
    # LAPACK works in place where columns are contiguous; the matrix is its own transpose.
    factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(cho_solve(factor, residual.astype(precision), check_finite=False), dtype=np.float32)


class RidgeHead(FeatureHead):
    """The prior of the text, plus kernel ridge regression of the one-hot labels' residuals on the photos.

    ``F(x) = P(x) + k(x, S) α``: P are zero-shot probabilities, trusted as ``trust.py`` says, and the photos S correct
    them near themselves only. λ is ``NOISE`` over the share of the labels' variance that P leaves unexplained, the
    ratio of noise to signal of the Gaussian process behind it: the better the text, the less the photos are believed.
    Nothing is left to be chosen by validation, so that one photo per class is enough.

    Probabilities are ``softmax(a log F + b F)`` with a and b at least 0, so that the order of the classes is that of F.
    With three photos per class or more ``t log P`` and a bias per class join, all fitted on held-out rows.
    """

    name: ClassVar[str] = "ridge"
    most_rows: ClassVar[int | None] = MOST_ROWS
    arrays: ClassVar[tuple[str, ...]] = ("keys", "mean", "coefficients", "class_bias")
    values: ClassVar[tuple[str, ...]] = ("use_text", "scale", "noise", "text_weight", "log_weight", "weight")

    keys: FloatArray
    mean: FloatArray
    scale: float
    coefficients: FloatArray
    class_bias: FloatArray
    noise: float = NOISE
    text_weight: float = 0.0
    log_weight: float = DEFAULT_WEIGHT
    weight: float = 0.0

    def _fit(self, training: TrainingRows) -> None:
        if len(training.labels) > MOST_ROWS:
            raise ConfigError(
                f"ridge takes at most {MOST_ROWS:,} training photos and was given {len(training.labels):,}; "
                "pass --head linear or gda"
            )
        self.use_text = training.inputs.text is not None
        if training.is_thin or not training.inputs.has_captions:
            self.protocol["features"] = "image and text features" if self.use_text else "image features"
        else:
            self.choose_view(training)
        columns = self.view(training.inputs)
        self.mean, self.scale = centre_and_scale(columns)
        keys = self._centre(columns.all())
        kernel, prior = two_width_kernel(keys, keys), self._prior(training.inputs)
        residual = -prior  # (n, c)
        residual[np.arange(len(residual)), training.labels] += 1.0
        self.noise = NOISE / self._unexplained(residual, training.weight)
        self.protocol["lambda"] = f"{self.noise:.3g}, by the share of the labels' variance that the text leaves"
        self.text_weight, self.log_weight, self.weight = 0.0, DEFAULT_WEIGHT, 0.0
        self.class_bias = np.zeros(self.n_classes, np.float32)
        self.protocol["calibration"] = "default: nothing to validate on"
        if training.folds:
            folds = training.folds if len(keys) <= SINGLE_FOLD_ROWS else training.folds[:1]
            training = training._replace(folds=folds)
            scores = self._held_out_scores(kernel, prior, residual, training)
            self._calibrate(scores, training)
        used = np.flatnonzero(training.weight)
        self.keys = keys[used]
        self.coefficients = self._solve(kernel, residual, training.weight)

    def view(self, inputs: Inputs) -> Columns:
        """Return image features, and text features at half their length."""
        if self.use_text and inputs.text is not None:
            return Columns(inputs.image, np.float32(TEXT_LENGTH) * inputs.text)
        return Columns(inputs.image)

    def _logits(self, inputs: Inputs) -> FloatArray:
        scores = self._prior(inputs)
        for part, block in self.view(inputs).chunks(4096):
            scores[part] += two_width_kernel(self._centre(block), self.keys) @ self.coefficients
        return self._calibrated(scores, inputs.zero_shot)

    def _calibrated(self, scores: FloatArray, log_prior: FloatArray | None) -> FloatArray:
        logits = np.float32(self.log_weight) * _log(scores) + np.float32(self.weight) * scores + self.class_bias
        return logits if log_prior is None else logits + np.float32(self.text_weight) * log_prior

    def _held_out_scores(
        self, kernel: FloatArray, prior: FloatArray, residual: FloatArray, training: TrainingRows
    ) -> FloatArray:
        """Return F of held-out rows, fold after fold, each by the rows of the other folds."""
        held = []
        for rows in training.folds:
            weight = weight_without(training.weight, training.labels, training.left_out(rows))
            coefficients = self._solve(kernel, residual, weight)
            held.append(prior[rows] + kernel[np.ix_(rows, np.flatnonzero(weight))] @ coefficients)
        return np.concatenate(held)

    def _calibrate(self, scores: FloatArray, training: TrainingRows) -> None:
        """Find the weights of scores, their logarithm and the prior's, and the bias, on held-out rows."""
        rows, zero_shot = training.held_out, training.inputs.zero_shot
        sources, variance, log_prior = [_log(scores), scores], BIAS_VARIANCE, None
        if training.is_thin:
            # Held-out rows are scored by one photo per class, later ones by two: the text would get too much weight.
            variance = 0.0
        elif zero_shot is not None:
            log_prior = zero_shot[rows]
            sources.append(log_prior)
        fitted = fit_logit_weights(sources, training.labels[rows], variance)
        self.log_weight, self.weight, self.text_weight = (*(float(w) for w in fitted.weights), 0.0)[:3]
        self.class_bias = fitted.bias.astype(np.float32)
        self.out_of_fold = OutOfFold(rows, self._calibrated(scores, log_prior))
        self.protocol["calibration"] = f"least log-loss in {describe(training.folds)}"

    def _solve(self, kernel: FloatArray, residual: FloatArray, weight: FloatArray) -> FloatArray:
        used = np.flatnonzero(weight)
        chosen = kernel[np.ix_(used, used)]
        return ridge_coefficients(chosen, residual[used], weight[used], self.noise, overwrite_kernel=True)

    def _unexplained(self, residual: FloatArray, weight: FloatArray) -> float:
        """Return the share of the labels' variance that the prior leaves, 0.02 to 1."""
        squares = np.average(np.einsum("ij,ij->i", residual, residual), weights=weight)
        return float(np.clip(squares / (1.0 - 1.0 / self.n_classes), 0.02, 1.0))

    def _prior(self, inputs: Inputs) -> FloatArray:
        if inputs.zero_shot is None:
            return np.full((len(inputs), self.n_classes), 1.0 / self.n_classes, np.float32)
        return softmax(inputs.zero_shot)

    def _centre(self, block: FloatArray) -> FloatArray:
        return np.asarray((block - self.mean) / np.float32(self.scale), dtype=np.float32)


def _log(scores: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(scores, np.float32(FLOOR))))
