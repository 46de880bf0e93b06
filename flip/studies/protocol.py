"""Evaluation: score a classifier on a split, or repeat its fit over few-shot draws.

The numbers, rows and protocol of a result come from one fitted classifier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from flip import metrics
from flip.arrays import FloatArray, IntArray
from flip.classify.base import Classifier
from flip.classify.groups import Candidates, ClassGroups
from flip.classify.training_set import TrainingSet
from flip.data.few_shot import warn_of_short_classes
from flip.errors import ConfigError
from flip.features import Features
from flip.results import Evaluation, Neighbor, Prediction, calibration_report, predict_row, score_predictions
from flip.settings import Progress
from flip.studies.few_shot import DrawScore, draws, few_shot_rows
from flip.studies.held_out import without_own_photos

#: Fit a classifier to a training set with a seed.
Fit = Callable[[TrainingSet, int], Classifier]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a result says of its origin beside the numbers.

    Attributes
    ----------
    command, data, model, split : str
    protocol : dict
        Added to the classifier's own.
    reject : float or None
        Also report the accuracy of the predictions whose probability reaches this.
    groups : ClassGroups or None
        Also report the accuracy at each rank.
    candidates : Candidates or None
        Name no other classes; photos of others are scored, and counted.
    """

    command: str = "evaluate"
    data: str = ""
    model: str = ""
    split: str = ""
    protocol: Mapping[str, object] | None = None
    reject: float | None = None
    groups: ClassGroups | None = None
    candidates: Candidates | None = None

    def probabilities(self, classifier: Classifier, features: Features) -> FloatArray:
        """Return a classifier's probabilities (n, c) among the candidates."""
        probabilities = classifier.predict_proba(features)
        return probabilities if self.candidates is None else self.candidates.restrict(probabilities)

    def details(self, probabilities: FloatArray, readable: Features) -> dict[str, object]:
        """Return what a result reports of groups, candidates, calibration and ``reject``."""
        labels = readable.labels
        details = calibration_report(probabilities, labels, readable.classnames, self.reject)
        if self.groups is not None:
            details["ranks"] = self.groups.report(probabilities, labels)
        if self.candidates is not None:
            details["subset"] = self.candidates.report(probabilities, labels)
        return details


@dataclass(frozen=True)
class Outcome:
    """A classifier with its scores on a split, and the probabilities that they were computed from.

    Attributes
    ----------
    classifier : Classifier
    evaluation : Evaluation
    features : Features
        The split that was scored, unreadable photos included.
    probabilities : float32 array of shape (n, c)
        Rows of unreadable photos are NaN.
    groups : ClassGroups or None
        Whose surest rank the rows name, with ``reject``.
    """

    classifier: Classifier
    evaluation: Evaluation
    features: Features
    probabilities: FloatArray
    groups: ClassGroups | None = None

    def confusions(self) -> IntArray:
        """Return the confusion matrix (c, c): photos of each class (rows) by predicted class (columns)."""
        read = ~np.isnan(self.probabilities).any(axis=1)
        guesses, labels = self.probabilities[read].argmax(axis=1), self.features.labels[read]
        return metrics.confusion_matrix(guesses, labels, len(self.features.classnames))

    def rows(self, *, top: int = 5, reject: float | None = None) -> list[Prediction]:
        """Return the prediction row of each photo of the split, in its order; see :func:`prediction_rows`."""
        truths = [self.features.classnames[c] for c in self.features.labels]
        return prediction_rows(
            self.features.paths,
            self.features.errors,
            self.probabilities,
            self.features.classnames,
            truths,
            self.classifier.listed_neighbors(self.features),
            top=top,
            reject=reject,
            groups=self.groups,
        )


def prediction_rows(
    paths: Sequence[str],
    errors: Sequence[str | None],
    probabilities: FloatArray,
    classnames: Sequence[str],
    truths: Sequence[str] | None = None,
    neighbors: Sequence[tuple[Neighbor, ...]] | None = None,
    *,
    top: int = 5,
    reject: float | None = None,
    groups: ClassGroups | None = None,
) -> list[Prediction]:
    """Return one row for each photo: its likeliest classes, or why it could not be read.

    Parameters
    ----------
    paths, errors : sequences of n
    probabilities : float array of shape (n, c)
        Rows of unreadable photos are not looked at.
    classnames : sequence of c str
    truths, neighbors : sequences of n, optional
    top : int
        Classes listed.
    reject : float, optional
        A row whose best probability is below this gets no label.
    groups : ClassGroups, optional
        With ``reject``, a row also names the finest rank that is sure enough.
    """
    surest = None if groups is None or reject is None else partial(groups.surest, least=reject)
    answer = partial(predict_row, classnames=classnames, top=top, reject=reject)
    nothing = [None] * len(paths)
    near = nothing if neighbors is None else neighbors
    return [
        Prediction(path, error=error, truth=truth)
        if error is not None
        else answer(path, row, truth=truth, neighbors=found, surest=surest(row) if surest else None)
        for path, error, row, truth, found in zip(paths, errors, probabilities, truths or nothing, near, strict=True)
    ]


def evaluate(classifier: Classifier, features: Features, about: Description = Description()) -> Evaluation:
    """Score a fitted classifier on labelled photos; unreadable ones are left out and counted.

    Parameters
    ----------
    classifier : Classifier
    features : Features
        Of the same model and classes as those it was fitted on.
    about : Description, optional

    Raises
    ------
    DataError
        If no photo is readable, or the classes are others.
    FeatureMismatchError
        If another model made the features.
    """
    return score(classifier, features, about).evaluation


def score(classifier: Classifier, features: Features, about: Description = Description()) -> Outcome:
    """Score a fitted classifier as :func:`evaluate` does, and keep its probabilities for prediction rows."""
    return _score(classifier, features, about, classifier.details_on(features))


def _score(classifier: Classifier, features: Features, about: Description, details: Mapping[str, object]) -> Outcome:
    began = time.perf_counter()
    classifier.require_classes(features.classnames, about.data or "the data")
    readable = features.require_readable(about.split or "given")
    probabilities = about.probabilities(classifier, readable)  # (readable, c)
    evaluation = score_predictions(
        probabilities,
        readable.labels,
        readable.classnames,
        command=about.command,
        data=about.data,
        model=about.model,
        split=about.split,
        protocol={**classifier.protocol, **(about.protocol or {})},
        unreadable=features.unreadable,
        seconds=time.perf_counter() - began,
        details={**details, **about.details(probabilities, readable)},
    )
    return Outcome(classifier, evaluation, features, _with_unreadable(features, probabilities), about.groups)


def run_protocol(
    fit: Fit,
    train: Features | TrainingSet,
    test: Features,
    *,
    shots: Sequence[int | None] = (),
    seeds: int = 5,
    seed: int = 0,
    about: Description = Description(),
    progress: Progress | None = None,
) -> Outcome:
    """Fit a classifier and score it; with ``shots``, fit and score one for every few-shot draw.

    With ``shots`` the outcome is that of one draw: the last number of shots, the first seed. The evaluation's
    ``shots`` holds mean and interval over the draws of each number.

    Parameters
    ----------
    fit : callable
        (training set, seed) → fitted classifier.
    train : Features or TrainingSet
        Every choice and calibration is made on these.
    test : Features
        Scored only. Training photos among them are scored by fits that did not see them.
    shots : sequence of int or None
        Training photos per class; None for all of them. Without any, one fit on all photos.
    seeds : int
        Draws for each number of shots.
    seed : int
        Of the fit without ``shots``.
    about : Description, optional
    progress : callable, optional
        Called with 1 after each draw.
    """
    training = TrainingSet.of(train)
    if not shots:
        return score(*without_own_photos(fit(training, seed), training, test), about)
    return _run_draws(fit, training, test, shots, seeds, about, progress)


def _run_draws(
    fit: Fit,
    training: TrainingSet,
    test: Features,
    shots: Sequence[int | None],
    seeds: int,
    about: Description,
    progress: Progress | None,
) -> Outcome:
    """Fit and score a classifier for every few-shot draw."""
    if "train" in test.splits:
        raise ConfigError("--shots draws its photos from the train split, which is then not scored; pass --split test")
    readable = test.require_readable(about.split or "test")
    labels = training.labels[training.real]
    warn_of_short_classes(labels, shots)
    scored: list[DrawScore] = []
    shown: dict[int | None, Classifier] = {}
    for draw in draws(labels, shots, seeds):
        classifier = fit(training.only(draw.rows), draw.seed)
        right = about.probabilities(classifier, readable).argmax(axis=1) == readable.labels
        scored.append(DrawScore(draw, 100.0 * float(right.mean()), classifier.head_name))
        shown.setdefault(draw.shots, classifier)
        if progress:
            progress(1)
    last = "all" if shots[-1] is None else shots[-1]
    own = {**(about.protocol or {}), "shown_fit": f"{last} shots, seed 0"}
    return _score(shown[shots[-1]], test, replace(about, protocol=own), {"shots": few_shot_rows(scored)})


def _with_unreadable(features: Features, probabilities: FloatArray) -> FloatArray:
    if not features.unreadable:
        return probabilities
    rows = np.full((len(features), probabilities.shape[1]), np.nan, np.float32)
    rows[[error is None for error in features.errors]] = probabilities
    return rows
