"""Rows of CSV, TSV, JSON Lines and Parquet files, and what the cells of a row say of a photo."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flip.data.captions import parse_captions
from flip.data.dataset import SPLIT_NAMES, Box
from flip.errors import DataError

_CAPTIONS = ("captions", "caption", "text")
_BOX = ("x", "y", "w", "h")

#: The columns that are looked at; of a Parquet file no other is read.
COLUMNS = frozenset({"path", "file_name", "label", "split", "bbox", "source", *_CAPTIONS, *_BOX})


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
        """Return a cell as text, or None where it is missing or empty."""
        value = self.cells.get(column)
        if isinstance(value, float) and math.isnan(value):
            return None
        # pandas turns whole numbers into floats as soon as one cell of the column is empty.
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
        return text if value is not None and text else None

    def captions(self) -> tuple[str, ...]:
        """Return what the first of the columns ``captions``, ``caption`` and ``text`` holds."""
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

    def split(self) -> str | None:
        """Return train, val or test as the column ``split`` says it, or None where it is empty."""
        given = self.text("split")
        if given is None:
            return None
        if given.casefold() not in SPLIT_NAMES:
            raise DataError(f"{self.where}: unknown split {given!r}; write one of {', '.join(SPLIT_NAMES)}")
        return SPLIT_NAMES[given.casefold()]


class Table(NamedTuple):
    """A file's column names, in lower case, and its rows."""

    columns: list[str]
    rows: list[Row]


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
    try:
        return reader(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _read_csv(file: Path) -> Table:
    header: list[str] = []
    rows: list[Row] = []
    line = 1
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            for cells in reader:
                if cells and not header:
                    header = [name.strip().lower() for name in cells]
                elif cells:
                    if len(cells) != len(header):
                        raise DataError(f"{file}:{line}: {len(cells)} cells, but the header has {len(header)}")
                    rows.append(Row(file, line, dict(zip(header, cells, strict=True))))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file}:{line}: {error}") from error
    return Table(header, rows)


def _read_jsonl(file: Path) -> Table:
    rows = []
    with file.open(encoding="utf-8-sig") as lines:
        for line, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except ValueError as error:
                raise DataError(f"{file}:{line}: not JSON: {error}") from error
            if not isinstance(cells, dict):
                raise DataError(f"{file}:{line}: a JSON {type(cells).__name__}; each line must be an object")
            rows.append(Row(file, line, {name.strip().lower(): value for name, value in cells.items()}))
    return Table(list(dict.fromkeys(name for row in rows for name in row.cells)), rows)


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(file).names
        # Other columns may be large: embeddings, or the photos themselves.
        known = [name for name in there if name.lower() in COLUMNS]
        rows = [
            Row(file, line, {name.lower(): value for name, value in cells.items()})
            for line, cells in enumerate(pq.read_table(file, columns=known).to_pylist(), 1)
        ]
    except pa.ArrowException as error:
        raise DataError(f"{file} is not a Parquet file: {str(error).splitlines()[0]}") from error
    return Table([name.lower() for name in there], rows)


#: The reader of each suffix.
READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
