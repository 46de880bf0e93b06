"""Zero-shot classification: the class whose text is nearest (Radford et al., ICML 2021, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flip.errors import FeatureMismatchError

FloatMatrix = npt.NDArray[np.float32]


def build_zero_shot_classifier(text_features: FloatMatrix, class_of_text: npt.NDArray[np.integer[Any]]) -> FloatMatrix:
    """Average the unit text features of each class and bring the means back to unit length.

    Parameters
    ----------
    text_features : float32 array of shape (t, d)
        Unit rows, one a prompt.
    class_of_text : int array of shape (t,)
        The class of each prompt, covering 0 … c − 1.

    Returns
    -------
    float32 array of shape (c, d)
        Unit rows.
    """
    classes = int(class_of_text.max()) + 1
    sums = np.zeros((classes, text_features.shape[1]), np.float64)
    np.add.at(sums, class_of_text, text_features)
    means: FloatMatrix = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return means


def zero_shot_logits(image_features: FloatMatrix, class_embeddings: FloatMatrix, logit_scale: float) -> FloatMatrix:
    """Return ``logit_scale · image_features · class_embeddingsᵀ``, shape (n, c).

    Raises
    ------
    FeatureMismatchError
        If the two have different widths.
    """
    if image_features.shape[1] != class_embeddings.shape[1]:
        raise FeatureMismatchError(
            f"image features have width {image_features.shape[1]}, class embeddings {class_embeddings.shape[1]}; "
            "both must come from one model"
        )
    return np.float32(logit_scale) * (image_features @ class_embeddings.T)


def softmax(logits: npt.NDArray[np.floating[Any]]) -> FloatMatrix:
    """Return class probabilities of shape (n, c)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponential: FloatMatrix = np.exp(shifted.astype(np.float32))
    exponential /= exponential.sum(axis=1, keepdims=True)
    return exponential
