"""The text side of a classifier: zero-shot logits of class names, and a text feature for each photo.

The arrays here are what the methods share: zero-shot, kNN with text, and the heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.classify.calibration import softmax
from flip.errors import ConfigError, FeatureMismatchError


@dataclass(frozen=True, eq=False)
class ZeroShotText:
    """Class embeddings of one model: the zero-shot classifier as arrays.

    Attributes
    ----------
    class_embeddings : float32 array of shape (c, d)
        Unit rows.
    logit_scale : float
        What the model multiplies cosines with (its ``exp(logit_scale)``).
    prompts : str
        Where the texts came from, as ``--prompts`` takes it.
    fingerprint : str
        The model's; "" where it is not known.
    """

    class_embeddings: FloatArray
    logit_scale: float
    prompts: str = "plain"
    fingerprint: str = ""

    def logits(self, image_features: FloatArray) -> FloatArray:
        """Return zero-shot logits of shape (n, c)."""
        return zero_shot_logits(image_features, self.class_embeddings, self.logit_scale)

    def probabilities(self, image_features: FloatArray) -> FloatArray:
        """Return zero-shot probabilities of shape (n, c)."""
        return softmax(self.logits(image_features))

    def require_model(self, fingerprint: str) -> None:
        """Raise a FeatureMismatchError if another model made the features it is used with."""
        if self.fingerprint and self.fingerprint != fingerprint:
            raise FeatureMismatchError(
                f"the class embeddings are of model {self.fingerprint} and the features of {fingerprint}; "
                "make both with one model"
            )


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a head sees of n photos.

    Attributes
    ----------
    image : float32 array of shape (n, d), unit rows
    text : float32 array of shape (n, e), unit rows, or None
        A text feature for each photo: its caption's, or the softmax-weighted class embedding.
    zero_shot : float32 array of shape (n, c), or None
        Zero-shot logits: ``logit_scale · image @ class_embeddings.T``.
    has_captions : bool
        Whether the text features are of captions, which say what the image features do not.
    """

    image: FloatArray
    text: FloatArray | None = None
    zero_shot: FloatArray | None = None
    has_captions: bool = True

    def __len__(self) -> int:
        return len(self.image)

    @property
    def widths(self) -> list[int]:
        """Columns of image features, text features and zero-shot logits; 0 for what is absent."""
        return [0 if block is None else int(block.shape[1]) for block in (self.image, self.text, self.zero_shot)]

    def blocks(self) -> Iterator[tuple[str, FloatArray]]:
        """Yield the name of each array that is present, and the array."""
        named = {"image features": self.image, "text features": self.text, "zero-shot logits": self.zero_shot}
        yield from ((name, block) for name, block in named.items() if block is not None)

    def take(self, rows: IntArray | BoolArray | slice) -> Inputs:
        """Return the inputs of some photos."""
        text = None if self.text is None else self.text[rows]
        zero_shot = None if self.zero_shot is None else self.zero_shot[rows]
        return Inputs(self.image[rows], text, zero_shot, self.has_captions)


def mean_class_embeddings(text_features: FloatArray, class_of_text: IntArray) -> FloatArray:
    """Return the unit mean of the text features of each class (Radford et al., ICML 2021, section 3.1.4).

    Parameters
    ----------
    text_features : float32 array of shape (t, d)
        Unit rows, one per prompt.
    class_of_text : int array of shape (t,)
        The class of each prompt, covering 0 to c - 1.

    Returns
    -------
    float32 array of shape (c, d)
        Unit rows.
    """
    classes = int(class_of_text.max()) + 1
    sums = np.zeros((classes, text_features.shape[1]), np.float64)
    np.add.at(sums, class_of_text, text_features)
    means: FloatArray = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return means


def zero_shot_logits(image_features: FloatArray, class_embeddings: FloatArray, logit_scale: float) -> FloatArray:
    """Return ``logit_scale · image_features · class_embeddingsᵀ``.

    Parameters
    ----------
    image_features : float32 array of shape (n, d)
    class_embeddings : float32 array of shape (c, d)
    logit_scale : float

    Returns
    -------
    float32 array of shape (n, c)

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


def build_text_side(
    image_features: FloatArray,
    class_embeddings: FloatArray | None = None,
    logit_scale: float = 1.0,
    caption_features: FloatArray | None = None,
) -> Inputs:
    """Return the inputs of a head from features and texts.

    Image features alone are ``--text none``. With ``class_embeddings`` (``--text prompts``) the photo's zero-shot
    logits join, and its text feature is the unit mean of the class embeddings weighted by their softmax, so that
    nothing human-written is needed for a new photo. With ``caption_features`` (``--text captions``) the text feature is
    the photo's own caption.

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
    if caption_features is not None:
        return Inputs(image_features, caption_features, zero_shot)
    return Inputs(image_features, softmax_text_feature(zero_shot, class_embeddings), zero_shot, has_captions=False)


def softmax_text_feature(zero_shot_logits: FloatArray, class_embeddings: FloatArray) -> FloatArray:
    """Return the unit rows of ``softmax(zero_shot_logits) @ class_embeddings``, shape (n, d).

    A photo that the text side is unsure about gets nearly the mean embedding, which carries no information; renaming
    the classes among themselves changes no text feature, since the set of embeddings stays the same.
    """
    mixed = softmax(zero_shot_logits) @ class_embeddings  # (n, d)
    return np.asarray(mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12), dtype=np.float32)
