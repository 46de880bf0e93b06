"""Labelled photos from tables of embeddings that any program wrote; the photos need not be there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flip.data.classnames import clean_class_names, label_indices
from flip.data.dataset import Dataset, Record
from flip.data.ledger import Ledger
from flip.data.parquet import parquet_rows, read_parquet_schema
from flip.data.settings import ReadSettings
from flip.data.splits import UNLABELED, describe_splits, hash_splits, read_splits
from flip.data.table_files import read_table, require_columns_once
from flip.data.tables import ALIASES, CAPTIONS, Row, SplitColumn
from flip.data.vector_files import AT_ONCE, VectorFile, VectorTable, array_rows, vector_width
from flip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: Names of photos besides those of a manifest's column of paths.
_NAMES = (*ALIASES["path"], "url", "key", "id", "uuid")
_LABELS = (*ALIASES["label"], "labels")


class _Listing(NamedTuple):
    """The rows of all files in their order; ``rows`` are their numbers among all."""

    rows: list[int]
    paths: list[str]
    labels: list[str]
    splits: list[str | None]
    captions: list[tuple[str, ...]]


def read_vector_table(data: Path, layout: str, files: list[VectorFile], settings: ReadSettings) -> Dataset:
    """Read path, label, split and captions of each embedding, from columns that are called as those of manifests.

    A row without a path is named by its file and number. Without a column of splits the name's hash decides.

    Parameters
    ----------
    data : Path
        What was given.
    layout : str
    files : list of VectorFile
    settings : ReadSettings

    Raises
    ------
    DataError
        If there is no column of labels, a row has none, a photo is there twice, or rows and embeddings differ in
        number.
    """
    ledger = Ledger()
    total, listing = 0, _Listing([], [], [], [], [])
    for file in files:
        total += _read_file(file, total, listing, ledger)
    if not listing.rows:
        raise DataError(f"{data} has no rows; give a table with an embedding and a label in each")
    row_of = _row_of(data, listing)
    raw_names, labels = label_indices(listing.labels)
    hashed = hash_splits(listing.paths, labels, settings.test_fraction)
    records = tuple(
        Record(path, label, split or by_hash, captions)
        for path, label, split, by_hash, captions in zip(
            listing.paths, labels, listing.splits, hashed, listing.captions, strict=True
        )
    )
    return Dataset(
        data if data.is_dir() else data.parent,
        layout,
        clean_class_names(raw_names),
        raw_names,
        records,
        embeddings=data,
        left_out=ledger.left_out,
        notes=ledger.notes,
        vectors=VectorTable(tuple(files), vector_width(files), total, row_of),
    )


class _Source(NamedTuple):
    """A table's columns of text, numbers and lists of text, in lower case, and the way to its rows."""

    file: Path
    columns: list[str]
    rows: list[Row] | None = None

    def column(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in self.columns), None)

    def read(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield rows with these columns; of Parquet a few are in memory at a time."""
        if self.rows is not None:
            yield from self.rows
            return
        wanted = [name for name in read_parquet_schema(self.file).names if name.lower() in columns]
        for line, cells in enumerate(parquet_rows(self.file, wanted, AT_ONCE), 1):
            yield Row(self.file, line, {name.lower(): value for name, value in cells.items()})


def _open(file: Path) -> _Source:
    if file.suffix.lower() != ".parquet":
        table = read_table(file)
        return _Source(file, table.columns, table.rows)
    schema = read_parquet_schema(file)
    require_columns_once(file, [name.lower() for name in schema.names])
    return _Source(file, [field.name.lower() for field in schema if not _is_no_text(field.type)])


def _is_no_text(kind: pa.DataType) -> bool:
    """Return whether a column holds photos, or anything else that names nothing."""
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if is_list else kind
    return bool(pa.types.is_nested(inner) or (is_list and pa.types.is_floating(inner)))


def _read_file(file: VectorFile, first: int, listing: _Listing, ledger: Ledger) -> int:
    """Add the rows of a file, the first of which has this number among all; return how many there are."""
    source = _open(file.table)
    path, label, split = source.column(_NAMES), source.column(_LABELS), source.column(ALIASES["split"])
    if label is None:
        raise DataError(
            f"{file.table} has no column 'label'; it has {', '.join(source.columns)}; name the one with the classes so"
        )
    words = _splits(source, split)
    ledger.note(describe_splits(words.splits))
    n = 0
    for n, row in enumerate(source.read([name for name in (path, label, split, *CAPTIONS) if name]), 1):
        _add(row, file.table, first + n - 1, (path, label), words, listing, ledger)
    _require_as_many(file, n)
    return n


def _splits(source: _Source, column: str | None) -> SplitColumn:
    values = (row.text(column) for row in source.read([column])) if column else ()
    return SplitColumn(column, read_splits(dict.fromkeys(text for text in values if text)))


def _add(
    row: Row,
    table: Path,
    number: int,
    columns: tuple[str | None, str],
    words: SplitColumn,
    listing: _Listing,
    ledger: Ledger,
) -> None:
    """Add one row, unless its split says that it has no label."""
    path, label = columns
    name = row.text(path) if path else f"{table.stem}:{row.line}"
    if name is None:
        raise DataError(f"{row.where}: no {path}; every row needs one")
    split = row.split(words)
    if split == UNLABELED:
        ledger.omit("rows whose split says that they have no label", name)
        return
    named = row.label(label)
    if named is None:
        raise DataError(f"{row.where}: no {label}; every row needs one")
    if words.column and split is None:
        raise DataError(f"{row.where}: no split; write train, val or test in every row, or leave the column out")
    listing.rows.append(number)
    listing.paths.append(name)
    listing.labels.append(named)
    listing.splits.append(split)
    listing.captions.append(row.captions())


def _require_as_many(file: VectorFile, rows: int) -> None:
    """Raise a DataError unless an array has an embedding for each of so many rows of its table."""
    count = rows if file.column else array_rows(file.path)
    if count != rows:
        raise DataError(f"{file.path} has {count:,} embeddings, and {file.table} {rows:,} rows; each needs the other")


def _row_of(data: Path, listing: _Listing) -> dict[str, int]:
    """Return the row of each photo, which must be there once."""
    row_of = dict(zip(listing.paths, listing.rows, strict=True))
    if len(row_of) < len(listing.paths):
        path = next(path for path, n in Counter(listing.paths).items() if n > 1)
        rows = [row + 1 for row, other in zip(listing.rows, listing.paths, strict=True) if other == path]
        raise DataError(
            f"{data} has {path} in rows {rows[0]} and {rows[1]}; give each photo one row, with its captions in a list"
        )
    return row_of
