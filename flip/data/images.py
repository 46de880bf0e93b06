"""The one safe decoding function, and what counts as a photo in a folder."""

from __future__ import annotations

import io
import math
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from flip.data.dataset import Box
from flip.errors import DataError

#: More pixels than this are refused before any is decoded: the level at which Pillow itself speaks of a bomb.
MAX_PIXELS = 178_956_970

# EPS starts Ghostscript. IPTC opens what it contains with every format, so it is a way to EPS. WMF is a drawing, which
# only Windows can paint. MPEG is recognised by Pillow, but its pixels cannot be read.
_REFUSED = frozenset({"EPS", "IPTC", "WMF", "MPEG"})
_USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_SIGNS_OF_TRUNCATION = ("truncated", "broken data stream", "not enough image data")

# Formats phones write that Pillow cannot decode: listed as photos all the same, so that each gets a row with its error.
_UNREADABLE_PHOTOS = frozenset({".heic", ".heif"})


def _safe_formats() -> tuple[str, ...]:
    """Return the raster formats that run no other program: usual ones first, those without a signature last."""
    Image.init()
    safe = [
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _REFUSED
        and factory.__module__.startswith("PIL.")
        and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    ]

    def place(name: str) -> tuple[int, bool]:
        usual = _USUAL.index(name) if name in _USUAL else len(_USUAL)
        return usual, Image.OPEN[name][1] is None

    return tuple(sorted(safe, key=place))


#: Names of the Pillow formats that are decoded, in the order they are tried.
FORMATS = _safe_formats()

#: Lower-case suffixes of those formats. (The JPEG reader also reads MPO.)
IMAGE_EXTENSIONS = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS or name == "MPO"
)

_LISTED = IMAGE_EXTENSIONS | _UNREADABLE_PHOTOS


def is_image_file(path: str | PurePath) -> bool:
    """Return whether a file's name is that of a photo; hidden files (``.x``, ``._x``) are none, nor is Thumbs.db.

    Only the name is looked at. The suffixes are ``IMAGE_EXTENSIONS``, and HEIC, which phones write and Pillow cannot
    decode: such a photo is listed, so that it gets a row with its error rather than none.
    """
    name = path.name if isinstance(path, PurePath) else path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return bool(stem and dot) and stem[0] != "." and f".{suffix.lower()}" in _LISTED


def decode_image(source: Path | bytes | BinaryIO, box: Box | None = None) -> Image.Image:
    """Return a photo as RGB, upright, and cropped to a box if one is given.

    The format is told from the content, whatever the file is called. EXIF orientation is applied; grey, palette, CMYK,
    alpha and 1-bit become RGB as Pillow's ``convert`` does it; integer pixels of 16 bits are scaled to 8; of several
    frames the first is taken. Safe to call from several threads.

    Parameters
    ----------
    source : Path, bytes or binary file
        A file that is passed open stays open.
    box : (left, top, width, height), optional
        In pixels of the upright photo; clipped to it.

    Raises
    ------
    DataError
        If the photo cannot be read, is no image, is truncated, has more than ``MAX_PIXELS`` pixels, or the box holds
        no pixel of it. One short line, without the path.
    """
    try:
        if isinstance(source, bytes):
            image = _decode(io.BytesIO(source))
        elif isinstance(source, Path):
            # Opened here rather than by Pillow, which would map uncompressed files into memory and keep them mapped.
            with source.open("rb") as file:
                image = _decode(file)
        else:
            image = _decode(source)
    except DataError:
        raise
    except Exception as error:
        # Pillow's plugins let through whatever a broken file makes them stumble over, so every error is one of data.
        raise DataError(_reason(error)) from error
    return image if box is None else _crop(image, box)


def _decode(file: BinaryIO) -> Image.Image:
    if not file.seekable():
        file = io.BytesIO(file.read())
    try:
        image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        raise DataError(_why_unidentified(file.read(16))) from None
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    image.load()
    _turn_upright(image)
    return _to_rgb(image)


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place; a photo whose EXIF block is broken stays as it is."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image)
    # It has no bearing on the colours, and Pillow warns when it has to drop it.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale wide grey pixels to 8 bits.

    Pillow's ``convert`` clips them at 255, which turns a 16-bit photo white. Its reader of 16-bit colour keeps the high
    byte, and so does this. Wider pixels have no agreed range: they are taken as 0..1 (float), 8 or 16 bits (in that
    order, whichever holds the brightest), or else scaled by the brightest.
    """
    pixels = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    values = np.nan_to_num(pixels.astype(np.float32), posinf=0.0).clip(min=0)
    peak = float(values.max())
    ranges = ((1.0, 255.0), (255.0, 1.0), (65535.0, 1 / 256)) if image.mode == "F" else ((65535.0, 1 / 256),)
    factor = next((factor for top, factor in ranges if peak <= top), 255.5 / max(peak, 1.0))
    return Image.fromarray((values * factor).astype(np.uint8))


def _crop(image: Image.Image, box: Box) -> Image.Image:
    left, top, width, height = box
    if all(map(math.isfinite, box)) and width > 0 and height > 0:
        x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
        x1, y1 = min(image.width, math.ceil(left + width)), min(image.height, math.ceil(top + height))
        if x0 < x1 and y0 < y1:
            return image.crop((x0, y0, x1, y1))
    shown = ", ".join(f"{number:g}" for number in box)
    raise DataError(f"empty box: {shown} (x, y, w, h) holds no pixel of a photo of {image.width} x {image.height}")


def _why_unidentified(head: bytes) -> str:
    if not head:
        return "not an image: the file is empty"
    if head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "not an image: PostScript (EPS) is not read, since another program would have to run; convert it to PNG"
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(head):
            return f"broken or truncated image: it begins as {name}, but its header cannot be read"
    if head[4:8] == b"ftyp":
        return "not an image: HEIC, or a video, is not read; convert it to JPEG"
    return "not an image: its content is in no format that Pillow reads"


def _reason(error: Exception) -> str:
    """Say in one short line what Pillow, or the system, stumbled over."""
    if isinstance(error, Image.DecompressionBombError):
        return f"image too large: it declares more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "image too large: memory does not suffice"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    message = " ".join(str(error).split())[:150] or type(error).__name__
    if isinstance(error, EOFError) or any(sign in message.lower() for sign in _SIGNS_OF_TRUNCATION):
        return f"truncated image: {message}"
    return f"broken or truncated image: {message}"
