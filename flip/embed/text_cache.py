"""Cached text embeddings of one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from flip.arrays import BoolArray, FloatArray
from flip.embed.keys import number, text_hash
from flip.embed.merge import merge_small_parts
from flip.embed.rows import TEXTS
from flip.embed.store import PartStore
from flip.embed.trouble import say_not_kept
from flip.errors import ConfigError

#: Times a look-up begins again because parts were merged, removed or damaged meanwhile.
_TRIES = 4


class TextCache:
    """The cached text embeddings of one model in float32, found by the sha256 of the text; a context manager."""

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self.store = PartStore(folder / fingerprint / "texts", fingerprint, dim, TEXTS)
        try:
            self.store.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            say_not_kept(folder, e)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def look_up(self, texts: Sequence[str]) -> tuple[FloatArray, BoolArray]:
        """Return embeddings (n, d) and whether each is known (n,); the texts must differ from each other."""
        embeddings, known = np.zeros((len(texts), self.dim), np.float32), np.zeros(len(texts), bool)
        row_of = {number(text_hash(text)): i for i, text in enumerate(texts)}
        for _ in range(_TRIES):
            places = self.store.find([key for key, i in row_of.items() if not known[i]])
            rows = np.array([row_of[place.about.key] for place in places], np.int64)
            for read in self.store.read(places):
                embeddings[rows[read.asked]] = read.embeddings
                known[rows[read.asked]] = True
            if known[rows].all():
                break
        return embeddings, known

    def add(self, texts: Sequence[str], embeddings: FloatArray) -> None:
        """Write the unit embeddings (n, d) of these texts as one part."""
        import pyarrow as pa

        hashes = pa.array([text_hash(text) for text in texts], pa.string())
        column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1), pa.float32()), self.dim)
        try:
            self.store.add(pa.table({"hash": hashes, "embedding": column}))
            merge_small_parts(self.store)
        except ConfigError as e:
            say_not_kept(self.folder, e)
