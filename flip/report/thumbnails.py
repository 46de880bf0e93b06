"""Small pictures of photos, for pages that carry them along."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from flip.data.dataset import Photo
from flip.errors import DataError
from flip.reading import is_file
from flip.settings import Progress

#: Longest side of a thumbnail, in pixels.
SIDE = 144
QUALITY = 60


def thumbnails(photos: Mapping[int, Photo], progress: Progress | None = None) -> dict[int, str]:
    """Return the thumbnails (base64) of these photos by number; photos that cannot be read are left out."""

    def make(item: tuple[int, Photo]) -> tuple[int, str | None]:
        made = thumbnail(item[1])
        if progress:
            progress(1)
        return item[0], None if made is None else base64.b64encode(made).decode("ascii")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return {number: made for number, made in pool.map(make, photos.items()) if made is not None}


def thumbnail(photo: Photo, side: int = SIDE) -> bytes | None:
    """Return a small WebP (or JPEG, where Pillow has no WebP) of a photo; None if it cannot be read."""
    from flip.data.images import decode_photo

    try:
        # A FIFO or a device would be waited for.
        if not is_file(photo.file):
            return None
        image = decode_photo(photo)
    except (DataError, OSError, ValueError):
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, image_format().upper(), quality=QUALITY)
    return buffer.getvalue()


def image_format() -> str:
    """Return the format that thumbnails have here."""
    from PIL import features

    return "webp" if features.check("webp") else "jpeg"
