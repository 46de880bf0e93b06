"""Heads that score the features and add the zero-shot logits afterwards: logits = zero-shot + α · scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray
from flip.classify.calibration import fit_logit_weights, temperature_of
from flip.classify.heads.base import Head, OutOfFold
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns, held_out_mean_scores
from flip.classify.heads.folds import describe
from flip.classify.text_side import Inputs
from flip.files import JsonObject

#: Prior variance of the per-class bias, in squared nats: zero-shot over-predicts some class names.
BIAS_VARIANCE = 1.0

#: Candidate settings are compared on about this many held-out rows.
COMPARED_ROWS = 2_000

#: With nothing to validate on and no text: the spread of the weighted scores among the wrong classes, in nats.
DEFAULT_SPREAD = 1.0

#: Settings that a head chooses on held-out rows, by name; JSON can hold them.
Setting = JsonObject


class Candidate(NamedTuple):
    """A setting, and the scores (m, c) it gives to held-out rows, fold after fold (or of the first folds)."""

    setting: Setting
    scores: FloatArray


class Fusion(NamedTuple):
    """Weights of scores and zero-shot logits: ``text_weight`` is 1 or 0, ``alpha`` at least 0, ``bias`` (c,)."""

    text_weight: float
    alpha: float
    temperature: float
    bias: Array


def fuse(zero_shot: Array | None, scores: Array, alpha: float, text_weight: float = 1.0) -> FloatArray:
    """Return ``text_weight · zero_shot + alpha · scores`` of shape (n, c), float32.

    The sum of Tip-Adapter (Zhang et al., ECCV 2022, equation 5) and of GDA for CLIP (Wang et al., ICLR 2024, equation
    7): ``alpha`` = 0 is zero-shot, ``text_weight`` = 0 is the image side alone.
    """
    image_side = np.float32(alpha) * np.asarray(scores, dtype=np.float32)
    return image_side if zero_shot is None else np.float32(text_weight) * zero_shot + image_side


def fusion_of(text: float, image: float, bias: Array) -> Fusion:
    """Return the fusion whose calibrated logits are ``text · zero_shot + image · scores + bias``."""
    if text > 0:
        return Fusion(1.0, image / text, temperature_of(text), bias * temperature_of(text))
    return Fusion(0.0, 1.0, temperature_of(image), bias * temperature_of(image))


class TextEvidence(NamedTuple):
    """The likeliest weight of the zero-shot logits, and the share of the uncertainty (0 to 1) they leave."""

    weight: float
    unexplained: float


def text_evidence(zero_shot: Array | None, labels: Array) -> TextEvidence:
    """Measure on labelled rows how informative zero-shot logits are.

    No part of them was fitted on these rows, so the measure is unbiased even with one photo per class. What is
    unexplained is their log-loss over log c. Their gain in log-likelihood has to pay for the one parameter (Akaike,
    1974), else the weight is 0: they are no better than chance.
    """
    if zero_shot is None:
        return TextEvidence(0.0, 1.0)
    fitted = fit_logit_weights([zero_shot], labels)
    unexplained = fitted.log_loss / np.log(zero_shot.shape[1])
    if len(labels) * (np.log(zero_shot.shape[1]) - fitted.log_loss) <= 1.0:
        return TextEvidence(0.0, 1.0)
    return TextEvidence(float(fitted.weights[0]), float(unexplained))


class ChosenColumns(NamedTuple):
    """The columns a head reads, and the reason, for its protocol."""

    columns: Columns
    reason: str


def choose_columns(training: TrainingRows, n_classes: int) -> ChosenColumns:
    """Return image features, joined by captions unless they hurt the nearest class mean on held-out rows."""
    inputs, labels = training.inputs, training.labels
    image = Columns(inputs.image)
    if inputs.text is None or not inputs.has_captions:
        return ChosenColumns(image, "image features")
    both = Columns(inputs.image, inputs.text)
    if not training.folds:
        return ChosenColumns(both, "image and text features (nothing to validate on)")
    left_out = [training.left_out(fold) for fold in training.folds]
    image_scores, text_scores = (
        held_out_mean_scores(Columns(block), labels, training.weight, training.folds, left_out, n_classes)
        for block in (inputs.image, inputs.text)
    )
    truth = labels[training.held_out]
    alone = image_scores.argmax(axis=1) == truth
    change = ((image_scores + text_scores).argmax(axis=1) == truth).astype(np.float64) - alone
    # Only a loss beyond one standard error counts: the nearest mean uses text less well than the heads do.
    hurts = change.sum() < -np.sqrt(np.sum(change**2))
    how = f"by the accuracy of the nearest class mean in {describe(training.folds)}"
    if hurts:
        return ChosenColumns(image, f"image features alone, {how}")
    return ChosenColumns(both, f"image and text features, {how}")


class FeatureHead(Head):
    """A head over image features, joined by captions where they help."""

    use_text: bool = False

    def view(self, inputs: Inputs) -> Columns:
        """Return the columns this head reads."""
        if self.use_text and inputs.text is not None:
            return Columns(inputs.image, inputs.text)
        return Columns(inputs.image)

    def choose_view(self, training: TrainingRows) -> Columns:
        """Decide on held-out rows whether the text feature is read."""
        columns, self.protocol["features"] = choose_columns(training, self.n_classes)
        self.use_text = len(columns.blocks) > 1
        return columns


class FusedHead(FeatureHead):
    """A head whose scores are added to the zero-shot logits with a weight found on held-out rows.

    A subclass writes three methods and nothing about text, weights or temperature: ``held_out_scores`` (its scores of
    held-out rows, for each setting it would choose from), ``train`` (the fit to all rows with one setting) and
    ``scores``. Settings that can only be tried after others are chosen come from ``refined_scores``.

    Parameters
    ----------
    n_classes, seed : int
    alpha : float, optional
        The weight of the scores relative to zero-shot logits; found on held-out rows by default.
    """

    values: ClassVar[tuple[str, ...]] = ("use_text", "alpha", "text_weight", "setting")
    class_bias: FloatArray
    #: The setting that is used when there is nothing to validate on.
    default_setting: ClassVar[Setting] = {}

    def __init__(self, n_classes: int, seed: int = 0, alpha: float | None = None) -> None:
        super().__init__(n_classes, seed)
        self.fixed_alpha = alpha
        self.alpha = 1.0
        self.text_weight = 1.0
        self.setting: Setting = {}

    @property
    def weighs_text(self) -> bool:
        """With a given ``alpha`` zero-shot logits are taken as they are."""
        return self.fixed_alpha is None

    @abstractmethod
    def held_out_scores(self, columns: Columns, training: TrainingRows) -> Iterator[Candidate]:
        """Yield each setting to choose from with its scores of the held-out rows."""

    def refined_scores(self, columns: Columns, training: TrainingRows, best: Candidate) -> Iterator[Candidate]:
        """Yield further settings that build on the best of ``held_out_scores``; none by default."""
        yield from ()

    @abstractmethod
    def train(self, columns: Columns, training: TrainingRows, setting: Setting) -> None:
        """Fit to all rows with one setting."""

    @abstractmethod
    def scores(self, columns: Columns) -> FloatArray:
        """Return scores of shape (n, c)."""

    def _logits(self, inputs: Inputs) -> FloatArray:
        scores = self.scores(self.view(inputs))  # (n, c)
        return fuse(inputs.zero_shot, scores, self.alpha, self.text_weight) + self.class_bias

    def _fit(self, training: TrainingRows) -> None:
        """Choose setting and fusion on held-out rows, then fit to all rows."""
        columns = self.choose_view(training)
        if training.folds:
            fusion = self._search(columns, training)
            self.train(columns, training, self.setting)
        else:
            self.setting = dict(self.default_setting)
            self.train(columns, training, self.setting)
            fusion = self._default_fusion(columns, training)
        self.text_weight, self.alpha, self.temperature = fusion.text_weight, fusion.alpha, fusion.temperature
        self.class_bias = fusion.bias.astype(np.float32)

    def _search(self, columns: Columns, training: TrainingRows) -> Fusion:
        """Choose the setting of least held-out log-loss, then the fusion for it."""
        best, least = self._best(training, self.held_out_scores(columns, training))
        best, _ = self._best(training, self.refined_scores(columns, training, best), best, least)
        self.setting = best.setting
        rows = training.held_out[: len(best.scores)]
        zero_shot = None if training.inputs.zero_shot is None else training.inputs.zero_shot[rows]
        fusion = self._fit_fusion(zero_shot, best.scores, training.labels[rows])
        logits = fuse(zero_shot, best.scores, fusion.alpha, fusion.text_weight) + fusion.bias.astype(np.float32)
        self.out_of_fold = OutOfFold(rows, logits / np.float32(fusion.temperature))
        how = f"least log-loss in {describe(training.folds)}"
        self.protocol |= {key: f"{v}, {how}" for key, v in self.setting.items() if not isinstance(v, list)}
        self.protocol["fusion"] = _fusion_line(fusion, training.inputs.zero_shot is not None, how)
        return fusion

    def _best(
        self,
        training: TrainingRows,
        candidates: Iterator[Candidate],
        best: Candidate | None = None,
        least: float = np.inf,
    ) -> tuple[Candidate, float]:
        """Return the candidate of least fused log-loss, the first of equals, and that loss."""
        best = best or Candidate({}, np.empty((0, self.n_classes), np.float32))
        for candidate in candidates:
            loss = self._compare(training, candidate.scores)
            if loss < least:
                best, least = candidate, loss
        return best, least

    def _compare(self, training: TrainingRows, scores: FloatArray) -> float:
        """Return the fused log-loss of held-out scores, on a part of the rows when there are many."""
        part = slice(None, None, max(1, len(scores) // COMPARED_ROWS))
        rows, zero_shot = training.held_out[: len(scores)][part], training.inputs.zero_shot
        sources = [scores[part]] if zero_shot is None else [zero_shot[rows], scores[part]]
        if self.fixed_alpha is not None and zero_shot is not None:
            sources = [fuse(zero_shot[rows], scores[part], self.fixed_alpha)]
        return fit_logit_weights(sources, training.labels[rows]).log_loss

    def _fit_fusion(self, zero_shot: Array | None, scores: FloatArray, labels: Array) -> Fusion:
        if self.fixed_alpha is not None and zero_shot is not None:
            fitted = fit_logit_weights([fuse(zero_shot, scores, self.fixed_alpha)], labels)
            return self._no_fusion(self.fixed_alpha, temperature_of(fitted.weights[0]))
        sources = [scores] if zero_shot is None else [zero_shot, scores]
        fitted = fit_logit_weights(sources, labels, BIAS_VARIANCE)
        text = 0.0 if zero_shot is None else float(fitted.weights[0])
        return fusion_of(text, float(fitted.weights[-1]), fitted.bias)

    def _no_fusion(self, alpha: float = 1.0, temperature: float = 1.0) -> Fusion:
        return Fusion(1.0, alpha, temperature, np.zeros(self.n_classes))

    def _default_fusion(self, columns: Columns, training: TrainingRows) -> Fusion:
        """One photo per class: text is weighed by its own likelihood, images by what text leaves unexplained."""
        zero_shot = training.inputs.zero_shot
        self.protocol |= {key: f"{value}, default: nothing to validate on" for key, value in self.setting.items()}
        text = text_evidence(zero_shot, training.labels)
        image = text.unexplained * DEFAULT_SPREAD / _wrong_class_spread(self.scores(columns), training.labels)
        if zero_shot is None:
            self.protocol["fusion"] = "image side alone, temperature by default: nothing to validate on"
            return fusion_of(0.0, image, np.zeros(self.n_classes))
        if self.fixed_alpha is not None:
            self.protocol["fusion"] = f"alpha {self.fixed_alpha}, given; temperature 1: nothing to validate on"
            return self._no_fusion(self.fixed_alpha)
        self.protocol["fusion"] = (
            f"text weight {text.weight:.3g} by its likelihood on the training photos, which it was not fitted on; "
            f"image weight by the {text.unexplained:.0%} of the uncertainty that text leaves: nothing to validate on"
        )
        return fusion_of(text.weight, image, np.zeros(self.n_classes))


def _wrong_class_spread(scores: Array, labels: Array) -> float:
    wrong = scores.astype(np.float64).copy()
    wrong[np.arange(len(labels)), labels] = np.nan
    return float(np.nanmean(np.nanstd(wrong, axis=1))) or 1.0


def _fusion_line(fusion: Fusion, has_text: bool, how: str) -> str:
    if not has_text:
        return f"image side alone, temperature {fusion.temperature:.3g}, {how}"
    side = "zero-shot + " if fusion.text_weight else "image side alone: "
    return f"{side}{fusion.alpha:.3g} · scores, temperature {fusion.temperature:.3g}, {how}"
