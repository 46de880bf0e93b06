"""Caption features: the mean of the embeddings of a photo's captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flip.arrays import FloatArray
from flip.embed.extractor import FeatureExtractor
from flip.errors import DataError
from flip.features import Features
from flip.settings import Progress


def with_caption_features(
    features: Features, extractor: FeatureExtractor, progress: Progress | None = None
) -> Features:
    """Return features with the unit mean of each photo's caption embeddings, ``caption_features`` of shape (n, d).

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
        If a photo has no caption.
    """
    without = [path for path, captions in zip(features.paths, features.captions, strict=True) if not captions]
    if without:
        raise DataError(
            f"--text captions: {len(without)} of {len(features)} photos have no caption, the first {without[0]}; "
            "add captions, or pass --text prompts"
        )
    texts = [text for captions in features.captions for text in captions]
    embedded = extractor.texts(texts, progress)  # (all captions, d)
    if not texts:
        return replace(features, caption_features=embedded)
    starts = np.cumsum([0, *(len(captions) for captions in features.captions)])[:-1]
    means = np.add.reduceat(embedded, starts, axis=0)  # (n, d)
    unit: FloatArray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return replace(features, caption_features=unit)
