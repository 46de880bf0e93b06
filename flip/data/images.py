"""The one safe decoding function for photos, and the names of photo files."""

from __future__ import annotations

import importlib.util
import io
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from flip.arrays import Array, IntArray
from flip.data.dataset import Box, Photo
from flip.data.formats import FORMATS, PLUGINS, RAW_ADVICE, RAW_SUFFIXES, is_heif, why_unidentified
from flip.data.limits import MAX_PIXELS, Timed, decoding, require_bounded
from flip.errors import DataError
from flip.reading import open_plain

_DNG_VERSION, _SUB_IMAGES, _REDUCED, _LARGEST_SAMPLE = 50706, 330, 254, 281

#: The largest values of 8, 10, 12, 14 and 16 bits, and how far they are shifted to become 8.
_RANGES = ((255, 0), (1023, 2), (4095, 4), (16383, 6), (65535, 8))

#: Left, top, right and lower edge of some rows of an image, and about how many pixels they have.
_Strip = tuple[int, int, int, int]
_STRIP_PIXELS = 1 << 20

_SIGNS_OF_TRUNCATION = ("truncated", "broken data stream", "not enough image data")


def decode_image(source: Path | bytes | BinaryIO, box: Box | None = None) -> Image.Image:
    """Return a photo as RGB, upright, and cropped to a box if one is given.

    The format is told from the content, whatever the file is called. EXIF orientation is applied; grey, palette, CMYK
    and 1-bit become RGB as Pillow's ``convert`` does it; transparent pixels are laid on white, where ``convert`` alone,
    and so open_clip, would show whatever colour is hidden under them; integer pixels of 10, 12, 14 and 16 bits are
    scaled to 8 by the smallest of these ranges that holds the brightest; of several frames the first is taken. Safe to
    call from several threads.

    Parameters
    ----------
    source : Path, bytes or binary file
        A file that is passed open stays open.
    box : (left, top, width, height), optional
        In pixels of the upright photo; clipped to it. See ``flip.data.dataset.Box`` for one without its last rows.

    Raises
    ------
    DataError
        If the photo cannot be read, is no image, is truncated, would take more memory or time than
        ``flip.data.limits`` allows, or the box holds no pixel of it. One short line, without the path.
    """
    image = read_image(source)
    return image if box is None else image.crop(box_pixels(box, image.width, image.height))


def read_image(
    source: Path | bytes | BinaryIO, before: Callable[[ImageFile.ImageFile], None] | None = None
) -> Image.Image:
    """Return a whole photo as :func:`decode_image` does.

    ``before`` is called with the file that Pillow opened, before its pixels are decoded.
    """
    try:
        if isinstance(source, bytes):
            return _decode(io.BytesIO(source), before=before)
        if isinstance(source, Path):
            # Opened here rather than by Pillow, which would map uncompressed files into memory and keep them mapped.
            with open_plain(source) as file:
                return _decode(file, source.suffix.lower(), before)
        return _decode(source, Path(str(getattr(source, "name", ""))).suffix.lower(), before)
    except DataError:
        raise
    except Exception as error:
        # Pillow's plugins let through whatever a broken file makes them stumble over, so every error is one of data.
        raise DataError(_reason(error)) from error


def decode_photo(photo: Photo) -> Image.Image:
    """Decode a photo, cut to its region; see :func:`decode_image`."""
    return decode_image(photo.file, photo.region)


def image_size(source: Path) -> tuple[int, int]:
    """Return width and height in pixels as a photo's header has them, before EXIF orientation; no pixel is decoded.

    Raises
    ------
    DataError
        If the header cannot be read.
    """
    try:
        with open_plain(source) as file:
            return _opened(file).size
    except DataError:
        raise
    except Exception as error:
        raise DataError(_reason(error)) from error


def _decode(
    file: BinaryIO, suffix: str = "", before: Callable[[ImageFile.ImageFile], None] | None = None
) -> Image.Image:
    if not file.seekable():
        file = io.BytesIO(file.read())
    timed: Any = Timed(file)
    image = _opened(timed)
    require_bounded(image, file)
    if image.format == "TIFF" and (suffix in RAW_SUFFIXES or _is_thumbnail_of_raw(image)):
        raise DataError(RAW_ADVICE)
    if before is not None:
        before(image)
    with decoding(image):
        return _pixels(image, timed)


def _pixels(image: Image.Image, file: BinaryIO) -> Image.Image:
    wide_colour = image.mode in ("RGB", "RGBA") and ";16" in _raw_mode(image)
    largest = getattr(image, "tag_v2", {}).get(_LARGEST_SAMPLE)
    image.load()
    _turn_upright(image)
    if wide_colour:
        return _to_rgb(_wide_colour(file, image))
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_rgb(_to_eight_bits(image, largest))
    return _to_rgb(image)


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image without decoding it; formats that plugins registered are tried last."""
    plugins = tuple(name for name in PLUGINS if name in Image.OPEN and name not in FORMATS)
    try:
        return Image.open(file, formats=(*FORMATS, *plugins))
    except (UnidentifiedImageError, struct.error):  # the latter of a file of a few bytes
        file.seek(0)
        head = file.read(16)
        file.seek(0)
        if is_heif(head) and "HEIF" not in Image.OPEN and importlib.util.find_spec("pillow_heif"):
            importlib.import_module("pillow_heif").register_heif_opener()
            return _opened(file)
        raise DataError(why_unidentified(head)) from None


def _is_thumbnail_of_raw(image: Image.Image) -> bool:
    """Return whether a TIFF is a camera's raw file, whose first image is a small preview."""
    tags: Mapping[int, int] = getattr(image, "tag_v2", {})
    is_preview = bool(tags.get(_REDUCED, 0) & 1) and _SUB_IMAGES in tags
    return _DNG_VERSION in tags or is_preview


def _raw_mode(image: Image.Image) -> str:
    """Return how the decoder will unpack pixels, such as ``RGB;16B``."""
    tile = image.tile if hasattr(image, "tile") else None
    arguments = tile[0].args if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _wide_colour(file: BinaryIO, high: Image.Image) -> Image.Image:
    """Return colour of 16 bits per channel in 8.

    Pillow keeps the high byte, which is right for a range of 16 bits and nearly black for 10, 12 or 14. Then the file
    is decoded again in the other byte order, which gives the low bytes.
    """
    colours = high.convert("RGB") if high.mode == "RGBA" else high
    if _brightest(colours) > _RANGES[3][0] >> 8:
        return high
    file.seek(0)
    low = _opened(file)
    mode = _raw_mode(low)
    swapped = mode.replace(";16B", ";16X").replace(";16L", ";16B").replace(";16X", ";16L")
    low.tile = [
        part._replace(args=(swapped, *part.args[1:]) if isinstance(part.args, tuple) else swapped) for part in low.tile
    ]
    low.load()
    _turn_upright(low)
    brights = (int(_sixteen_bits(high, low, strip)[..., :3].max()) for strip in _strips(high))
    shift = _shift(max(brights))
    scaled = Image.new(high.mode, high.size)
    for strip in _strips(high):
        part = (_sixteen_bits(high, low, strip) >> shift).astype(np.uint8)
        if high.mode == "RGBA":
            part[..., 3] = np.asarray(high.crop(strip))[..., 3]
        scaled.paste(Image.fromarray(part, high.mode), strip[:2])
    return scaled


def _sixteen_bits(high: Image.Image, low: Image.Image, strip: _Strip) -> IntArray:
    """Return the values (h, w, channels) of a strip whose high and low bytes are in two images."""
    return np.asarray(high.crop(strip), np.int64) * 256 + np.asarray(low.crop(strip), np.int64)


def _strips(image: Image.Image) -> Iterator[_Strip]:
    """Yield an image's rows, some at a time: what is computed in wide numbers never is so for all pixels at once."""
    rows = max(1, _STRIP_PIXELS // max(image.width, 1))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _brightest(colours: Image.Image) -> int:
    extrema: Any = colours.getextrema()
    return max(int(top) for _, top in extrema)


def _shift(peak: int) -> int:
    """Return how many bits too many the smallest range has that holds the brightest value."""
    return next(shift for top, shift in _RANGES if peak <= top)


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place; a photo whose EXIF block is broken stays as it is."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data and (laid := _on_white(image)) is not None:
        return laid
    # It has no bearing on the colours, and Pillow warns when it has to drop it.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image | None:
    """Return an image laid on white, or None where no pixel of it is transparent."""
    try:
        clear = image.convert("RGBA")
    except (ValueError, OverflowError, SystemError):  # a transparent colour that no pixel of 8 bits has
        return None
    if clear.getchannel("A").getextrema()[0] == 255:
        return None
    laid = Image.new("RGB", clear.size)
    for strip in _strips(clear):
        part = clear.crop(strip)
        laid.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), strip[:2])
    return laid


def _to_eight_bits(image: Image.Image, largest: object = None) -> Image.Image:
    """Scale wide grey pixels to 8 bits.

    Pillow's ``convert`` clips them at 255, which turns a 16-bit photo white. The range is the one the file declares
    (``largest``), else the smallest of 8, 10, 12, 14 and 16 bits that holds the brightest; floats up to 1 are 0..1;
    what is wider is scaled by its brightest.
    """
    if image.mode == "F" and not any(np.isfinite(np.asarray(image.crop(strip))).any() for strip in _strips(image)):
        raise DataError("no image: none of its pixels is a number")
    peak = max(float(_floats(image, strip).max()) for strip in _strips(image))
    if isinstance(largest, tuple):
        largest = largest[0] if largest else None
    if isinstance(largest, int) and peak <= largest <= _RANGES[-1][0]:
        peak = float(largest)
    if image.mode == "F" and peak <= 1:
        factor = 255.0
    elif peak <= _RANGES[-1][0]:
        factor = 1 / 2 ** _shift(math.ceil(peak))
    else:
        factor = 255.5 / peak
    scaled = Image.new("L", image.size)
    for strip in _strips(image):
        scaled.paste(Image.fromarray((_floats(image, strip) * factor).astype(np.uint8)), strip[:2])
    return scaled


def _floats(image: Image.Image, strip: _Strip) -> Array:
    """Return the values (h, w) of a strip, 0 for what is none or below."""
    return np.nan_to_num(np.asarray(image.crop(strip)).astype(np.float64), posinf=0.0).clip(min=0)


def box_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge of the pixels of an upright photo that a box touches.

    Raises
    ------
    DataError
        If there are none.
    """
    left, top, wide, high = box
    if wide == math.inf:
        box = left, top, wide, high = left, top, width - left, height - top + high
    if all(map(math.isfinite, box)) and wide > 0 and high > 0:
        x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
        x1, y1 = min(width, math.ceil(left + wide)), min(height, math.ceil(top + high))
        if x0 < x1 and y0 < y1:
            return x0, y0, x1, y1
    shown = ", ".join(f"{number:g}" for number in box)
    raise DataError(f"empty box: {shown} (x, y, w, h) holds no pixel of a photo of {width} x {height}")


def _reason(error: Exception) -> str:
    """Return one short line on what Pillow, or the system, stumbled over."""
    if isinstance(error, Image.DecompressionBombError):
        return f"image too large: it declares more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "image too large: out of memory"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    message = " ".join(str(error).split())[:150] or type(error).__name__
    if isinstance(error, EOFError) or any(sign in message.lower() for sign in _SIGNS_OF_TRUNCATION):
        return f"truncated image: {message}"
    return f"broken or truncated image: {message}"
