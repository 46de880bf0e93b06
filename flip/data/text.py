"""Text as people's programs write it: UTF-8 with or without a byte order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from unicodedata import normalize
from urllib.parse import quote_from_bytes, unquote_to_bytes

from flip.errors import DataError, reason_of
from flip.reading import read_bytes

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def nfc(text: str) -> str:
    """Return a text with composed accents, so that one name is one string wherever it was written."""
    return normalize("NFC", text)


def utf8(text: str) -> str:
    """Return a text as tokenizers take it: with a question mark for what cannot be UTF-8, as bytes of a file's name."""
    return text.encode("utf-8", "replace").decode()


def column_text(path: str) -> str:
    """Return a name as a column of text can hold it: one that is not UTF-8 as a ``file:`` address."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def path_of_column(text: str) -> str:
    """Inverse of :func:`column_text`."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix("file://"))) if text.startswith("file://") else text


def decode_text(data: bytes, name: str | Path) -> str:
    """Return bytes as text; line ends become ``\\n``.

    Parameters
    ----------
    data : bytes
    name : str or Path
        The file, for the message.

    Raises
    ------
    DataError
        If the bytes are neither UTF-8 nor UTF-16 with a byte order mark.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{name} is not UTF-8 (byte {text.index(chr(0))} is zero); save it as UTF-8")
    return re.sub("\r\n?", "\n", text)


def path_lines(stream: BinaryIO, *, null: bool = False) -> Iterator[str]:
    """Yield the paths of a list as they come, without their line ends; empty lines are passed over.

    A byte order mark is taken off and UTF-16 with one is read; names that are not UTF-8 come as the system has them
    (``os.fsdecode``), so that they can be opened.

    Parameters
    ----------
    stream : binary file
    null : bool
        Paths end in NUL rather than at the line's end, as ``find -print0`` writes them.
    """
    end = b"\0" if null else b"\n"
    rest, first = b"", True
    while True:
        # A pipe gives what is there, so that a path is answered before the next one is written.
        chunk = stream.read1(1 << 16) if hasattr(stream, "read1") else stream.read(1 << 16)
        if first and chunk:
            if not null and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                text = decode_text(chunk + stream.read(), "the list of paths")
                yield from (line for line in text.split("\n") if line)
                return
            if not null and b"\0" in chunk:
                raise DataError(
                    "the list of paths holds zero bytes; pass -0 for paths that end in NUL, or write it as UTF-8"
                )
            chunk, first = chunk.removeprefix(codecs.BOM_UTF8), False
        *lines, rest = (rest + chunk).split(end)
        if not chunk:
            lines, rest = [*lines, rest], b""
        yield from (os.fsdecode(name) for line in lines if (name := line if null else line.removesuffix(b"\r")))
        if not chunk:
            return


def read_text(file: Path) -> str:
    """Return a file's text; see :func:`decode_text` and :func:`flip.reading.read_bytes`.

    Raises
    ------
    DataError
        If it cannot be read or is no text.
    """
    try:
        return decode_text(read_bytes(file), file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {reason_of(error)}") from error
