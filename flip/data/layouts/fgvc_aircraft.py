"""FGVC-Aircraft (Maji et al., 2013): photos with a banner, and lists of variants, families and manufacturers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, corners, find_base, numbered_lines, require_base
from flip.data.dataset import Box, Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

_FOLDERS = ("data", "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b", "fgvc_aircraft/data")
_LISTS = {"train": "train", "val": "val", "trainval": "train", "test": "test"}

#: The last 20 rows of every photo are a banner with its copyright; its makers say to cut it.
WITHOUT_BANNER: Box = (0.0, 0.0, math.inf, -20.0)


def find_aircraft(root: Path) -> Path | None:
    """Return the folder that holds FGVC-Aircraft's lists: the folder itself, or one in it; None if neither."""
    train = (f"images_variant_{part}.txt" for part in ("train", "trainval"))
    found = (find_base(root, _FOLDERS, "images", name, "images_variant_test.txt") for name in train)
    return next((base for base in found if base is not None), None)


def read_aircraft(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read FGVC-Aircraft with its official splits: 100 variants; 3,334 photos to train on, 3,333 to validate and test.

    Lines of ``images_variant_<split>.txt`` are a photo's number and its variant. The ranks are ``manufacturer`` and
    ``family``; boxes come from ``images_box.txt``. The banner below each photo is cut.

    Raises
    ------
    DataError
        If a line is malformed, or names a photo that is not there; the message names file and line.
    """
    needed = "images/, images_variant_train.txt and images_variant_test.txt"
    base = require_base(find_aircraft(root), root, "FGVC-Aircraft", needed)
    lists = _lists(base)
    boxes = _boxes(base / "images_box.txt")
    entries, variant_of = [], {}
    for part in lists:
        for where, number, variant in _lines(base / f"images_variant_{part}.txt"):
            variant_of[number] = variant
            entries.append(Entry(where, f"images/{number}.jpg", variant, _LISTS[part], boxes.get(number)))
    names = base / "variants.txt"
    listed = [name for _, name in numbered_lines(names)] if names.is_file() else sorted(set(variant_of.values()))
    ranks = {rank: _groups(base, rank, lists, variant_of) for rank in ("manufacturer", "family")}
    ranks = {rank: groups for rank, groups in ranks.items() if groups.keys() >= set(variant_of.values())}
    classes = {name: name for name in listed}
    archive = Archive(root, base, LAYOUT.name)
    return archive_dataset(archive, classes, entries, Ledger(), classnames=classes, ranks=ranks, frame=WITHOUT_BANNER)


def _lists(base: Path) -> list[str]:
    """Return the lists to read: train and val, or trainval where one of them is not there; and test."""
    if all((base / f"images_variant_{part}.txt").is_file() for part in ("train", "val")):
        return ["train", "val", "test"]
    has_both = (base / "images_variant_trainval.txt").is_file()
    return ["trainval" if has_both else "train", "test"]


def _lines(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield where a line is, the photo's number, and the rest."""
    for where, line in numbered_lines(file):
        number, _, rest = line.partition(" ")
        if not rest.strip():
            raise DataError(f"{where}: {line!r} is not a photo's number and its class")
        yield where, number, rest.strip()


def _groups(base: Path, rank: str, lists: list[str], variant_of: dict[str, str]) -> dict[str, str]:
    """Return the group of each variant, as the photos' lists of a rank have it."""
    files = [base / f"images_{rank}_{part}.txt" for part in lists]
    lines = (line for file in files if file.is_file() for line in _lines(file))
    return {variant_of[number]: group for _, number, group in lines if number in variant_of}


def _boxes(file: Path) -> dict[str, Box]:
    boxes = {}
    for where, number, rest in _lines(file) if file.is_file() else ():
        try:
            x1, y1, x2, y2 = map(float, rest.split())
        except ValueError:
            raise DataError(f"{where}: {rest!r} is not four numbers (xmin, ymin, xmax, ymax)") from None
        boxes[number] = corners(x1, y1, x2, y2)
    return boxes


LAYOUT = Layout(
    "fgvc-aircraft",
    lambda root: find_aircraft(root) is not None,
    read_aircraft,
    "FGVC-Aircraft",
    index_files=(
        ("images_variant_train.txt", "images_variant_test.txt"),
        ("images_variant_trainval.txt", "images_variant_test.txt"),
    ),
)
