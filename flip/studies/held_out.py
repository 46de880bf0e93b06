"""Scoring training photos: by fits that did not see them, never by the classifier that learned from them."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from flip.arrays import FloatArray
from flip.classify.base import Classifier, HeldOutPredictions
from flip.classify.training_set import TrainingSet
from flip.errors import DataError
from flip.features import Features

log = logging.getLogger(__name__)


class Honest(NamedTuple):
    """A classifier and the photos that it can be scored on."""

    classifier: Classifier
    features: Features


def without_own_photos(classifier: Classifier, training: TrainingSet, features: Features) -> Honest:
    """Return a classifier that answers for its own training photos by held-out fits, and the photos it answers for.

    Parameters
    ----------
    classifier : Classifier
        Fitted on ``training``.
    training : TrainingSet
    features : Features
        Photos to score. Without training photos among them both are returned as they are.

    Raises
    ------
    DataError
        If training photos are among them and none of them was held out, as with one photo per class.
    """
    own = [split == "train" for split in features.splits]
    if not any(own) or not classifier.learns:
        return Honest(classifier, features)
    held = classifier.held_out()
    if held is None:
        raise DataError(
            f"{classifier.name} learned from the {sum(own)} training photos that are to be scored, and no fit left any "
            "of them out (one photo per class is too few); pass --split test"
        )
    row_of = {training.features.paths[row]: i for i, row in enumerate(held.rows)}
    kept = [
        i
        for i, (mine, path, error) in enumerate(zip(own, features.paths, features.errors, strict=True))
        if not mine or error is not None or path in row_of
    ]
    if len(kept) < len(features):
        log.info("%d of %d training photos were held out and are scored", len(row_of), sum(own))
    return Honest(HeldOutClassifier(classifier, held, row_of), features.take(kept))


class HeldOutClassifier(Classifier):
    """A fitted classifier that answers for its training photos by what fits without them said.

    Parameters
    ----------
    classifier : Classifier
    held : HeldOutPredictions
    row_of : dict of str to int
        Path of a training photo → row of ``held``.
    """

    def __init__(self, classifier: Classifier, held: HeldOutPredictions, row_of: dict[str, int]) -> None:
        self._classifier, self._held, self._row_of = classifier, held, row_of
        self.name, self.classes_, self.fingerprint = classifier.name, classifier.classes_, classifier.fingerprint

    @property
    def head_name(self) -> str:
        """The method that predicts."""
        return self._classifier.head_name

    def unfitted(self, seed: int | None = None) -> Classifier:
        """Return the classifier itself, unfitted."""
        return self._classifier.unfitted(seed)

    def _fit(self, train: TrainingSet) -> None:
        raise DataError("a held-out classifier is made of a fitted one; fit that")

    def _probabilities(self, features: Features) -> FloatArray:
        probabilities = np.empty((len(features), len(self.classes_)), np.float32)
        own = np.array(
            [s == "train" and p in self._row_of for s, p in zip(features.splits, features.paths, strict=True)]
        )
        rows = [self._row_of[path] for path, mine in zip(features.paths, own, strict=True) if mine]
        probabilities[own] = self._held.probabilities[rows]
        if not own.all():
            probabilities[~own] = self._classifier.predict_proba(features.take(np.flatnonzero(~own)))
        return probabilities

    def _describe(self) -> dict[str, Any]:
        return {**self._classifier.protocol, "training_photos_scored_by": self._held.how}
