"""Class names from a file: ``--classnames``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.text import nfc, read_text
from flip.errors import DataError, near_names
from flip.reading import parse_json

# What the first column of a table of names may be called; any other first row counts as names.
_HEADERS = frozenset({"class", "classname", "folder", "from", "label", "name", "old", "raw", "raw_name"})


def rename_classes(dataset: Dataset, file: Path) -> Dataset:
    """Return the dataset with class names from a file; labels and raw names stay as they are.

    Parameters
    ----------
    dataset : Dataset
    file : Path
        A text file with one name per line in the order of the classes; or old name to new, for some or all classes,
        as a JSON object or as a ``.csv`` or ``.tsv`` of two columns. An old name may be the raw or the clean one.

    Raises
    ------
    DataError
        If the file cannot be read, has a wrong number of names, or names a class that is unknown or was named before.
    """
    text = read_text(file)
    suffix = file.suffix.lower()
    ordered = True
    if suffix == ".json":
        given = _json(file, text)
        ordered = isinstance(given, list)
        names = given if isinstance(given, list) else _renamed(dataset, file, given.items())
    elif suffix in (".csv", ".tsv"):
        ordered = False
        names = _renamed(dataset, file, _two_columns(dataset, file, text, "\t" if suffix == ".tsv" else _comma(text)))
    else:
        names = [line.strip() for line in text.strip().split("\n")]
    names = [nfc(name) for name in names]
    if len(names) != len(dataset.classnames):
        raise DataError(
            f"{file} has {len(names)} names for {len(dataset.classnames)} classes; write one per line for each"
        )
    for name, raw in zip(names, dataset.raw_names, strict=True):
        if not name:
            raise DataError(f"{file} has an empty name for class {raw!r}; write one")
    notes = (*dataset.notes, _pairing(file, dataset.raw_names, names)) if ordered else dataset.notes
    return replace(dataset, classnames=tuple(names), notes=notes)


def _pairing(file: Path, raw_names: tuple[str, ...], names: list[str]) -> str:
    shown = f"{raw_names[0]} is {names[0]}"
    more = f", ..., {raw_names[-1]} is {names[-1]}" if len(names) > 1 else ""
    return f"{file.name} names the classes by their order: {shown}{more}"


def _json(file: Path, text: str) -> list[str] | dict[str, str]:
    try:
        given = parse_json(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    values = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise DataError(f"{file} must be a JSON object of old name to new name, or a list of names")
    return {k: v.strip() for k, v in given.items()} if isinstance(given, dict) else [name.strip() for name in values]


def _comma(text: str) -> str:
    """Return what separates columns: a semicolon where a spreadsheet wrote one, else the comma."""
    first = text.lstrip().partition("\n")[0]
    return ";" if first.count(";") == 1 and "," not in first else ","


def _two_columns(dataset: Dataset, file: Path, text: str, delimiter: str) -> list[tuple[str, str]]:
    pairs = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != 2:
                raise DataError(f"{file}:{reader.line_num}: {len(cells)} columns; it needs two: old name and new name")
            pairs.append((cells[0].strip(), cells[1].strip()))
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}; is a quote not closed?") from error
    has_header = bool(pairs) and pairs[0][0].casefold() in _HEADERS - {*dataset.raw_names, *dataset.classnames}
    return pairs[has_header:]


def _renamed(dataset: Dataset, file: Path, pairs: Iterable[tuple[str, str]]) -> list[str]:
    position = {nfc(name): i for names in (dataset.classnames, dataset.raw_names) for i, name in enumerate(names)}
    names, done = list(dataset.classnames), set[int]()
    for old, new in pairs:
        if nfc(old) not in position:
            raise DataError(f"{file} names a class {old!r} that the data does not have{near_names(old, position)}")
        i = position[nfc(old)]
        if i in done:
            raise DataError(f"{file} names class {old!r} twice; write each class once")
        done.add(i)
        names[i] = new
    return names
