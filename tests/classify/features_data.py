"""Small made-up ``Features`` for the tests of classifiers."""

from __future__ import annotations

import numpy as np

from flip.features import Features
from tests.classify.heads_data import CLASSES, photos

CLASSNAMES = tuple(f"bird {c}" for c in range(CLASSES))


def features_of(image: np.ndarray, labels: np.ndarray, *, unreadable: tuple[int, ...] = (), **changes) -> Features:
    """Features of one model, those rows of which could not be read."""
    image = image.copy()
    image[list(unreadable)] = 0
    n = len(labels)
    values = {
        "image_features": image,
        "labels": np.asarray(labels, np.int64),
        "paths": tuple(f"{i}.jpg" for i in range(n)),
        "splits": ("train",) * n,
        "captions": ((),) * n,
        "errors": tuple("truncated" if i in unreadable else None for i in range(n)),
        "classnames": CLASSNAMES,
        "raw_names": CLASSNAMES,
        "fingerprint": "one",
    }
    return Features(**values | changes)


def bird_features(per_class: int = 8, seed: int = 1, *, unreadable: tuple[int, ...] = (), **changes) -> Features:
    """Features of the birds of ``heads_data``."""
    return features_of(*photos(per_class, seed), unreadable=unreadable, **changes)
