"""Manifests: a table with a row for each photo."""

from __future__ import annotations

from pathlib import Path, PurePath

from flip.data.dataset import Dataset, Record, clean_class_name, hash_splits, label_indices
from flip.data.files import FileIndex, subfolders
from flip.data.layout import Layout
from flip.data.photo_folders import METADATA_FILES, has_photos
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.tables import READERS, Row, Table, read_table
from flip.errors import DataError

_PATHS = ("path", "file_name")


def is_manifest(data: Path) -> bool:
    """Return whether a file is a table by its suffix, or a folder holds a metadata file and no folders of photos."""
    if data.is_file():
        return data.suffix.lower() in READERS
    described = any((data / name).is_file() for name in METADATA_FILES)
    return described and not any(has_photos(data / name) for name in subfolders(data))


def read_manifest(data: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file with a row for each photo.

    Columns: ``path`` or ``file_name`` (absolute, or relative to the file's folder) and ``label``; optional ``split``,
    ``captions``, ``caption`` or ``text`` (a string, a list, or a list written as JSON), and ``x``, ``y``, ``w``, ``h``
    or ``bbox`` (pixels). Other columns are left alone. Without ``split`` the path's hash decides.

    Parameters
    ----------
    data : Path
        The table, or a folder that holds one named ``metadata.csv``, ``.jsonl`` or ``.parquet``.
    settings : ReadSettings

    Raises
    ------
    DataError
        If a column is missing, or a row is malformed, names no file or names one twice; the message names the line.
    """
    file = _manifest_in(data)
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
        splits = hash_splits(paths, labels, settings.test_fraction)
    records = tuple(
        Record(path, label, split, row.captions(), row.box(), row.text("source"))
        for path, label, split, row in zip(paths, labels, splits, table.rows, strict=True)
    )
    return Dataset(root, "manifest", tuple(map(clean_class_name, raw_names)), raw_names, records)


def _manifest_in(data: Path) -> Path:
    if not data.is_dir():
        return data
    file = next((data / name for name in METADATA_FILES if (data / name).is_file()), None)
    if file is None:
        raise DataError(f"{data} is a folder without {', '.join(METADATA_FILES)}; pass the manifest file itself")
    return file


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


LAYOUT = Layout("manifest", is_manifest, read_manifest, f"a manifest file ({', '.join(READERS)})", files=True)
