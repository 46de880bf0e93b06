"""Features of a dataset, streamed in row groups: memory does not grow with the number of photos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flip.data.dataset import Dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.table import make_features, table_row_groups
from flip.embed.table_writer import GROUP_ROWS
from flip.features import Features

if TYPE_CHECKING:
    from flip.embed.stream import EmbeddedBatch
    from flip.settings import Progress


def feature_row_groups(
    dataset: Dataset, extractor: FeatureExtractor | None, progress: Progress | None = None
) -> Iterator[Features]:
    """Yield the features of a dataset in the order of its records, some thousand rows at a time.

    Under ``accelerate launch`` each process embeds its share first, and the main process alone yields.

    Parameters
    ----------
    dataset : Dataset
    extractor : FeatureExtractor or None
        None for a table of embeddings, whatever model made it.
    progress : callable, optional
        Called with the number of photos that were just finished.

    Raises
    ------
    ConfigError
        If photos are to be cut to boxes and the data has none.
    DataError
        If a table is damaged.
    FeatureMismatchError
        If the data is a table of embeddings that another model made.
    """
    if dataset.embeddings is not None or extractor is None:
        for features in table_row_groups(dataset, None if extractor is None else extractor.model):
            yield features
            if progress:
                progress(len(features))
    else:
        yield from photo_row_groups(dataset, extractor, progress)


def photo_row_groups(
    dataset: Dataset, extractor: FeatureExtractor, progress: Progress | None = None
) -> Iterator[Features]:
    """Yield the features of photos as :func:`feature_row_groups` does; a table of embeddings is refused."""
    batches, begin = extractor.batches(dataset, progress), 0
    while group := _some(batches):
        rows, errors = np.concatenate([b.embeddings for b in group]), [error for b in group for error in b.errors]
        records = dataset.take(range(begin, begin + len(rows)))
        yield make_features(records, rows, errors, extractor.model.fingerprint)
        begin += len(rows)


def _some(batches: Iterator[EmbeddedBatch]) -> list[EmbeddedBatch]:
    """Return batches for a row group; none at the end."""
    group: list[EmbeddedBatch] = []
    n = 0
    while n < GROUP_ROWS and (batch := next(batches, None)) is not None:
        group.append(batch)
        n += len(batch.sources)
    return group
