"""Photos in, embeddings out, in order and a batch at a time, decoding ahead of the network."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray
from flip.clip.encoder import Encoder
from flip.data.dataset import Box
from flip.embed.cache import EmbeddingCache, FileKey, Found, unit_again
from flip.embed.decoding import read_pixels
from flip.errors import FlipError
from flip.features import Features

#: Batches that are decoded, or being decoded, while the network works on one.
BATCHES_AHEAD = 2


class Source(NamedTuple):
    """One photo to embed; ``box`` is what is cut out of it, or None for the whole photo."""

    file: str
    box: Box | None = None


class EmbeddedBatch(NamedTuple):
    """Some photos in the order they came: embeddings (b, d), zero where ``errors`` says why there is none."""

    sources: list[Source]
    embeddings: FloatArray
    errors: list[str | None]

    def features(self, classnames: tuple[str, ...], fingerprint: str) -> Features:
        """Return the photos as features without labels, which are all 0, for a classifier of these classes."""
        n = len(self.sources)
        files = tuple(source.file for source in self.sources)
        none = ((),) * n
        labels = np.zeros(n, np.int64)
        errors = tuple(self.errors)
        return Features(self.embeddings, labels, files, ("",) * n, none, errors, classnames, classnames, fingerprint)


def embed_stream(
    sources: Iterable[Source],
    cache: EmbeddingCache,
    make_encoder: Callable[[], Encoder],
    *,
    batch_size: int,
    workers: int,
    all_new: bool = False,
    fast: bool = False,
) -> Iterator[EmbeddedBatch]:
    """Yield photos in the order they came, from the cache where it knows them, and add to it what was embedded.

    Memory holds three batches, however many photos there are. ``make_encoder`` is called when the first photo needs
    it: a run that finds everything in the cache never places a network. ``all_new`` says that the cache was already
    asked and knows none of them, ``fast`` that large JPEG photos may be decoded at a smaller scale.
    """
    ahead: deque[_Batch] = deque()
    todo = iter(sources)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(ahead) <= BATCHES_AHEAD and (chunk := list(islice(todo, batch_size))):
                    ahead.append(_begin(chunk, cache, make_encoder, pool, all_new, fast))
                if not ahead:
                    return
                batch = ahead.popleft()
                _finish(batch, cache, make_encoder)
                yield EmbeddedBatch(batch.sources, batch.found.embeddings, batch.found.errors)
        finally:
            for batch in ahead:
                for future in batch.decoding.values():
                    future.cancel()


def look_up_files(cache: EmbeddingCache, keys: Sequence[FileKey | None], *, all_new: bool = False) -> Found:
    """Look keys up; a file that does not exist (None) has a row of its own, known to be an error."""
    there = [i for i, key in enumerate(keys) if key is not None]
    wanted = [key for key in keys if key is not None]
    found = Found.nothing(len(wanted), cache.dim) if all_new else cache.look_up(wanted)
    if len(there) == len(keys):
        return found
    embeddings = np.zeros((len(keys), cache.dim), np.float32)
    known = np.ones(len(keys), bool)
    errors: list[str | None] = ["no such file"] * len(keys)
    embeddings[there], known[there] = found.embeddings, found.known
    for i, error in zip(there, found.errors, strict=True):
        errors[i] = error
    return Found(embeddings, known, errors)


def file_key(source: Source) -> FileKey | None:
    """Return the key of a photo's cached row, or None when there is no such file."""
    try:
        stat = os.stat(source.file)  # noqa: PTH116 - a hundred thousand Path objects cost seconds
    except (OSError, ValueError):
        return None
    path = os.path.abspath(source.file)  # noqa: PTH100
    if source.box is not None:
        path += "#xywh=" + ",".join(f"{v:g}" for v in source.box)
    return FileKey(path, stat.st_size, stat.st_mtime_ns)


@dataclass
class _Batch:
    sources: list[Source]
    keys: list[FileKey | None]
    found: Found
    decoding: dict[int, Future[Array]] = field(default_factory=dict)
    passing: set[int] = field(default_factory=set)


def _begin(
    sources: list[Source],
    cache: EmbeddingCache,
    make_encoder: Callable[[], Encoder],
    pool: ThreadPoolExecutor,
    all_new: bool,
    fast: bool,
) -> _Batch:
    keys = [file_key(source) for source in sources]
    batch = _Batch(sources, keys, look_up_files(cache, keys, all_new=all_new))
    for i in np.flatnonzero(~batch.found.known):
        batch.decoding[int(i)] = pool.submit(_decode, sources[i], make_encoder(), fast)
    return batch


def _decode(source: Source, encoder: Encoder, fast: bool) -> Array:
    return read_pixels(Path(source.file), source.box, encoder, fast=fast).prepared


def _finish(batch: _Batch, cache: EmbeddingCache, make_encoder: Callable[[], Encoder]) -> None:
    prepared: dict[int, Array] = {}
    for i, future in batch.decoding.items():
        try:
            prepared[i] = future.result()
        except FlipError as e:
            batch.found.errors[i] = str(e)
            # What the system refuses today (rights, a lost mount) it may allow tomorrow; what the file holds it keeps.
            if isinstance(e.__cause__, OSError) and e.__cause__.errno is not None:
                batch.passing.add(i)
    if prepared:
        embeddings = make_encoder().encode_images(list(prepared.values()))
        batch.found.embeddings[list(prepared)] = _through_half(embeddings)
    for i in batch.decoding:
        key = batch.keys[i]
        assert key is not None
        if i not in batch.passing:
            cache.add(key, batch.found.embeddings[i] if i in prepared else None, batch.found.errors[i])


def _through_half(embeddings: FloatArray) -> FloatArray:
    """Round as the cache does, so that what is used now is what the next run reads."""
    return unit_again(embeddings.astype(np.float16).astype(np.float32))
