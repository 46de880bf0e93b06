"""The columns of cached photos and texts, and what the index holds of each row."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from flip.arrays import Array
from flip.data.text import column_text
from flip.embed.index import IndexRow
from flip.embed.keys import EXACT, FileKey, number
from flip.embed.kinds import Kind
from flip.embed.vectors import as_kept, embedding_column

if TYPE_CHECKING:
    import pyarrow as pa


class NewRow(NamedTuple):
    """A photo that was embedded, or that could not be.

    Attributes
    ----------
    key : FileKey
    embedding : float array of shape (d,) or None
        Of unit length.
    error : str or None
        What kept the photo from being read.
    content : str or None
        Hash of the file's bytes, with the box that was cut out behind it.
    decoding : str
        How the photo was decoded.
    """

    key: FileKey
    embedding: Array | None
    error: str | None = None
    content: str | None = None
    decoding: str = EXACT


def photo_table(rows: Sequence[NewRow], dim: int) -> pa.Table:
    """Return rows as a part holds them, but for the check sums."""
    import pyarrow as pa

    halves = [None if row.embedding is None else as_kept(row.embedding) for row in rows]
    return pa.table(
        {
            "path": pa.array([column_text(row.key.path) for row in rows], pa.string()),
            "size": pa.array([row.key.size for row in rows], pa.int64()),
            "mtime_ns": pa.array([row.key.mtime_ns for row in rows], pa.int64()),
            "ctime_ns": pa.array([row.key.ctime_ns for row in rows], pa.int64()),
            "content": pa.array([row.content for row in rows], pa.string()),
            "decoding": pa.array([row.decoding for row in rows], pa.string()),
            "embedding": embedding_column(halves, dim),
            "error": pa.array([row.error for row in rows], pa.string()),
            "made_by": pa.array([maker() if row.error is not None else None for row in rows], pa.string()),
        }
    )


def key_number(key: FileKey, decoding: str) -> int:
    """Return the index key of a file and a decoding."""
    return number(key.path, decoding)


def index_row(key: FileKey, content: str, decoding: str, made_by: int) -> IndexRow:
    """Return the index entry of a file with a known content hash."""
    ours = key_number(key, decoding), key.size, key.mtime_ns
    return IndexRow(*ours, key.ctime_ns, number(content, decoding), made_by)


@cache
def maker() -> str:
    """Return the versions of what decides whether a photo can be read."""
    found = []
    for package in ("flip-clip", "pillow", "pillow-heif"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def _photo_rows(table: pa.Table) -> list[IndexRow]:
    n = len(table)

    def column(name: str) -> list[object]:
        return table[name].to_pylist() if name in table.column_names else [None] * n

    ctimes, contents, decodings = column("ctime_ns"), column("content"), column("decoding")
    return [
        IndexRow(
            number(path, decoding or EXACT),
            size,
            mtime_ns,
            ctime_ns,
            None if content is None else number(content, decoding or EXACT),
            0 if error is None else number(made_by or ""),
        )
        for path, size, mtime_ns, ctime_ns, content, decoding, error, made_by in zip(
            column("path"),
            column("size"),
            column("mtime_ns"),
            ctimes,
            contents,
            decodings,
            column("error"),
            column("made_by"),
            strict=True,
        )
    ]


def _text_rows(table: pa.Table) -> list[IndexRow]:
    return [IndexRow(number(text)) for text in table["hash"].to_pylist()]


PHOTOS = Kind(("path", "size", "mtime_ns", "ctime_ns", "content", "decoding", "error", "made_by"), _photo_rows)
TEXTS = Kind(("hash",), _text_rows)
