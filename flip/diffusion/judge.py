"""The filter of generated images: CLIP sees the class, and they are no copies of training photos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import Float64Array, FloatArray
from flip.classify.zeroshot import zero_shot_logits
from flip.clip.prompts import class_prompts
from flip.data.dataset import Dataset
from flip.diffusion.copies import PhotoHashes
from flip.diffusion.settings import parse_filter
from flip.embed.extractor import FeatureExtractor
from flip.errors import ModelError
from flip.features import Features
from flip.settings import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

#: Reasons to drop an image.
LABEL, SIMILARITY, COPY = (
    "CLIP sees another class",
    "less similar to its class than real photos",
    "copies a training photo",
)


@dataclass(frozen=True)
class Verdict:
    """The judgement of one image.

    Attributes
    ----------
    dropped : str or None
        The reason why it is not kept.
    clip_label : str or None
        The class that CLIP sees; this and the next two are None without a filter.
    similarity, threshold : float or None
        Cosine to the text of its class, and what photos of the class reach.
    copies, near_test : Path or None
        The training photo and the test photo that it is a near copy of.
    """

    dropped: str | None
    clip_label: str | None = None
    similarity: float | None = None
    threshold: float | None = None
    copies: Path | None = None
    near_test: Path | None = None


class ClipFilter:
    """Keep images that CLIP takes for their class and finds as similar to it as photos (Diff-Mix, CVPR 2024).

    Parameters
    ----------
    extractor : FeatureExtractor
    photos : Features
        Of the training photos.
    quantile : float or None
        The q-quantile of a class's photos is the least similarity of a generated image; None asks for the label alone.

    Attributes
    ----------
    name : str
        ``clip:Q`` with the model's fingerprint, as metadata and reports have it.
    thresholds : float64 array of shape (c,)
    """

    def __init__(self, extractor: FeatureExtractor, photos: Features, quantile: float | None) -> None:
        self._extractor = extractor
        self.name = "label" if quantile is None else f"clip:{quantile:g} {extractor.model.fingerprint}"
        self._names = photos.classnames
        self._texts = extractor.class_embeddings(class_prompts("plain", photos.classnames))
        self.thresholds = (
            np.full(len(self._texts), -1.0) if quantile is None else class_thresholds(photos, self._texts, quantile)
        )

    def judge(self, images: Sequence[Image], labels: Sequence[int]) -> list[Verdict]:
        """Judge images, each with the index of its class."""
        encoder = self._extractor.encoder
        features = encoder.encode_images([encoder.prepare(image) for image in images])
        similarities = zero_shot_logits(features, self._texts, 1.0)
        return [self._verdict(row, label) for row, label in zip(similarities, labels, strict=True)]

    def _verdict(self, similarities: FloatArray, label: int) -> Verdict:
        seen, own, least = int(similarities.argmax()), float(similarities[label]), float(self.thresholds[label])
        dropped = LABEL if seen != label else SIMILARITY if own < least else None
        return Verdict(dropped, self._names[seen], round(own, 4), round(least, 4))


def open_filter(
    photos: Dataset,
    filter: str,
    extractor: Callable[[], FeatureExtractor],
    *,
    required: bool = False,
    progress: Progress | None = None,
) -> ClipFilter | None:
    """Make the filter that ``--filter`` asks for, None for ``none``.

    Parameters
    ----------
    photos : Dataset
        Training photos only.
    filter : str
        ``clip:Q``, ``none``, or ``auto``: clip:0.1, or none where the weights of the CLIP model are not at hand.
    extractor : callable
        Opens the CLIP model.
    required : bool
        Raise for ``auto`` too where the model is not at hand.

    Raises
    ------
    ModelError
        If the model cannot be opened.
    """
    quantile = parse_filter(filter)
    if quantile is None:
        return None
    try:
        opened = extractor()
        features = opened.features(photos, progress)
    except ModelError as e:
        if filter != "auto" or required:
            raise
        log.warning("images are not filtered: %s", e)
        return None
    if features.unreadable:
        log.warning("%d of %d training photos cannot be read", features.unreadable, len(features))
    return ClipFilter(opened, features, quantile)


def class_thresholds(photos: Features, class_embeddings: FloatArray, quantile: float) -> Float64Array:
    """Compute the q-quantile of the cosines of each class's photos to its text; of all photos for a class without any.

    Parameters
    ----------
    photos : Features
    class_embeddings : float32 array of shape (c, d)
    quantile : float

    Returns
    -------
    float64 array of shape (c,)
    """
    readable = photos.readable()
    own = (readable.image_features * class_embeddings[readable.labels]).sum(axis=1)
    overall = np.quantile(own, quantile) if len(own) else -1.0
    thresholds = np.full(len(class_embeddings), overall, dtype=np.float64)
    for label in np.unique(readable.labels):
        thresholds[label] = np.quantile(own[readable.labels == label], quantile)
    return thresholds


@dataclass(frozen=True)
class ImageJudge:
    """The filter, if there is one, and the photos that are not to be copied."""

    clip: ClipFilter | None
    training: PhotoHashes
    test: PhotoHashes

    def judge(self, images: Sequence[Image], labels: Sequence[int]) -> list[Verdict]:
        """Judge images, each with the index of its class."""
        verdicts = self.clip.judge(images, labels) if self.clip else [Verdict(None)] * len(images)
        return [self._with_copies(verdict, image) for verdict, image in zip(verdicts, images, strict=True)]

    def _with_copies(self, verdict: Verdict, image: Image) -> Verdict:
        copies = self.training.near(image)
        dropped = COPY if copies else verdict.dropped
        return replace(verdict, dropped=dropped, copies=copies, near_test=self.test.near(image))


def make_judge(
    dataset: Dataset,
    clip: ClipFilter | None,
    size: tuple[int, int],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageJudge:
    """Make the judge of a dataset's generated images, which looks for near copies of all its photos.

    Parameters
    ----------
    dataset : Dataset
        Photos of every split; near copies of test photos are reported, of all others dropped.
    clip : ClipFilter or None
    size : (width, height)
        Of the images.
    workers : int, optional
        Threads that decode.
    progress : callable, optional
        Called with 1 for each photo.
    """

    def hashes(testing: bool) -> PhotoHashes:
        photos = [dataset.photo(r) for r in dataset.records if (r.split == "test") == testing]
        return PhotoHashes(photos, size, workers=workers, progress=progress)

    return ImageJudge(clip, hashes(False), hashes(True))
