"""Manifests: a table with a row for each photo."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from flip.data.classnames import clean_class_names, label_indices
from flip.data.dataset import Dataset, Record
from flip.data.files import FileIndex, real_path, subfolders
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.photo_folders import METADATA_FILES, has_photos
from flip.data.remote_data import PHOTO_PROTOCOLS, serve_urls
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.splits import UNLABELED, describe_splits, hash_splits
from flip.data.table_files import READERS, read_table
from flip.data.tables import ALIASES, Row, Table
from flip.data.text import nfc
from flip.errors import DataError, near_names
from flip.mounts import ask_ahead

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: Labels that programs write for none, and that may be a class all the same.
_SAY_NOTHING = frozenset({"none", "null", "na", "n/a", "unknown", "-", "?"})
_WHOLE = re.compile(r"\d+(\.0+)?")
_FRACTION = re.compile(r"-?\d+\.\d*[1-9]\d*")


def is_manifest(data: Path) -> bool:
    """Return whether a file is a table by its suffix, or a folder holds a metadata file and no folders of photos."""
    if data.is_file():
        return data.suffix.lower() in READERS
    described = any((data / name).is_file() for name in METADATA_FILES)
    return described and not any(has_photos(data / name) for name in subfolders(data))


def read_manifest(data: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file with a row for each photo.

    Columns: ``path`` or ``file_name`` (absolute, relative to the file's folder, or a URL) and ``label``; optional
    ``split``, ``captions``, ``caption`` or ``text`` (a string, a list, or a list written as JSON), ``source``, and
    ``x``, ``y``, ``w``, ``h`` or ``bbox`` (pixels), ``frame``. Usual other names of the first three are known: see
    ``flip.data.tables.ALIASES``. Other columns are left alone. Without ``split`` the path's hash decides.

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
    path_column, label_column = _column(file, table, "path"), _column(file, table, "label")
    ledger = Ledger()
    for sentence in table.chosen():
        ledger.note(sentence)
    root, (rows, splits) = file.parent, _splits(table, path_column, ledger)
    paths = _paths(root, path_column, rows, ledger)
    given = _whole_numbers([_label(row, label_column) for row in rows], ledger)
    raw_names, labels = label_indices(given)
    _say_labels(raw_names, paths, given, ledger)
    splits = splits or hash_splits(paths, labels, settings.test_fraction)
    records = tuple(
        Record(path, label, split, row.captions(), row.box(), row.text("source"), row.frame())
        for path, label, split, row in zip(paths, labels, splits, rows, strict=True)
    )
    names = clean_class_names(raw_names)
    return Dataset(root, "manifest", names, raw_names, records, left_out=ledger.left_out, notes=ledger.notes)


def _manifest_in(data: Path) -> Path:
    if not data.is_dir():
        return data
    file = next((data / name for name in METADATA_FILES if (data / name).is_file()), None)
    if file is None:
        raise DataError(f"{data} is a folder without {', '.join(METADATA_FILES)}; pass the manifest file itself")
    return file


def _column(file: Path, table: Table, kind: str) -> str:
    column = table.column(kind)
    if column is None:
        wanted, what = {
            "path": ("'path' or 'file_name'", "the photos' paths"),
            "label": ("'label'", "the classes"),
        }[kind]
        near = "".join(near_names(name, ALIASES[kind]) and f" ({name!r} is near)" for name in table.columns)
        there = ", ".join(table.columns)
        raise DataError(f"{file} has no column {wanted}; it has {there}{near}; rename the one that holds {what}")
    return column


def _splits(table: Table, path_column: str, ledger: Ledger) -> tuple[list[Row], list[str]]:
    """Return the rows that are not marked as unlabeled and their splits, none where there is no such column."""
    words = table.splits
    if words.column is None:
        return table.rows, []
    ledger.note(describe_splits(words.splits))
    rows, splits = [], []
    for row in table.rows:
        split = row.split(words)
        if split is None:
            raise DataError(f"{row.where}: no split; write train, val or test in every row, or leave the column out")
        if split == UNLABELED:
            ledger.omit("photos whose split says that they have no label", row.text(path_column) or row.where)
            continue
        rows.append(row)
        splits.append(split)
    if not rows:
        raise DataError(f"{table.rows[0].file} has only rows without labels; it needs some with train or test")
    return rows, splits


def _paths(root: Path, column: str, rows: list[Row], ledger: Ledger) -> list[str]:
    """Return record paths, each known to be a file and to be there once, links and ``..`` followed."""
    files = FileIndex(root)
    absolute_root = root.absolute()
    named = [path for row in rows if (path := row.text(column))]
    serve_urls(absolute_root, (path for path in named if _URL.match(path)))
    ask_ahead([absolute_root / path for path in named if not _URL.match(path)])
    folders: dict[str, str] = {}
    first: dict[str, int] = {}
    paths = []
    for row in rows:
        given = _required(row, column)
        path = _find(row, given, absolute_root, files, ledger)
        real = real_path(absolute_root, path, folders)
        if real in first:
            raise DataError(f"{row.where}: {given!r} is on line {first[real]} already; several captions go in one list")
        first[real] = row.line
        paths.append(path)
    return paths


def _find(row: Row, given: str, root: Path, files: FileIndex, ledger: Ledger) -> str:
    """Return the record path of a file as a cell names it."""
    if _URL.match(given):
        if given.partition("://")[0] not in PHOTO_PROTOCOLS:
            raise DataError(f"{row.where}: {given!r} is a URL that is not read; download the photo, and write its path")
        ledger.notice("photos that are read from URLs", given)
        return given
    if given.startswith("~"):
        ledger.notice("paths with ~, which is your home folder", given)
    path = _record_path(root, str(Path(given).expanduser()) if given.startswith("~") else given)
    found = files.find(path)
    if found is None and "\\" in given:
        parts = given.replace("\\", "/").split("/")
        # Of a path of another machine the longest end that is a file here is meant.
        ends = range(len(parts)) if _WINDOWS.match(given) else range(1)
        found = next((end for i in ends if (end := files.find(_record_path(root, "/".join(parts[i:]))))), None)
        if found is not None and _WINDOWS.match(given):
            ledger.notice("paths of another machine, found below the table's folder", f"{given} as {found}")
    if found is None:
        near = files.near(_record_path(root, given))
        hint = f"; did you mean {near}?" if near else ""
        raise DataError(f"{row.where}: no file {given!r} (paths are relative to {row.file.parent}, or absolute){hint}")
    return found


def _record_path(root: Path, given: str) -> str:
    """Return a path relative to the root where it lies under it, with ``/``."""
    path = PurePath(given)
    return (path.relative_to(root) if path.is_absolute() and path.is_relative_to(root) else path).as_posix()


def _required(row: Row, column: str) -> str:
    value = row.one_line(column)
    if value is None:
        raise DataError(f"{row.where}: no {column}; every row needs one")
    return value


def _label(row: Row, column: str) -> str:
    label = row.label(column)
    if label is None:
        raise DataError(f"{row.where}: no {column}; every row needs one")
    return label


def _whole_numbers(labels: list[str], ledger: Ledger) -> list[str]:
    """Return labels that are whole numbers, some of them written with a fraction of 0, all without."""
    forms = {bool(match[1]) for label in set(labels) if (match := _WHOLE.fullmatch(label))}
    if len(forms) < 2 or not all(map(_WHOLE.fullmatch, set(labels))):
        return labels
    ledger.note("labels are whole numbers, some with a fraction of 0, which is left out: 1.0 is 1")
    return [label.partition(".")[0] for label in labels]


def _say_labels(names: Sequence[str], paths: Sequence[str], given: Sequence[str], ledger: Ledger) -> None:
    """Note labels that may be something else than the names of classes."""
    if any(map(_FRACTION.fullmatch, names)):
        ledger.note(f"labels are numbers with a fraction, such as {names[0]}: each different number is a class")
    listed = next((name for name in names if ", " in name), None)
    if listed is not None:
        ledger.note(f"class names with commas are taken whole, such as {listed!r}; --classnames gives each one name")
    absent = next((name for name in names if name.casefold() in _SAY_NOTHING), None)
    if absent is not None:
        ledger.note(f"the label {absent!r} is read as a class; take its rows out if it means that there is none")
    joined = next(
        (name for name in names if len(parts := re.split(r"\s*[|;]\s*", name)) > 1 and {*parts} & {*names}), None
    )
    if joined is not None:
        ledger.note(f"labels that join several classes, such as {joined!r}, are read as classes of their own")
    folders = [path.split("/")[-2] if "/" in path else None for path in paths]
    known = set(names)
    for i, folder in enumerate(folders):
        if folder is not None and nfc(folder) in known and nfc(folder) != nfc(given[i]):
            ledger.notice("labels that differ from the photo's folder", f"{paths[i]}: {given[i]}")


LAYOUT = Layout("manifest", is_manifest, read_manifest, f"a manifest file ({', '.join(READERS)})", files=True)
