"""Class prompts through the text tower: class embeddings and the zero-shot classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import FloatArray
from flip.clip.encoder import Encoder
from flip.clip.prompts import ClassPrompts
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import DEFAULTS, EmbedSettings
from flip.features import Features
from flip.settings import Progress

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from flip.classify.zeroshot import ZeroShotClassifier


def class_embeddings(
    prompts: ClassPrompts, extractor: FeatureExtractor, progress: Progress | None = None
) -> FloatArray:
    """Return the unit mean of each class's prompt embeddings, float32 of shape (c, d)."""
    from flip.classify.text_side import mean_class_embeddings

    texts = [text for texts in prompts.texts for text in texts]
    counts = [len(texts) for texts in prompts.texts]
    return mean_class_embeddings(extractor.texts(texts, progress), np.repeat(np.arange(len(counts)), counts))


def choose_prompts(candidates: Sequence[ClassPrompts], extractor: FeatureExtractor, train: Features) -> ClassPrompts:
    """Return the prompts that name the training photos best by zero-shot, the first of equals.

    Parameters
    ----------
    candidates : sequence of ClassPrompts
        At least one.
    extractor : FeatureExtractor
    train : Features
        Readable training photos; no other photo is looked at.
    """
    right = []
    for prompts in candidates:
        logits = train.image_features @ class_embeddings(prompts, extractor).T  # (n, c)
        right.append(int((logits.argmax(axis=1) == train.labels).sum()))
        log.info("prompts %s: %d of %d training photos named rightly", prompts.source, right[-1], len(train))
    return candidates[int(np.argmax(right))]


def build_zero_shot_classifier(
    prompts: ClassPrompts,
    model: Encoder,
    *,
    settings: EmbedSettings = DEFAULTS,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ZeroShotClassifier:
    """Return the zero-shot classifier of class prompts (Radford et al., ICML 2021, section 3.1).

    Parameters
    ----------
    prompts : ClassPrompts
        What ``class_prompts`` returns.
    model : Encoder
    settings : EmbedSettings
        Only the device matters: texts are encoded in fp32.
    cache : Path, optional
        Cache folder; the platform's when absent.
    progress : callable, optional
        Called with the number of prompts that were just embedded.
    """
    from flip.classify.zeroshot import ZeroShotClassifier

    extractor = FeatureExtractor(model, settings, cache)
    embeddings = class_embeddings(prompts, extractor, progress)
    return ZeroShotClassifier(
        embeddings, model.logit_scale, prompts.classnames, model.fingerprint, prompts=prompts.source
    )
