"""The interface of every classifier: fit on features, then probabilities, labels and a score for others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.classify.training_set import TrainingSet
from flip.errors import ConfigError, DataError, FeatureMismatchError
from flip.features import Features
from flip.results import Neighbor


class HeldOutPredictions(NamedTuple):
    """Predictions for training rows by fits that did not see them.

    Attributes
    ----------
    how : str
        ``leave-one-out`` or ``out-of-fold``.
    rows : int array of shape (m,)
        Rows of the training set.
    probabilities : float32 array of shape (m, c)
    """

    how: str
    rows: IntArray
    probabilities: FloatArray


class Classifier(ABC):
    """A classifier over features, with scikit-learn's method names.

    It is fitted once and does not change afterwards; ``unfitted`` returns another with the same settings. A subclass
    writes ``unfitted``, ``_fit``, ``_probabilities`` and ``_describe``; checks and unreadable photos are handled here.

    Attributes
    ----------
    name : str
        The method.
    classes_ : tuple of c str
        Class names in the order of the columns of ``predict_proba``; empty before ``fit``.
    fingerprint : str
        The model whose features it was fitted on; it takes no others.
    """

    name: str = ""
    classes_: tuple[str, ...] = ()
    fingerprint: str = ""

    def __repr__(self) -> str:
        fitted = f"{len(self.classes_)} classes" if self.is_fitted else "not fitted"
        return f"<{type(self).__name__} {self.name}, {fitted}>"

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return bool(self.classes_)

    @property
    def head_name(self) -> str:
        """The method that predicts; for a method that chooses among others, the one it chose."""
        return self.name

    @property
    def protocol(self) -> dict[str, object]:
        """How every choice was made and what is seen at test time, for an evaluation's ``protocol``."""
        self._require_fitted()
        return self._describe()

    @abstractmethod
    def unfitted(self, seed: int | None = None) -> Classifier:
        """Return an unfitted classifier with the same settings and, where one is given, another seed."""

    def fit(self, train: Features | TrainingSet) -> Self:
        """Fit to training photos and return the classifier itself; unreadable photos are left out.

        Parameters
        ----------
        train : Features or TrainingSet

        Raises
        ------
        DataError
            If no photo can be read, or the photos do not suffice for the method.
        ConfigError
            If it is fitted already, or a setting does not suit the photos.
        FeatureMismatchError
            If its text side comes from another model than the features.
        """
        if self.is_fitted:
            raise ConfigError(
                f"this {self.name} classifier is fitted and does not change; make another, or .unfitted()"
            )
        given = TrainingSet.of(train)
        training = given.readable()
        if not len(training):
            given.features.require_readable("training")
        self._fit(training)
        self.classes_, self.fingerprint = training.features.classnames, training.features.fingerprint
        return self

    def predict_proba(self, features: Features) -> FloatArray:
        """Return class probabilities of n photos.

        Parameters
        ----------
        features : Features
            Of n photos.

        Returns
        -------
        float32 array of shape (n, c)
            Rows sum to one; the rows of unreadable photos are NaN.

        Raises
        ------
        ConfigError
            If it is not fitted.
        FeatureMismatchError
            If another model made the features.
        """
        self._require_fitted()
        self._require_features(features)
        if not features.unreadable and len(features):
            return self._probabilities(features)
        probabilities = np.full((len(features), len(self.classes_)), np.nan, np.float32)
        rows = readable_rows(features)
        if len(rows):
            probabilities[rows] = self._probabilities(features.take(rows))
        return probabilities

    def predict(self, features: Features) -> IntArray:
        """Return the likeliest class of each of n photos, int array of shape (n,); -1 for unreadable photos.

        A tie goes to the lower class. Raises as ``predict_proba``.
        """
        predicted = np.full(len(features), -1, np.int64)
        rows = readable_rows(features)
        predicted[rows] = self.predict_proba(features)[rows].argmax(axis=1)
        return predicted

    def score(self, features: Features) -> float:
        """Return the fraction (0 to 1) of readable photos whose likeliest class is their label.

        Raises
        ------
        DataError
            If no photo can be read, or the photos have other classes.
        """
        self._require_fitted()
        self.require_classes(features.classnames)
        features = features.require_readable("given")
        return float(np.mean(self.predict(features) == features.labels))

    @property
    def learns(self) -> bool:
        """Whether it learns from labelled photos, whose own accuracy then means nothing."""
        return True

    def held_out(self) -> HeldOutPredictions | None:
        """Return the predictions for training photos by fits that did not see them; None where there are none."""
        return None

    def listed_neighbors(self, features: Features) -> list[tuple[Neighbor, ...]] | None:
        """Return the training photos that decided about each of n photos, where the settings ask for them."""
        return None

    def details_on(self, test: Features) -> dict[str, object]:
        """Return what an evaluation on these photos reports beside the numbers of every method."""
        return {}

    def require_classes(self, classnames: Sequence[str], data: str = "the data") -> None:
        """Raise a DataError unless these are the classifier's classes, in order; ``data`` names them in the message."""
        if self.classes_ == tuple(classnames):
            return
        odd = next((name for name in classnames if name not in self.classes_), None)
        which = " in another order" if odd is None else f", such as {odd!r}"
        raise DataError(
            f"the head knows {len(self.classes_)} classes and {data} has {len(classnames)}{which}; "
            "score it on data with the same classes"
        )

    @abstractmethod
    def _fit(self, train: TrainingSet) -> None:
        """Fit to a training set of one or more readable rows."""

    @abstractmethod
    def _probabilities(self, features: Features) -> FloatArray:
        """Return float32 probabilities (n, c) of one or more readable photos."""

    @abstractmethod
    def _describe(self) -> dict[str, object]:
        """Return the protocol of a fitted classifier."""

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise ConfigError(f"this {self.name} classifier is not fitted; call fit first, or load a saved one")

    def _require_features(self, features: Features) -> None:
        if features.fingerprint != self.fingerprint:
            raise FeatureMismatchError(
                f"the {self.name} classifier was fitted on features of model {self.fingerprint}, not of "
                f"{features.fingerprint}; embed the photos with the same model, or fit another classifier"
            )


def readable_rows(features: Features) -> IntArray:
    """Return the row numbers of the photos that could be read, int array of shape (m,)."""
    return np.array([i for i, error in enumerate(features.errors) if error is None], dtype=np.int64)
