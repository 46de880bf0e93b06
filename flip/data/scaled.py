"""JPEG files decoded at a half, a quarter or an eighth of their size, where that leaves enough for what is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageFile

from flip.data.dataset import Box
from flip.data.images import box_pixels, read_image

#: JPEG's decoder leaves out the finest waves of its blocks of 8 × 8 pixels: that costs a fraction of the time.
SCALES = (8, 4, 2)

#: The files that have such a decoder; phones write photos as the first of several images.
_FORMATS = ("JPEG", "MPO")

# A scaled photo is rounded up to whole pixels at its right and lower edge; turned upright, that edge may come first.
_SIDEWAYS, _FILLED_LEFT, _FILLED_TOP = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


class ScaledPhoto(NamedTuple):
    """A photo, and the region of it that is seen.

    Attributes
    ----------
    image : Image
        RGB, upright.
    region : (left, upper, right, lower)
        In pixels of the image; not rounded where it is scaled.
    size : (width, height)
        Of the region in pixels of the photo as it is stored.
    scale : int
        1, 2, 4 or 8 pixels of the photo to one of the image.
    """

    image: Image.Image
    region: tuple[float, float, float, float]
    size: tuple[int, int]
    scale: int


def decode_scaled(
    source: Path | bytes | BinaryIO, box: Box | None, least: Callable[[int, int], tuple[int, int]]
) -> ScaledPhoto:
    """Return a photo, decoded as small as still leaves ``least`` pixels of the region that is seen.

    Every file is read, and refused, as by :func:`~flip.data.images.decode_image`; one that is no JPEG, or too small
    for any of ``SCALES``, is decoded as it is.

    Parameters
    ----------
    source : Path, bytes or binary file
    box : (left, top, width, height), optional
        The region, in pixels of the upright photo; all of it without one.
    least : callable
        Width and height of the region in the photo → the least width and height that it shall have in the image.

    Raises
    ------
    DataError
        As ``decode_image`` does.
    """
    scale, orientation, whole = 1, 1, (0, 0)

    def shrink(file: ImageFile.ImageFile) -> None:
        nonlocal scale, orientation, whole
        if file.format not in _FORMATS:
            return
        orientation = _orientation(file)
        whole = (file.height, file.width) if orientation in _SIDEWAYS else file.size
        x0, y0, x1, y1 = (0, 0, *whole) if box is None else box_pixels(box, *whole)
        wanted = least(x1 - x0, y1 - y0)
        for factor in SCALES:
            if x1 - x0 >= factor * wanted[0] and y1 - y0 >= factor * wanted[1]:
                before = file.size
                file.draft(None, (max(1, before[0] // factor), max(1, before[1] // factor)))
                scale = factor if file.size != before else 1
                return

    image = read_image(source, shrink)
    if scale == 1:
        whole = image.size
    pixels = (0, 0, *whole) if box is None else box_pixels(box, *whole)
    left = image.width - whole[0] / scale if orientation in _FILLED_LEFT else 0.0
    top = image.height - whole[1] / scale if orientation in _FILLED_TOP else 0.0
    x0, x1 = (min(left + x / scale, image.width) for x in pixels[::2])
    y0, y1 = (min(top + y / scale, image.height) for y in pixels[1::2])
    return ScaledPhoto(image, (x0, y0, x1, y1), (pixels[2] - pixels[0], pixels[3] - pixels[1]), scale)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where the block is broken: such a photo is not turned."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        return 1
