"""Cache keys of photos and texts: 64-bit hashes."""

from __future__ import annotations

import errno
import hashlib
from typing import NamedTuple

from flip.data.dataset import Box
from flip.data.text import column_text
from flip.errors import reason_of
from flip.reading import state_of

#: Decodings of a photo, cached separately: at full size, or a JPEG at reduced scale.
EXACT, FAST = "exact", "fast"


class Source(NamedTuple):
    """One photo to embed; ``box`` is what is cut out of it, or None for the whole photo."""

    file: str
    box: Box | None = None

    @property
    def view(self) -> str:
        """Suffix of path and content keys for a photo cut to its box; "" for the whole photo."""
        return "" if self.box is None else "#xywh=" + ",".join(f"{v:g}" for v in self.box)


class FileKey(NamedTuple):
    """The key of a cached row.

    Attributes
    ----------
    path : str
        Absolute, or a URL, and ends in ``#xywh=…`` where a box was cut out.
    size, mtime_ns : int
    ctime_ns : int or None
        Time of the last change of content or name, which no program can set: it tells a file that was replaced by
        another of the same size and time of change. None settles for less.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int | None = None


class NoPhoto(NamedTuple):
    """Why there is no file to read."""

    error: str


def file_key(source: Source) -> FileKey | NoPhoto:
    """Return the key of a photo's cached row, or why there is none."""
    try:
        found = state_of(source.file)
    except OSError as error:
        known = {errno.EINVAL: "not a plain file", errno.EIO: f"cannot be read: {reason_of(error)}"}
        return NoPhoto(known.get(error.errno or 0, "no such file"))
    return FileKey(found.name + source.view, found.size, found.mtime_ns, found.ctime_ns)


def number(text: str, decoding: str = EXACT) -> int:
    """Return 64 bits of a hash of a text, or of a path as a column holds it, signed as SQLite holds them."""
    if decoding != EXACT:
        text += f"#{decoding}"
    try:
        held = text.encode()
    except UnicodeEncodeError:
        held = column_text(text).encode()
    return int.from_bytes(hashlib.blake2b(held, digest_size=8).digest(), "little", signed=True)


def text_hash(text: str) -> str:
    """Return the cache key of a text, 32 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
