"""Small made-up features for the tests of heads."""

from __future__ import annotations

import numpy as np

from flip.classify.heads import Inputs
from flip.classify.text_side import build_text_side

CLASSES, WIDTH = 4, 12


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def class_embeddings(seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(CLASSES, WIDTH)))


def photos(per_class: int, seed: int, noise: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Features around the class embeddings, not exactly where the text is, and their labels."""
    rng = np.random.default_rng(seed)
    centres = class_embeddings() + 0.2 * np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), per_class)
    return unit(centres[labels] + noise * rng.normal(size=(len(labels), WIDTH))), labels


def birds(per_class: int = 8, seed: int = 1, noise: float = 0.25, scale: float = 10.0) -> tuple[Inputs, np.ndarray]:
    """Inputs with a good text side."""
    features, labels = photos(per_class, seed, noise)
    return build_text_side(features, class_embeddings(), scale), labels


def misnamed(per_class: int = 8, seed: int = 1) -> tuple[Inputs, np.ndarray]:
    """The same photos with every class called by another's name."""
    features, labels = photos(per_class, seed)
    return build_text_side(features, np.roll(class_embeddings(), 1, axis=0), 10.0), labels
