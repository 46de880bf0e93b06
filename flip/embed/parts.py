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

from flip.arrays import FloatArray, IntArray
from flip.data.parquet import header_limits
from flip.embed.vectors import embedding_values
from flip.files import written_aside
from flip.reading import parse_json, what_is

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FINGERPRINT_KEY = b"flip.fingerprint"
REPLACES_KEY = b"flip.replaces"

#: Rows that are read together: few, so that single rows are cheap, and enough to read millions at the disk's speed.
ROWS_A_GROUP = 256
_GROUPS_AT_ONCE = 16


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
            self._file = pq.ParquetFile(file, page_checksum_verification=True, **header_limits(file))
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
            return tuple(map(str, parse_json(metadata.get(REPLACES_KEY, b"[]"))))
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
            # Start of each row group in the rows read.
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
