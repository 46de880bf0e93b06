"""Dataset and model in, features out, through the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flip.clip.encoder import FloatMatrix, ImageEncoder, encode_texts, resolve_precision
from flip.clip.model import ClipModel
from flip.clip.prompts import ClassPrompts
from flip.config import ModelConfig, cache_folder, worker_count
from flip.data.dataset import Dataset
from flip.device import Placement, place
from flip.embed.cache import EmbeddingCache, Found, TextCache
from flip.embed.stream import EmbeddedBatch, Source, embed_stream, file_key, look_up_files
from flip.embed.table import make_features, read_table_features
from flip.errors import ConfigError
from flip.features import Features

#: Called with the number of photos or texts that were just finished.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class FeatureExtractor:
    """A model on its device, behind the cache.

    Attributes
    ----------
    model : ClipModel
    placement : Placement
    precision : {"fp32", "bf16", "fp16"}
        Number format of the image tower; texts are always encoded in fp32.
    folder : Path
        The cache folder.
    crop : bool
        Cut photos to their boxes.
    flip : bool
        Embed each photo as the mean of itself and its mirror image.
    batch_size, workers : int
        Photos a batch; threads that decode.
    """

    model: ClipModel
    placement: Placement
    precision: str
    folder: Path
    crop: bool = False
    flip: bool = False
    batch_size: int = ModelConfig.batch_size
    workers: int = 1

    @property
    def fingerprint(self) -> str:
        """Hash of everything a cached embedding depends on, 16 hex digits."""
        view = [self.model.fingerprint, self.precision, str(self.crop), str(self.flip)]
        return hashlib.sha256("/".join(view).encode()).hexdigest()[:16]

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The image tower, placed on the device when first asked for."""
        return ImageEncoder(self.model, self.placement, self.precision, flip=self.flip)

    def open_cache(self) -> EmbeddingCache:
        """Return the cache of this model and view; use it as a context manager."""
        about = {"model": self.model.name, "precision": self.precision, "crop": self.crop, "tta_flip": self.flip}
        return EmbeddingCache(self.folder, self.fingerprint, self.model.dim, {**about, "config": self.model.config})

    def stream(self, files: Iterable[str]) -> Iterator[EmbeddedBatch]:
        """Yield photo files in the order they came, a batch at a time, through the cache."""
        with self.open_cache() as cache:
            yield from self._stream((Source(file) for file in files), cache)

    def _stream(
        self, sources: Iterable[Source], cache: EmbeddingCache, *, all_new: bool = False
    ) -> Iterator[EmbeddedBatch]:
        size, workers = self.batch_size, self.workers
        return embed_stream(sources, cache, lambda: self.encoder, batch_size=size, workers=workers, all_new=all_new)

    def features(self, dataset: Dataset, progress: Progress | None = None) -> Features:
        """Return the features of every record, embedding only what the cache does not know.

        Under ``accelerate launch`` each process embeds its share and all of them read the rest from the cache.
        """
        if dataset.embeddings is not None:
            return read_table_features(dataset, self.model.fingerprint, self.model.name)
        found = self._embed(self._sources(dataset), progress)
        return make_features(dataset, found.embeddings, found.errors, self.model.fingerprint)

    def count_known(self, dataset: Dataset) -> int:
        """Return how many photos of a dataset need not be embedded."""
        if dataset.embeddings is not None:
            return len(dataset)
        with self.open_cache() as cache:
            keys = [file_key(source) for source in self._sources(dataset)]
            return int(look_up_files(cache, keys).known.sum())

    def _sources(self, dataset: Dataset) -> list[Source]:
        if self.crop:
            _require_boxes(dataset)
        # Strings, not Path objects: a hundred thousand of those cost seconds.
        root = str(dataset.root)
        return [Source(os.path.join(root, r.path), r.box if self.crop else None) for r in dataset.records]  # noqa: PTH118

    def _embed(self, sources: Sequence[Source], progress: Progress | None) -> Found:
        keys = [file_key(source) for source in sources]
        with self.open_cache() as cache:
            found = look_up_files(cache, keys)
            missing = np.flatnonzero(~found.known)
            if progress:
                progress(len(sources) - len(missing))
            mine = missing[self.placement.share(len(missing))]
            done = 0
            for batch in self._stream((sources[i] for i in mine), cache, all_new=True):
                rows = mine[done : done + len(batch.sources)]
                done += len(rows)
                found.embeddings[rows] = batch.embeddings
                for i, error in zip(rows, batch.errors, strict=True):
                    found.errors[i] = error
                if progress:
                    progress(len(rows))
        if self.placement.process_count == 1:
            return found
        self.placement.wait_for_everyone()
        return look_up_files(cache, keys)

    def texts(self, texts: Sequence[str], progress: Progress | None = None) -> FloatMatrix:
        """Return unit embeddings (n, d) of n texts, encoding only what the cache does not know, each text once."""
        cache = TextCache(self.folder, self.model.fingerprint, self.model.dim)
        unique = list(dict.fromkeys(texts))
        embeddings, known = cache.look_up(unique)
        missing = np.flatnonzero(~known)
        if len(missing):
            new = [unique[i] for i in missing]
            embeddings[missing] = encode_texts(self.model, new, self.placement, progress=progress)
            cache.add(new, embeddings[missing])
        row = {text: i for i, text in enumerate(unique)}
        return embeddings[[row[text] for text in texts]]

    def class_embeddings(self, prompts: ClassPrompts) -> FloatMatrix:
        """Return the zero-shot classifier of these prompts, unit rows (c, d)."""
        from flip.classify.zeroshot import build_zero_shot_classifier

        flat = [text for texts in prompts.texts for text in texts]
        counts = [len(texts) for texts in prompts.texts]
        return build_zero_shot_classifier(self.texts(flat), np.repeat(np.arange(len(counts)), counts))


def make_extractor(model: ClipModel, config: Any) -> FeatureExtractor:
    """Return the extractor that a command's configuration (a ``ReadConfig``) asks for."""
    folder = cache_folder(config.cache)
    placement = place(config.device)
    return FeatureExtractor(
        model,
        placement,
        resolve_precision(config.precision, model, placement, folder),
        folder,
        crop=config.crop == "boxes",
        flip=config.tta == "flip",
        batch_size=config.batch_size,
        workers=worker_count(config.workers),
    )


def extract_features(dataset: Dataset, model: ClipModel, *, cache: Path | None = None, **options: Any) -> Features:
    """Return the features of a dataset: the one call a library user needs.

    Parameters
    ----------
    dataset : Dataset
    model : ClipModel
    cache : Path, optional
        Cache folder; the platform's when absent.
    **options
        Fields of ``flip.config.ReadConfig``: device, precision, batch_size, workers, crop, tta.
    """
    from flip.config import ReadConfig

    return make_extractor(model, ReadConfig(cache=cache, **options)).features(dataset)


def _require_boxes(dataset: Dataset) -> None:
    """Raise a ConfigError when photos are to be cut to boxes and the data has none."""
    if dataset.records and all(r.box is None for r in dataset.records):
        raise ConfigError(
            f"--crop boxes: {dataset.root} has no boxes; CUB's bounding_boxes.txt or columns x,y,w,h hold them"
        )
