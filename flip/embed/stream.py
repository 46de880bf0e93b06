"""Photos in, embeddings out, in order and a batch at a time, decoding ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from flip.arrays import FloatArray
from flip.clip.encoder import Encoder
from flip.embed.cache import EmbeddingCache, Found
from flip.embed.keys import FAST, FileKey, NoPhoto, Source, file_key
from flip.embed.photo import PhotoRead, read_photo
from flip.embed.promise import Promise
from flip.embed.rows import NewRow
from flip.embed.vectors import as_kept, as_used
from flip.features import Features
from flip.mounts import ask_ahead

#: Batches that are decoded, or being decoded, while the network works on one.
BATCHES_AHEAD = 2

#: Batches that are looked at while another process embeds photos of the first.
_WINDOW = 64


class EmbeddedBatch(NamedTuple):
    """Some photos in the order they came: embeddings (b, d), zero where ``errors`` says why there is none.

    ``new`` is the number of photos that this process had to read for them and embed, or found to be unreadable.
    """

    sources: list[Source]
    embeddings: FloatArray
    errors: list[str | None]
    new: int = 0

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
) -> Iterator[EmbeddedBatch]:
    """Yield photos in the order they came, from the cache where it knows them, and add to it what was embedded.

    Memory holds three batches of photos, however many there are. ``make_encoder`` is called when the first photo needs
    it: a run that finds everything in the cache never places a network. What another process is embedding meanwhile is
    left to it and taken from the cache.
    """
    with ThreadPoolExecutor(workers) as pool:
        stream = _Stream(iter(sources), cache, Promise(make_encoder), pool, batch_size)
        try:
            yield from stream.run()
        finally:
            stream.cancel()


@dataclass
class _Batch:
    sources: list[Source]
    keys: list[FileKey | NoPhoto]
    found: Found
    reading: dict[int, Future[PhotoRead]] = field(default_factory=dict)
    elsewhere: dict[int, FileKey] = field(default_factory=dict)
    new: int = 0

    @property
    def is_done(self) -> bool:
        return not self.reading and not self.elsewhere


@dataclass
class _Stream:
    """Batches between the photos and who asked for them, in their order."""

    todo: Iterator[Source]
    cache: EmbeddingCache
    encoder: Promise
    pool: ThreadPoolExecutor
    batch_size: int
    batches: deque[_Batch] = field(default_factory=deque)

    def run(self) -> Iterator[EmbeddedBatch]:
        while True:
            self._fill()
            if not self.batches:
                return
            first = self.batches[0]
            if first.is_done:
                self.batches.popleft()
                yield EmbeddedBatch(first.sources, first.found.embeddings, first.found.errors, first.new)
            elif (mine := next((batch for batch in self.batches if batch.reading), None)) is not None:
                # Own work comes before waiting, so that two processes never wait for each other.
                self._finish(mine)
            else:
                self.cache.wait()
                for batch in self.batches:
                    if batch.elsewhere and not self._take_over(batch):
                        break

    def cancel(self) -> None:
        """Drop what was begun; it is anybody's."""
        self.encoder.cancel()
        for batch in self.batches:
            for future in batch.reading.values():
                future.cancel()
            self.cache.release([key for i in batch.reading if isinstance(key := batch.keys[i], FileKey)])

    def _fill(self) -> None:
        while self._has_room() and (chunk := list(islice(self.todo, self.batch_size))):
            ask_ahead([source.file for source in chunk])
            keys = [file_key(source) for source in chunk]
            batch = _Batch(chunk, keys, self.cache.look_up(keys))
            unknown = {int(i): key for i in np.flatnonzero(~batch.found.known) if isinstance(key := keys[i], FileKey)}
            self.batches.append(batch)
            self._begin(batch, unknown)

    def _has_room(self) -> bool:
        if len(self.batches) <= BATCHES_AHEAD:
            return True
        waits = self.batches[0].elsewhere and not self.batches[0].reading
        read = sum(bool(batch.reading) for batch in self.batches)
        return bool(waits) and read <= BATCHES_AHEAD and len(self.batches) < _WINDOW

    def _begin(self, batch: _Batch, unknown: dict[int, FileKey]) -> None:
        """Read the photos that no other process is embedding."""
        if not unknown:
            return
        granted = self.cache.claim(list(unknown.values()))
        for i, key in unknown.items():
            if key in granted:
                batch.reading[i] = self.pool.submit(self._read, batch.sources[i], key)
            else:
                batch.elsewhere[i] = key

    def _read(self, source: Source, key: FileKey, *, anew: bool = False) -> PhotoRead:
        knows = (lambda key, content: False) if anew else self.cache.knows_content
        return read_photo(source, key, knows, self.encoder.get, fast=FAST in self.cache.decodings)

    def _finish(self, batch: _Batch) -> None:
        """Embed what was read of a batch."""
        self.encoder.wait_for(batch.reading.values())
        read = {i: future.result() for i, future in batch.reading.items()}
        batch.reading.clear()
        self._take_known(batch, {i: photo for i, photo in read.items() if photo.is_known})
        self._embed(batch, {i: photo for i, photo in read.items() if not photo.is_known})
        self.cache.keep_claims()

    def _embed(self, batch: _Batch, read: dict[int, PhotoRead]) -> None:
        found, pixels = batch.found, {i: photo.pixels for i, photo in read.items() if photo.pixels is not None}
        errors = {i: photo.error for i, photo in read.items()}
        passing = {i for i, photo in read.items() if not photo.is_lasting}
        halves = dict[int, FloatArray]()
        if pixels:
            # Rounded as the cache does, so that what is used now is what the next run reads.
            halves.update(zip(pixels, as_kept(self.encoder.make().encode_images(list(pixels.values()))), strict=True))
            for i, half in halves.items():
                if np.isfinite(half).all():
                    found.embeddings[i] = as_used(half)
                else:
                    errors[i] = "the network gave no finite embedding"
                    passing.add(i)
        for i, photo in read.items():
            key, found.errors[i] = batch.keys[i], errors[i]
            assert isinstance(key, FileKey)
            if i in passing:
                self.cache.release([key])
            else:
                self.cache.add(NewRow(key, halves.get(i), errors[i], photo.content, photo.decoding))
        batch.new += len(read)

    def _take_known(self, batch: _Batch, read: dict[int, PhotoRead]) -> None:
        """Take what the cache has of the same content; decode after all where its row turns out to be damaged."""
        keys = [key for i in read if isinstance(key := batch.keys[i], FileKey)]
        found = self.cache.look_up_contents(keys, [photo.content or "" for photo in read.values()])
        for row, (i, key) in enumerate(zip(read, keys, strict=True)):
            if found.known[row]:
                batch.found.embeddings[i], batch.found.errors[i] = found.embeddings[row], found.errors[row]
            else:
                batch.reading[i] = self.pool.submit(self._read, batch.sources[i], key, anew=True)
        self.cache.release([key for key, known in zip(keys, found.known, strict=True) if known])

    def _take_over(self, batch: _Batch) -> bool:
        """Take what another process embedded, and begin what it gave up; return whether there was anything."""
        where, keys = list(batch.elsewhere), list(batch.elsewhere.values())
        found = self.cache.look_up(keys)
        for row, i in enumerate(where):
            if found.known[row]:
                batch.found.embeddings[i], batch.found.errors[i] = found.embeddings[row], found.errors[row]
                del batch.elsewhere[i]
        rest, batch.elsewhere = batch.elsewhere, {}
        self._begin(batch, rest)
        return len(batch.elsewhere) < len(where)
