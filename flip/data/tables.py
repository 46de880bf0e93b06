"""Rows of tables, and the columns that say something of a photo."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flip.data.captions import parse_captions
from flip.data.dataset import Box
from flip.data.splits import SPLIT_WORDS, read_splits
from flip.errors import DataError
from flip.files import JsonObject

#: The columns of captions, of which the first that has a value is read.
CAPTIONS = ("captions", "caption", "text")
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
COLUMNS = frozenset({"bbox", "frame", "source", *CAPTIONS, *_BOX}.union(*ALIASES.values()))

#: Bytes as Python writes them. Nothing else is evaluated, which could be nested without an end.
_BYTES = re.compile(r"""b'(?:[^'\\\n]|\\.)*'|b"(?:[^"\\\n]|\\.)*\"""", re.DOTALL)


#: A list as Python or JSON writes it.
_LIST = re.compile(r"\[.*\]", re.DOTALL)

#: Spellings of a missing value.
_MISSING = frozenset({"nan", "NaN", "NAN", "<NA>", ""})

#: Columns that say a split in a way that is not read.
_OTHER_SPLITS = ("is_train", "is_training", "is_training_img", "is_test", "fold", "partition", "train")


#: Tables in which a text cannot run on into the next row.
_WRITTEN_OUT = (".json", ".jsonl", ".ndjson", ".parquet")


class Row(NamedTuple):
    """One row: ``line`` counts from 1 (the first of a CSV row that has several; of a Parquet file, the row)."""

    file: Path
    line: int
    cells: JsonObject

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
            # As names of files are: bytes that are not UTF-8 stay apart, and can be written as they were.
            value = value.decode("utf-8", errors="surrogateescape")
        # pandas turns whole numbers into floats as soon as one cell of the column is empty.
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
        return text if value is not None and text else None

    def one_line(self, column: str) -> str | None:
        """Return a cell as text; of a table with separators it is one line.

        Raises
        ------
        DataError
            If it has several there, as when a quote is not closed.
        """
        text = self.text(column)
        if text is not None and "\n" in text and self.file.suffix.lower() not in _WRITTEN_OUT:
            begin = text.partition("\n")[0][:40]
            advice = "close its quote, or write it in one line"
            raise DataError(f"{self.where}: the {column} that begins with {begin!r} has several lines; {advice}")
        return text

    def label(self, column: str | None) -> str | None:
        """Return the class, None where the table has no such column, or the cell is empty or NaN.

        Raises
        ------
        DataError
            If it is a list of several, or anything else than a text or a number.
        """
        value = self.cells.get(column or "")
        text = self.one_line(column) if column else None
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, int)):
            text = str(value[0]).strip()
        elif isinstance(value, (list, dict)) or (text is not None and _LIST.fullmatch(text)):
            raise DataError(f"{self.where}: the {column} is {text!r}; write one class in each row, as plain text")
        return None if text in _MISSING else text

    def captions(self) -> tuple[str, ...]:
        """Return the captions in the first of the columns ``captions``, ``caption`` and ``text`` that has a value."""
        value = next((self.cells[name] for name in CAPTIONS if self.cells.get(name) is not None), None)
        try:
            return parse_captions(value)
        except ValueError as error:
            raise DataError(f"{self.where}: caption {error}") from error

    def box(self) -> Box | None:
        """Return the box of the columns ``x``, ``y``, ``w``, ``h``, or of ``bbox``, in pixels; None where empty."""
        return self._box("bbox", _BOX)

    def frame(self) -> Box | None:
        """Return the part of the file that is the photo, of the column ``frame``; None where empty."""
        return self._box("frame", ())

    def _box(self, column: str, columns: tuple[str, ...]) -> Box | None:
        value = self.cells.get(column)
        if value is None and not any(name in self.cells for name in columns):
            return None
        if isinstance(value, str):
            value = value.strip().strip("[]()").replace(",", " ").split()
        numbers = [self.text(name) for name in columns] if value is None else _items(value)
        if not any(number is not None for number in numbers):
            return None
        try:
            x, y, w, h = (float(number) for number in numbers if number is not None)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{self.where}: box {str(numbers)[:80]} is not four numbers (x, y, w, h)") from None
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
        if self.column("split") is None:
            other = next((name for name in _OTHER_SPLITS if name in self.columns), None)
            if other is not None:
                told.append(
                    f"the column {other!r} is there and is not read; a column 'split' with train and test decides"
                )
        return told


def _items(value: object) -> list[Any]:
    """Return the items of a list, or the value itself as the only one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _evaluated(text: str) -> bytes | str:
    """Return the bytes that Python wrote as text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, bytes) else text
