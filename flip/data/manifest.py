"""Manifests: a table with a row for each photo."""

from __future__ import annotations

from pathlib import Path, PurePath

from flip.data.dataset import DEFAULT_TEST_FRACTION, Dataset, Record, clean_class_name, hash_splits, label_indices
from flip.data.files import FileIndex
from flip.data.tables import Row, Table, read_table
from flip.errors import DataError

_PATHS = ("path", "file_name")


def read_manifest(file: Path, test_fraction: float = DEFAULT_TEST_FRACTION) -> Dataset:
    """Read a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file with a row for each photo.

    Columns: ``path`` or ``file_name`` (absolute, or relative to the file's folder) and ``label``; optional ``split``,
    ``captions``, ``caption`` or ``text`` (a string, a list, or a list written as JSON), and ``x``, ``y``, ``w``, ``h``
    or ``bbox`` (pixels). Other columns are left alone. Without ``split`` the path's hash decides.

    Parameters
    ----------
    file : Path
    test_fraction : float
        Share of photos held out for testing where there is no column ``split``.

    Raises
    ------
    DataError
        If a column is missing, or a row is malformed, names no file or names one twice; the message names the line.
    """
    table = read_table(file)
    if not table.rows:
        raise DataError(f"{file} has no rows; it needs one for each photo, with path and label")
    path_column = _path_column(file, table)
    root = file.parent
    paths = _paths(root, path_column, table.rows)
    raw_names, labels = label_indices([_required(row, "label") for row in table.rows])
    if "split" in table.columns:
        splits = [_split(row) for row in table.rows]
    else:
        splits = hash_splits(paths, labels, test_fraction)
    records = tuple(
        Record(path, label, split, row.captions(), row.box(), row.text("source"))
        for path, label, split, row in zip(paths, labels, splits, table.rows, strict=True)
    )
    return Dataset(root, "manifest", tuple(map(clean_class_name, raw_names)), raw_names, records)


def _path_column(file: Path, table: Table) -> str:
    there = f"it has {', '.join(table.columns)}"
    path_column = next((name for name in _PATHS if name in table.columns), None)
    if path_column is None:
        raise DataError(
            f"{file} has no column 'path' or 'file_name'; {there}; rename the one that holds the photos' paths"
        )
    if "label" not in table.columns:
        raise DataError(f"{file} has no column 'label'; {there}; rename the one that holds the classes")
    return path_column


def _paths(root: Path, column: str, rows: list[Row]) -> list[str]:
    """Return record paths, each known to be a file and to be there once."""
    files = FileIndex(root)
    absolute_root = root.absolute()
    first: dict[str, int] = {}
    for row in rows:
        given = _required(row, column)
        path = _record_path(absolute_root, given)
        if not files.has(path):
            raise DataError(f"{row.where}: no file {given!r} (paths are relative to {root}, or absolute)")
        if path in first:
            raise DataError(f"{row.where}: {given!r} is on line {first[path]} already; several captions go in one list")
        first[path] = row.line
    return list(first)


def _record_path(root: Path, given: str) -> str:
    """Return a path relative to the root where it lies under it, with ``/``."""
    path = PurePath(given)
    return (path.relative_to(root) if path.is_absolute() and path.is_relative_to(root) else path).as_posix()


def _required(row: Row, column: str) -> str:
    value = row.text(column)
    if value is None:
        raise DataError(f"{row.where}: no {column}; every row needs one")
    return value


def _split(row: Row) -> str:
    split = row.split()
    if split is None:
        raise DataError(f"{row.where}: no split; write train, val or test in every row, or leave the column out")
    return split
