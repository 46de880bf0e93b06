"""CSV, TSV, JSON Lines and Parquet files, as spreadsheets and people write them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.foreign import what_it_is
from flip.data.open_quotes import require_closed_quotes
from flip.data.parquet import open_parquet
from flip.data.tables import COLUMNS, Row, Table
from flip.data.text import nfc, read_text
from flip.errors import DataError, reason_of
from flip.reading import open_plain, parse_json

if TYPE_CHECKING:
    import pyarrow as pa


#: First bytes of other files that are named like tables, beside those of :mod:`flip.data.foreign`, and the advice.
_NO_TABLES = {
    b"PK\x03\x04": "a spreadsheet or an archive; save the spreadsheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save it as CSV",
    b"\x1f\x8b": "compressed; unpack it",
}


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
    _require_table(file)
    table = reader(file)
    require_columns_once(file, table.columns)
    return table


def require_columns_once(file: str | Path, columns: Iterable[str]) -> None:
    """Raise a DataError if two columns have one name, of which a reader would take either.

    Parameters
    ----------
    file : str or Path
        The file, and where in it, for the message.
    columns : iterable of str
        In lower case.
    """
    twice = next((name for name, n in Counter(columns).items() if n > 1 and name), None)
    if twice is not None:
        raise DataError(f"{file} has the column {twice!r} twice; rename or remove one")


def _require_table(file: Path) -> None:
    """Raise a DataError for a file that is called a table and begins as something else."""
    try:
        with open_plain(file) as stream:
            head = stream.read(512)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {reason_of(error)}") from error
    known = next((what for sign, what in _NO_TABLES.items() if head.startswith(sign)), None)
    what = known or what_it_is(head, of=("JSON", "XML"))
    if what is not None:
        raise DataError(f"{file} is {what}")


def _read_csv(file: Path) -> Table:
    text = read_text(file)
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
            doubt = "; is a quote not closed?" if spans else ""
            raise DataError(f"{file}:{line}: {len(cells)} cells, but the header has {len(header)}{doubt}")
        rows.append(Row(file, line, dict(zip(header, cells, strict=True))))
    while header and not header[-1]:
        header.pop()
    table = Table(header, rows)
    require_closed_quotes(file, text, delimiter, table)
    return table


def _csv_rows(file: Path, text: str, delimiter: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its first line; a quote that is never closed is an error with the line it is on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if line > start:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        if "end of data" in str(error):
            raise DataError(f"{file}:{line}: a quote that begins in this row is never closed") from error
        raise DataError(f"{file}:{line}: {error}; is a quote not closed, or not doubled inside of quotes?") from error


def _delimiter(text: str, usual: str) -> tuple[str, int]:
    """Return what separates the columns, and how many lines stand before the header.

    It is what the header is parted by best: first by how many columns it has that flip knows, then by how many columns.
    """
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    told = re.fullmatch(r"sep=(.)", first, re.IGNORECASE)
    if told:  # spreadsheets write and read this line
        return told[1], text[: len(text) - len(text.lstrip("\r\n"))].count("\n") + 1

    def parts(delimiter: str) -> tuple[int, int, bool]:
        try:
            names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        except csv.Error:
            names = []
        return sum(name in COLUMNS for name in names), len(names), delimiter == usual

    return max((usual, ",", ";", "\t", "|"), key=parts), 0


def _read_jsonl(file: Path) -> Table:
    rows = []
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        try:
            cells = parse_json(text)
        except ValueError as error:
            raise DataError(f"{file}:{line}: not JSON: {error}") from error
        if not isinstance(cells, dict):
            raise DataError(f"{file}:{line}: a JSON {type(cells).__name__}; each line must be an object")
        named = {nfc(name.strip().lower()): value for name, value in cells.items()}
        if len(named) < len(cells):
            require_columns_once(f"{file}:{line}", (nfc(name.strip().lower()) for name in cells))
        rows.append(Row(file, line, named))
    return Table(list(dict.fromkeys(name for row in rows for name in row.cells)), rows)


def _read_parquet(file: Path) -> Table:
    with open_parquet(file) as opened:
        schema = opened.schema_arrow
        # Other columns may be large: embeddings, or the photos themselves.
        known = [f.name for f in schema if f.name.lower() in COLUMNS and not _is_image(f.name, f.type)]
        rows = [
            Row(file, line, {name.lower(): value for name, value in cells.items()})
            for line, cells in enumerate(opened.read(columns=known).to_pylist(), 1)
        ]
    names = [f"{f.name.lower()} (bytes)" if _is_image(f.name, f.type) else f.name.lower() for f in schema]
    return Table(names, rows)


def _is_image(name: str, kind: pa.DataType) -> bool:
    """Return whether a column of a Parquet file holds photos rather than their paths."""
    import pyarrow as pa

    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return pa.types.is_struct(kind) or (is_bytes and name.lower() in ("image", "img", "bytes"))


#: The reader of each suffix.
READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
