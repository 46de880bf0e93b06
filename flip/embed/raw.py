"""Embeddings before they are brought to unit length, for protocols that compare their lengths too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from flip.arrays import Array, FloatArray
from flip.clip.encoder import Encoder, OpenClipEncoder
from flip.data.dataset import Dataset
from flip.data.images import decode_image
from flip.device import cpu_count
from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import FileKey, NoPhoto, Source, file_key
from flip.embed.settings import EmbedSettings
from flip.embed.trouble import say_not_kept
from flip.errors import ConfigError
from flip.features import Features
from flip.files import written_aside
from flip.reading import require_plain
from flip.settings import Progress

#: Folder inside the cache.
FOLDER = "raw"


def raw_image_features(
    dataset: Dataset, features: Features, extractor: FeatureExtractor, progress: Progress | None = None
) -> FloatArray:
    """Return the image embeddings of a dataset as the network gives them, float32 of shape (n, d).

    They are kept in the cache as one file for all of the photos; the rows of unreadable photos are zero.

    Parameters
    ----------
    dataset : Dataset
    features : Features
        The same photos' unit features, which say what can be read.
    extractor : FeatureExtractor
    progress : callable, optional
        Called with the number of photos that were just encoded.

    Raises
    ------
    ConfigError
        If the model is none of open_clip's, or the data is a table of embeddings.
    """
    if dataset.embeddings is not None:
        raise ConfigError(
            f"{dataset.embeddings} holds unit embeddings; pass --data with the photos for unnormalised ones"
        )
    encoder = _unnormalized(extractor)
    crop = extractor.settings.crop == "boxes"
    sources = [Source(file, r.region(crop)) for file, r in zip(dataset.files, dataset.records, strict=True)]
    readable = [i for i, error in enumerate(features.errors) if error is None]

    make = partial(_rows, sources, readable, encoder, extractor.settings, progress)
    return _kept(extractor, [_described(file_key(source)) for source in sources], make)


def _rows(
    sources: Sequence[Source],
    readable: Sequence[int],
    encoder: Encoder,
    settings: EmbedSettings,
    progress: Progress | None,
) -> FloatArray:
    """Return the embeddings (n, d) of the readable ones among n photos; the other rows are zero."""
    rows, done = np.zeros((len(sources), encoder.dim), np.float32), 0
    for batch in _encoded([sources[i] for i in readable], encoder, settings.batch_size, settings.workers):
        rows[readable[done : done + len(batch)]] = batch
        done += len(batch)
        if progress:
            progress(len(batch))
    return rows


def raw_text_features(
    texts: Sequence[str], extractor: FeatureExtractor, progress: Progress | None = None
) -> FloatArray:
    """Return the embeddings of n texts as the network gives them, float32 of shape (n, d); kept in the cache."""
    encoder = _unnormalized(extractor)
    return _kept(extractor, texts, lambda: encoder.encode_texts(texts, progress))


def _unnormalized(extractor: FeatureExtractor) -> Encoder:
    encoder = extractor.encoder
    if not isinstance(encoder, OpenClipEncoder):
        raise ConfigError(f"model {encoder.name} gives embeddings of unit length only; pass a model of open_clip")
    return encoder.unnormalized()


def _kept(extractor: FeatureExtractor, keys: Sequence[str], make: Callable[[], FloatArray]) -> FloatArray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save

    digest = hashlib.sha256("\n".join([extractor.fingerprint, *keys]).encode("utf-8", "surrogatepass")).hexdigest()
    file = extractor.folder / FOLDER / f"{digest[:16]}.safetensors"
    try:
        require_plain(file)
        rows: FloatArray = load_file(file)["features"]
        return rows
    except (OSError, KeyError, SafetensorError):
        rows = make()
    try:
        with written_aside(file, "free space or pass --cache DIR") as aside:
            aside.write_bytes(save({"features": rows}))
    except ConfigError as e:
        say_not_kept(extractor.folder, e)
    return rows


def _described(key: FileKey | NoPhoto) -> str:
    """Return the text of a file key; its form is fixed, because existing cache files are named by its hash."""
    if isinstance(key, NoPhoto):
        return "None"
    return f"FileKey(path={key.path!r}, size={key.size}, mtime_ns={key.mtime_ns})"


def _encoded(sources: Sequence[Source], encoder: Encoder, batch_size: int, workers: int | None) -> Iterator[FloatArray]:
    """Yield the embeddings of a batch of photos at a time, the next batch being decoded meanwhile."""

    def prepare(source: Source) -> Array:
        return encoder.prepare(decode_image(Path(source.file), source.box))

    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        ahead: Iterator[Array] = iter(())
        for start in range(0, len(sources) + batch_size, batch_size):
            prepared = list(ahead)
            ahead = pool.map(prepare, sources[start : start + batch_size])
            if prepared:
                yield encoder.encode_images(prepared)
