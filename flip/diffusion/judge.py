"""Which drawn pictures are worth training on: CLIP sees the class, and they are no copies of photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flip.classify.zeroshot import zero_shot_logits
from flip.clip.prompts import class_prompts
from flip.diffusion.copies import PhotoHashes
from flip.embed.extractor import FeatureExtractor
from flip.features import Features

if TYPE_CHECKING:
    from PIL.Image import Image

#: Why a picture is dropped.
LABEL, SIMILARITY, COPY = (
    "CLIP sees another class",
    "less similar to its class than real photos",
    "copies a training photo",
)


@dataclass(frozen=True)
class Verdict:
    """What is said of one picture; ``dropped`` is why it is not kept, or None.

    ``similarity`` is the cosine to its class's text, ``threshold`` what real photos of the class reach; both None
    without a filter. ``copies`` is the training photo and ``near_test`` the test photo that it is a near copy of.
    """

    dropped: str | None
    clip_label: str | None = None
    similarity: float | None = None
    threshold: float | None = None
    copies: Path | None = None
    near_test: Path | None = None


class ClipFilter:
    """Keeps what CLIP takes for its class and finds as similar to it as real photos (as Diff-Mix filters, CVPR 2024).

    Parameters
    ----------
    extractor : FeatureExtractor
    photos : Features
        Of the training photos.
    quantile : float or None
        The q-quantile of a class's real photos is the least similarity of a drawn one; None asks for the label alone.
    """

    def __init__(self, extractor: FeatureExtractor, photos: Features, quantile: float | None) -> None:
        self._extractor = extractor
        self._names = photos.classnames
        self._texts = extractor.class_embeddings(class_prompts("plain", photos.classnames))
        self.thresholds = (
            np.full(len(self._texts), -1.0) if quantile is None else class_thresholds(photos, self._texts, quantile)
        )

    def judge(self, images: Sequence[Image], labels: Sequence[int]) -> list[Verdict]:
        """Return a verdict for each picture."""
        encoder = self._extractor.encoder
        features = encoder.encode([encoder.prepare(image) for image in images])
        similarities = zero_shot_logits(features, self._texts, 1.0)
        return [self._verdict(row, label) for row, label in zip(similarities, labels, strict=True)]

    def _verdict(self, similarities: npt.NDArray[np.float32], label: int) -> Verdict:
        seen, own, least = int(similarities.argmax()), float(similarities[label]), float(self.thresholds[label])
        dropped = LABEL if seen != label else SIMILARITY if own < least else None
        return Verdict(dropped, self._names[seen], round(own, 4), round(least, 4))


def class_thresholds(
    photos: Features, class_embeddings: npt.NDArray[np.float32], quantile: float
) -> npt.NDArray[np.float64]:
    """Return the q-quantile of the cosine of each class's photos to its text, shape (c,); of all photos without any."""
    readable = photos.readable()
    own = (readable.image_features * class_embeddings[readable.labels]).sum(axis=1)
    overall = np.quantile(own, quantile) if len(own) else -1.0
    thresholds = np.full(len(class_embeddings), overall, dtype=np.float64)
    for label in np.unique(readable.labels):
        thresholds[label] = np.quantile(own[readable.labels == label], quantile)
    return thresholds


@dataclass(frozen=True)
class Judge:
    """The filter, if there is one, and the photos that are not to be copied."""

    clip: ClipFilter | None
    training: PhotoHashes
    test: PhotoHashes

    def judge(self, images: Sequence[Image], labels: Sequence[int]) -> list[Verdict]:
        """Return a verdict for each picture."""
        verdicts = self.clip.judge(images, labels) if self.clip else [Verdict(None)] * len(images)
        return [self._with_copies(verdict, image) for verdict, image in zip(verdicts, images, strict=True)]

    def _with_copies(self, verdict: Verdict, image: Image) -> Verdict:
        copies = self.training.near(image)
        return Verdict(
            COPY if copies else verdict.dropped,
            verdict.clip_label,
            verdict.similarity,
            verdict.threshold,
            copies,
            self.test.near(image),
        )
