"""Dataset and model in, features out, through the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.clip.encoder import Encoder, PlaceableEncoder
from flip.clip.precision import choose_precision, recall_precision
from flip.clip.prompts import ClassPrompts
from flip.data.dataset import Dataset
from flip.device import Placement, cpu_count, has_siblings, resolve_device, resolve_precision
from flip.embed.cache import EmbeddingCache, Found
from flip.embed.keys import EXACT, FAST, FileKey, Source, file_key
from flip.embed.mirror import MirrorEncoder
from flip.embed.settings import DEFAULTS, EmbedSettings
from flip.embed.stream import EmbeddedBatch, embed_stream
from flip.embed.table import make_features, read_table_features
from flip.embed.text_cache import TextCache
from flip.errors import ConfigError, DataError
from flip.features import Features
from flip.files import cache_folder
from flip.mounts import ask_ahead, waits_for_network
from flip.remote import AT_ONCE
from flip.settings import Progress

log = logging.getLogger(__name__)

#: Photos that are looked up together where only their number is asked for.
_LOOK_UP = 16_384

_PRECISION_CHANGED = "--precision auto was %s on this machine and is now %s; this run keeps %s, the next takes %s"


@dataclass(frozen=True)
class FeatureExtractor:
    """A model behind the cache; it is placed on its device when the first photo or text is not cached.

    Parameters
    ----------
    model : Encoder
        What ``load_model`` returns, or any other object with an encoder's attributes and methods. One without a
        ``placed`` method runs as it is: device and precision do not concern it.
    settings : EmbedSettings
    cache : Path, optional
        The cache folder; the platform's when absent.
    """

    model: Encoder
    settings: EmbedSettings = DEFAULTS
    cache: Path | None = None

    @cached_property
    def folder(self) -> Path:
        """The cache folder."""
        return cache_folder(self.cache)

    @cached_property
    def placement(self) -> Placement:
        """The device, and this process's share of the work."""
        return resolve_device(self.settings.device)

    @property
    def device(self) -> str:
        """The device that was used; "none" where nothing had to be encoded."""
        if not {"encoder", "_text_encoder"} & self.__dict__.keys():
            return self._devices[-1] if self._devices else "none"
        return str(self.placement.device if isinstance(self.model, PlaceableEncoder) else "the encoder's own")

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes results."""
        return not has_siblings() or self.placement.is_main

    @cached_property
    def precision(self) -> str:
        """Number format of the image network: "fp32", "bf16" or "fp16"."""
        if not isinstance(self.model, PlaceableEncoder):
            return "fp32"
        if self.settings.precision != "auto":
            return self.settings.precision
        return self._recalled or choose_precision(self.model, self.placement, self.settings.device, self.folder)

    @cached_property
    def _recalled(self) -> str | None:
        return recall_precision(self.model.fingerprint, self.settings.device, self.folder)

    @property
    def is_fast(self) -> bool:
        """Whether large JPEG photos are decoded at a smaller scale; half precision changes features more than that."""
        return self.settings.decode == "fast" or (self.settings.decode == "auto" and self.precision != "fp32")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a cached embedding depends on, 16 hex digits."""
        crop, flip = self.settings.crop == "boxes", self.settings.tta == "flip"
        view = [self.model.fingerprint, self.precision, str(crop), str(flip)]
        return hashlib.sha256("/".join(view).encode()).hexdigest()[:16]

    @property
    def photos_read(self) -> int:
        """Number of cache misses: photos that were embedded or found to be broken."""
        return self._read[0]

    @cached_property
    def _read(self) -> list[int]:
        return [0]

    @cached_property
    def _devices(self) -> list[str]:
        return []

    @cached_property
    def _text_encoder(self) -> Encoder:
        return self.model.placed(self.placement) if isinstance(self.model, PlaceableEncoder) else self.model

    @cached_property
    def encoder(self) -> Encoder:
        """The model on its device, which encodes photos as the settings say.

        Raises
        ------
        ConfigError
            If the device is not on this machine, or has no such precision.
        ModelError
            If the network cannot be loaded.
        """
        flip = self.settings.tta == "flip"
        if not isinstance(self.model, PlaceableEncoder):
            return MirrorEncoder(self.model) if flip else self.model
        precision = resolve_precision(self.precision, self.placement)
        if self.settings.precision == "auto" and self._recalled:
            now = choose_precision(self.model, self.placement, self.settings.device, self.folder)
            if now != precision:
                log.warning(_PRECISION_CHANGED, precision, now, precision, now)
        return self.model.placed(self.placement, precision, flip=flip)

    def open_cache(self) -> EmbeddingCache:
        """Return the cache of this model and view; use it as a context manager."""
        view = {
            "model": self.model.name,
            "precision": self.precision,
            "crop": self.settings.crop == "boxes",
            "tta_flip": self.settings.tta == "flip",
            "config": getattr(self.model, "config", {}),
        }
        # A photo that was decoded exactly is as good for a run that need not be.
        decodings = (FAST, EXACT) if self.is_fast else (EXACT,)
        return EmbeddingCache(self.folder, self.fingerprint, self.model.dim, view, decodings)

    def stream(self, files: Iterable[str]) -> Iterator[EmbeddedBatch]:
        """Yield photo files in the order they came, a batch at a time, through the cache."""
        with self.open_cache() as cache:
            yield from self._stream((Source(file) for file in files), cache)

    def _stream(self, sources: Iterable[Source], cache: EmbeddingCache) -> Iterator[EmbeddedBatch]:
        size, sources = self.settings.batch_size, iter(sources)
        first = list(islice(sources, 1))
        waits = any(waits_for_network(source.file) for source in first)
        workers = self.settings.workers or (max(AT_ONCE, cpu_count()) if waits else cpu_count())
        sources = chain(first, sources)
        for batch in embed_stream(sources, cache, lambda: self.encoder, batch_size=size, workers=workers):
            self._read[0] += batch.new
            yield batch

    def features(self, dataset: Dataset, progress: Progress | None = None) -> Features:
        """Return the features of every record, embedding only what the cache does not know.

        Under ``accelerate launch`` each process embeds its share and all of them read the rest from the cache.

        Raises
        ------
        ConfigError
            If photos are to be cut to boxes and the data has none.
        FeatureMismatchError
            If the data is a table of embeddings that another model made.
        """
        if dataset.embeddings is not None:
            return read_table_features(dataset, self.model)
        found = self._embed(self._sources(dataset), progress)
        return make_features(dataset, found.embeddings, found.errors, self.model.fingerprint)

    def count_known(self, dataset: Dataset) -> int:
        """Return how many photos of a dataset need not be embedded."""
        if dataset.embeddings is not None:
            return len(dataset)
        ask_ahead(dataset.files)
        with self.open_cache() as cache:
            sources, known = self._sources(dataset), 0
            for begin in range(0, len(sources), _LOOK_UP):
                keys = [file_key(source) for source in sources[begin : begin + _LOOK_UP]]
                known += int(cache.look_up(keys).known.sum())
            return known

    def batches(self, dataset: Dataset, progress: Progress | None = None) -> Iterator[EmbeddedBatch]:
        """Yield the photos of a dataset in order, a batch at a time, however many there are.

        Under ``accelerate launch`` each process embeds its share first, and the main process alone yields batches.

        Raises
        ------
        ConfigError
            If photos are to be cut to boxes and the data has none.
        DataError
            If the data is a table of embeddings.
        """
        if dataset.embeddings is not None:
            raise DataError(f"{dataset.embeddings} is a table of embeddings already; pass --data with the photos")
        sources = self._sources(dataset)
        missing = len(sources) - self.count_known(dataset) if has_siblings() else 0
        with self.open_cache() as cache:
            if has_siblings():
                for batch in self._stream((sources[i] for i in self.placement.share(len(sources))), cache):
                    if progress:
                        progress(len(batch.sources) * self.placement.process_count)
                cache.flush()
                self.placement.wait_for_everyone()
                if not self.is_main:
                    return
            for batch in self._stream(sources, cache):
                yield batch
                if progress and not has_siblings():
                    progress(len(batch.sources))
            if has_siblings():
                self._read[0] = missing

    def missing(self, dataset: Dataset, cache: EmbeddingCache) -> list[tuple[Source, FileKey]]:
        """Return the photos of a dataset that are there and that a cache does not know."""
        sources = self._sources(dataset)
        ask_ahead([source.file for source in sources])
        keys = [file_key(source) for source in sources]
        known = cache.look_up(keys).known
        return [
            (source, key)
            for source, key, is_known in zip(sources, keys, known, strict=True)
            if not is_known and isinstance(key, FileKey)
        ]

    def count_elsewhere(self, photos: int, device: str) -> None:
        """Count photos that others embedded for this extractor, and what they ran on."""
        self._read[0] += photos
        self._devices.append(device)

    def _sources(self, dataset: Dataset) -> list[Source]:
        crop = self.settings.crop == "boxes"
        if crop:
            _require_boxes(dataset)
        return [Source(file, r.region(crop)) for file, r in zip(dataset.files, dataset.records, strict=True)]

    def _embed(self, sources: Sequence[Source], progress: Progress | None) -> Found:
        ask_ahead([source.file for source in sources])
        with self.open_cache() as cache:
            found = cache.look_up([file_key(source) for source in sources])
            missing = np.flatnonzero(~found.known)
            if progress:
                progress(len(sources) - len(missing))
            if not has_siblings():
                self._embed_rows(missing, sources, cache, found, progress)
                return found
            self._embed_rows(missing[self.placement.share(len(missing))], sources, cache, found, progress)
            cache.flush()
            self.placement.wait_for_everyone()
            # Read the other processes' embeddings; without a writable cache each process embeds all.
            self._embed_rows(np.flatnonzero(~found.known), sources, cache, found, None)
            self._read[0] = len(missing)
        return found

    def _embed_rows(
        self,
        rows: IntArray,
        sources: Sequence[Source],
        cache: EmbeddingCache,
        found: Found,
        progress: Progress | None,
    ) -> None:
        """Embed these of n photos, unless the cache knows them by now."""
        done = 0
        for batch in self._stream((sources[i] for i in rows), cache):
            here = rows[done : done + len(batch.sources)]
            done += len(here)
            found.embeddings[here], found.known[here] = batch.embeddings, True
            for i, error in zip(here, batch.errors, strict=True):
                found.errors[i] = error
            if progress:
                progress(len(here))

    def texts(self, texts: Sequence[str], progress: Progress | None = None) -> FloatArray:
        """Return unit embeddings (n, d) of n texts, encoding only what the cache does not know, each text once."""
        unique = list(dict.fromkeys(texts))
        with TextCache(self.folder, self.model.fingerprint, self.model.dim) as cache:
            embeddings, known = cache.look_up(unique)
            missing = np.flatnonzero(~known)
            if len(missing):
                new = [unique[i] for i in missing]
                self._log_cut(new)
                embeddings[missing] = self._text_encoder.encode_texts(new, progress)
                cache.add(new, embeddings[missing])
        row = {text: i for i, text in enumerate(unique)}
        return embeddings[[row[text] for text in texts]]

    def _log_cut(self, texts: Sequence[str]) -> None:
        """Log how many texts are longer than the model reads; to know it of stored ones would take the network."""
        count = getattr(self.model, "count_cut", None)
        cut = count(texts) if count is not None else 0
        if cut:
            most = getattr(self.model, "context_length", 0)
            log.info(
                "%d of %d texts are longer than the %d tokens the model reads; the rest is cut", cut, len(texts), most
            )

    def class_embeddings(self, prompts: ClassPrompts, progress: Progress | None = None) -> FloatArray:
        """Return the unit mean of each class's prompt embeddings, unit rows (c, d)."""
        from flip.embed.texts import class_embeddings

        return class_embeddings(prompts, self, progress)


def extract_features(
    dataset: Dataset,
    model: Encoder | None = None,
    *,
    settings: EmbedSettings = DEFAULTS,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return the features of a dataset, embedding only what the cache does not know.

    Parameters
    ----------
    dataset : Dataset
    model : Encoder, optional
        Photos need one; a table of embeddings does not.
    settings : EmbedSettings
    cache : str or Path, optional
        Cache folder; the platform's when absent.
    progress : callable, optional
        Called with the number of photos that were just finished.

    Returns
    -------
    Features
        ``image_features`` is float32 of shape (n, d), one unit row per record; that of an unreadable photo is zero.

    Raises
    ------
    ConfigError, ModelError, FeatureMismatchError
        See :meth:`FeatureExtractor.features` and :attr:`FeatureExtractor.encoder`.
    """
    if model is None:
        if dataset.embeddings is None:
            raise ConfigError(f"{dataset.root} holds photos, which need a model; pass one that load_model returned")
        return read_table_features(dataset)
    return FeatureExtractor(model, settings, None if cache is None else Path(cache)).features(dataset, progress)


def _require_boxes(dataset: Dataset) -> None:
    if dataset.records and all(r.box is None for r in dataset.records):
        raise ConfigError(
            f"--crop boxes: {dataset.root} has no boxes; CUB's bounding_boxes.txt or columns x,y,w,h hold them"
        )
