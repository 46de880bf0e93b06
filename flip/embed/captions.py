"""Caption features: the mean of the embeddings of a photo's captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flip.embed.extractor import FeatureExtractor
from flip.errors import DataError
from flip.features import Features
from flip.settings import Progress


def with_caption_features(
    features: Features, extractor: FeatureExtractor, progress: Progress | None = None
) -> Features:
    """Return features with the unit mean of each photo's caption embeddings, ``caption_features`` of shape (n, d).

    The rows of unreadable photos are zero.

    Parameters
    ----------
    features : Features
    extractor : FeatureExtractor
        Of the model that made the features.
    progress : callable, optional
        Called with the number of captions that were just embedded.

    Raises
    ------
    DataError
        If a readable photo has no caption.
    """
    readable = features.readable()
    without = [path for path, captions in zip(readable.paths, readable.captions, strict=True) if not captions]
    if without:
        raise DataError(
            f"--text captions: {len(without)} of {len(readable)} photos have no caption, the first {without[0]}; "
            "add captions, or pass --text prompts"
        )
    texts = [text for captions in readable.captions for text in captions]
    embedded = extractor.texts(texts, progress)  # (all captions, d)
    means = np.zeros((len(features), embedded.shape[1]), np.float32)
    if texts:
        starts = np.cumsum([0, *(len(captions) for captions in readable.captions)])[:-1]
        sums = np.add.reduceat(embedded, starts, axis=0)  # (readable, d)
        means[[error is None for error in features.errors]] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return replace(features, caption_features=means)
