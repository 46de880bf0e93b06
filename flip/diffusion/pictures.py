"""Generated images as files: stable names, metadata inside, atomic writes; contact sheets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.formats import FORMATS
from flip.data.text import utf8
from flip.diffusion.metadata import ImageMetadata
from flip.errors import ConfigError, DataError, reason_of
from flip.files import json_text, written_aside
from flip.reading import open_plain

if TYPE_CHECKING:
    from PIL.Image import Image

_SLUG_LENGTH = 40
_CELL = 256
_MOST_PIXELS_A_SIDE = 16_384


def slug(text: str) -> str:
    """Return the beginning of a text as letters, digits and hyphens, safe in a file name on every system."""
    words = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
    return words[:_SLUG_LENGTH].rstrip("-") or "picture"


def save_picture(image: Image, file: Path, metadata: ImageMetadata) -> None:
    """Write a PNG that carries its prompt and, as JSON under ``flip``, how it was made.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("prompt", utf8(metadata.prompt))
    info.add_itxt("flip", json_text(metadata.to_dict()))
    with written_aside(file, "pass -o with a folder that can", kind="image") as aside:
        image.save(aside, format="PNG", pnginfo=info)


def read_metadata(file: Path) -> ImageMetadata:
    """Read the metadata that ``save_picture`` wrote into a file, empty where it holds none.

    Raises
    ------
    DataError
        If the file cannot be read as an image to its end.
    """
    from PIL import Image, PngImagePlugin

    try:
        with open_plain(file) as stream, Image.open(stream, formats=FORMATS) as image:
            if not isinstance(image, PngImagePlugin.PngImageFile):
                return ImageMetadata()
            # Asking for the texts decodes the image, since they may stand at its end.
            text = image.text
    except MemoryError:
        raise
    except Exception as e:
        # Pillow's plugins let through whatever a broken file makes them stumble over.
        reason = reason_of(e)
        raise DataError(f"{file} cannot be read as an image ({reason}); delete it, and it is drawn again") from e
    return ImageMetadata.from_json(str(text.get("prompt", "")), str(text.get("flip", "{}")))


def contact_sheet(rows: Sequence[Sequence[Image]], gap: int = 4) -> Image:
    """Arrange images in rows on one sheet, each scaled to fit a cell of at most 256 pixels a side.

    Parameters
    ----------
    rows : sequence of sequences of PIL images
        Rows may differ in length.
    gap : int
        Pixels of white between images.
    """
    from PIL import Image, ImageOps

    columns = max((len(row) for row in rows), default=0)
    largest = max((max(image.size) for row in rows for image in row), default=1)
    side = min(largest, _CELL, _MOST_PIXELS_A_SIDE // max(len(rows), columns, 1) - gap)
    side = max(side, 1)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, len(rows) * (side + gap) + gap), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            cell = ImageOps.contain(image.convert("RGB"), (side, side))
            left = x * (side + gap) + gap + (side - cell.width) // 2
            sheet.paste(cell, (left, y * (side + gap) + gap + (side - cell.height) // 2))
    return sheet


def save_sheet(sheet: Image, file: Path) -> None:
    """Write a sheet atomically; the suffix tells the format.

    Raises
    ------
    ConfigError
        If the suffix is no image format's or the file cannot be written.
    """
    try:
        with written_aside(file, "pass a file in a folder that can", kind="image") as aside:
            sheet.save(aside)
    except ValueError as e:
        raise ConfigError(f"{file} is no image file; pass a name that ends in .png or .jpg") from e
