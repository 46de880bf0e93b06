"""Limits of decoding one photo: memory, passes over its pixels, and CPU seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from flip.errors import DataError

#: More pixels than this are refused before any is decoded: the level at which Pillow itself speaks of a bomb.
MAX_PIXELS = 178_956_970

#: Bytes that one photo, and all that are decoded at the same time together, may take.
MOST_BYTES, MOST_BYTES_AT_ONCE = 1536 << 20, 2048 << 20

#: A progressive JPEG goes over its pixels once per scan, and an empty scan has 20 bytes.
MOST_SCANNED_PIXELS = 5_000_000_000

#: Seconds of CPU for one photo. The largest that is allowed takes two.
MOST_SECONDS = 10.0

#: Pixels of formats whose decoders take seconds for less than ``MAX_PIXELS`` and cannot be interrupted.
_SLOW = {"JPEG2000": 60_000_000, "AVIF": 100_000_000, "HEIF": 100_000_000, "JXL": 100_000_000}

_COMPRESSION, _STRIPS, _TILES, _JPEG = 259, 273, 324, 7
_BLOCK = 1 << 20


class Timed:
    """A file that can be read for some seconds of this thread's CPU time, and is an error then."""

    def __init__(self, file: BinaryIO, seconds: float = MOST_SECONDS) -> None:
        self._file = file
        self._end = time.thread_time() + seconds
        self._seconds = seconds

    def read(self, n: int = -1) -> bytes:
        """Read, as long as there is time."""
        if time.thread_time() > self._end:
            raise DataError(f"image too slow: decoding it takes more than {self._seconds:g} s")
        return self._file.read(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def require_bounded(image: Image.Image, file: BinaryIO) -> None:
    """Refuse a photo, of which only the header was read, that would take too much memory or time.

    Raises
    ------
    DataError
        The message says what it declares.
    """
    pixels, kind = image.width * image.height, image.format or ""
    most = min(MAX_PIXELS, _SLOW.get(kind, MAX_PIXELS), MOST_BYTES // bytes_per_pixel(image))
    if pixels > most:
        kinds = "" if most == MAX_PIXELS else f", the most of {kind} {image.mode}"
        raise DataError(f"image too large: it declares more than {most:,} pixels{kinds}")
    scans = _count_scans(image, file) if kind in ("JPEG", "MPO", "TIFF") else 1
    if scans * pixels > MOST_SCANNED_PIXELS:
        raise DataError(f"image too slow: it goes over its {pixels:,} pixels {scans:,} times")


def bytes_per_pixel(image: Image.Image) -> int:
    """Return an upper bound of the memory for a pixel, from the file to RGB."""
    if image.format == "WEBP":  # its decoder keeps two canvases, and Pillow copies the pixels twice
        return 20
    plain = image.mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr") and ";16" not in str(getattr(image, "tile", ""))
    return 8 if plain else 16


def _count_scans(image: Image.Image, file: BinaryIO) -> int:
    """Return the number of scans of a JPEG; the mean over strips for a TIFF of JPEG strips."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and tags.get(_COMPRESSION) != _JPEG:
        return 1
    place, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(_BLOCK):
        # In what is compressed 0xFF is followed by 0; a thumbnail's scans count as well.
        count += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(place)
    strips = tags.get(_STRIPS) or tags.get(_TILES) or (0,)
    return -(-count // len(strips)) if isinstance(strips, tuple) else count


class _Memory:
    """Memory that several threads share."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, n: int) -> Iterator[None]:
        """Wait until there are n bytes, or nobody else has any, and have them inside of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + n <= self._most)
            self._taken += n
        try:
            yield
        finally:
            with self._changed:
                self._taken -= n
                self._changed.notify_all()


_MEMORY = _Memory(MOST_BYTES_AT_ONCE)


@contextmanager
def decoding(image: Image.Image) -> Iterator[None]:
    """Wait until the photos that other threads are decoding leave memory for this one."""
    with _MEMORY.taking(image.width * image.height * bytes_per_pixel(image)):
        yield
