"""Text as people's programs write it: UTF-8 with or without a byte order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from unicodedata import normalize

from flip.errors import DataError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def nfc(text: str) -> str:
    """Return a text with composed accents, so that one name is one string wherever it was written."""
    return normalize("NFC", text)


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


def read_text(file: Path) -> str:
    """Return a file's text; see :func:`decode_text`."""
    return decode_text(file.read_bytes(), file)
