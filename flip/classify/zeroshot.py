"""Zero-shot classification: the class whose text is most similar (Radford et al., ICML 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from flip.arrays import FloatArray
from flip.classify.base import Classifier
from flip.classify.calibration import softmax
from flip.classify.text_side import ZeroShotText, mean_class_embeddings, zero_shot_logits
from flip.classify.training_set import TrainingSet
from flip.classify.transductive import log_prior
from flip.errors import ConfigError
from flip.features import Features
from flip.metrics import wilson_interval

__all__ = ["TransductiveZeroShotClassifier", "ZeroShotClassifier", "mean_class_embeddings", "zero_shot_logits"]


class ZeroShotClassifier(Classifier):
    """The softmax of scaled cosines between photos and class embeddings; nothing is trained.

    Parameters
    ----------
    class_embeddings : float32 array of shape (c, d)
        Unit rows, as ``mean_class_embeddings`` returns them.
    logit_scale : float
        What the model multiplies cosines with.
    classnames : sequence of c str
    fingerprint : str
        The model's.
    prompts : str
        Where the texts came from, as ``--prompts`` takes it.
    protocol : mapping, optional
        More entries of ``protocol``.

    Raises
    ------
    ConfigError
        If there are not as many class embeddings as class names.
    """

    name = "zeroshot"

    def __init__(
        self,
        class_embeddings: FloatArray,
        logit_scale: float,
        classnames: Sequence[str],
        fingerprint: str,
        *,
        prompts: str = "plain",
        protocol: Mapping[str, object] | None = None,
    ) -> None:
        if len(class_embeddings) != len(classnames) or class_embeddings.ndim != 2:
            raise ConfigError(
                f"class embeddings have shape {class_embeddings.shape} for {len(classnames)} class names; "
                "pass one row per class"
            )
        self.text = ZeroShotText(class_embeddings, float(logit_scale), prompts, fingerprint)
        self.classes_, self.fingerprint = tuple(classnames), fingerprint
        self._more = dict(protocol or {})

    @property
    def class_embeddings(self) -> FloatArray:
        """Unit rows of shape (c, d)."""
        return self.text.class_embeddings

    @property
    def logit_scale(self) -> float:
        """The factor of the cosines."""
        return self.text.logit_scale

    def transductive(self) -> TransductiveZeroShotClassifier:
        """Return the classifier that also uses the unlabelled photos it is asked about together."""
        return TransductiveZeroShotClassifier(
            self.class_embeddings,
            self.logit_scale,
            self.classes_,
            self.fingerprint,
            prompts=self.text.prompts,
            protocol=self._more,
        )

    @property
    def learns(self) -> bool:
        """Nothing is learned from photos."""
        return False

    def unfitted(self, seed: int | None = None) -> ZeroShotClassifier:
        """Return the classifier itself: there is nothing to fit."""
        return self

    def fit(self, train: Features | TrainingSet) -> Self:
        """Return the classifier as it is; it learns nothing from photos.

        Raises
        ------
        FeatureMismatchError
            If another model made the features.
        DataError
            If the photos have other classes.
        """
        features = TrainingSet.of(train).features
        self._require_features(features)
        self.require_classes(features.classnames)
        return self

    def _fit(self, train: TrainingSet) -> None:
        """Nothing to do."""

    def _probabilities(self, features: Features) -> FloatArray:
        return self.text.probabilities(features.image_features)

    def _describe(self) -> dict[str, object]:
        return {"prompts": self.text.prompts, **self._more}


class TransductiveZeroShotClassifier(ZeroShotClassifier):
    """Zero-shot whose preference for some class names is taken off, as the photos of one call show it.

    The probabilities of a photo depend on the others of the call, and the protocol says so. See
    :func:`flip.classify.transductive.log_prior`; parameters are those of :class:`ZeroShotClassifier`.
    """

    def details_on(self, test: Features) -> dict[str, object]:
        """Return the accuracy of plain zero-shot on the same photos, with its 95 % interval."""
        test = test.readable()
        right = int((self.text.logits(test.image_features).argmax(axis=1) == test.labels).sum())
        low, high = wilson_interval(right, len(test))
        return {"plain": {"top1": 100.0 * right / max(1, len(test)), "ci95": [low, high]}}

    def _probabilities(self, features: Features) -> FloatArray:
        logits = self.text.logits(features.image_features)
        return softmax(logits - log_prior(logits).astype(logits.dtype))

    def _describe(self) -> dict[str, object]:
        how = "uses the photos that are scored, without their labels: the prior of class names is taken off"
        return {**super()._describe(), "transductive": how}
