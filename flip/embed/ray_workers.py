"""Work of Ray's workers: decoding photos, and encoding them with a model of their own. Nothing here imports Ray."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flip.arrays import Array
from flip.clip.encoder import Encoder
from flip.data.remote_mount import fetch
from flip.embed.decoding import Prepares
from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import Source
from flip.embed.photo import PhotoRead, read_bytes
from flip.embed.settings import EmbedSettings
from flip.embed.vectors import as_kept
from flip.errors import ModelError, reason_of
from flip.mounts import Place

if TYPE_CHECKING:
    import pyarrow as pa

#: Loads the model in a worker; it is pickled, so it is a function of a module with its arguments.
Load = Callable[[], Encoder]


class Recipe(NamedTuple):
    """All that a worker needs to embed photos as this process would."""

    load: Load
    fingerprint: str
    settings: EmbedSettings
    fast: bool


def path_bytes(path: str) -> bytes:
    """Return a path as a column holds it; names may be no UTF-8."""
    return path.encode("utf-8", "surrogateescape")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1)
def _preparer(load: Load, fingerprint: str) -> Prepares:
    """Return the object that prepares photos here: the first half of the model, or all of a model without halves."""
    encoder = _loaded(load, fingerprint)
    preparer = getattr(encoder, "preparer", None)
    return encoder if preparer is None else preparer()


def _loaded(load: Load, fingerprint: str) -> Encoder:
    encoder = load()
    if encoder.fingerprint != fingerprint:
        raise ModelError(
            f"a worker has another model under the name {encoder.name} ({encoder.fingerprint}, not {fingerprint}); "
            "put the same files on every machine"
        )
    return encoder


def decode(batch: pa.Table, recipe: Recipe) -> pa.Table:
    """Return photos as the network takes them, as bytes with their shape, or why there is none."""
    import pyarrow as pa

    prepares = _preparer(recipe.load, recipe.fingerprint)
    read = [_read(row, prepares, fast=recipe.fast) for row in batch.to_pylist()]
    pixels = [photo.pixels for photo in read]
    return pa.table(
        {
            "row": batch["row"],
            "pixels": pa.array(
                [None if p is None else np.ascontiguousarray(p).tobytes() for p in pixels], pa.large_binary()
            ),
            "shape": pa.array([None if p is None else list(p.shape) for p in pixels], pa.list_(pa.int64())),
            "kind": pa.array([None if p is None else p.dtype.str for p in pixels], pa.string()),
            "error": pa.array([photo.error for photo in read], pa.string()),
            "content": pa.array([photo.content for photo in read], pa.string()),
            "decoding": pa.array([photo.decoding for photo in read], pa.string()),
            "lasting": pa.array([photo.is_lasting for photo in read], pa.bool_()),
        }
    )


def _read(row: Mapping[str, Any], prepares: Prepares, *, fast: bool) -> PhotoRead:
    box = tuple(row["box"]) if row["box"] is not None else None
    source = Source(_text(row["name"]), box)
    try:
        data = fetch(Place(_text(row["file"]), row["start"], row["size"]))
    except OSError as error:
        return PhotoRead(error=f"cannot be read: {reason_of(error)}", is_lasting=False)
    return read_bytes(data, source, prepares, fast=fast)


class Model:
    """One model, in an actor."""

    def __init__(self, recipe: Recipe) -> None:
        model = _loaded(recipe.load, recipe.fingerprint)
        self._encoder = FeatureExtractor(model, recipe.settings).encoder

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return embeddings, half floats as bytes, of the photos that have pixels."""
        import pyarrow as pa

        rows = batch.to_pylist()
        readable = [i for i, row in enumerate(rows) if row["pixels"] is not None]
        halves: dict[int, Array] = {}
        if readable:
            made = self._encoder.encode_images([_pixels(rows[i]) for i in readable])
            halves = dict(zip(readable, as_kept(made), strict=True))
        broken = {i for i, half in halves.items() if not np.isfinite(half).all()}
        halves = {i: half for i, half in halves.items() if i not in broken}
        embeddings = [halves[i].tobytes() if i in halves else None for i in range(len(rows))]
        lasting = [row["lasting"] and i not in broken for i, row in enumerate(rows)]
        kept = batch.select(["row", "error", "content", "decoding"])
        return kept.append_column("embedding", pa.array(embeddings, pa.binary())).append_column(
            "lasting", pa.array(lasting)
        )


def _pixels(row: Mapping[str, Any]) -> Array:
    return np.frombuffer(row["pixels"], np.dtype(row["kind"])).reshape(row["shape"])
