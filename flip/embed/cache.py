"""Embeddings on disk: Parquet parts of one model and one way of looking at photos.

A cache knows files and texts, not labels. A part is written aside, fsynced and renamed, so a reader sees whole parts
only; parts are never changed, so any number of processes may read and add at once. A file that changed is simply added
again, and the row whose size and time of change fit the file is the one that counts.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from flip.arrays import Array, BoolArray, FloatArray
from flip.errors import ConfigError, FeatureMismatchError
from flip.files import write_json, written_aside

if TYPE_CHECKING:
    import pyarrow as pa

FINGERPRINT_KEY = b"flip.fingerprint"

#: A part is written when this many rows wait, or when the oldest has waited this many seconds.
ROWS_A_PART = 4096
SECONDS_A_PART = 20.0


class FileKey(NamedTuple):
    """The key of a cached row. ``path`` is absolute, and ends in ``#xywh=…`` where a box was cut out."""

    path: str
    size: int
    mtime_ns: int


class Found(NamedTuple):
    """The result of a look-up, one row per key: embeddings (n, d) float32, whether known (n,), and errors (n,)."""

    embeddings: FloatArray
    known: BoolArray
    errors: list[str | None]

    @classmethod
    def nothing(cls, n: int, dim: int) -> Self:
        """Return the answer for n files of which none is known."""
        return cls(np.zeros((n, dim), np.float32), np.zeros(n, bool), [None] * n)


class EmbeddingCache:
    """The cached photo embeddings of one model and one view; a context manager that flushes on the way out.

    Parameters
    ----------
    folder : Path
        The cache folder; the model's own folder inside it is named by the fingerprint.
    fingerprint : str
    dim : int
        Width d of an embedding.
    description : dict, optional
        Written to ``model.json`` so that a person can tell the folders apart.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int, description: dict[str, object] | None = None) -> None:
        self.folder = folder / fingerprint
        self.fingerprint = fingerprint
        self.dim = dim
        self._pending: list[tuple[FileKey, Array | None, str | None]] = []
        self._oldest = 0.0
        try:
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"cache folder {folder} cannot be written ({e.strerror}); pass --cache DIR") from e
        if description is not None and not (self.folder / "model.json").exists():
            write_json(self.folder / "model.json", {"fingerprint": fingerprint, **description})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def look_up(self, keys: Sequence[FileKey]) -> Found:
        """Return what is known of these files; a file that changed since is unknown.

        Raises
        ------
        FeatureMismatchError
            If a part in the folder was made by another model.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found = Found.nothing(len(keys), self.dim)
        if not keys:
            return found
        wanted = pa.array([key.path for key in keys])
        sizes = np.fromiter((key.size for key in keys), np.int64, len(keys))
        times = np.fromiter((key.mtime_ns for key in keys), np.int64, len(keys))
        # Two keys may be the same file; index_in finds the first, and the others copy its row at the end.
        for part in parts(self.folder / "images", self.fingerprint):
            where = pc.index_in(part["path"], value_set=wanted).combine_chunks()
            rows = np.flatnonzero(where.is_valid().to_numpy(zero_copy_only=False))
            target = where.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
            fits = (part["size"].to_numpy()[rows] == sizes[target]) & (
                part["mtime_ns"].to_numpy()[rows] == times[target]
            )
            rows, target = rows[fits], target[fits]
            if len(rows):
                picked = part.take(rows)
                found.embeddings[target] = embedding_matrix(picked["embedding"], self.dim)
                found.known[target] = True
                for i, error in zip(target, picked["error"].to_pylist(), strict=True):
                    found.errors[i] = error
        self._copy_repeats(keys, found)
        return found

    def add(self, key: FileKey, embedding: FloatArray | None, error: str | None = None) -> None:
        """Add one row: a unit embedding of shape (d,), or the error that kept the photo from being read."""
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append((key, None if embedding is None else embedding.astype(np.float16), error))
        if len(self._pending) >= ROWS_A_PART or time.monotonic() - self._oldest > SECONDS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write the waiting rows as one part."""
        if not self._pending:
            return
        import pyarrow as pa

        keys, embeddings, errors = zip(*self._pending, strict=True)
        table = pa.table(
            {
                "path": pa.array([key.path for key in keys], pa.string()),
                "size": pa.array([key.size for key in keys], pa.int64()),
                "mtime_ns": pa.array([key.mtime_ns for key in keys], pa.int64()),
                "embedding": embedding_column(embeddings, self.dim),
                "error": pa.array(errors, pa.string()),
            }
        )
        write_part(self.folder / "images", table, self.fingerprint)
        self._pending.clear()

    @staticmethod
    def _copy_repeats(keys: Sequence[FileKey], found: Found) -> None:
        first: dict[FileKey, int] = {}
        for i, key in enumerate(keys):
            j = first.setdefault(key, i)
            if j != i and found.known[j]:
                found.embeddings[i], found.known[i], found.errors[i] = found.embeddings[j], True, found.errors[j]


class TextCache:
    """The cached text embeddings of one model, kept in float32 and found by the sha256 of the text."""

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        self.folder = folder / fingerprint / "texts"
        self.fingerprint = fingerprint
        self.dim = dim
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"cache folder {folder} cannot be written ({e.strerror}); pass --cache DIR") from e

    def look_up(self, texts: Sequence[str]) -> tuple[FloatArray, BoolArray]:
        """Return embeddings (n, d) and whether each is known (n,); the texts must differ from each other."""
        import pyarrow as pa
        import pyarrow.compute as pc

        embeddings, known = np.zeros((len(texts), self.dim), np.float32), np.zeros(len(texts), bool)
        wanted = pa.array([_text_hash(text) for text in texts], pa.string())
        for part in parts(self.folder, self.fingerprint):
            where = pc.index_in(part["hash"], value_set=wanted).combine_chunks()
            rows = np.flatnonzero(where.is_valid().to_numpy(zero_copy_only=False))
            target = where.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
            if len(rows):
                embeddings[target] = embedding_matrix(part["embedding"].take(rows), self.dim)
                known[target] = True
        return embeddings, known

    def add(self, texts: Sequence[str], embeddings: FloatArray) -> None:
        """Write the unit embeddings (n, d) of these texts as one part."""
        import pyarrow as pa

        hashes = pa.array([_text_hash(text) for text in texts], pa.string())
        column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1), pa.float32()), self.dim)
        write_part(self.folder, pa.table({"hash": hashes, "embedding": column}), self.fingerprint)


def parts(folder: Path, fingerprint: str) -> Iterator[pa.Table]:
    """Yield the tables of a folder's parts, one after the other in the order of their names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("[!.]*.parquet")):
        try:
            table = pq.read_table(file, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as e:
            raise FeatureMismatchError(
                f"cache part {file} cannot be read ({e}); delete it, and flip embeds it again"
            ) from e
        made_by = (table.schema.metadata or {}).get(FINGERPRINT_KEY, b"").decode()
        if made_by != fingerprint:
            raise FeatureMismatchError(
                f"cache part {file} was made by another model ({made_by or 'unknown'}, not {fingerprint}); "
                "delete it, or pass another --cache DIR"
            )
        yield table


def write_part(folder: Path, table: pa.Table, fingerprint: str) -> None:
    """Write a table as a new part: aside, fsynced, renamed.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({FINGERPRINT_KEY: fingerprint.encode()})
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    with written_aside(folder / f"{name}.parquet", "free space or pass --cache DIR", durable=True) as aside:
        pq.write_table(table, aside, compression="zstd", write_page_checksum=True)


def embedding_column(rows: Sequence[Array | None], dim: int) -> pa.Array:
    """Return a fixed-size-list column of float16, null where a row has no embedding."""
    import pyarrow as pa

    absent = np.fromiter((row is None for row in rows), bool, len(rows))
    flat = np.stack([np.zeros(dim, np.float16) if row is None else row for row in rows]).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), dim, mask=pa.array(absent))


def embedding_matrix(column: pa.ChunkedArray, dim: int) -> FloatArray:
    """Return an embedding column as unit rows (n, d) float32; null rows are zeros."""
    import pyarrow as pa

    flat = column.combine_chunks()
    values = flat.values.slice(flat.offset * dim, len(flat) * dim)
    matrix: FloatArray = values.to_numpy(zero_copy_only=False).reshape(len(flat), dim).astype(np.float32)
    if flat.null_count:
        matrix[flat.is_null().to_numpy(zero_copy_only=False)] = 0.0
    return unit_again(matrix) if values.type == pa.float16() else matrix


def unit_again(matrix: FloatArray) -> FloatArray:
    """Bring rows that went through half precision, which keeps a norm to three digits, back to unit length."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.divide(matrix, norms, out=matrix, where=norms > 0)
    return matrix


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
