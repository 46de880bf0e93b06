"""Near copies of photos by dHash (difference hash): scaled, mirrored, brighter, noisier or slightly cut ones match."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from flip.arrays import PixelArray
from flip.data.dataset import Photo
from flip.data.hashing import MOST_BITS, perceptual_hash
from flip.data.images import decode_photo
from flip.device import cpu_count
from flip.errors import DataError
from flip.settings import Progress


class PhotoHashes:
    """The dHashes of photos, to find near copies of them.

    Parameters
    ----------
    photos : sequence of Photo
        A photo that cannot be read matches nothing.
    size : (width, height)
        Photos are cropped to this shape first, as they are where images begin from them.
    workers : int, optional
        Threads that decode.
    progress : callable, optional
        Called with 1 for each photo.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        size: tuple[int, int],
        *,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        width = 128
        shape = (width, max(1, round(width * size[1] / size[0])))
        hashes: list[PixelArray] = []
        self._photos: list[Path] = []
        with ThreadPoolExecutor(workers or cpu_count()) as pool:
            for photo, found in zip(photos, pool.map(lambda photo: _hash_photo(photo, shape), photos), strict=True):
                if found is not None:
                    hashes.append(found)
                    self._photos.append(photo.file)
                if progress:
                    progress(1)
        self._hashes = np.stack(hashes) if hashes else np.zeros((0, 18), np.uint8)

    def near(self, image: Image.Image) -> Path | None:
        """Return the photo that an image, or its mirror image, is a near copy of, or None."""
        if not self._photos:
            return None
        views = np.stack([perceptual_hash(image), perceptual_hash(ImageOps.mirror(image))])  # (2, 18)
        differing = np.bitwise_count(self._hashes[:, None] ^ views[None])  # (n, 2, 18)
        bits = differing.sum(axis=2).min(axis=1)  # (n,)
        nearest = int(bits.argmin())
        return self._photos[nearest] if bits[nearest] <= MOST_BITS else None


def _hash_photo(photo: Photo, shape: tuple[int, int]) -> PixelArray | None:
    try:
        return perceptual_hash(ImageOps.fit(decode_photo(photo), shape))
    except DataError:
        return None
