"""The demo's pictures: one photo of each species with its name, and the images that were generated of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.classnames import folder_names
from flip.data.dataset import Dataset
from flip.data.images import decode_image
from flip.files import written_aside
from flip.report.sheet import INK, MUTED, PAPER, RIGHT, WRONG, cut, sheet_font

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

#: Pixels of a species' photo, of a generated image, of a gap, of a line of text, and of the column of names.
_PHOTO, _IMAGE, _GAP, _LINE, _NAMES = 160, 96, 8, 18, 240
_COLUMNS = 6


def save_species(dataset: Dataset, file: Path) -> None:
    """Write a sheet with one training photo of every species, its name below."""
    from PIL import Image, ImageDraw

    first = {record.label: record for record in reversed(dataset.select("train").records)}
    width, height = _PHOTO + _GAP, _PHOTO + 2 * _LINE + _GAP
    rows = -(-len(first) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, rows * height + _GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), sheet_font()
    for i, label in enumerate(sorted(first)):
        left, top = _GAP + i % _COLUMNS * width, _GAP + i // _COLUMNS * height
        sheet.paste(_square(dataset.file(first[label]), _PHOTO), (left, top))
        for j, line in enumerate(_two_lines(dataset.classnames[label], font)):
            draw.text((left, top + _PHOTO + 1 + j * _LINE), cut(line, font, _PHOTO), fill=INK, font=font)
    _save(sheet, file)


def save_generated(
    kept: Path, refused: Path, raw_names: Sequence[str], classnames: Sequence[str], file: Path, most: int = 5
) -> None:
    """Write a sheet of generated images: a row for each class with its name, those kept, and those refused.

    Parameters
    ----------
    kept : Path
        The folder that ``flip.augment`` wrote.
    refused : Path
        ``<class>/*.png``; it need not be there.
    raw_names, classnames : sequences of c str
        As in the dataset.
    file : Path
    most : int
        Images of each kind in a row.
    """
    from PIL import Image, ImageDraw

    side = _IMAGE + _GAP
    half = most * side
    sheet = Image.new("RGB", (_NAMES + 2 * half + 3 * _GAP, len(classnames) * side + _LINE + 2 * _GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), sheet_font()
    starts = _NAMES, _NAMES + half + 2 * _GAP
    for start, title, colour in zip(starts, ("kept", "refused"), (RIGHT, WRONG), strict=True):
        draw.text((start, _GAP), title, fill=colour, font=font)
        draw.rectangle((start, _GAP + _LINE, start + half - _GAP, _GAP + _LINE + 1), fill=colour)
    for i, (folder, name) in enumerate(zip(folder_names(raw_names), classnames, strict=True)):
        top = i * side + _LINE + 2 * _GAP
        files = sorted((kept / "train" / folder).glob("*.png")), sorted((refused / folder).glob("*.png"))
        draw.text((_GAP, top), cut(name, font, _NAMES - 2 * _GAP), fill=INK, font=font)
        counts = f"{len(files[0])} kept, {len(files[1])} refused"
        draw.text((_GAP, top + _LINE), counts, fill=MUTED, font=font)
        for start, images in zip(starts, files, strict=True):
            for j, image in enumerate(images[:most]):
                sheet.paste(_square(image, _IMAGE), (start + j * side, top))
    _save(sheet, file)


def _two_lines(name: str, font: FreeTypeFont) -> tuple[str, str]:
    """Return a name as a line of the words that fit below a photo, and a line of the others."""
    words = name.split()
    fit = len(words)
    while fit > 1 and font.getlength(" ".join(words[:fit])) > _PHOTO:
        fit -= 1
    return " ".join(words[:fit]), " ".join(words[fit:])


def _square(file: Path, side: int) -> Image:
    from PIL import ImageOps

    return ImageOps.fit(decode_image(file), (side, side))


def _save(sheet: Image, file: Path) -> None:
    with written_aside(file, kind="image") as aside:
        sheet.save(aside, "PNG")
