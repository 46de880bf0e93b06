"""Measurements of a photo's pixels, from one reduced decoding: size, brightness, sharpness, hash and a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from flip.arrays import Array, IntArray, PixelArray
from flip.data.dataset import Photo
from flip.data.formats import FORMATS
from flip.data.hashing import perceptual_hash
from flip.data.images import decode_photo
from flip.data.limits import require_bounded
from flip.device import cpu_count
from flip.errors import DataError
from flip.reading import open_plain
from flip.settings import Progress

#: Longest side, in pixels, at which a photo is measured; JPEGs are decoded at the scale next above it.
SIDE = 512
#: Longest side of the thumbnail that near copies are compared by.
THUMBNAIL = 64

#: A grey level counts as present from this share of the pixels on.
_PRESENT = 1e-4


class Look(NamedTuple):
    """One photo, measured; of one that cannot be read only ``error`` is set.

    Attributes
    ----------
    error : str or None
    format : str
        Pillow's name of the format that the content has.
    width, height : int
        In pixels, as the file has them.
    bright, mean, spread : float
        99th percentile of the grey level, its mean, and the distance of its 0.1th and 99.9th percentile; 0 to 1.
    levels : int
        Grey levels, of 256, that are there.
    neighbours : float
        Correlation of pixels with their right neighbours; near 0 for noise.
    detail : float
        99.9th percentile of the absolute Laplacian, in grey levels of 255.
    sharpness : float
        99th percentile of the absolute Laplacian over that of the gradient: small where every edge is soft.
    hash, mirrored_hash : uint8 arrays of shape (18,)
        dHash of the photo and of its mirror image.
    thumbnail : uint8 array of shape (h, w)
        Grey; the longer side is ``THUMBNAIL``.
    """

    error: str | None = None
    format: str = ""
    width: int = 0
    height: int = 0
    bright: float = math.nan
    mean: float = math.nan
    spread: float = math.nan
    levels: int = 0
    neighbours: float = math.nan
    detail: float = math.nan
    sharpness: float = math.nan
    hash: PixelArray = np.zeros(18, np.uint8)
    mirrored_hash: PixelArray = np.zeros(18, np.uint8)
    thumbnail: PixelArray = np.zeros((0, 0), np.uint8)


def look_at(photos: Sequence[Photo], *, workers: int | None = None, progress: Progress | None = None) -> list[Look]:
    """Return the measurements of n photos, each decoded once, several at a time."""
    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        return list(_counted(pool.map(look, photos), progress))


def _counted(looks: Iterator[Look], progress: Progress | None) -> Iterator[Look]:
    for found in looks:
        if progress:
            progress(1)
        yield found


def look(photo: Photo) -> Look:
    """Return the measurements of one photo."""
    try:
        image, kind, (width, height) = _open_grey(photo)
    except DataError as error:
        return Look(str(error))
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(image).astype(np.int16)  # (h, w)
    small = _fit(image, THUMBNAIL)
    return Look(
        None,
        kind,
        width,
        height,
        *_tones(grey),
        *_edges(grey),
        perceptual_hash(image),
        perceptual_hash(ImageOps.mirror(image)),
        np.asarray(small),
    )


def _open_grey(photo: Photo) -> tuple[Image.Image, str, tuple[int, int]]:
    """Return a photo in grey and upright, its format, and its size in the file.

    A JPEG is decoded at the smallest scale that suffices, which is several times as fast for a camera's photos. What is
    anything else, or fails, goes through the decoder that the network's photos go through.
    """
    kind, size = "", (0, 0)
    try:
        with open_plain(photo.file) as stream:
            opened = Image.open(stream, formats=FORMATS)
            kind, size = opened.format or "", opened.size
            plain = photo.region is None and kind in ("JPEG", "MPO") and opened.mode in ("RGB", "L")
            if plain:
                require_bounded(opened, stream)
                opened.draft("L", (SIDE, SIDE))
                opened.load()
                return ImageOps.exif_transpose(opened).convert("L"), kind, size
    except Exception:
        # The decoder below says what is wrong.
        pass
    image = decode_photo(photo).convert("L")
    return image, kind, size if all(size) else image.size


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _tones(grey: Array) -> tuple[float, float, float, int, float]:
    """Return ``bright``, ``mean``, ``spread``, ``levels`` and ``neighbours`` of :class:`Look`."""
    counts = np.bincount(grey.ravel(), minlength=256)
    low, bright, high = (_percentile(counts, share) for share in (0.001, 0.99, 0.999))
    mean = float(counts @ np.arange(256)) / grey.size
    levels = int((counts > _PRESENT * grey.size).sum())
    return bright / 255, mean / 255, (high - low) / 255, levels, _neighbours(grey)


def _neighbours(grey: Array) -> float:
    pixels = grey[:, :-1].astype(np.float32), grey[:, 1:].astype(np.float32)
    left, right = (part - part.mean() for part in pixels)
    scale = float(np.sqrt((left * left).sum() * (right * right).sum()))
    return float((left * right).sum()) / scale if scale else 1.0


def _edges(grey: Array) -> tuple[float, float]:
    """Return ``detail`` and ``sharpness`` of :class:`Look`."""
    if min(grey.shape) < 3:
        return 0.0, 1.0
    middle = grey[1:-1, 1:-1]
    laplacian = np.abs(4 * middle - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])
    gradient = np.abs(grey[1:-1, 2:] - middle) + np.abs(grey[2:, 1:-1] - middle)
    curves, slopes = (np.bincount(part.ravel()) for part in (laplacian, gradient))
    return float(_percentile(curves, 0.999)), _percentile(curves, 0.99) / max(_percentile(slopes, 0.99), 1)


def _percentile(counts: IntArray, share: float) -> int:
    """Return the value below or at which a share of the counted values lies."""
    cumulated = np.cumsum(counts)
    return int(np.searchsorted(cumulated, share * cumulated[-1]))
