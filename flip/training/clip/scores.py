"""What fine-tuning gained and what it forgot: the same test photos, scored by the model before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flip.arrays import BoolArray
from flip.classify.knn import KnnClassifier
from flip.clip.encoder import OpenClipEncoder
from flip.clip.model import load_model, new_model
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.errors import ConfigError
from flip.features import Features
from flip.metrics import paired_interval
from flip.settings import settings_from
from flip.training.settings import ClipSettings, Hardware


@dataclass(frozen=True)
class Score:
    """One method on the same n photos before and after: percentages, and their difference with its 95 % interval."""

    what: str
    n: int
    before: float
    after: float
    difference: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ClassSplit:
    """The classes that are trained on, and those held out to measure what is forgotten."""

    trained: Dataset
    held_out: Dataset | None

    def held_out_choosing(self) -> Dataset | None:
        """Return the photos of held-out classes that choose the weight of a sweep: never test photos.

        The data's own val split comes first: the model may have been made from the training photos.
        """
        if self.held_out is None:
            return None
        return self.held_out.select("val" if "val" in self.held_out.splits else "train")


def split_classes(dataset: Dataset, holdout_classes: int) -> ClassSplit:
    """Hold the last classes of a dataset out.

    Raises
    ------
    ConfigError
        If fewer than two classes are left to train on.
    DataError
        If a class has no training photo.
    """
    classes = len(dataset.classnames)
    if holdout_classes > classes - 2:
        raise ConfigError(
            f"--holdout-classes {holdout_classes} leaves {max(0, classes - holdout_classes)} of {classes} classes to "
            f"train on; pass {max(0, classes - 2)} or fewer"
        )
    dataset.require_training_photos()
    trained = take_classes(dataset, 0, classes - holdout_classes)
    return ClassSplit(trained, take_classes(dataset, len(trained.classnames), classes) if holdout_classes else None)


def take_classes(dataset: Dataset, start: int, stop: int) -> Dataset:
    """Return the photos of classes ``start`` to ``stop`` (exclusive), labelled from 0 among their own names."""
    records = (r._replace(label=r.label - start) for r in dataset.records if start <= r.label < stop)
    return replace(
        dataset,
        classnames=dataset.classnames[start:stop],
        raw_names=dataset.raw_names[start:stop],
        ranks=tuple(rank._replace(groups=rank.groups[start:stop]) for rank in dataset.ranks),
        records=tuple(records),
    )


def starting_model(
    model: str | None, settings: ClipSettings, cache: Path | None = None, arch: str | None = None
) -> OpenClipEncoder:
    """Return a model as it is before training: loaded by name, or with random weights (``--from-scratch``)."""
    if settings.from_scratch is not None:
        if model is not None:
            raise ConfigError("--from-scratch begins with random weights; leave out --model (or FLIP_MODEL)")
        return new_model(settings.from_scratch, settings.seed)
    if model is None:
        raise ConfigError("no model given; pass one to fine-tune, or from_scratch with a configuration")
    return load_model(model, arch=arch, cache=cache)


def score_models(
    models: tuple[OpenClipEncoder, OpenClipEncoder],
    classes: ClassSplit,
    settings: ClipSettings,
    hardware: Hardware,
    *,
    crop: str = "none",
    cache: Path | None = None,
) -> list[Score]:
    """Score two models on the test photos, and on those of ``settings.retain``.

    Parameters
    ----------
    models : pair of OpenClipEncoder
        Before and after.
    classes : ClassSplit
    settings : ClipSettings
    hardware : Hardware
    crop : {"none", "boxes"}
    cache : Path, optional
        Cache folder of the embeddings.
    """
    before, after = (_extractor(model, settings, hardware, crop, cache) for model in models)
    scores = []
    for what, part in (("trained classes", classes.trained), ("held-out classes", classes.held_out)):
        if part is not None and "test" in part.splits:
            scores.append(zero_shot_score(f"zero-shot, {what}", part.select("test"), settings.prompts, before, after))
            if part is classes.trained:
                scores.append(knn_score(f"kNN, {what}", part, before, after))
    if settings.retain is not None:
        other = open_dataset(settings.retain)
        other = other.select("test") if "test" in other.splits else other
        scores.append(zero_shot_score(f"zero-shot, {settings.retain}", other, settings.prompts, before, after))
    return scores


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


def _extractor(
    model: OpenClipEncoder, settings: ClipSettings, hardware: Hardware, crop: str, cache: Path | None
) -> FeatureExtractor:
    embedding = settings_from(hardware, EmbedSettings, crop=crop, batch_size=settings.batch_size)
    return FeatureExtractor(model, embedding, cache)


def _score(what: str, before: tuple[BoolArray, BoolArray], after: tuple[BoolArray, BoolArray]) -> Score:
    readable = before[1] & after[1]
    old, new = before[0][readable], after[0][readable]
    difference, low, high = paired_interval(new, old)
    return Score(what, len(new), 100.0 * float(old.mean()), 100.0 * float(new.mean()), difference, (low, high))


def _zero_shot(dataset: Dataset, prompts: str, extractor: FeatureExtractor) -> tuple[BoolArray, BoolArray]:
    """Return which photos are classified correctly, and which could be read; both (n,)."""
    features = extractor.features(dataset)
    classifier = extractor.class_embeddings(data_prompts(prompts, dataset))
    return (features.image_features @ classifier.T).argmax(axis=1) == features.labels, _readable(features)


def _knn(dataset: Dataset, extractor: FeatureExtractor) -> tuple[BoolArray, BoolArray]:
    train = extractor.features(dataset.select("train")).readable()
    test = extractor.features(dataset.select("test"))
    return KnnClassifier().fit(train).predict(test) == test.labels, _readable(test)


def _readable(features: Features) -> BoolArray:
    return np.array([error is None for error in features.errors], bool)
