"""Few-shot training sets: a number of photos of each class, drawn by a seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from flip.arrays import IntArray
from flip.data.dataset import Dataset, few_shot_indices

log = logging.getLogger(__name__)


def draw_photos(dataset: Dataset, shots: int | None, seed: int) -> Dataset:
    """Return the photos of the training split that a few-shot draw takes.

    They are those of the same draw of ``flip hybrid`` and ``flip knn``, as long as all training photos can be read.

    Parameters
    ----------
    dataset : Dataset
    shots : int or None
        Photos per class; a class that has fewer gives all it has. None takes every photo.
    seed : int
    """
    train = dataset.select("train")
    warn_of_short_classes(train.labels, [shots])
    return train if shots is None else train.take(few_shot_indices(train.labels, shots, seed))


def warn_of_short_classes(labels: IntArray, shots: Sequence[int | None]) -> None:
    """Log each number of shots that some classes cannot give."""
    for k in shots:
        short = short_classes(labels, k) if k else 0
        if short:
            log.info("%d shots: %d classes have fewer training photos and give all they have", k, short)


def short_classes(labels: IntArray, shots: int) -> int:
    """Return the number of classes with fewer photos than ``shots``; each of those gives all it has."""
    return int((np.unique(labels, return_counts=True)[1] < shots).sum())
