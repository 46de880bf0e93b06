"""Food-101 (Bossard et al., ECCV 2014): ``images/<class>/`` and the split in ``meta/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, find_base, numbered_lines, require_base
from flip.data.dataset import Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.text import read_text
from flip.errors import DataError
from flip.reading import parse_json

_FOLDERS = ("food-101", "food101", "food-101/food-101")
_SPLITS = ("train", "test")


def find_food(root: Path) -> Path | None:
    """Return the folder that holds Food-101: the folder itself, or one in it; None if neither."""
    found = (find_base(root, _FOLDERS, "images", f"meta/train{s}", f"meta/test{s}") for s in (".txt", ".json"))
    return next((base for base in found if base is not None), None)


def read_food(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Food-101 with its official split: 101 classes, 75,750 photos to train on and 25,250 to test.

    Lines of ``meta/train.txt`` and ``meta/test.txt`` are paths below ``images/`` without the suffix;
    ``meta/classes.txt`` has the classes in the order of the labels, ``meta/labels.txt`` their names.

    Raises
    ------
    DataError
        If a line names a photo that is not there; the message names file and line.
    """
    base = require_base(find_food(root), root, "Food-101", "images/, meta/train.txt and meta/test.txt")
    entries = [
        Entry(where, f"images/{path}.jpg", path.partition("/")[0], split)
        for split in _SPLITS
        for where, path in _paths(base / "meta", split)
    ]
    meta = base / "meta"
    keys = _names(meta / "classes.txt") or sorted({entry.key for entry in entries})
    said = _names(meta / "labels.txt")
    names = dict(zip(keys, said, strict=True)) if len(said) == len(keys) else None
    archive = Archive(root, base, LAYOUT.name)
    return archive_dataset(archive, {key: key for key in keys}, entries, Ledger(), classnames=names)


def _names(file: Path) -> list[str]:
    return [name for _, name in numbered_lines(file)] if file.is_file() else []


def _paths(meta: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield where a photo is listed and its path without the suffix, from the text file or else the JSON file."""
    if (meta / f"{split}.txt").is_file():
        yield from numbered_lines(meta / f"{split}.txt")
        return
    file = meta / f"{split}.json"
    try:
        listed = parse_json(read_text(file))
        paths = [str(path) for photos in listed.values() for path in photos]
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file} is no JSON object of class to photos: {error}") from error
    for path in paths:
        yield str(file), path


LAYOUT = Layout(
    "food-101",
    lambda root: find_food(root) is not None,
    read_food,
    "Food-101",
    index_files=(("meta/train.txt", "meta/test.txt"), ("meta/train.json", "meta/test.json")),
)
