"""What fine-tuning gained and what it forgot: the same test photos, scored by the model before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flip.classify.knn import fit_knn
from flip.clip.prompts import class_prompts
from flip.data.dataset import Dataset
from flip.embed.extractor import FeatureExtractor
from flip.features import Features
from flip.metrics import paired_interval

Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """One method on the same n photos before and after: percentages, and their difference with its 95 % interval."""

    what: str
    n: int
    before: float
    after: float
    difference: float
    ci95: tuple[float, float]


def take_classes(dataset: Dataset, start: int, stop: int) -> Dataset:
    """Return the photos of classes ``start`` to ``stop`` (exclusive), labelled from 0 among their own names."""
    records = (r._replace(label=r.label - start) for r in dataset.records if start <= r.label < stop)
    return replace(
        dataset,
        classnames=dataset.classnames[start:stop],
        raw_names=dataset.raw_names[start:stop],
        records=tuple(records),
    )


def zero_shot_score(
    what: str, dataset: Dataset, prompts: str, before: FeatureExtractor, after: FeatureExtractor
) -> Score:
    """Score zero-shot on photos of a dataset among its own class names, by two models."""
    return _score(what, *(_zero_shot(dataset, prompts, extractor) for extractor in (before, after)))


def knn_score(what: str, dataset: Dataset, before: FeatureExtractor, after: FeatureExtractor) -> Score:
    """Score kNN on a dataset's test photos with its training photos as neighbours, by two models.

    Each model's k is chosen by leave-one-out on its training photos.
    """
    return _score(what, *(_knn(dataset, extractor) for extractor in (before, after)))


def _score(what: str, before: tuple[Correct, Correct], after: tuple[Correct, Correct]) -> Score:
    readable = before[1] & after[1]
    old, new = before[0][readable], after[0][readable]
    difference, low, high = paired_interval(new, old)
    return Score(what, len(new), 100.0 * float(old.mean()), 100.0 * float(new.mean()), difference, (low, high))


def _zero_shot(dataset: Dataset, prompts: str, extractor: FeatureExtractor) -> tuple[Correct, Correct]:
    """Return which photos are named rightly, and which could be read; both (n,)."""
    features = extractor.features(dataset)
    classifier = extractor.class_embeddings(class_prompts(prompts, dataset.classnames, dataset.raw_names))
    return (features.image_features @ classifier.T).argmax(axis=1) == features.labels, _readable(features)


def _knn(dataset: Dataset, extractor: FeatureExtractor) -> tuple[Correct, Correct]:
    train = extractor.features(dataset.select("train")).readable()
    test = extractor.features(dataset.select("test"))
    knn = fit_knn(train.image_features, train.labels, len(dataset.classnames))
    return knn.predict_proba(test.image_features).argmax(axis=1) == test.labels, _readable(test)


def _readable(features: Features) -> Correct:
    return np.array([error is None for error in features.errors], bool)
