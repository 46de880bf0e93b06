"""A contact sheet: named photos on one picture, each with its label."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.dataset import Box
from flip.data.text import utf8
from flip.errors import ConfigError, DataError
from flip.files import written_aside
from flip.reading import is_file
from flip.report.plots import font_file
from flip.results import Prediction
from flip.shown import shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

#: Most photos on a sheet; more would be a picture that few programs open.
MOST = 400

SIDE, GAP, LINE, LINES = 180, 12, 17, 2
PAPER, INK, MUTED = (255, 255, 255), (27, 31, 36), (89, 97, 107)
RIGHT, WRONG, _EMPTY = (27, 122, 70), (179, 55, 44), (238, 240, 242)


def contact_sheet_of(
    rows: Sequence[Prediction],
    root: Path,
    file: Path,
    *,
    frames: Mapping[str, Box] | None = None,
    columns: int = 6,
    most: int = MOST,
) -> int:
    """Draw named photos with their labels into one picture; return how many are on it.

    Where the truth is known, what is named wrongly has a red mark and the truth beneath, what is named rightly a green
    mark. A photo that cannot be read is a grey field with the reason.

    Parameters
    ----------
    rows : sequence of Prediction
        In the order in which they are drawn.
    root : Path
        The folder that relative paths of rows are relative to.
    file : Path
        Ends in .png, .jpg, .jpeg or .webp.
    frames : mapping of str to Box, optional
        The part that is the photo, by path, for photos with a banner or the like; see ``Dataset.frames``.
    columns : int
        At least 1.
    most : int
        Rows beyond this many are left out.

    Raises
    ------
    ConfigError
        If the file's name is that of no picture, there is nothing to draw, or it cannot be written.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(file.suffix.lower())
    if kind is None:
        raise ConfigError(f"{file} is no picture file; pass a name that ends in .png, .jpg or .webp")
    drawn = rows[:most]
    if not drawn:
        raise ConfigError(f"no photo was named, so there is nothing to draw into {file}; pass photos")
    sheet = _drawn(drawn, root, frames or {}, min(columns, len(drawn)))
    with written_aside(file, kind="image") as aside:
        sheet.save(aside, kind)
    return len(drawn)


def _drawn(rows: Sequence[Prediction], root: Path, frames: Mapping[str, Box], columns: int) -> Image:
    """Return the sheet of these rows."""
    from PIL import Image, ImageDraw

    cell_width, cell_height = SIDE + GAP, SIDE + GAP + LINE * LINES
    size = GAP + columns * cell_width, GAP + math.ceil(len(rows) / columns) * cell_height
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), sheet_font()
    with ThreadPoolExecutor() as pool:
        pictures = pool.map(lambda row: _picture(row, root, frames.get(row.path)), rows)
        for i, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
            corner = GAP + i % columns * cell_width, GAP + i // columns * cell_height
            _draw_cell(sheet, draw, font, corner, row, picture)
    return sheet


def _picture(row: Prediction, root: Path, frame: Box | None) -> Image | str:
    """Return a photo at the size of a cell, or why there is none."""
    from flip.data.images import decode_image

    if row.error is not None:
        return row.error
    photo = root / row.path
    try:
        if not is_file(photo):
            return "is not there"
        image = decode_image(photo, frame)
    except (DataError, OSError) as e:
        return str(e)
    image.thumbnail((SIDE, SIDE))
    return image


def _draw_cell(
    sheet: Image,
    draw: ImageDraw,
    font: FreeTypeFont,
    corner: tuple[int, int],
    row: Prediction,
    picture: Image | str,
) -> None:
    left, top = corner
    if isinstance(picture, str):
        draw.rectangle((left, top, left + SIDE, top + SIDE), fill=_EMPTY)
        draw.text((left + 8, top + 8), cut(picture, font, SIDE - 16), fill=MUTED, font=font)
    else:
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    below = top + SIDE + 4
    if row.truth is not None and row.error is None:
        draw.rectangle((left, below - 3, left + SIDE, below - 1), fill=RIGHT if row.label == row.truth else WRONG)
    share = "" if math.isnan(row.score) else f" {100 * row.score:.0f} %"
    name = "" if row.error is not None else row.label or "(unsure)"
    draw.text((left, below), _isolated(cut(name, font, SIDE - font.getlength(share))) + share, fill=INK, font=font)
    second = f"is {row.truth}" if row.truth not in (None, row.label) else Path(row.path).name
    draw.text((left, below + LINE), cut(second, font, SIDE), fill=MUTED, font=font)


def _isolated(text: str) -> str:
    """Return a text that turns the direction of nothing beside it, as a name in Hebrew would turn a number."""
    return f"\u2068{text}\u2069" if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text) else text


def cut(text: str, font: FreeTypeFont, width: float) -> str:
    """Return one line of a text that fits a width, with an ellipsis where it is cut."""
    line = utf8(shown(" ".join(text.split())))
    if font.getlength(line[:200]) <= width and len(line) <= 200:
        return line
    line = line[:200]
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def sheet_font() -> FreeTypeFont:
    """Return the font of sheets."""
    from PIL import ImageFont

    return ImageFont.truetype(font_file(), 13)
