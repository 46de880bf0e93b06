"""Reading one photo: its bytes are read once, for the hash of its content and for its pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from flip.arrays import Array
from flip.clip.encoder import Encoder
from flip.embed.decoding import Prepares, read_pixels
from flip.embed.keys import EXACT, FileKey, Source
from flip.errors import FlipError
from flip.reading import open_plain, state_of

#: A file of more bytes is not held in memory: it is read once for the hash and again for the pixels.
_MOST_IN_MEMORY = 256 << 20


class PhotoRead(NamedTuple):
    """Result of reading a photo.

    Attributes
    ----------
    content : str or None
        Hash of the file's bytes, with the box that is cut out behind it; None where they cannot be read.
    pixels : array or None
        As the encoder's ``prepare`` returns them.
    error : str or None
    is_known : bool
        An embedding of the same content is in the cache, and the photo was not decoded.
    is_lasting : bool
        The same file gives the same again: an error is in what it holds, and not in the state of the system.
    decoding : str
        How it was decoded.
    """

    content: str | None = None
    pixels: Array | None = None
    error: str | None = None
    is_known: bool = False
    is_lasting: bool = True
    decoding: str = EXACT


def read_photo(
    source: Source,
    key: FileKey,
    knows_content: Callable[[FileKey, str], bool],
    encoder: Callable[[], Encoder],
    *,
    fast: bool = False,
) -> PhotoRead:
    """Read, hash, and unless its content is known also decode a photo; called in many threads at once.

    ``fast`` is as in :func:`~flip.embed.decoding.read_pixels`.
    """
    try:
        with open_plain(source.file) as file:
            held, digest = _hashed(file, source.file, key.size)
            now = state_of(source.file)
            content = digest + source.view
            if knows_content(key, content):
                return PhotoRead(content, is_known=True)
            # Errors of the encoder are not the photo's: they end the run.
            made = encoder()
            _ = made.prepare
            read = _decoded(held, source, made, fast)
            # A file that is just being written is embedded as it is, and looked at again by the next run.
            is_whole = (now.size, now.mtime_ns) == (key.size, key.mtime_ns)
            return read._replace(content=content, is_lasting=read.is_lasting and is_whole)
    except OSError as e:
        return PhotoRead(error=f"cannot be read: {e.strerror or e}", is_lasting=False)
    except MemoryError:
        return PhotoRead(error="image too large: out of memory", is_lasting=False)


def read_bytes(data: bytes, source: Source, encoder: Prepares, *, fast: bool) -> PhotoRead:
    """Hash and decode a photo whose bytes are here already."""
    held = _named(data, source.file)
    read = _decoded(held, source, encoder, fast)
    return read._replace(content=hashlib.sha256(data).hexdigest() + source.view)


def _decoded(held: BinaryIO, source: Source, encoder: Prepares, fast: bool) -> PhotoRead:
    try:
        pixels = read_pixels(held, source.box, encoder, fast=fast)
        return PhotoRead(pixels=pixels.prepared, decoding=pixels.decoding)
    except FlipError as e:
        return PhotoRead(error=str(e), is_lasting=not _passes(e.__cause__, str(e)))


class _NamedBytes(io.BytesIO):
    """Bytes of a file with its name, which tells a camera's raw file from the TIFF that it claims to be."""

    name = ""


def _hashed(file: io.BufferedReader, name: str, size: int) -> tuple[BinaryIO, str]:
    """Return a stream to decode a photo from, and the sha256 of its bytes."""
    if size > _MOST_IN_MEMORY:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return file, digest
    data = file.read()
    return _named(data, name), hashlib.sha256(data).hexdigest()


def _named(data: bytes, name: str) -> BinaryIO:
    held = _NamedBytes(data)
    held.name = name
    return held


def _passes(cause: BaseException | None, message: str) -> bool:
    """Return whether an error may be gone tomorrow: what the system refuses today, or lacks memory or time for."""
    if isinstance(cause, OSError) and cause.errno is not None:
        return True
    return isinstance(cause, (MemoryError, TimeoutError)) or "memory" in message or "can't start new thread" in message
