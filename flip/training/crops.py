"""Random crops of photos. Each is decided by the random numbers it is given, so a resumed run sees the same.

All three cut a box of a random share of the photo and mirror it at random. They differ in what is fixed: CLIP's crop
has a random shape and is stretched to the tower's input (:func:`random_crop`); a diffusion model's is a square of the
resized photo, never stretched (:func:`random_square`); a control's view stays near the photo's shape and at its own
resolution (:func:`random_view`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from flip.arrays import PixelArray

#: :func:`random_crop`: random numbers per crop, smallest share of the photo's area, and shapes (width by height).
CROP_NUMBERS = 5
CROP_AREA = 0.5
CROP_SHAPES = (3 / 4, 4 / 3)

#: :func:`random_square`: least and most enlargement of a photo before a square is cut from it.
SQUARE_ZOOM = (1.0, 1.15)

#: :func:`random_view`: share of the photo's area, and by how much the shape may differ from the photo's.
VIEW_AREA = (0.5, 1.0)
VIEW_STRETCH = 4 / 3


def random_crop(
    image: Image.Image, size: tuple[int, int], numbers: Sequence[float], resample: Image.Resampling
) -> PixelArray:
    """Return a part of a photo, resized and perhaps mirrored, uint8 (height, width, 3).

    Parameters
    ----------
    image : PIL image
    size : (width, height)
        Pixels of the result.
    numbers : 5 floats in [0, 1)
        Area from ``CROP_AREA`` to 1, shape (log-uniform in ``CROP_SHAPES``), left, top, mirrored or not.
    resample : PIL resampling filter
    """
    area, shape, left, top, mirror = numbers
    low, high = (math.log(bound) for bound in CROP_SHAPES)
    ratio = math.exp(low + shape * (high - low))
    target = (CROP_AREA + area * (1 - CROP_AREA)) * image.width * image.height
    width = min(image.width, max(1, round(math.sqrt(target * ratio))))
    height = min(image.height, max(1, round(math.sqrt(target / ratio))))
    x, y = left * (image.width - width), top * (image.height - height)
    crop = image.resize(size, resample, box=(x, y, x + width, y + height), reducing_gap=None)
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else crop)


def random_square(image: Image.Image, size: int, generator: np.random.Generator | None, *, mirror: bool) -> Image.Image:
    """Return a square of a photo.

    Parameters
    ----------
    image : PIL image
    size : int
        Pixels per side.
    generator : numpy.random.Generator or None
        Decides zoom, place and mirroring; None cuts the middle.
    mirror : bool
        Mirror half of the squares.
    """
    zoom, x, y, turned = (1.0, 0.5, 0.5, 1.0) if generator is None else generator.random(4)
    enlarged = 1.0 if generator is None else SQUARE_ZOOM[0] + (SQUARE_ZOOM[1] - SQUARE_ZOOM[0]) * zoom
    scale = size * enlarged / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = round((width - size) * x), round((height - size) * y)
    square = image.resize((width, height), Image.Resampling.LANCZOS).crop((left, top, left + size, top + size))
    return ImageOps.mirror(square) if mirror and turned < 0.5 else square


def random_view(photo: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a random cut of a photo at its own resolution, mirrored half the time.

    Parameters
    ----------
    photo : PIL image
    generator : numpy.random.Generator
        The same state gives the same view.
    """
    share = generator.uniform(*VIEW_AREA)
    stretch = VIEW_STRETCH ** generator.uniform(-0.5, 0.5)
    width = min(photo.width, max(1, round(photo.width * (share**0.5) * stretch)))
    height = min(photo.height, max(1, round(photo.height * (share**0.5) / stretch)))
    left = int(generator.integers(photo.width - width + 1))
    top = int(generator.integers(photo.height - height + 1))
    view = photo.crop((left, top, left + width, top + height))
    return ImageOps.mirror(view) if generator.random() < 0.5 else view
