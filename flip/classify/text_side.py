"""What class names, or each photo's caption, add to its image features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flip.classify.calibration import softmax
from flip.classify.heads.base import Inputs
from flip.classify.zeroshot import zero_shot_logits
from flip.errors import ConfigError

Floats = npt.NDArray[np.float32]

#: What ``--text`` accepts.
TEXT_SIDES = ("none", "prompts", "captions")


def build_text_side(
    image_features: Floats,
    class_embeddings: Floats | None = None,
    logit_scale: float = 1.0,
    caption_features: Floats | None = None,
) -> Inputs:
    """Return what a head sees of each photo.

    Nothing but ``image_features`` is ``--text none``. With ``class_embeddings`` (``--text prompts``) the photo's
    zero-shot logits are ``logit_scale · image_features @ class_embeddings.T`` and its text feature is the unit mean of
    the class embeddings weighted by their softmax, so that nothing human-written is needed for a new photo. With
    ``caption_features`` (``--text captions``) the text feature is the photo's own caption.

    Parameters
    ----------
    image_features : float32 array of shape (n, d), unit rows
    class_embeddings : float32 array of shape (c, d), unit rows, optional
    logit_scale : float
        What the model multiplies cosines with (its ``exp(logit_scale)``).
    caption_features : float32 array of shape (n, e), unit rows, optional
        Where a photo has several captions, their unit mean.

    Raises
    ------
    FeatureMismatchError
        If image features and class embeddings differ in width: another model made them.
    ConfigError
        If there are not as many captions as photos.
    """
    if caption_features is not None and len(caption_features) != len(image_features):
        raise ConfigError(
            f"{len(caption_features)} caption features for {len(image_features)} photos; "
            "give each photo a caption, or pass --text prompts"
        )
    if class_embeddings is None:
        return Inputs(image_features, caption_features)
    zero_shot = zero_shot_logits(image_features, class_embeddings, logit_scale)
    text = softmax_text_feature(zero_shot, class_embeddings) if caption_features is None else caption_features
    return Inputs(image_features, text, zero_shot)


def softmax_text_feature(zero_shot_logits: Floats, class_embeddings: Floats) -> Floats:
    """Return the unit rows of ``softmax(zero_shot_logits) @ class_embeddings``, shape (n, d).

    A photo that the text side is unsure about gets nearly the mean embedding, which says nothing; renaming the classes
    among themselves changes no text feature, since the set of embeddings stays the same.
    """
    mixed = softmax(zero_shot_logits) @ class_embeddings
    return np.asarray(mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12), dtype=np.float32)
