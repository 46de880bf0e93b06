"""The training photos of a dataset, with generated images behind them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flip.arrays import IntArray
from flip.classify.training_set import TrainingSet
from flip.data.dataset import Dataset, rows_of_sources
from flip.data.matching import match_classes
from flip.data.open import open_dataset
from flip.embed.captions import with_caption_features
from flip.embed.extractor import FeatureExtractor
from flip.embed.table import read_table_features
from flip.embed.unreadable import Unreadable
from flip.features import Features
from flip.names import SPLITS
from flip.settings import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """Generated images of a dataset's classes.

    Attributes
    ----------
    features : Features
        Labelled as the training photos are.
    sources : int array of shape (m,)
        The training row that each was made from; −1 where there is none.
    """

    features: Features
    sources: IntArray


def read_generated(
    folder: Path, train: Features, extractor: FeatureExtractor, *, progress: Progress | None = None
) -> Generated:
    """Embed the images of a folder that ``flip augment`` wrote.

    Parameters
    ----------
    folder : Path
        Where it has splits of its own, only what it gives to training is taken.
    train : Features
        The readable training photos, whose classes the images must have.
    extractor : FeatureExtractor
    progress : callable, optional

    Raises
    ------
    DataError
        If the folder has a class that the training photos have not, or no image can be read.
    """
    dataset = open_dataset(folder)
    own = match_classes(dataset.classnames, train.classnames, str(folder))
    dataset = dataset.select("train") if "train" in dataset.splits else dataset
    features = extractor.features(dataset, progress)
    readable = replace(
        features, labels=own[features.labels], classnames=train.classnames, raw_names=train.raw_names
    ).require_readable("generated")
    noted = {record.path: record.source for record in dataset.records}
    rows = rows_of_sources([noted[path] for path in readable.paths], train.paths)
    return Generated(readable, np.array([-1 if row is None else row for row in rows], np.int64))


def make_training_set(
    train: Features,
    extractor: FeatureExtractor | None = None,
    *,
    generated: Path | None = None,
    generated_weight: float = 1.0,
) -> TrainingSet:
    """Return the training set of readable photos, with generated images behind them.

    Parameters
    ----------
    train : Features
        With ``caption_features`` the generated images' captions are embedded too.
    extractor : FeatureExtractor, optional
        Needed for ``generated``.
    generated : Path, optional
        A folder of generated images.
    generated_weight : float
        How much a generated image counts beside a photo.
    """
    training = TrainingSet.of(train.require_readable("training"))
    if generated is None or extractor is None:
        return training
    found = read_generated(generated, training.features, extractor)
    log.info(
        "%d generated images join the %d photos with weight %g", len(found.features), len(training), generated_weight
    )
    captioned = train.caption_features is not None
    features = with_caption_features(found.features, extractor) if captioned else found.features
    return training.with_generated(features, found.sources, generated_weight)


def take_splits(dataset: Dataset, splits: Iterable[str]) -> Dataset:
    """Return the photos of these splits, one split after the other; ``"all"`` means every photo, as they are."""
    wanted = set(splits)
    if "all" in wanted:
        return dataset
    # The features of a split are then one part of an array, and need not be copied.
    return dataset.take(
        i for split in SPLITS if split in wanted for i, r in enumerate(dataset.records) if r.split == split
    )


def read_features(dataset: Dataset, extractor: FeatureExtractor | None, progress: Progress | None = None) -> Features:
    """Return the features of a dataset; without an extractor, those of its table of embeddings."""
    features = read_table_features(dataset) if extractor is None else extractor.features(dataset, progress)
    unreadable = Unreadable()
    unreadable.add(features)
    unreadable.tell()
    return features
