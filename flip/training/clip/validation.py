"""Validation photos: a part of the training split that chooses the epoch and when to stop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flip.arrays import BoolArray, FloatArray, IntArray, PixelArray
from flip.classify.calibration import softmax
from flip.classify.text_side import mean_class_embeddings, zero_shot_logits
from flip.clip.encoder import OpenClipEncoder
from flip.clip.prompts import ClassPrompts
from flip.clip.text_tower import encode_text
from flip.data.dataset import Dataset
from flip.data.few_shot import draw_photos
from flip.data.images import decode_image
from flip.device import Placement
from flip.embed.keys import Source
from flip.errors import DataError
from flip.training.clip.examples import Examples
from flip.training.clip.loss import contrastive_loss
from flip.training.clip.wise import ZeroShot
from flip.training.prefetch import prefetch

#: Photos that the validation loss compares with each other.
LOSS_BATCH = 256


class Split(NamedTuple):
    """Photos to learn from, and photos that choose; no photo is in both, and none is of the test split."""

    training: Dataset
    validation: Dataset


def split_validation(dataset: Dataset, fraction: float, seed: int) -> Split:
    """Divide the training split: the data's own val split validates where there is one, else a share of each class.

    A class always keeps a photo to learn from. The photos of the test split are left out.

    Parameters
    ----------
    dataset : Dataset
    fraction : float
        Share of each class's training photos, rounded.
    seed : int
        The draw of a class depends on the seed and the class alone.
    """
    train = [i for i, r in enumerate(dataset.records) if r.split == "train"]
    val = [i for i, r in enumerate(dataset.records) if r.split == "val"]
    if not val:
        labels = dataset.labels[train]
        for c in np.unique(labels):
            rows = np.flatnonzero(labels == c)
            count = min(int(fraction * len(rows) + 0.5), len(rows) - 1)
            drawn = np.random.default_rng([seed, int(c)]).permutation(rows)[:count]
            val += [train[i] for i in sorted(drawn)]
        chosen = set(val)
        train = [i for i in train if i not in chosen]
    return Split(dataset.take(train), dataset.take(sorted(val)))


def split_few_shot(dataset: Dataset, shots: int | None, seed: int) -> Split:
    """Return a few-shot draw of the training split to learn from, and no photos that choose."""
    return Split(draw_photos(dataset, shots, seed), dataset.take([]))


@dataclass(frozen=True)
class Scores:
    """Contrastive loss and zero-shot top-1 (percent) of the validation photos."""

    loss: float
    top1: float


class Validation:
    """Scores the current weights, on the same photos and texts each time.

    Parameters
    ----------
    model : OpenClipEncoder
        The one in training.
    examples : Examples
        The validation photos.
    prompts : ClassPrompts
    placement : Placement
    seed : int
        Of the text that each photo is paired with in the loss.
    caption_share : float
    batch_size : int
    workers : int or None
        Threads that decode.
    """

    def __init__(
        self,
        model: OpenClipEncoder,
        examples: Examples,
        prompts: ClassPrompts,
        placement: Placement,
        *,
        seed: int,
        caption_share: float,
        batch_size: int,
        workers: int | None,
    ) -> None:
        self._model, self.examples, self._prompts, self._placement = model, examples, prompts, placement
        self._batch_size, self._workers = batch_size, workers
        rows = np.random.default_rng(seed).permutation(len(examples))
        self._rows, self._texts = rows, examples.draw_texts(rows, caption_share, np.random.default_rng(seed))

    def __len__(self) -> int:
        return len(self.examples)

    def scores(self) -> Scores | None:
        """Return the contrastive loss and the zero-shot top-1 in percent; None without photos."""
        if not len(self):
            return None
        sources = [self.examples.sources[i] for i in self._rows]
        image, readable = embed_photos(self._model, sources, self._placement, self._batch_size, self._workers)
        if not len(image):
            raise DataError("none of the validation photos can be read; check the files, or pass --val-fraction 0")
        labels = self.examples.labels[self._rows][readable]
        top1 = zero_shot(self._model, image, labels, self._prompts, self._placement).top1()
        return Scores(self._loss(image, self._texts[readable], labels), top1)

    def _loss(self, image: FloatArray, texts: IntArray, labels: IntArray) -> float:
        network, device = self._model.network, self._placement.device
        unique, which = np.unique(texts, return_inverse=True)
        with torch.inference_mode():
            parts = [
                encode_text(network, self.examples.tokens[part].to(device)).float()
                for part in np.array_split(unique, max(1, len(unique) // 64))
            ]
            text = torch.cat(parts)[torch.from_numpy(which).to(device)]
            scale = torch.tensor(self._model.logit_scale, device=device)
            images, numbers = torch.from_numpy(image).to(device), torch.from_numpy(labels).to(device)
            total = 0.0
            for start in range(0, len(images), LOSS_BATCH):
                here = slice(start, start + LOSS_BATCH)
                total += float(contrastive_loss(images[here], text[here], numbers[here], scale)) * len(images[here])
        return total / len(images)


def embed_photos(
    model: OpenClipEncoder, sources: list[Source], placement: Placement, batch_size: int, workers: int | None
) -> tuple[FloatArray, BoolArray]:
    """Return unit features (m, d) of the readable photos, in fp32, and which of the n photos those are (n,).

    For a network in training, whose features are not cached.
    """
    encoder = model.placed(placement)

    def prepare(source: Source) -> PixelArray | None:
        try:
            return encoder.prepare(decode_image(Path(source.file), source.box))
        except DataError:
            return None

    batches = [sources[start : start + batch_size] for start in range(0, len(sources), batch_size)]
    features: list[FloatArray] = []
    readable: list[bool] = []
    model.network.eval()
    for futures in prefetch(prepare, batches, workers):
        prepared = [future.result() for future in futures]
        readable += [pixels is not None for pixels in prepared]
        if any(pixels is not None for pixels in prepared):
            features.append(encoder.encode_images([pixels for pixels in prepared if pixels is not None]))
    image = np.concatenate(features) if features else np.zeros((0, model.dim), np.float32)
    return image, np.array(readable, bool)


def zero_shot(
    model: OpenClipEncoder, image_features: FloatArray, labels: IntArray, prompts: ClassPrompts, placement: Placement
) -> ZeroShot:
    """Return zero-shot's hits and cross-entropies of n photos with these image features (n, d)."""
    classifier = class_embeddings(model, prompts, placement)
    logits = zero_shot_logits(image_features, classifier, model.logit_scale)  # (n, c)
    probabilities = softmax(logits)[np.arange(len(labels)), labels]  # (n,), of the true class
    return ZeroShot(logits.argmax(axis=1) == labels, -np.log(np.maximum(probabilities, 1e-12)))


def class_embeddings(model: OpenClipEncoder, prompts: ClassPrompts, placement: Placement) -> FloatArray:
    """Return the class embeddings (c, d) of a network in training, whose embeddings are not cached."""
    texts = model.placed(placement).encode_texts([text for texts in prompts.texts for text in texts])
    class_of_text = np.repeat(np.arange(len(prompts.texts)), [len(texts) for texts in prompts.texts])
    return mean_class_embeddings(texts, class_of_text)
