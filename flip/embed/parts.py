"""Parts of the cache: Parquet files that are written once, whole, and checked row by row when they are read."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import Array, BoolArray, FloatArray, IntArray, UIntArray
from flip.files import written_aside
from flip.reading import what_is

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FINGERPRINT_KEY = b"flip.fingerprint"
REPLACES_KEY = b"flip.replaces"

#: Rows that are read together: few, so that single rows are cheap, and enough to read millions at the disk's speed.
ROWS_A_GROUP = 256
_GROUPS_AT_ONCE = 16

#: Odd, so that every bit of a word counts in the sum.
_FIRST_WEIGHT = 0x9E3779B97F4A7C15


class DamagedPartError(Exception):
    """A part that cannot be trusted, and why."""


class WrongIndexError(Exception):
    """A part is sound, and does not hold what the index says."""


class Rows(NamedTuple):
    """Some rows of a part.

    Which of those asked for, embeddings (n, d), the columns that tell whether they are sound, and where they were.
    """

    asked: IntArray
    embeddings: FloatArray
    table: pa.Table
    groups: tuple[int, ...]
    local: IntArray


class Part:
    """One open part.

    Parameters
    ----------
    file : Path
    fingerprint : str
        Of the model that must have made it.
    dim : int

    Raises
    ------
    DamagedPartError
        If it cannot be read, has other columns, or another model made it.
    FileNotFoundError
        If it is no longer there.
    """

    def __init__(self, file: Path, fingerprint: str, dim: int) -> None:
        import pyarrow.parquet as pq

        self.dim = dim
        self._last: tuple[tuple[int, ...], pa.Table, FloatArray] | None = None
        if kind := what_is(file):
            raise DamagedPartError(f"it is {kind}")
        with _damage():
            self._file = pq.ParquetFile(file, page_checksum_verification=True)
            self.columns = set(self._file.schema_arrow.names)
            _require_made_by(self._file, fingerprint)
            _require_types(self._file.schema_arrow, dim)
            groups = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
            self._starts = np.cumsum([0, *groups])
            if int(self._starts[-1]) != self._file.metadata.num_rows:
                raise DamagedPartError("its number of rows is not that of its groups")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def is_checked(self) -> bool:
        """Whether its rows have check sums; those of earlier caches have none."""
        return "check" in self.columns

    @property
    def replaces(self) -> tuple[str, ...]:
        """Names of the parts whose rows this one holds."""
        metadata = self._file.schema_arrow.metadata or {}
        try:
            return tuple(map(str, json.loads(metadata.get(REPLACES_KEY, b"[]"))))
        except (ValueError, TypeError):
            return ()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return these columns of all rows, as far as the part has them."""
        with _damage():
            table = self._file.read(None if columns is None else [c for c in columns if c in self.columns])
            if len(table) != len(self):
                raise DamagedPartError("columns have fewer rows than it says")
            return table

    def rows(self, wanted: IntArray) -> Iterator[Rows]:
        """Yield the wanted rows, some at a time and each as often as it is asked for, in any order."""
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise WrongIndexError
        order = np.argsort(wanted, kind="stable")
        group_of = np.searchsorted(self._starts, wanted[order], side="right") - 1
        needed = np.unique(group_of)
        for first in range(0, len(needed), _GROUPS_AT_ONCE):
            groups = needed[first : first + _GROUPS_AT_ONCE]
            begin, end = np.searchsorted(group_of, [groups[0], groups[-1] + 1])
            yield self._read(groups, order[begin:end], wanted[order[begin:end]])

    def _read(self, groups: IntArray, asked: IntArray, rows: IntArray) -> Rows:
        with _damage():
            listed = tuple(groups.tolist())
            table, values = self._groups(listed)
            sizes = self._starts[groups + 1] - self._starts[groups]
            # Where each group begins in what was read.
            moved = np.cumsum([0, *sizes[:-1]]) - self._starts[groups]
            local = rows + moved[np.searchsorted(self._starts[groups], rows, side="right") - 1]
            return Rows(asked, values[local], table.take(local), listed, local)

    def whole(self, rows: Rows) -> pa.Table:
        """Return the same rows with all columns but the embeddings."""
        with _damage():
            columns = sorted(self.columns - {"embedding"})
            return self._file.read_row_groups(list(rows.groups), columns=columns).take(rows.local)

    def _groups(self, groups: tuple[int, ...]) -> tuple[pa.Table, FloatArray]:
        """Return other columns and embeddings of row groups; the last ones stay here, as photos come in order."""
        if self._last is None or self._last[0] != groups:
            # With a check sum the others are not needed.
            columns = [c for c in ("embedding", "check", "error") if c in self.columns] if self.is_checked else None
            table = self._file.read_row_groups(list(groups), columns=columns, use_threads=len(groups) > 1)
            if len(table) != sum(int(self._starts[g + 1] - self._starts[g]) for g in groups):
                raise DamagedPartError("columns have fewer rows than it says")
            self._last = groups, table.drop_columns(["embedding"]), embedding_values(table["embedding"], self.dim)
        return self._last[1:]


def write_part(folder: Path, table: pa.Table, fingerprint: str, replaces: Sequence[str] = ()) -> str:
    """Write a table as a new part: aside, fsynced, renamed. Return its name.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    import pyarrow.parquet as pq

    metadata = {FINGERPRINT_KEY: fingerprint.encode()}
    if replaces:
        metadata[REPLACES_KEY] = json.dumps(list(replaces)).encode()
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
    # Embeddings are noise to a compressor, and half floats have too few values in common for a dictionary.
    packed = {column: "zstd" for column in table.column_names if column != "embedding"}
    with written_aside(folder / name, "free space or pass --cache DIR", durable=True) as aside:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            aside,
            row_group_size=ROWS_A_GROUP,
            compression=packed,
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
    return name


def embedding_column(rows: Sequence[Array | None], dim: int) -> pa.Array:
    """Return a fixed-size-list column of float16, null where a row has no embedding."""
    import pyarrow as pa

    absent = np.fromiter((row is None for row in rows), bool, len(rows))
    flat = np.stack([np.zeros(dim, np.float16) if row is None else row for row in rows]).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), dim, mask=pa.array(absent))


def embedding_values(column: pa.ChunkedArray | pa.Array, dim: int) -> FloatArray:
    """Return an embedding column as it is stored, float16 or float32 of shape (n, d); null rows are zeros."""
    flat = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    values = flat.values.slice(flat.offset * dim, len(flat) * dim)
    matrix: FloatArray = values.to_numpy(zero_copy_only=False).reshape(len(flat), dim)
    if flat.null_count:
        matrix = matrix.copy()
        matrix[flat.is_null().to_numpy(zero_copy_only=False)] = 0.0
    return matrix


def embedding_matrix(column: pa.ChunkedArray, dim: int) -> FloatArray:
    """Return an embedding column as unit rows (n, d) float32; null rows are zeros."""
    values = embedding_values(column, dim)
    return unit_again(values.astype(np.float32)) if values.dtype == np.float16 else values.astype(np.float32)


def as_kept(rows: Array) -> FloatArray:
    """Return embeddings of photos as the cache keeps them, in half precision."""
    return np.asarray(rows, np.float16)


def as_used(kept: FloatArray) -> FloatArray:
    """Return rows, or one row, as whoever asks for features gets them: float32 of unit length again."""
    rows = kept.astype(np.float32)
    return unit_again(rows) if rows.ndim == 2 else unit_again(rows[None])[0]


def unit_again(matrix: FloatArray) -> FloatArray:
    """Bring rows that went through half precision, which keeps a norm to three digits, back to unit length."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.divide(matrix, norms, out=matrix, where=norms > 0)
    return matrix


def check_sums(values: FloatArray, identities: Sequence[int] | IntArray) -> IntArray:
    """Return a sum over each row's embedding and what the row is of; a bit that flips in either changes it.

    Parameters
    ----------
    values : array of shape (n, d)
        As they are stored.
    identities : n integers
        Numbers of the photos' contents or of the texts.
    """
    words = np.ascontiguousarray(values).view(np.uint16)  # (n, d or 2 d)
    odd = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    weights: UIntArray = odd * np.uint64(_FIRST_WEIGHT)
    sums = words.astype(np.uint64) @ weights + np.asarray(identities, np.int64).view(np.uint64)
    signed: IntArray = sums.view(np.int64)
    return signed


def is_unit(values: FloatArray) -> BoolArray:
    """Return which rows are finite and of unit length, as far as half precision keeps it, or zero."""
    return is_unit_length(np.linalg.norm(values.astype(np.float32), axis=1))


def is_unit_length(norms: FloatArray) -> BoolArray:
    """Return which norms (n,) are 1, as far as half precision keeps it, or 0."""
    unit: BoolArray = (np.abs(norms - 1) < 0.02) | (norms == 0)
    return unit


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turn what pyarrow says of a broken file into a :class:`DamagedPartError`."""
    try:
        yield
    except (DamagedPartError, MemoryError):
        raise
    except Exception as e:
        # An error of the system has a number; pyarrow's own of broken files have none.
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise DamagedPartError(" ".join(str(e).split())[:150] or type(e).__name__) from e


def _require_types(schema: pa.Schema, dim: int) -> None:
    import pyarrow as pa

    found = {field.name: field.type for field in schema}
    if found.get("embedding") not in (pa.list_(pa.float16(), dim), pa.list_(pa.float32(), dim)):
        raise DamagedPartError(f"its embeddings are {found.get('embedding')}, not of width {dim}")
    numbers = {name: pa.int64() for name in ("size", "mtime_ns", "ctime_ns", "check")}
    texts = {name: pa.string() for name in ("path", "content", "decoding", "error", "made_by", "hash")}
    for name, kind in (numbers | texts).items():
        if found.get(name, kind) != kind:
            raise DamagedPartError(f"its column {name} is {found[name]}")


def _require_made_by(file: pq.ParquetFile, fingerprint: str) -> None:
    made_by = (file.schema_arrow.metadata or {}).get(FINGERPRINT_KEY, b"").decode("utf-8", "replace")
    if made_by != fingerprint:
        raise DamagedPartError(f"it was made by another model, {made_by or 'unknown'}, not {fingerprint}")
