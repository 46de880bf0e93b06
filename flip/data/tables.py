"""Rows of CSV, TSV, JSON Lines and Parquet files, and the columns that say something of a photo."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flip.data.captions import parse_captions
from flip.data.dataset import Box
from flip.data.splits import SPLIT_WORDS, read_splits
from flip.data.text import decode_text, nfc, read_text
from flip.errors import DataError

_CAPTIONS = ("captions", "caption", "text")
_BOX = ("x", "y", "w", "h")

#: The names under which tables in circulation have a column; of several that are there the first is read.
ALIASES = {
    "path": (
        "path",
        "file_name",
        "filename",
        "filepath",
        "file_path",
        "image_path",
        "img_path",
        "file",
        "image",
        "img",
    ),
    "label": ("label", "class", "class_name", "classname", "category", "target"),
    "split": ("split", "set", "subset"),
}

#: The columns that are looked at; of a Parquet file no other is read.
COLUMNS = frozenset({"bbox", "source", *_CAPTIONS, *_BOX}.union(*ALIASES.values()))

_BYTES = re.compile(r"""b(['"]).*\1""", re.DOTALL)


class Row(NamedTuple):
    """One row: ``line`` counts from 1 (the first of a CSV row that has several; of a Parquet file, the row)."""

    file: Path
    line: int
    cells: dict[str, Any]

    @property
    def where(self) -> str:
        """The file and line, as errors name them."""
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str | None:
        """Return a cell as text, or None where it is missing or empty; bytes, also written as b'wren', are read."""
        value = self.cells.get(column)
        if isinstance(value, float) and math.isnan(value):
            return None
        if isinstance(value, str) and _BYTES.fullmatch(value.strip()):
            value = _evaluated(value.strip())
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        # pandas turns whole numbers into floats as soon as one cell of the column is empty.
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
        return text if value is not None and text else None

    def one_line(self, column: str) -> str | None:
        """Return a cell as text of one line.

        Raises
        ------
        DataError
            If it has several, as when a quote is not closed.
        """
        text = self.text(column)
        if text is not None and "\n" in text:
            begin = text.partition("\n")[0][:40]
            raise DataError(f"{self.where}: the {column} that begins with {begin!r} has several lines; close its quote")
        return text

    def label(self, column: str | None) -> str | None:
        """Return the class, None where the table has no such column or the cell is empty."""
        return self.one_line(column) if column else None

    def captions(self) -> tuple[str, ...]:
        """Return the captions in the first of the columns ``captions``, ``caption`` and ``text`` that has a value."""
        value = next((self.cells[name] for name in _CAPTIONS if self.cells.get(name) is not None), None)
        try:
            return parse_captions(value)
        except ValueError as error:
            raise DataError(f"{self.where}: caption {error}") from error

    def box(self) -> Box | None:
        """Return the box of the columns ``x``, ``y``, ``w``, ``h``, or of ``bbox``, in pixels; None where empty."""
        value = self.cells.get("bbox")
        if isinstance(value, str):
            value = value.strip().strip("[]()").replace(",", " ").split()
        numbers = [self.text(name) for name in _BOX] if value is None else list(value)
        if not any(number is not None for number in numbers):
            return None
        try:
            x, y, w, h = (float(number) for number in numbers if number is not None)
        except (TypeError, ValueError):
            raise DataError(f"{self.where}: box {numbers} is not four numbers (x, y, w, h)") from None
        return x, y, w, h

    def split(self, words: SplitColumn) -> str | None:
        """Return train, val, test or unlabeled as the row's split says it, or None where it is empty."""
        given = self.text(words.column) if words.column else None
        if given is None:
            return None
        if given not in words.splits:
            raise DataError(f"{self.where}: unknown split {given!r}; write one of {', '.join(SPLIT_WORDS)}")
        return words.splits[given]


class SplitColumn(NamedTuple):
    """The column that holds the split, None where there is none, and the split that each of its values means."""

    column: str | None
    splits: Mapping[str, str]


class Table(NamedTuple):
    """A file's column names, in lower case, and its rows."""

    columns: list[str]
    rows: list[Row]

    def column(self, kind: str) -> str | None:
        """Return the name of the column of a kind ("path", "label", "split"), None where there is none."""
        return next((name for name in ALIASES[kind] if name in self.columns), None)

    @property
    def splits(self) -> SplitColumn:
        """The column of the split and what its values mean: ``eval`` is the test split where nothing else is."""
        column = self.column("split")
        values = dict.fromkeys(text for row in self.rows if column and (text := row.text(column)))
        return SplitColumn(column, read_splits(values))

    def chosen(self) -> list[str]:
        """Return sentences on columns that are read under another name, or of which several could be meant."""
        told = []
        for kind, what in (("path", "photos"), ("label", "classes")):
            there = [name for name in ALIASES[kind] if name in self.columns]
            if len(there) > 1:
                told.append(f"the {what} are read from the column {there[0]!r}, not from {', '.join(there[1:])}")
            elif there and there[0] not in ("path", "file_name", "label"):
                told.append(f"the {what} are read from the column {there[0]!r}")
        return told


def read_table(file: Path) -> Table:
    """Return the rows of a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file.

    Raises
    ------
    DataError
        If the file's suffix is another, or the file is not what its suffix says; the message names the line.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file} is no table that flip reads; it must end in one of {', '.join(READERS)}")
    table = reader(file)
    twice = next((name for name, n in Counter(table.columns).items() if n > 1 and name), None)
    if twice is not None:
        raise DataError(f"{file} has the column {twice!r} twice; rename or remove one")
    return table


def _read_csv(file: Path) -> Table:
    text = decode_text(file.read_bytes(), file)
    delimiter, start = _delimiter(text, "\t" if file.suffix.lower() == ".tsv" else ",")
    header: list[str] = []
    rows: list[Row] = []
    for line, cells in _csv_rows(file, text, delimiter, start):
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [nfc(name.strip().lower()) for name in cells]
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells = cells[:-1]
        if len(cells) != len(header):
            spans = any("\n" in cell for cell in cells)
            if spans:
                _require_closed(file, text, delimiter, line)
            doubt = "; is a quote not closed?" if spans else ""
            raise DataError(f"{file}:{line}: {len(cells)} cells, but the header has {len(header)}{doubt}")
        rows.append(Row(file, line, dict(zip(header, cells, strict=True))))
    while header and not header[-1]:
        header.pop()
    return Table(header, rows)


def _csv_rows(file: Path, text: str, delimiter: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its first line; a quote that is never closed is an error with the line it is on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = begin = 1
    try:
        for cells in reader:
            if line > start:
                yield line, cells
            line, begin = reader.line_num + 1, line
    except csv.Error as error:
        raise DataError(f"{file}:{line}: {error}; is a quote not closed?") from error
    _require_closed(file, text, delimiter, begin)


def _require_closed(file: Path, text: str, delimiter: str, line: int) -> None:
    """Raise a DataError if the last row, which begins on a line, ends inside of quotes."""
    rest = "".join(io.StringIO(text, newline="").readlines()[line - 1 :])
    try:
        list(csv.reader(io.StringIO(rest, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise DataError(f"{file}:{line}: a quote that begins in this row is never closed") from error


def _delimiter(text: str, usual: str) -> tuple[str, int]:
    """Return what separates the columns, and how many lines stand before the header.

    It is what the header is parted by best: first by how many columns it has that flip knows, then by how many columns.
    """
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    told = re.fullmatch(r"sep=(.)", first, re.IGNORECASE)
    if told:  # spreadsheets write and read this line
        return told[1], text[: len(text) - len(text.lstrip("\r\n"))].count("\n") + 1

    def parts(delimiter: str) -> tuple[int, int, bool]:
        names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        return sum(name in COLUMNS for name in names), len(names), delimiter == usual

    return max((usual, ",", ";", "\t", "|"), key=parts), 0


def _read_jsonl(file: Path) -> Table:
    rows = []
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except ValueError as error:
            raise DataError(f"{file}:{line}: not JSON: {error}") from error
        if not isinstance(cells, dict):
            raise DataError(f"{file}:{line}: a JSON {type(cells).__name__}; each line must be an object")
        rows.append(Row(file, line, {nfc(name.strip().lower()): value for name, value in cells.items()}))
    return Table(list(dict.fromkeys(name for row in rows for name in row.cells)), rows)


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        # Other columns may be large: embeddings, or the photos themselves.
        known = [f.name for f in schema if f.name.lower() in COLUMNS and not _is_image(f.name, f.type)]
        rows = [
            Row(file, line, {name.lower(): value for name, value in cells.items()})
            for line, cells in enumerate(pq.read_table(file, columns=known).to_pylist(), 1)
        ]
    except pa.ArrowException as error:
        raise DataError(f"{file} is not a Parquet file: {str(error).splitlines()[0]}") from error
    names = [f"{f.name.lower()} (bytes)" if _is_image(f.name, f.type) else f.name.lower() for f in schema]
    return Table(names, rows)


def _is_image(name: str, kind: Any) -> bool:
    """Return whether a column of a Parquet file holds photos rather than their paths."""
    import pyarrow as pa

    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return pa.types.is_struct(kind) or (is_bytes and name.lower() in ("image", "img", "bytes"))


def _evaluated(text: str) -> bytes | str:
    """Return the bytes that Python wrote as text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, bytes) else text


#: The reader of each suffix.
READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
