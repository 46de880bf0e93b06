"""``--tta flip`` for encoders that cannot mirror images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import Array, FloatArray
from flip.clip.encoder import Encoder
from flip.settings import Progress

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class MirrorEncoder:
    """An encoder whose embedding of an image is the unit mean of those of the image and its mirror image."""

    encoder: Encoder

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    @property
    def fingerprint(self) -> str:
        """The encoder's."""
        return self.encoder.fingerprint

    @property
    def dim(self) -> int:
        """Width d of an embedding."""
        return self.encoder.dim

    @property
    def logit_scale(self) -> float:
        """The encoder's."""
        return self.encoder.logit_scale

    def prepare(self, image: Image) -> Array:
        """Return the image and its mirror image as the encoder takes them, shape (2, …)."""
        from PIL import ImageOps

        return np.stack([self.encoder.prepare(image), self.encoder.prepare(ImageOps.mirror(image))])

    def encode_images(self, prepared: Sequence[Array]) -> FloatArray:
        """Return unit embeddings, float32 of shape (n, d), of n prepared pairs."""
        both = self.encoder.encode_images([image for pair in prepared for image in pair])  # (2n, d)
        sums = both.reshape(len(prepared), 2, -1).sum(axis=1)  # (n, d)
        unit: FloatArray = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def encode_texts(self, texts: Sequence[str], progress: Progress | None = None) -> FloatArray:
        """Return the encoder's embeddings of texts."""
        return self.encoder.encode_texts(texts, progress)
