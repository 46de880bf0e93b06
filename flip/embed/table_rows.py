"""Rows of a table of embeddings, a batch at a time, and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.data.parquet import open_parquet, read_parquet_schema
from flip.embed.vectors import embedding_values, is_unit_length
from flip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are read together.
_AT_ONCE = 8192

_ADVICE = "write it again with flip embed -o"


class RowBatch(NamedTuple):
    """A batch of rows: indices of their photos (b,), embeddings (b, d), and errors.

    Embeddings are float32 unit rows, zero where ``errors`` says why there is none.
    """

    photos: IntArray
    embeddings: FloatArray
    errors: list[str | None]


def collect_rows(batches: Iterable[RowBatch], n: int, width: int) -> tuple[FloatArray, list[str | None]]:
    """Collect batches into embeddings (n, d) and errors of n photos, without a second copy of the array."""
    embeddings, errors = np.zeros((n, width), np.float32), list[str | None]([None] * n)
    for batch in batches:
        embeddings[batch.photos] = batch.embeddings
        for i, error in zip(batch.photos, batch.errors, strict=True):
            if error is not None:
                errors[i] = error
    return embeddings, errors


def table_batches(files: Sequence[Path], paths: Sequence[str]) -> Iterator[RowBatch]:
    """Yield the rows of photos in tables that ``flip embed -o`` wrote, in the tables' order.

    Parameters
    ----------
    files : sequence of Path
        At least one.
    paths : sequence of str
        As the tables have them; other rows are left out.

    Raises
    ------
    DataError
        If a table is damaged, a path is absent or there twice, or a row has neither a unit embedding nor an error.
    """
    row_of = {path: i for i, path in enumerate(paths)}
    if len(row_of) < len(paths):
        raise DataError(f"{_twice(files, paths)}; {_ADVICE}")
    width, seen = read_width(files[0]), np.zeros(len(paths), bool)
    for file in files:
        for batch in _batches(file, width):
            named = [(k, row_of[path]) for k, path in enumerate(batch["path"].to_pylist()) if path in row_of]
            taken = _taken(file, batch, named, width)
            if seen[taken.photos].any() or len(set(taken.photos.tolist())) < len(named):
                raise DataError(f"{_twice(files, [paths[i] for _, i in named])}; {_ADVICE}")
            seen[taken.photos] = True
            yield taken
    if not seen.all():
        raise DataError(f"{files[0]} has no row of {paths[int(np.argmin(seen))]} any more; {_ADVICE}")


def _taken(file: Path, batch: pa.RecordBatch, named: Sequence[tuple[int, int]], width: int) -> RowBatch:
    """Return the rows k of a batch as those of photos i, for all (k, i)."""
    here = [k for k, _ in named]
    photos = np.fromiter((i for _, i in named), np.int64, len(named))
    stored = embedding_values(batch["embedding"], width)
    values = (stored if len(here) == len(batch) else stored[here]).astype(np.float32)
    listed = batch["error"].to_pylist()
    errors = [listed[k] for k in here]
    has_error = np.array([error is not None for error in errors], bool)
    norms = np.sqrt(np.einsum("nd,nd->n", values, values))
    wrong = np.flatnonzero(~is_unit_length(norms) | ((norms > 0) == has_error))
    if len(wrong):
        path = batch["path"][here[wrong[0]]]
        raise DataError(f"{file} is damaged: the embedding of {path} is not of unit length; {_ADVICE}")
    if stored.dtype == np.float16:
        values /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    return RowBatch(photos, values, errors)


def _batches(file: Path, width: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with open_parquet(file) as table:
        found = {field.name: field.type for field in table.schema_arrow}
        for name in ("path", "error"):
            if found.get(name) != pa.string():
                raise DataError(f"{file} has no column {name} of text; {_ADVICE}")
        column = found.get("embedding")
        if column not in (pa.list_(pa.float16(), width), pa.list_(pa.float32(), width)):
            raise DataError(f"{file}: its embeddings are {column}, not of width {width}; {_ADVICE}")
        rows = 0
        for batch in table.iter_batches(_AT_ONCE, columns=["path", "embedding", "error"]):
            batch.validate(full=True)
            rows += len(batch)
            yield batch
        if rows != table.metadata.num_rows:
            raise DataError(f"{file} is damaged: {rows} of {table.metadata.num_rows} rows are there; {_ADVICE}")


def read_width(file: Path) -> int:
    """Return the width of the embeddings of a table that ``flip embed -o`` wrote."""
    schema = read_parquet_schema(file)
    width = getattr(schema.field("embedding").type, "list_size", None) if "embedding" in schema.names else None
    if width is None or width < 1:
        raise DataError(f"{file} has no column embedding of a fixed width; {_ADVICE}")
    return int(width)


def _twice(files: Sequence[Path], paths: Sequence[str]) -> str:
    seen = set[str]()
    path = next((path for path in paths if path in seen or seen.add(path)), paths[0])  # type: ignore[func-returns-value]
    return f"{files[0]} has {path} twice"
