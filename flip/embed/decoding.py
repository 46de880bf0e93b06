"""From a photo file to the pixels that an encoder takes, exactly or quickly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import numpy as np

from flip.arrays import Array
from flip.clip.geometry import Geometry
from flip.data.dataset import Box
from flip.data.images import decode_image
from flip.data.scaled import decode_scaled
from flip.embed.keys import EXACT, FAST

if TYPE_CHECKING:
    from PIL.Image import Image


class Pixels(NamedTuple):
    """A photo as an encoder takes it, and how it was decoded: ``EXACT`` or ``FAST``."""

    prepared: Array
    decoding: str


class Prepares(Protocol):
    """Anything that makes photos ready for a network: an encoder, or the first half of one."""

    def prepare(self, image: Image) -> Array:
        """Return an RGB image as the network takes it."""


def read_pixels(source: Path | bytes | BinaryIO, box: Box | None, encoder: Prepares, *, fast: bool) -> Pixels:
    """Decode a photo for an encoder.

    With ``fast`` a JPEG is decoded at a smaller scale where at least twice as many pixels are left along each side as
    the encoder sees; the result is the same as without where that is nowhere so, and for encoders that do not say how
    they resize.

    Raises
    ------
    DataError
        As :func:`~flip.data.images.decode_image` does.
    """
    geometry = getattr(encoder, "geometry", None) if fast else None
    if not isinstance(geometry, Geometry):
        return Pixels(encoder.prepare(decode_image(source, box)), EXACT)
    photo = decode_scaled(source, box, geometry.least)
    if photo.scale > 1:
        return Pixels(np.asarray(geometry.view(photo)), FAST)
    # At full scale the region is of whole pixels.
    image = photo.image if box is None else photo.image.crop(photo.region)
    return Pixels(encoder.prepare(image), EXACT)
